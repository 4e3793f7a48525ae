"""A program that calls a function on and on until it dies, and writes down when it began each call.

``python doomed.py TIMES WAY AFTER SIZE``: TIMES is a file of `CALLS` 64-bit numbers, which outlives the process: the
nanoseconds of the monotonic clock at which it made each call. It dies in the given WAY, ``AFTER`` seconds after its
first call; ``killed``: somebody else does it. Each call gets a text of SIZE characters.

Beside that a thread that the agent knows nothing of appends the time to the file TIMES.ticks every `TICK_S` seconds: it
needs a processor, the interpreter and the disk as the agent's threads do, so its gaps say how long these had to wait.
"""

from __future__ import annotations

import _thread
import faulthandler
import mmap
import os
import resource
import struct
import sys
import time

CALLS = 1 << 14  # which take 8 s and more
PAUSE_S = 0.0005
TICK_S = 0.005

WAYS = {
    "killed": lambda: None,
    "segmentation fault": faulthandler._sigsegv,  # type: ignore[attr-defined]
    "abort": os.abort,
    "os._exit": lambda: os._exit(3),
}


def call(number: int, text: str) -> int:
    """What is traced."""
    return number


def tick(path: str) -> None:
    """Write down the time, as long as there is any; no target."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        os.write(file, struct.pack("Q", time.monotonic_ns()))
        time.sleep(TICK_S)


def main(path: str, way: str, after_s: float, size: int) -> None:
    """Call until the end."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    text = "t" * size
    with open(path, "r+b") as file:
        times = memoryview(mmap.mmap(file.fileno(), CALLS * 8)).cast("Q")
    _thread.start_new_thread(tick, (f"{path}.ticks",))
    end = time.monotonic() + after_s
    for number in range(CALLS):
        times[number] = time.monotonic_ns()
        call(number, text)
        time.sleep(PAUSE_S)
        if time.monotonic() > end:
            WAYS[way]()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
