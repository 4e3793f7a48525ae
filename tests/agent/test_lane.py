"""A lane between the dispatcher and one sink: delivery, retries, loss, and an end in time."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtrace import lane as lanes
from flowtrace.errors import SinkError
from flowtrace.events import ENTER, EXIT, STATEMENT, Batch, Record
from flowtrace.hooks import Batching
from flowtrace.lane import Chunk, Lane
from flowtrace.testing import MemorySink


class Gate(MemorySink):
    """A sink that takes nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def write(self, batch: Batch) -> None:
        """Waits for `opened`."""
        self.entered.set()
        self.opened.wait()
        super().write(batch)


def enter(span: int, parent: int | None = None) -> Record:
    return (ENTER, 0, span, 0, 1, None, 0, parent, b"{}")


def leave(span: int) -> Record:
    return (EXIT, 0, 10_000 + span, 0, 1, None, 0, None, b"1", span, 1, None, None)


def chunk(*records: Record, line: bytes = b"0123456789") -> Chunk:
    """A chunk with a line of the same size for each record."""
    return Chunk(Batch(f"run-1-{next(NUMBERS)}", [line] * len(records)), list(records), len(line) * len(records))


NUMBERS: Iterator[int] = iter(range(10**9))


@pytest.fixture
def make() -> Iterator[Callable[..., Lane]]:
    """Makes and starts lanes, and ends them after the test."""
    made: list[Lane] = []

    def start(sink: Any, **options: Any) -> Lane:
        warnings: list[str] = []
        lane = Lane(
            "memory", sink, max_bytes=options.pop("max_bytes", 1 << 20), new_batch=lambda lines: Batch("joined", lines),
            warn=warnings.append, on_thread=lambda: None, **options,
        )  # fmt: skip
        lane.warnings = warnings  # type: ignore[attr-defined]
        lane.start()
        made.append(lane)
        return lane

    yield start
    for lane in made:
        if isinstance(lane.sink, Gate):
            lane.sink.opened.set()
        if lane._stop_at is None:
            end(lane)


def end(lane: Lane, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    lane.finish(deadline)
    return lane.wait_ended(deadline)


def settled(lane: Lane, seconds: float = 10.0) -> bool:
    """Waits until all that was offered is delivered or lost, without asking the lane to hurry."""
    deadline = time.monotonic() + seconds
    while lane.waiting and time.monotonic() < deadline:
        time.sleep(0.002)
    return not lane.waiting


def hurried(lane: Lane) -> bool:
    """Asks the lane to hand on what it has joined."""
    return lane.wait_idle(time.monotonic() + 10)


def test_batches_arrive_in_order(make: Callable[..., Lane]) -> None:
    """A sink is opened once, gets every batch in order, is flushed and closed."""
    sink = MemorySink()
    lane = make(sink)
    chunks = [chunk(enter(n), leave(n)) for n in range(20)]

    for each in chunks:
        lane.offer(each)

    assert settled(lane)
    assert end(lane)
    assert sink.batches == [each.batch for each in chunks]
    assert (sink.calls[0], sink.calls[-1]) == ("open", "close")
    assert "flush" in sink.calls
    assert (lane.delivered, lane.losses.events, lane.waiting) == (40, 0, 0)


def test_a_batch_is_tried_again_with_the_same_id(make: Callable[..., Lane]) -> None:
    """Where the sink says that trying again may help, the batch comes again, as often as it takes."""  # fault S16
    sink = MemorySink(failures=[SinkError("busy", retry=True, retry_after_s=0.0)] * 4)
    lane = make(sink)

    lane.offer(chunk(enter(1), leave(1)))

    assert settled(lane)
    assert len(sink.tries) == 5
    assert len(set(sink.tries)) == 1
    assert (lane.delivered, lane.losses.events) == (2, 0)


def test_a_batch_that_will_never_be_taken_is_lost_at_once(make: Callable[..., Lane]) -> None:
    """``retry=False`` gives one try; the next batch is delivered."""  # fault S17
    sink = MemorySink(failures=[SinkError("too large", retry=False)])
    lane = make(sink)

    lane.offer(chunk(enter(1), leave(1)))
    lane.offer(chunk(enter(2)))

    assert settled(lane)
    (loss,) = lane.losses.take()
    assert (len(sink.tries), lane.delivered) == (2, 1)
    assert (loss.calls, loss.events, loss.size) == (1, 2, 20)
    assert lane.warnings == ["sink memory: too large"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), MemoryError(), GeneratorExit()])
