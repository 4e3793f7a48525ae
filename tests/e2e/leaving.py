"""A program that calls until it is told to leave, and then does so in one of several ways.

``python leaving.py FOLDER WAY``: makes calls until FOLDER has a file ``go``; then writes the time of the monotonic
clock, in nanoseconds, to ``left`` and ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn


def call(number: int) -> int:
    """What is traced."""
    return number


def fail() -> NoReturn:
    """End with a traceback."""
    raise ValueError("the end")


WAYS = {
    "return": lambda: None,
    "sys.exit": lambda: sys.exit(3),
    "exception": fail,
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
}


def main(folder: Path, way: str) -> None:
    """Call, and leave."""
    number = 0
    while not (folder / "go").exists():
        call(number)
        number += 1
        time.sleep(0.002)
    (folder / "left").write_text(str(time.monotonic_ns()))
    WAYS[way]()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
