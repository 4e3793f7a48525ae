"""The program that `soak.py` starts: so many orders a second, for so long, and what it takes of the machine meanwhile.

Orders are tasks; some are made in threads of their own, which end with them; every few seconds a forked child makes
some more. What is in use is counted when all of these are over.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import itertools
import json
import multiprocessing
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import psutil
from scale_shop import ORDER, order

TICK_S = 0.05
SETTLED_S = 0.3  # after which what was recorded is delivered: how much waits depends on what else the machine does
FORK_EVERY_S = 5.0
IN_THREAD = 10  # of so many orders, one is made in a thread
IN_CHILD = 5  # orders
CLASSES = 4_500  # that are alive; each order has a new one, in place of the oldest


class Load:
    """Makes orders, and counts calls.

    Attributes:
        calls: Made by this process.
        children: Forked so far; each has made `IN_CHILD` orders.
    """

    def __init__(self) -> None:
        self.calls = self.children = 0
        self._numbers = itertools.count()
        self._classes = collections.deque(map(_new_class, range(CLASSES)), CLASSES)
        self._fork = multiprocessing.get_context("fork")

    async def orders(self, count: int) -> None:
        """So many orders at once, some of them in threads."""
        numbers = list(itertools.islice(self._numbers, count))
        threads = [
            threading.Thread(target=self._in_thread, args=(self._article(n), n)) for n in numbers if n % IN_THREAD == 0
        ]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(asyncio.create_task(_order(self._article(n), n)) for n in numbers if n % IN_THREAD))
        for thread in threads:
            thread.join()
        self.calls += count * ORDER

    def child(self) -> None:
        """A forked child that makes some orders.

        Raises:
            ChildProcessError: it fails.
        """
        child = self._fork.Process(target=self._in_child)
        child.start()
        child.join()
        if child.exitcode:
            raise ChildProcessError(f"a forked child ended with {child.exitcode}")
        child.close()
        self.children += 1

    def _in_thread(self, article: object, number: int) -> None:
        loop = asyncio.new_event_loop()  # asyncio.run would refuse in a child that a running loop has forked
        loop.run_until_complete(_order(article, number))
        loop.close()

    def _in_child(self) -> None:
        for number in itertools.islice(self._numbers, IN_CHILD):
            self._in_thread(self._article(number), number)

    def _article(self, number: int) -> object:
        kind = _new_class(number)
        self._classes.append(kind)
        article = kind()
        vars(article).update(label=f"article {number}", code=number)
        return article


def _new_class(number: int) -> type:
    return type(f"Article{number}", (), {})


async def _order(article: object, number: int) -> None:
    items = {f"item {number % 500} {place}": number + place for place in range(4)}  # as many names as a program has
    await order(number, items, article)


def sample(process: psutil.Process, load: Load) -> dict[str, float]:
    """What this process takes of the machine: bytes, and numbers of things."""
    gc.collect()
    with process.oneshot():
        taken = {
            "time": time.monotonic(),
            "calls": load.calls,
            "rss": process.memory_info().rss,
            "objects": len(gc.get_objects()),
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
        }
    if tracemalloc.is_tracing():
        taken["own"] = own_bytes()
    return taken


def own_bytes() -> int:
    """What was allocated by lines of flowtrace and of its sinks, and is not freed."""
    import flowtrace
    import flowtrace_plugins

    folders = tuple(
        os.path.join(os.path.dirname(module.__file__ or ""), "") for module in (flowtrace, flowtrace_plugins)
    )
    by_file = tracemalloc.take_snapshot().statistics("filename")  # a third of the time that filters take
    return sum(file.size for file in by_file if file.traceback[0].filename.startswith(folders))


def ticks(seconds: float) -> Iterator[float]:
    """How long to wait for each tick."""
    began = time.monotonic()
    for number in range(int(seconds / TICK_S)):
        yield max(0.0, began + number * TICK_S - time.monotonic())


async def soak(load: Load, *, seconds: float, rate: float, every: float, samples: Path) -> None:
    """The load, for so long.

    Args:
        load: Makes it.
        seconds: How long.
        rate: Calls a second, of the process itself.
        every: How many seconds there are between samples.
        samples: The file for them, a JSON object a line.
    """
    process, owed = psutil.Process(), 0.0
    fork_at = sample_at = time.monotonic()
    with samples.open("w") as file:
        for wait_s in ticks(seconds):
            await asyncio.sleep(wait_s)
            owed += rate * TICK_S / ORDER
            await load.orders(int(owed))
            owed -= int(owed)
            if time.monotonic() >= fork_at:
                fork_at += FORK_EVERY_S
                load.child()
            if time.monotonic() >= sample_at:
                sample_at += every
                await asyncio.sleep(SETTLED_S)
                print(json.dumps(sample(process, load)), file=file, flush=True)


def main() -> None:
    """Make the load, and say at the end how much it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--every", type=float, required=True)
    parser.add_argument("--own", action="store_true", help="look at what flowtrace has allocated")
    parser.add_argument("samples", type=Path)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    if options.own:
        tracemalloc.start(1)
    load = Load()
    load_s = {"seconds": options.seconds, "rate": options.rate, "every": options.every}
    asyncio.run(soak(load, **load_s, samples=options.samples))
    options.result.write_text(json.dumps({"calls": load.calls, "children": load.children}))


if __name__ == "__main__":
    main()
