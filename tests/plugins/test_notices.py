"""The agent's own events as lines for people."""

from __future__ import annotations

from typing import Any

import pytest

from flowtrace_plugins.notices import describe


def attach(module: str, traced: int, left: int = 0) -> dict[str, Any]:
    """An ATTACH event."""
    functions = [{"name": "f", "line": 1, "how": "source"}] * traced + [
        {"name": "g", "line": 2, "how": "not traced"}
    ] * left
    return {"event": "ATTACH", "module": module, "functions": functions}


@pytest.mark.parametrize(
    ("events", "line"),
    [
        (
            [
                {
                    "event": "START",
                    "service": "chat",
                    "pid": 7,
                    "argv": ["/usr/bin/python3", "/usr/bin/uvicorn", "app:app", "/x/y"],
                }
            ],
            ("quiet", "▶ chat · pid 7 · python3 uvicorn app:app /x/y"),
        ),
        ([attach("a", 1)], ("quiet", "+ tracing 1 function in a")),
        ([attach("a", 0, 1)], ("quiet", "+ tracing 0 functions · 1 not possible")),
        (
            [attach("a", 2), attach("b", 3, 1), attach("c", 1), attach("d", 1)],
            ("quiet", "+ tracing 7 functions in a, b, c and 1 more · 1 not possible"),
        ),
        (
            [{"event": "LOSS", "events": 1200, "sink": "http", "reason": "the sink is too slow"}],
            ("warning", "▲ lost 1,200 events for sink http: the sink is too slow"),
        ),
        (
            [{"event": "LOSS", "events": 2, "sink": None, "reason": "the queue is full", "repeated": True}],
            ("warning", "▲ lost 2 events: the queue is full (said again)"),
        ),
        (
            [{"event": "STOP", "recorded": 1204, "lost": {"stdout": 0, "http": 3}}],
            ("warning", "■ stopped · 1,204 events, 3 lost"),
        ),
        ([{"event": "STOP", "recorded": 1, "lost": {"stdout": 0}}], ("quiet", "■ stopped · 1 event, none lost")),
    ],
)
def test_lines(events: list[dict[str, Any]], line: tuple[str, str]) -> None:
    """Each event is one line; several ATTACH events are one together; only losses stand out."""
    assert list(describe(events)) == [line]


def test_modules_without_functions_are_not_mentioned() -> None:
    """Such as packages whose ``__init__`` is empty."""
    assert list(describe([attach("a", 0)])) == []


@pytest.mark.parametrize("kind", ["START", "LOSS", "STOP"])
def test_missing_fields(kind: str) -> None:
    """An event of another version, with fields missing, is still one line."""
    assert len(list(describe([{"event": kind}]))) == 1


def test_unknown_events_are_left_out() -> None:
    """An event of a later version is not shown rather than shown wrongly."""
    assert list(describe([{"event": "TOMORROW"}])) == []
