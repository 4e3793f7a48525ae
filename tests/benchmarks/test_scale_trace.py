"""Whether what `scale.py` and `soak.py` trust says when a trace is not complete."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale_trace import IncompleteTrace, by_process, read


def trace(*, lost: int = 0, calls: int = 3) -> list[dict[str, Any]]:
    """START, so many calls, and where events were lost a LOSS that says so; STOP."""
    events: list[dict[str, Any]] = [{"event": "START", "seq": 0}]
    for number in range(calls):
        events.append({"event": "ENTER", "seq": 2 * number + 1, "args": '{"number":7}'})
        events.append({"event": "EXIT", "seq": 2 * number + 2})
    last = 2 * calls + lost + 1
    if lost:
        events.append({"event": "LOSS", "seq": last, "calls": lost // 2, "events": lost})
        last += 1
    totals = {"recorded": last, "delivered": {"file": last - lost}, "lost": {"file": lost}, "failures": 0}
    return [*events, {"event": "STOP", "seq": last, **totals}]


def write(path: Path, events: list[dict[str, Any]]) -> Path:
    """A trace file, compressed where its name says so."""
    text = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_complete_trace(tmp_path: Path) -> None:
    """Each call is there, over several files, in whatever order they are read."""
    events = trace()
    newer, older = write(tmp_path / "7.jsonl", events[4:]), write(tmp_path / "7.jsonl.1.gz", events[:4])

    found = read([newer, older])

    assert by_process(tmp_path) == {"7": [newer, older]}
    assert found.calls == 3
    found.verify(calls=3)


def test_counted_losses_are_complete(tmp_path: Path) -> None:
    """What LOSS accounts for is not missing, if so many calls were to be lost."""
    found = read([write(tmp_path / "7.jsonl", trace(lost=4))])

    found.verify(calls=5, lost_calls=2)
    with pytest.raises(IncompleteTrace, match="calls lost: 2, expected: 0"):
        found.verify(calls=5)


@pytest.mark.parametrize("place", range(1, 7))
def test_missing_event_is_noticed(tmp_path: Path, place: int) -> None:
    """Whichever event of a call is gone, the trace is not complete."""
    events = trace()
    del events[place]

    with pytest.raises(IncompleteTrace, match="lines missing: 1"):
        read([write(tmp_path / "7.jsonl", events)]).verify(calls=3)


def test_fewer_calls_than_were_made(tmp_path: Path) -> None:
    """A call that has left no number behind is missing all the same."""
    with pytest.raises(IncompleteTrace, match="calls recorded and lost: 3, made: 4"):
        read([write(tmp_path / "7.jsonl", trace())]).verify(calls=4)


def test_values_are_missed(tmp_path: Path) -> None:
    """Calls without arguments are not what was to be measured."""
    events = trace()
    events[1]["args"] = "{}"

    with pytest.raises(IncompleteTrace, match="ENTER without values: 1"):
        read([write(tmp_path / "7.jsonl", events)]).verify(calls=3)


def test_killed_process(tmp_path: Path) -> None:
    """Without STOP nobody knows what there should be."""
    with pytest.raises(IncompleteTrace, match="no STOP"):
        read([write(tmp_path / "7.jsonl", trace()[:-1])]).verify()


def test_number_that_is_there_twice(tmp_path: Path) -> None:
    """An event that was delivered twice is a mistake."""
    events = trace()

    with pytest.raises(IncompleteTrace, match="number 2 is there twice"):
        read([write(tmp_path / "7.jsonl", [*events, events[2]])])
