"""A program that makes calls for some time, writes how many, and may strike the agent's own threads meanwhile.

``python zoo.py FILE SECONDS [PART TRACE]``: with PART, ``dispatcher`` or ``lane``, something is raised again and again
in the threads whose code is in that module of the agent, wherever they are. It also writes how long at most nothing
was added to the file TRACE meanwhile, and how late at most the thread was that looked.
"""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import time
from pathlib import Path

STRIKES = 100
STRUCK_WITH = (SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit)
LOOK_S = 0.005


class Watch(threading.Thread):
    """Looks again and again whether a file has grown.

    Attributes:
        gap_s: The longest time between two looks that found it larger.
        late_s: By how much at most a look came later than it was due: what this machine makes any thread wait.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path, self.gap_s, self.late_s = path, 0.0, 0.0
        self.over = False

    def run(self) -> None:
        """Look until it is over."""
        size, grown_at, looked_at = 0, 0.0, time.monotonic()
        while not self.over:
            time.sleep(LOOK_S)
            now = time.monotonic()
            self.late_s, looked_at = max(self.late_s, now - looked_at - LOOK_S), now
            found = self._path.stat().st_size if self._path.exists() else 0
            if size:
                self.gap_s = max(self.gap_s, now - grown_at)
            if found != size:
                size, grown_at = found, now


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


def strike(part: str, error: type[BaseException]) -> int:
    """Have it raised in each of these threads; returns in how many."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    return sum(raise_in(ctypes.c_ulong(ident), ctypes.py_object(error)) for ident in threads_in(part))


def main(path: str, seconds: float, part: str = "", trace: str = "") -> None:
    """Call until the time is over."""
    end, made, struck = time.monotonic() + seconds, 0, 0
    chance, watch = random.Random(seconds), Watch(Path(trace))
    if part:
        watch.start()
    while time.monotonic() < end or (part and struck < STRIKES):
        for _ in range(chance.randrange(20)):
            used(made)
            made += 1
        time.sleep(chance.uniform(0, 0.02))
        if part and chance.random() < 0.3:
            struck += strike(part, STRUCK_WITH[struck % len(STRUCK_WITH)])
    watch.over = True
    Path(path).write_text(f"{made} {struck} {watch.gap_s} {watch.late_s}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
