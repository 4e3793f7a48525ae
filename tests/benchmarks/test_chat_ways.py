"""What the chat under load knows of a trace: what was recorded, and whether that is what happened."""

from __future__ import annotations

import gzip
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CROWD = SimpleNamespace(connections=2, rooms=1)
SPAN = {"thread": "7", "traceId": "a" * 32, "parentId": None, "pid": 42}
HEARD = {"message": {"Content": "#0000000 Has anybody seen my keys? I had them yesterday."}}


@pytest.fixture
def chat_ways(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, as the benchmark imports it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("chat_ways")


def outcome(*, said: int) -> SimpleNamespace:
    """As much of an outcome as is asked for: loaded from 1,700,000,001,000 to 1,700,000,002,000 ms."""
    return SimpleNamespace(said=said, window=(1_700_000_001_000, 1_700_000_002_000))


def trace(*, sink: str = "file", lost: int = 0) -> bytes:
    """A message before the load and one within it; of what was lost, LOSS says both events of each call."""
    events: list[dict[str, object]] = [{"event": "START"}]
    for second in (0, 1):
        for function, args in (("find_problem", {}), ("broadcast_to_room", HEARD)):
            millis, span = (
                1_700_000_000_500 + 1000 * second,
                {**SPAN, "function": function, "spanId": f"{len(events):016x}"},
            )
            events.append({"timestamp": millis, "event": "ENTER", "args": json.dumps(args), **span})
            events.append({"timestamp": millis, "event": "EXIT", **span})
    if lost:
        events.append({"event": "LOSS", "sink": sink, "calls": lost, "events": 2 * lost, "repeated": False})
    numbers = [*range(len(events)), len(events) + 2 * lost]
    stop = {"event": "STOP", "delivered": {sink: len(events)}, "lost": {sink: 2 * lost}, "recorded": numbers[-1]}
    events.append({**stop, "discardedEvents": 0, "openCalls": 0})
    first = {"timestamp": 1_700_000_000_000}
    lines = [
        {**first, **event, "seq": seq, "pid": 42, "thread": "7"} for event, seq in zip(events, numbers, strict=True)
    ]
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def test_calls_are_counted_in_all_and_within_the_load(chat_ways: ModuleType, tmp_path: Path) -> None:
    """Four calls, of which two began while the chat was loaded."""
    (tmp_path / "42.jsonl").write_bytes(trace())

    recorded = chat_ways.FlowtraceFile(tmp_path, "").check(CROWD, outcome(said=2))

    assert (recorded.records, recorded.window_records, recorded.lost) == (4, 2, 0)


def test_what_was_received_is_one_trace(chat_ways: ModuleType, tmp_path: Path) -> None:
    """Bodies count in the order in which they came, each compressed by itself."""
    lines = trace(sink="http").splitlines(keepends=True)
    (tmp_path / "000001_v1_events").write_bytes(gzip.compress(b"".join(lines[3:])))
    (tmp_path / "000000_v1_events").write_bytes(gzip.compress(b"".join(lines[:3])))

    assert chat_ways.FlowtraceHttp(tmp_path, "").check(CROWD, outcome(said=2)).records == 4


def test_what_was_lost_may_be_missing(chat_ways: ModuleType, tmp_path: Path) -> None:
    """A message that is not there is no failure where a loss accounts for it."""
    (tmp_path / "42.jsonl").write_bytes(trace(lost=3))

    assert chat_ways.FlowtraceFile(tmp_path, "").check(CROWD, outcome(said=3)).lost == 3


def test_message_that_was_not_recorded_is_a_failure(chat_ways: ModuleType, tmp_path: Path) -> None:
    """Three were sent, two are there, none was lost."""
    (tmp_path / "42.jsonl").write_bytes(trace())

    with pytest.raises(chat_ways.Failure, match="3 messages were sent, 2 are in the trace, 0 calls lost"):
        chat_ways.FlowtraceFile(tmp_path, "").check(CROWD, outcome(said=3))


def test_line_that_nothing_accounts_for_is_a_failure(chat_ways: ModuleType, tmp_path: Path) -> None:
    """An EXIT that is missing, of which no LOSS speaks."""
    lines = trace().splitlines(keepends=True)
    (tmp_path / "42.jsonl").write_bytes(b"".join(lines[:2] + lines[3:]))

    with pytest.raises(chat_ways.Failure, match="the trace is not what happened"):
        chat_ways.FlowtraceFile(tmp_path, "").check(CROWD, outcome(said=2))


def test_tracer_that_sends_nothing_is_a_failure(chat_ways: ModuleType, tmp_path: Path) -> None:
    """Nothing is said of a tracer that was not at work."""
    with pytest.raises(chat_ways.Failure, match="ddtrace-run has sent no spans"):
        chat_ways.Ddtrace(tmp_path, "").check(CROWD, outcome(said=2))


def test_spans_of_ddtrace_are_counted(chat_ways: ModuleType, tmp_path: Path) -> None:
    """Two traces, of two spans and one, as MessagePack."""
    spans = chat_ways.msgspec.msgpack.encode([[{}, {}], [{}]])
    (tmp_path / "000000_v0.4_traces").write_bytes(spans)

    assert chat_ways.Ddtrace(tmp_path, "").check(CROWD, outcome(said=2)).records == 3
