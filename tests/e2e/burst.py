"""A program of many threads that make as many calls as they are told, and say how many that were.

``python burst.py THREADS CALLS [SECONDS]``: each thread makes ``CALLS`` calls, or goes on for ``SECONDS``. Prints JSON:
the calls made, and the resident memory of the process in bytes, before the first call and at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time

TEXT = "t" * 50
FAN = 4  # calls below each branch
PAGE = os.sysconf("SC_PAGE_SIZE")

_started = threading.Barrier(1 + int(sys.argv[1]))
_made: list[int] = []


def leaf(number: int, text: str) -> int:
    """One call."""
    return number


def branch(number: int) -> None:
    """One call, and those below it; the last one fails."""
    for each in range(FAN - 1):
        leaf(each, TEXT)
    with contextlib.suppress(ValueError):
        failing(number)


def failing(number: int) -> None:
    """One call that raises."""
    raise ValueError(number)


def work(calls: int, until: float) -> None:
    """What each thread does; itself a call."""
    made = 1
    _started.wait()
    while made < calls and time.monotonic() < until:
        branch(made)
        made += 1 + FAN
    _made.append(made)


resident = lambda: int(open("/proc/self/statm").read().split()[1]) * PAGE  # noqa: E731, SIM115  # a lambda is no target


if __name__ == "__main__":
    threads, calls = int(sys.argv[1]), int(sys.argv[2])
    until = time.monotonic() + float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")
    workers = [threading.Thread(target=work, args=(calls, until)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    before = most = resident()
    _started.wait()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.05)
        most = max(most, resident())
    print(json.dumps({"calls": sum(_made), "before": before, "most": max(most, resident())}))
