"""Prints what a program can see of how its work is handed to threads, executors and processes."""

from __future__ import annotations

import contextvars
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from pickle import PicklingError
from typing import Any

_own: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="unset")


def stack() -> list[str]:
    """The names of the calling functions."""
    return [frame.name for frame in traceback.extract_stack()[:-1]]


def failing() -> None:
    """Raises."""
    raise KeyError("key")


def remember(value: str) -> str:
    """Sets a context variable of the program's; gives what it was."""
    before = _own.get()
    _own.set(value)
    return before


def depth() -> int:
    """How often a function may call itself here."""
    try:
        return 1 + depth()
    except RecursionError:
        return 1


def shown(error: BaseException | None) -> list[str]:
    """Its traceback, and that of what it comes from, without paths."""
    chain = []
    while error is not None:
        chain += [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        chain += [type(error).__name__, *str(error).replace(str(Path(__file__).parent), "").splitlines()]
        error = error.__cause__
    return chain


def threads() -> None:
    """What is to be seen in a thread, and of it."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend([stack(), depth(), remember("thread")]), name="T")
    before = sorted(vars(thread))
    thread.start()
    thread.join()
    print("thread", seen, sorted(vars(thread)) == before, _own.get(), threading.Thread.start.__code__.co_varnames)
    try:
        thread.start()
    except RuntimeError as error:
        print("started twice", shown(error))


def executors() -> None:
    """The same in pools of threads."""
    with ThreadPoolExecutor(1, initializer=_own.set, initargs=("of the worker",)) as pool:
        print("initializer", pool.submit(_own.get).result(), pool.submit(remember, "task").result())
        print("kept", pool.submit(_own.get).result(), pool.submit(stack).result(), pool.submit(depth).result())
        print("raised", shown(pool.submit(failing).exception()))
        cancelled: Future[None] = pool.submit(failing)
        cancelled.cancel()
    with ThreadPool(1, _own.set, ("of the worker",)) as pool:
        print("pool", pool.apply(remember, ("task",)), pool.apply(_own.get), pool.apply(stack))
        print("mapped", pool.map(str, range(5)), list(pool.imap(abs, [-1, 2])), pool.apply(dict, (), {"a": 1}))
        try:
            pool.apply(failing)
        except KeyError as error:
            print("raised", shown(error))


def processes() -> None:
    """The same in processes."""
    context: Any = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        print("process", executor.submit(stack).result(), executor.submit(remember, "x").result())
        print("raised", shown(executor.submit(failing).exception()))
        print("unpicklable", type(executor.submit(lambda: None).exception()).__name__)
    with context.Pool(1) as pool:
        print("process pool", pool.apply(stack), pool.map(abs, [-1, 2]), pool.apply(dict, (), {"a": 1}))
        try:
            pool.apply(failing)
        except KeyError as error:
            print("raised", shown(error))
        try:
            pool.apply(lambda: None)
        except (AttributeError, PicklingError) as error:
            print("unpicklable", shown(error))
    watched = Watched()
    watched.start()
    watched.join()
    print("watched", watched.exitcode)
    process = context.Process(target=print, args=("in a process",))
    before = sorted(vars(process))
    process.start()
    process.join()
    print("process", process.exitcode, sorted(vars(process)) == [name for name in before if name not in _DROPPED])


class Watched(multiprocessing.get_context("spawn").Process):
    """A process that lets nobody else change it, and says what is pickled of it."""

    def __setattr__(self, name: str, value: object) -> None:
        """Refuses what the standard library does not set."""
        assert name in {*_KNOWN, "name", "daemon"}, name
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to the other process."""
        print("pickled", sorted(vars(self)))
        return vars(self).copy()

    def run(self) -> None:
        """Says what has arrived there."""
        print("arrived", sorted(vars(self)))


_KNOWN = {*vars(multiprocessing.Process()), "_popen", "_sentinel", "_parent_pid"}
_DROPPED = ("_target", "_args", "_kwargs")


def programs() -> None:
    """What another program gets."""
    code = "import os; print(sorted(set(os.environ) - {'TRACEPARENT', 'LC_CTYPE'}), os.environ['A'])"
    os.environ["A"] = "ours"
    for environment in (None, {"A": "given"}):
        sys.stdout.flush()
        subprocess.run([sys.executable, "-ISc", code], env=environment, check=True)
    echo = "import os; print(os.environ['A'])"
    before = partial(os.putenv, "A", "set in the child")
    subprocess.run([sys.executable, "-ISc", echo], preexec_fn=before, check=True)
    own = "import os; print(os.environ['TRACEPARENT'])"
    subprocess.run([sys.executable, "-ISc", own], env={"TRACEPARENT": "the program's own"}, check=True)
    for command in (["/nowhere"], ["a\0b"]):
        try:
            subprocess.run(command, check=True, cwd="/")
        except (OSError, ValueError) as error:
            print("not started", shown(error))


if __name__ == "__main__":
    threads()
    executors()
    processes()
    programs()
    print(_own.get())