def test_a_sink_may_raise_anything(make: Callable[..., Lane], monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    """It is tried three times, the batch counted as lost, and the lane goes on."""  # fault S18
    monkeypatch.setattr(lanes, "BACKOFF_BASE_S", 0.001)
    sink = MemorySink(failures=[error] * 3)
    lane = make(sink)

    lane.offer(chunk(enter(1)))
    lane.offer(chunk(enter(2)))

    assert settled(lane)
    assert len(sink.tries) == 4
    assert (lane.delivered, lane.losses.events) == (1, 1)


def test_a_sink_that_keeps_failing_is_left_out(make: Callable[..., Lane]) -> None:
    """After several failures in a row no try is made for a while, and everything is counted."""
    sink = MemorySink(failures=[SinkError("no", retry=False)] * 99)
    lane = make(sink)

    for n in range(20):
        lane.offer(chunk(enter(n)))

    assert settled(lane)
    assert len(sink.tries) == lanes.FAILED_BATCHES
    assert {loss.reason: loss.events for loss in lane.losses.take()} == {
        "the sink failed": 5, "the sink is left out after failures": 15,
    }  # fmt: skip
    assert any("left out" in warning for warning in lane.warnings)  # type: ignore[attr-defined]


def test_a_sink_that_was_left_out_is_tried_again(make: Callable[..., Lane], monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time is over, batches are delivered again."""
    monkeypatch.setattr(lanes, "LEFT_OUT_S", 0.05)
    sink = MemorySink(failures=[SinkError("no", retry=False)] * lanes.FAILED_BATCHES)
    lane = make(sink)
    deadline = time.monotonic() + 10

    while not sink.batches and time.monotonic() < deadline:
        lane.offer(chunk(enter(1)))
        settled(lane)

    assert sink.batches


def test_a_sink_that_cannot_open_is_opened_again(make: Callable[..., Lane], monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing to open counts as failing to write, and is tried again."""
    monkeypatch.setattr(lanes, "BACKOFF_BASE_S", 0.001)

    class Shy(MemorySink):
        def open(self) -> None:
            super().open()
            if self.calls.count("open") < 3:
                raise OSError("not yet")

    sink = Shy()
    lane = make(sink)

    lane.offer(chunk(enter(1)))

    assert settled(lane)
    assert (len(sink.batches), sink.calls.count("open")) == (1, 3)


def test_failing_to_flush_or_close_harms_nothing(make: Callable[..., Lane]) -> None:
    """The events were delivered: nothing is counted as lost, and the lane ends."""

    class Rude(MemorySink):
        def flush(self) -> None:
            raise OSError("flush")

        def close(self, deadline: float) -> None:
            raise SystemExit("close")

    lane = make(Rude())
    lane.offer(chunk(enter(1), leave(1)))

    assert settled(lane)
    assert end(lane)
    assert (lane.delivered, lane.losses.events) == (2, 0)
    assert len(lane.warnings) == 2  # type: ignore[attr-defined]


@given(parents=st.lists(st.integers(0, 30), min_size=1, max_size=40), room=st.integers(0, 30), cut=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_slow_sink_loses_whole_subtrees(parents: list[int], room: int, cut: int) -> None:
    """What a sink gets is closed: parents before children, an end for each beginning; the rest is counted exactly."""
    tree = {span: parent - 1 if 0 < parent <= span else None for span, parent in enumerate(parents)}
    records = [enter(span, parent) for span, parent in tree.items()] + [leave(span) for span in reversed(tree)]
    sink = Gate()
    lane = Lane(
        "gate", sink, max_bytes=room * 10, new_batch=lambda lines: Batch("cut", lines), warn=print, on_thread=lambda: None
    )
    lane.start()

    for at in range(0, len(records), cut):
        lane.offer(chunk(*records[at : at + cut]))
    sink.opened.set()

    assert settled(lane)
    seen = [record for each in DELIVERED.pop(id(lane), []) for record in each.records]
    assert end(lane)
    assert lane.delivered == len(sink.lines)
    assert lane.delivered + lane.losses.events == len(records)
    assert lane.delivered % 2 == 0
    assert 2 * sum(loss.calls for loss in lane.losses.take()) == len(records) - lane.delivered
    assert _is_closed(seen)


DELIVERED: dict[int, list[Chunk]] = {}


def _is_closed(records: list[Record]) -> bool:
    begun: set[int | None] = {None}
    ended: list[int] = []
    for record in records:
        if record[0] == ENTER:
            if record[7] not in begun:
                return False
            begun.add(record[2])
        else:
            ended.append(record[9])
    return sorted(ended) == sorted(span for span in begun if span is not None)


@pytest.fixture(autouse=True)
def _remember_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks get lines only; the tests want to know which records these were."""
    deliver = Lane._deliver

    def remembering(self: Lane, each: Chunk) -> None:
        DELIVERED.setdefault(id(self), []).append(each)
        deliver(self, each)

    monkeypatch.setattr(Lane, "_deliver", remembering)


def test_statements_pass_a_full_lane(make: Callable[..., Lane]) -> None:
    """START, ATTACH and STOP are delivered however full it is."""
    sink = Gate()
    lane = make(sink, max_bytes=10)
    lane.offer(chunk(enter(1)))
    sink.entered.wait(10)

    lane.offer(chunk(enter(2)))
    lane.offer(chunk((STATEMENT, "ATTACH", 5, 0, 1, b"")))
    sink.opened.set()

    assert settled(lane)
    assert lane.delivered == 2


def test_the_ends_of_delivered_calls_pass_a_full_lane(make: Callable[..., Lane]) -> None:
    """A call whose beginning was taken gets its end, though there is no room."""
    sink = Gate()
    lane = make(sink, max_bytes=10)
    lane.offer(chunk(enter(1)))
    sink.entered.wait(10)

    lane.offer(chunk(leave(1), enter(2), leave(2)))
    sink.opened.set()

    assert settled(lane)
    assert (lane.delivered, lane.losses.events) == (2, 2)


def test_a_blocking_lane_waits_for_room(make: Callable[..., Lane]) -> None:
    """Under ``overflow: block`` nothing is lost: the dispatcher waits."""
    sink = Gate()
    lane = make(sink, max_bytes=25, blocks=True)
    threading.Timer(0.05, sink.opened.set).start()

    for n in range(10):
        lane.offer(chunk(enter(n), leave(n)))

    assert settled(lane)
    assert (lane.delivered, lane.losses.events) == (20, 0)


def test_batching_joins_batches(make: Callable[..., Lane]) -> None:
    """A sink that asks for larger batches gets them joined, up to its bound and in order."""
    sink = Gate()
    sink.batching = Batching(max_bytes=50, max_wait_s=5.0)  # type: ignore[attr-defined]
    lane = make(sink)

    for n in range(12):
        lane.offer(chunk(enter(n), line=b"%010d" % n))
    sink.opened.set()

    assert hurried(lane)
    assert [len(batch) for batch in sink.batches] == [5, 5, 2]
    assert sink.lines == [b"%010d" % n for n in range(12)]


def test_batching_waits_no_longer_than_asked(make: Callable[..., Lane]) -> None:
    """What waits is handed on after the time, though the batch is small."""
    sink = MemorySink()
    sink.batching = Batching(max_bytes=1_000, max_wait_s=0.02)  # type: ignore[attr-defined]
    lane = make(sink)
    deadline = time.monotonic() + 10

    lane.offer(chunk(enter(1)))
    while not sink.batches and time.monotonic() < deadline:
        time.sleep(0.002)

    assert len(sink.batches) == 1


def test_a_batch_larger_than_asked_comes_alone(make: Callable[..., Lane]) -> None:
    """One chunk above the bound is not joined with others, and not lost."""
    sink = Gate()
    sink.batching = Batching(max_bytes=25, max_wait_s=5.0)  # type: ignore[attr-defined]
    lane = make(sink)

    for count in (1, 4, 1, 1, 1):
        lane.offer(chunk(*[enter(1)] * count))
    sink.opened.set()

    assert hurried(lane)
    assert [len(batch) for batch in sink.batches] == [1, 4, 2, 1]


def test_a_sink_that_hangs_does_not_hold_the_end(make: Callable[..., Lane]) -> None:
    """Waiting ends at the deadline; what hangs is still counted as waiting."""  # fault P9
    lane = make(Gate())
    lane.offer(chunk(enter(1), leave(1)))
    began = time.monotonic()

    assert not end(lane, 0.1)

    assert time.monotonic() - began < 5
    assert lane.waiting == 2


def test_retries_end_at_the_deadline(make: Callable[..., Lane]) -> None:
    """A sink that would be tried for ever is given up when the lane is to finish."""
    lane = make(MemorySink(failures=[SinkError("busy", retry=True, retry_after_s=3_600.0)] * 9))
    lane.offer(chunk(enter(1)))
    began = time.monotonic()

    assert end(lane, 10.0)

    assert time.monotonic() - began < 5
    assert (lane.delivered, lane.losses.events) == (0, 1)


def test_what_a_sink_lost_after_all_is_taken_back(make: Callable[..., Lane]) -> None:
    """Events of a spool that had to make room are lost, no longer delivered."""
    lane = make(MemorySink())
    lane.offer(chunk(enter(1), leave(1)))
    assert settled(lane)

    lane.lose("the spool is full", 2)

    assert (lane.delivered, lane.losses.events) == (0, 2)


def test_threads_are_not_shown_to_the_program(make: Callable[..., Lane]) -> None:
    """`threading` knows nothing of a lane, so nobody joins or counts it."""
    before = threading.enumerate(), threading.active_count(), _thread._count()

    lane = make(MemorySink())
    lane.offer(chunk(enter(1)))
    assert settled(lane)

    assert (threading.enumerate(), threading.active_count()) == before[:2]
    assert _thread._count() == before[2] + 1
