"""A program whose functions say who they are and who has called them: what a trace has to agree with.

``python family.py WAY...`` has each of the ways call children, twice from each of two roots; with ``many COUNT SEED``
that many tasks call each other at random.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

_numbers = itertools.count()
Call = Callable[..., Any]


def _new() -> str:
    return f"{os.getpid()}-{next(_numbers)}"


def leaf(name: str, parent: str) -> str:
    """Has no children."""
    return name


def node(name: str, parent: str) -> str:
    """Has one, called as usual."""
    return leaf(_new(), name)


async def async_leaf(name: str, parent: str) -> str:
    """A coroutine that is suspended and has a child afterwards."""
    await asyncio.sleep(0)
    return leaf(_new(), name)


def failing(name: str, parent: str) -> str:
    """Ends with an exception, after its child."""
    node(_new(), name)
    raise ValueError(name)


# -- threads ---------------------------------------------------------------------------------------------------------


class Worker(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, parent: str) -> None:
        super().__init__()
        self._parent = parent

    def run(self) -> None:
        """Has one child."""
        node(_new(), self._parent)


def thread(name: str, parent: str) -> None:
    """Plain threads, one inside another, and one that is a class of its own."""
    threads = [threading.Thread(target=node, args=(_new(), name)), Worker(name)]
    threads.append(threading.Timer(0.0, nested_thread, args=(_new(), name)))
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def nested_thread(name: str, parent: str) -> None:
    """A thread in a thread."""
    inner = threading.Thread(target=node, args=(_new(), name))
    inner.start()
    inner.join()


_jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()


def _serve() -> None:
    for name in iter(_jobs.get, None):
        node(name, "nobody")


def service(name: str, parent: str) -> None:
    """What a thread does that was started before any call is below none."""
    _jobs.put(_new())


# -- executors -------------------------------------------------------------------------------------------------------

_threads = ThreadPoolExecutor(2)
_pools: dict[str, Any] = {}


def _submitted(executor: Executor, name: str) -> None:
    futures: list[Future[str]] = [executor.submit(node, _new(), name) for _ in range(4)]
    failed = executor.submit(failing, _new(), name)
    for future in futures:
        future.result()
    assert type(failed.exception()) is ValueError
    list(executor.map(node, [_new() for _ in range(3)], [name] * 3))


def executor(name: str, parent: str) -> None:
    """A pool of threads that lives longer than the call."""
    _submitted(_threads, name)


def own_executor(name: str, parent: str) -> None:
    """One that is made in the call."""
    with ThreadPoolExecutor(2) as threads:
        _submitted(threads, name)


def thread_pool(name: str, parent: str) -> None:
    """multiprocessing's pool of threads."""
    _used(_pools.setdefault("threads", ThreadPool(2)), name)


def _used(pool: Any, name: str) -> None:
    pool.apply(node, (_new(), name))
    results = [pool.apply_async(node, (_new(), name)) for _ in range(3)]
    for result in results:
        result.get(30)
    assert type(_raised(lambda: pool.apply(failing, (_new(), name)))) is ValueError
    pool.starmap(node, [(_new(), name) for _ in range(4)])
    list(pool.imap_unordered(_spread, [(_new(), name) for _ in range(3)]))


def _spread(args: tuple[str, str]) -> str:
    return node(*args)


