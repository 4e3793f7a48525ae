"""A program that is interrupted everywhere: its signal handlers, finalizers and weakref callbacks make calls too.

``python storm.py SECONDS [fork]``: for so long, four threads and the main thread call; a timer sends two thousand
signals a second; the collector runs again and again, and finds cycles; with ``fork`` children are forked in between,
each of which makes some calls. Prints JSON: how many calls the process has made, and how many signals, finalizers and
weakref callbacks struck. Should it or a child hang, it shows the stacks of its threads and dies.
"""

from __future__ import annotations

import faulthandler
import gc
import itertools
import json
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

WEDGED_S = 40  # after the time is over
SIGNALS_EACH_S = 0.0005

_made = itertools.count()
_struck = {kind: itertools.count() for kind in ("signals", "finalizers", "callbacks")}
_kept: set[Any] = set()  # weak references whose callbacks are yet to be called
_alive: list[None] = []  # one for each `Dying` that is yet to be finalized


def call(number: int) -> int:
    """A call that has one below it."""
    next(_made)
    return inner(number)


def inner(number: int) -> int:
    """The one below."""
    next(_made)
    return number


def handle(number: int, frame: object) -> None:
    """What a signal leads to."""
    next(_made)
    next(_struck["signals"])
    call(number)


class Dying:
    """In a cycle, so that the collector finds it, wherever that runs."""

    other: Dying

    def __del__(self) -> None:
        """Makes calls."""
        next(_made)
        next(_struck["finalizers"])
        call(0)
        _alive.pop()


class Watched:
    """Has a weakref callback."""


def callback(reference: object) -> None:
    """Called when a `Watched` is gone."""
    next(_made)
    next(_struck["callbacks"])
    inner(1)
    _kept.discard(reference)


def litter() -> None:
    """Leave something for the collector."""
    next(_made)
    one, other = Dying(), Dying()
    _alive.extend((None, None))
    one.other, other.other = other, one
    watched = Watched()
    watched.itself = watched  # type: ignore[attr-defined]
    _kept.add(weakref.ref(watched, callback))


def work(until: float) -> None:
    """What each thread does."""
    next(_made)
    number = 0
    while time.monotonic() < until:
        number += 1
        call(number)
        if number % 8 == 0:
            litter()


def fork() -> None:
    """Start a child that calls, and ends as any program does; wait for it."""
    next(_made)
    pid = os.fork()
    if not pid:
        watch(WEDGED_S)
        for number in range(20):
            call(number)
            litter()
        gc.collect()
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        os.write(2, f"child {pid}: status {status}\n".encode())
        os._exit(1)


def watch(seconds: int) -> None:
    """Show all stacks and die after so long."""
    # no faulthandler.dump_traceback_later: at its end a forked child waits for that thread, which only its parent has
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    faulthandler.register(signal.SIGVTALRM, all_threads=True, chain=True)
    threading.Thread(target=strike, args=(seconds,), daemon=True).start()


def strike(seconds: int) -> None:
    """Die, unless the process ends before; no target."""
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGVTALRM)


def storm(seconds: int, between: Callable[[], None]) -> None:
    """Everything at once."""
    next(_made)
    until = time.monotonic() + seconds
    gc.set_threshold(100, 3, 3)
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, SIGNALS_EACH_S, SIGNALS_EACH_S)
    threads = [threading.Thread(target=work, args=(until,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        call(-1)
        litter()
        between()
    for thread in threads:
        thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    watch(int(sys.argv[1]) + WEDGED_S)
    storm(int(sys.argv[1]), fork if sys.argv[2:] == ["fork"] else (lambda: None))
    gc.set_threshold(0)
    while _alive or _kept:  # a collection that another thread has begun may still be at work
        gc.collect()
        time.sleep(0.01)
    sys.stdout.write(json.dumps({"made": next(_made)} | {kind: next(count) for kind, count in _struck.items()}))
    sys.stdout.flush()
