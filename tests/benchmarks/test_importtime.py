"""What is read from ``-X importtime``."""

from __future__ import annotations

from benchmarks import importtime

LAUNCHER = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   _io
import time:        50 |        300 | yaml
import time:       150 |        150 |   yaml.reader
"""
PROGRAM = """\
said by the program
import time: self [us] | cumulative | imported package
import time:        90 |         90 | _io
import time:        40 |         40 |     json.decoder
import time:        30 |         70 |   flowtrace.events
"""


def test_each_process_begins_with_a_head() -> None:
    """What a command imports before it becomes another is told apart from what that imports."""
    launcher, program = importtime.parse(LAUNCHER + PROGRAM)

    assert launcher == {"_io": 100, "yaml": 50, "yaml.reader": 150}
    assert program == {"_io": 90, "json.decoder": 40, "flowtrace.events": 30}


def test_libraries_are_one_row_and_the_known_are_left_out() -> None:
    """Medians of several turns, for each process; modules that a process does not import count as nothing."""
    turns = [importtime.parse(LAUNCHER + PROGRAM), importtime.parse(LAUNCHER.replace("50 |", "70 |") + PROGRAM)]

    rows = importtime.by_module(turns, known={"_io"})

    assert rows == {"yaml": [220, 0], "json.decoder": [0, 40], "flowtrace.events": [0, 30]}
