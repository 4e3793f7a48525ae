"""Summing up the trace files of a run."""

from __future__ import annotations

import json
from pathlib import Path

from exploration.traces import read


def _write(file: Path, *events: dict[str, object]) -> None:
    file.write_text("".join(json.dumps({"timestamp": 1, **event}, separators=(",", ":")) + "\n" for event in events))


def test_modules_count_once_and_processes_add_up(tmp_path: Path) -> None:
    """Two processes that import the same module have one set of functions, and the calls of both."""
    functions = [{"name": "f", "how": "instrumented"}, {"name": "g", "how": "not traced", "reason": "why"}]
    attach = {"event": "ATTACH", "module": "m", "functions": functions}
    enter = {"event": "ENTER", "function": "f"}
    stop = {"event": "STOP", "recorded": 6, "failures": 1, "lost": {"file": 2}}
    _write(tmp_path / "1.jsonl", attach, enter, stop)
    _write(tmp_path / "2.jsonl", attach, enter, enter, stop)

    traced = read(tmp_path)

    assert dict(traced.functions) == {"instrumented": 1, "not traced": 1}
    assert dict(traced.reasons) == {("not traced", "why"): 1}
    assert (traced.calls, traced.lost, traced.failures) == (6, 4, 2)


def test_killed_process_counts_with_the_calls_it_delivered(tmp_path: Path) -> None:
    """Where there is no STOP, the ENTER events are what is known."""
    _write(tmp_path / "1.jsonl", {"event": "ENTER"}, {"event": "EXIT"}, {"event": "ENTER"})

    assert read(tmp_path).calls == 2
