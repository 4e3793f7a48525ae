"""One line of the call tree: its times, colours and width."""

from __future__ import annotations

import pytest

from flowtrace_plugins.line import Line, clip_start, duration, lane_style, painted


def test_flexible_pieces_give_way() -> None:
    """What is long is shortened, before the time at the end is."""
    line = Line()
    line.put("name", "f(")
    line.put("plain", "x" * 50, flexible=True)
    line.put("plain", ")")
    line.tail.append(("quiet", "  4 µs"))

    assert painted(line.fitted(20), colour=False) == "f(xxxxxxxxxx…)  4 µs\n"
    assert painted(line.fitted(99), colour=False) == f"f({'x' * 50})  4 µs\n"


def test_neighbouring_tasks_differ_in_colour() -> None:
    """Tasks that follow each other are told apart at a glance."""
    colours = {painted([(lane_style(f"1/Task-{n}"), "x")], colour=True) for n in range(8)}

    assert len(colours) == 8


@pytest.mark.parametrize(
    ("text", "clipped"), [("Task-7", "Task-7"), ("background-worker-17", "…worker-17"), ("名" * 9, "…名名名名")]
)
def test_labels_keep_their_end(text: str, clipped: str) -> None:
    """The number of a task stands at the end of its name."""
    assert clip_start(text, 10) == clipped


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (1000, "1.0 ms"),
        (9949, "9.9 ms"),
        (9960, "10 ms"),
        (25_400, "25 ms"),
        (999_999, "999 ms"),
        (1_000_000, "1.0 s"),
        (59_999_999, "59 s"),
        (125_000_000, "2 m 05 s"),
        (11_520_000_000, "3 h 12 m"),
    ],
)
def test_durations(micros: int, text: str) -> None:
    """Times are written with the unit a person would use, and never as 1000 of the next smaller one."""
    assert duration(micros) == text