def _raised(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except ValueError as error:
        return error
    return None


# -- processes -------------------------------------------------------------------------------------------------------


def process_executor(name: str, parent: str, method: str) -> None:
    """A pool of processes that lives longer than the call."""
    context = multiprocessing.get_context(method)
    _submitted(_pools.setdefault(method, ProcessPoolExecutor(2, mp_context=context)), name)


def process_pool(name: str, parent: str, method: str) -> None:
    """multiprocessing's pool of processes."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        _used(pool, name)
        pool.close()
        pool.join()


def process(name: str, parent: str, method: str) -> None:
    """A process, and another in that."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=nested_process, args=(_new(), name, method))
    child.start()
    child.join()
    assert child.exitcode == 0


def nested_process(name: str, parent: str, method: str) -> None:
    """A process in a process."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=node, args=(_new(), name))
    child.start()
    child.join()
    assert child.exitcode == 0


def fork(name: str, parent: str) -> None:
    """A fork of its own."""
    pid = os.fork()
    if pid == 0:
        node(_new(), name)
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def program(name: str, parent: str) -> None:
    """Another program that is this one; with the environment inherited and with one that is given."""
    for environment in (None, dict(os.environ)):
        subprocess.run([sys.executable, __file__, "child", name], check=True, env=environment, timeout=60)


def child(name: str, parent: str) -> None:
    """The first call of another program."""
    node(_new(), name)


# -- asyncio ---------------------------------------------------------------------------------------------------------


async def tasks(name: str, parent: str) -> None:
    """Tasks, by each of the ways to make them."""
    await async_leaf(_new(), name)
    await asyncio.gather(*(async_leaf(_new(), name) for _ in range(3)))
    made = asyncio.create_task(async_leaf(_new(), name))
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(async_leaf(_new(), name))
    await asyncio.wait_for(async_leaf(_new(), name), 30)
    await made


async def off_the_loop(name: str, parent: str) -> None:
    """Threads and processes that a loop waits for, and what they hand to the loop."""
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(node, _new(), name)
    await asyncio.gather(*(loop.run_in_executor(None, node, _new(), name) for _ in range(3)))
    await loop.run_in_executor(_threads, calls_back, _new(), name, loop)


def calls_back(name: str, parent: str, loop: asyncio.AbstractEventLoop) -> None:
    """Runs in a thread, has the loop call a function and run a coroutine."""
    done: Future[str] = Future()
    loop.call_soon_threadsafe(lambda: done.set_result(node(_new(), name)))
    done.result(30)
    asyncio.run_coroutine_threadsafe(async_leaf(_new(), name), loop).result(30)


# -- all at once -----------------------------------------------------------------------------------------------------


async def one_of_many(name: str, parent: str, seed: int, depth: int) -> None:
    """Calls others at random, and is suspended at random."""
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 4)):
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
        seed = chance.randrange(2**32)
        match chance.randrange(5) if depth else 5:
            case 0:
                await one_of_many(_new(), name, seed, depth - 1)
            case 1:
                await asyncio.gather(*(one_of_many(_new(), name, seed + i, depth - 1) for i in range(2)))
            case 2:
                await asyncio.to_thread(node, _new(), name)
            case 3:
                await asyncio.get_running_loop().run_in_executor(_threads, node, _new(), name)
            case 4:
                async for each in numbers(_new(), name):
                    leaf(f"{_new()}-{each}", name)
            case _:
                leaf(_new(), name)


async def numbers(name: str, parent: str) -> Any:
    """An async generator that has children between what it gives."""
    for number in range(3):
        node(_new(), name)
        yield number
        await asyncio.sleep(0)


async def _many(count: int, seed: int) -> None:
    await asyncio.gather(*(one_of_many(_new(), "nobody", seed + number, 3) for number in range(count)))


# -- from outside ----------------------------------------------------------------------------------------------------


def root(name: str, parent: str, way: Call, args: list[str]) -> None:
    """Calls one way twice."""
    for _ in range(2):
        way(_new(), name, *args)


async def async_root(name: str, parent: str, way: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """The same for coroutines."""
    for _ in range(2):
        await way(_new(), name)


def _main(ways: list[str]) -> None:
    if ways[0] == "child":
        child(_new(), ways[1])
    elif ways[0] == "many":
        asyncio.run(_many(int(ways[1]), int(ways[2])))
    else:
        serving = threading.Thread(target=_serve)
        serving.start()
        for way in ways:
            function, *args = way.split(":")
            for _ in range(2):
                if asyncio.iscoroutinefunction(globals()[function]):
                    asyncio.run(async_root(_new(), "nobody", globals()[function]))
                else:
                    root(_new(), "nobody", globals()[function], args)
        _jobs.put(None)
        serving.join()
    for pool in _pools.values():
        pool.shutdown() if isinstance(pool, Executor) else pool.terminate()
    time.sleep(0)


if __name__ == "__main__":
    _main(sys.argv[1:])
