"""A program that makes calls for some time, writes how many, and may strike the agent's own threads meanwhile.

``python zoo.py FILE SECONDS [PART]``: with PART, ``dispatcher`` or ``lane``, SystemExit is raised again and again in
the threads whose code is in that module of the agent, wherever they are.
"""

from __future__ import annotations

import ctypes
import random
import sys
import time
from pathlib import Path

STRIKES = 100


def used(number: int) -> int:
    """What is traced."""
    return number


def threads_in(part: str) -> list[int]:
    """The idents of the threads that are somewhere in this module of the agent."""
    found = []
    for ident, frame in sys._current_frames().items():
        above = frame
        while above.f_back is not None:
            above = above.f_back
        if above.f_code.co_filename.endswith(f"flowtrace/{part}.py"):
            found.append(ident)
    return found


def strike(part: str) -> int:
    """Have SystemExit raised in each of these threads; returns in how many."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    return sum(raise_in(ctypes.c_ulong(ident), ctypes.py_object(SystemExit)) for ident in threads_in(part))


def main(path: str, seconds: float, part: str) -> None:
    """Call until the time is over."""
    end, made, struck = time.monotonic() + seconds, 0, 0
    chance = random.Random(seconds)
    while time.monotonic() < end or (part and struck < STRIKES):
        for _ in range(chance.randrange(20)):
            used(made)
            made += 1
        time.sleep(chance.uniform(0, 0.02))
        if part and chance.random() < 0.3:
            struck += strike(part)
    Path(path).write_text(f"{made} {struck}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), "".join(sys.argv[3:]))
