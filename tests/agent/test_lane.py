"""Lanes: one sink's thread, its retries, what it drops when it is slow, and what it counts."""

from __future__ import annotations

import itertools
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace import lane as lane_module
from flowtrace.errors import SinkError
from flowtrace.events import ENTER, EXIT, STATEMENT, Batch, Record
from flowtrace.hooks import Batching, Sink
from flowtrace.lane import Chunk, Lane
from flowtrace.testing import MemorySink

SOON_S = 10.0  # for what takes milliseconds on an idle machine
LINE_BYTES = 100


class Gated(MemorySink):
    """A sink whose ``write`` waits while its gate is closed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = threading.Event()
        self.entered = threading.Event()

    def write(self, batch: Batch) -> None:
        """Waits for the gate."""
        self.entered.set()
        self.gate.wait(SOON_S)
        super().write(batch)


class Lanes:
    """Starts lanes, and ends them with the test."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._numbers = itertools.count()
        self._started: list[Lane] = []

    def new_id(self) -> str:
        """An id with the next number."""
        return f"run-1-{next(self._numbers)}"

    def start(self, sink: Sink, **options: Any) -> Lane:
        """A running lane; its bound is ample unless given."""
        started = Lane(
            "toy",
            sink,
            max_bytes=options.pop("max_bytes", 1 << 20),
            new_id=self.new_id,
            warn=self.warnings.append,
            on_thread=lambda: None,
            **options,
        )
        started.start()
        self._started.append(started)
        return started

    def chunk(self, *records: Record) -> Chunk:
        """These records with lines that say which they are, of `LINE_BYTES` each."""
        lines = [
            (b'{"event":"%b","seq":%d%b}' % (_kind(record), record[2], _said(record))).ljust(LINE_BYTES - 1)
            for record in records
        ]
        return Chunk(Batch(self.new_id(), lines), list(records), sum(record[0] == ENTER for record in records))

    def end(self) -> None:
        """Finish all lanes."""
        for each in self._started:
            if isinstance(each.sink, Gated):
                each.sink.gate.set()
            if each._stop_at is None:
                deadline = lane_module.time.monotonic() + SOON_S
                each.finish(deadline)
                assert each.wait_ended(deadline)


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lanes]:
    """Lanes that wait for nothing between tries."""
    monkeypatch.setattr(lane_module, "BACKOFF_BASE_S", 0.0)
    some = Lanes()
    yield some
    some.end()


def statement(seq: int, sink: str | None = "other", events: int = 0) -> Record:
    """A record that is no call: by default what another sink has lost."""
    loss = {"sink": sink, "reason": "r", "calls": events // 2, "events": events, "bytes": 10 * events}
    return (STATEMENT, "LOSS", seq, 0, 1, orjson.dumps(loss)[1:-1], 0)


def _kind(record: Record) -> bytes:
    return {ENTER: b"ENTER", EXIT: b"EXIT", STATEMENT: b"LOSS"}[record[0]]


def _said(record: Record) -> bytes:
    return b"," + record[5] if record[0] == STATEMENT else b""


def enter(seq: int, parent: int | None = None) -> Record:
    """The beginning of a call."""
    return (ENTER, 0, seq, 0, 1, None, 0, parent, b"{}", None, (), 2)


def leave(seq: int, span: int) -> Record:
    """The end of a call."""
    return (EXIT, 0, seq, 0, 1, None, 0, None, b"1", span, 0, None, None, 1)


def settle(lane: Lane) -> None:
    """Wait until the lane has nothing left to do."""
    assert lane.wait_idle(lane_module.time.monotonic() + SOON_S)


def seqs(sink: MemorySink) -> list[int]:
    """What the sink took, by number."""
    return [orjson.loads(line)["seq"] for line in sink.lines]


# -- delivery and failures -------------------------------------------------------------------------------------------


def test_batches_are_delivered_in_order(lanes: Lanes, wait_until: Callable[..., Any]) -> None:
    """The sink is opened once, before the first batch, and flushed when there is nothing more to write."""
    sink = MemorySink()
    lane = lanes.start(sink)
    for seq in range(3):
        lane.offer(lanes.chunk(statement(seq)))

    wait_until(lambda: sink.calls[-1:] == ["flush"] and len(sink.batches) == 3)

    assert seqs(sink) == [0, 1, 2]
    assert sink.calls[:2] == ["open", "write"]
    assert sink.calls.count("open") == 1
    assert (lane.delivered, lane.losses.take()) == (3, [])


def test_nothing_is_opened_before_there_is_something_to_write(lanes: Lanes) -> None:
    """A sink that never gets a batch is only closed."""
    sink = MemorySink()
    lane = lanes.start(sink)
    lane.finish(time.monotonic() + SOON_S)
    assert lane.wait_ended(time.monotonic() + SOON_S)
    assert sink.calls == ["close"]


def test_same_batch_comes_again(lanes: Lanes) -> None:
    """A batch that was not delivered is tried until it is, under the same id; those after it wait."""
    sink = MemorySink(failures=[SinkError("away")] * 5)
    lane = lanes.start(sink)
    first, second = lanes.chunk(statement(0)), lanes.chunk(statement(1))
    lane.offer(first)
    lane.offer(second)
    settle(lane)

    assert sink.tries == [first.batch.id] * 6 + [second.batch.id]
    assert seqs(sink) == [0, 1]
    assert set(lanes.warnings) == {"sink toy: away"}
    assert lane.losses.events == 0


def test_opening_is_tried_again(lanes: Lanes) -> None:
    """A sink that cannot open yet gets its batch when it can."""
    sink = MemorySink()
    problems = [SinkError("no disk"), SinkError("no disk")]

    def open_late() -> None:
        if problems:
            raise problems.pop()
        MemorySink.open(sink)

    sink.open = open_late  # type: ignore[method-assign]
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    settle(lane)

    assert sink.calls[:2] == ["open", "write"]
    assert lane.delivered == 1


def test_batch_that_will_never_do_is_given_up(lanes: Lanes) -> None:
    """``retry=False`` costs the batch, counted with its calls and bytes, and nothing else."""
    sink = MemorySink(failures=[SinkError("too large", retry=False)])
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(enter(0), enter(1, 0), leave(2, 1)))
    lane.offer(lanes.chunk(statement(3)))
    settle(lane)

    [loss] = lane.losses.take()
    assert (loss.reason, loss.calls, loss.events, loss.size) == ("the sink failed", 2, 3, 3 * LINE_BYTES)
    assert loss.since_ns <= loss.until_ns <= time.monotonic_ns()
    assert (lane.delivered, seqs(sink)) == (1, [3])
    assert lane.losses.take() == []


class Mute(Exception):
    """An exception that fails even at saying what it is."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("raised", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), Mute()])
def test_whatever_a_sink_raises_is_tried_three_times(raised: BaseException, lanes: Lanes) -> None:
    """Any exception is caught on the lane's thread: two are retried, the third costs the batch."""  # fault S18
    sink = MemorySink(failures=[raised] * 5)
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    lane.offer(lanes.chunk(statement(1)))
    settle(lane)

    assert seqs(sink) == [1]
    assert (lane.delivered, lane.losses.events) == (1, 1)
    assert all(type(raised).__name__ in warning for warning in lanes.warnings)


@pytest.mark.parametrize("raised", [RecursionError(), MemoryError()])
def test_program_that_leaves_no_room_loses_nothing(raised: BaseException, lanes: Lanes) -> None:
    """While the recursion limit or memory is too small for a lane, it waits; nobody is told."""  # fault C7
    sink = MemorySink(failures=[raised] * 20)
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    settle(lane)

    assert (seqs(sink), lane.delivered, lane.losses.events, lanes.warnings) == ([0], 1, 0, [])


def test_sink_that_never_has_room_is_given_up(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that recurses without end fails like any other, after a while."""
    monkeypatch.setattr(lane_module, "MAX_STARVED_S", 0.05)
    sink = MemorySink(failures=[RecursionError("deep")] * 1_000)
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    settle(lane)

    assert (lane.losses.events, lanes.warnings) == (1, ["sink toy: RecursionError: deep"] * 3)


def test_thread_goes_on_after_what_strikes_it(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the lane's own code ends neither the thread nor what it had at hand."""  # fault T9
    sink = MemorySink()
    attempt, strikes = Lane._attempt, [SystemExit(), KeyboardInterrupt(), RecursionError()]

    def struck(self: Lane, batch: Batch) -> str:
        if strikes:
            raise strikes.pop()
        return attempt(self, batch)

    monkeypatch.setattr(Lane, "_attempt", struck)
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    lane.offer(lanes.chunk(statement(1)))
    settle(lane)

    assert (seqs(sink), lane.delivered, strikes) == ([0, 1], 2, [])


def test_thread_that_is_struck_twice_goes_on(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What strikes while another strike is dealt with ends nothing, and no other thread is needed."""  # fault T9, T10
    sink = MemorySink()
    threads: list[int] = []
    attempt, strikes = Lane._attempt, [SystemExit(), SystemExit()]

    def struck(self: Lane, batch: Batch) -> str:
        threads.append(threading.get_ident())
        if strikes:
            raise strikes.pop()
        return attempt(self, batch)

    def past_its_time(self: Lane) -> bool:
        if strikes:
            raise strikes.pop()
        return False

    monkeypatch.setattr(Lane, "_attempt", struck)
    monkeypatch.setattr(Lane, "_is_past_its_time", past_its_time)
    lane = lanes.start(sink)
    monkeypatch.setattr(lane_module.threads, "start", no_thread)
    lane.offer(lanes.chunk(statement(0)))
    settle(lane)

    assert (seqs(sink), lane.delivered, strikes) == ([0], 1, [])
    assert (len(threads), len({*threads})) == (2, 1)


def no_thread(function: Callable[[], None]) -> None:
    """As where a limit of the system is reached."""
    raise RuntimeError("can't start new thread")


def test_sink_cannot_change_its_batch(lanes: Lanes) -> None:
    """It cannot, for all sinks are given the same lines: trying to is a failure like any other."""  # fault S18

    class Greedy(MemorySink):
        """Keeps nothing for the others."""

        def write(self, batch: Batch) -> None:
            """Takes what it can get."""
            batch.body = b""  # type: ignore[misc]

    lane = lanes.start(Greedy())
    chunk = lanes.chunk(statement(0), statement(1))
    lane.offer(chunk)
    settle(lane)
    assert (len(chunk.batch), lane.delivered, lane.losses.events) == (2, 0, 2)


def test_sink_is_left_out_after_failures_and_tried_again(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five batches in a row that failed, it is not asked for half a minute, and then works again."""  # fault S17
    offset = [0.0]
    clock = types.SimpleNamespace(
        monotonic=lambda: time.monotonic() + offset[0], monotonic_ns=time.monotonic_ns, sleep=time.sleep
    )
    monkeypatch.setattr(lane_module, "time", clock)
    sink = MemorySink(failures=[SinkError("broken", retry=False)] * 5)
    lane = lanes.start(sink)
    for seq in range(7):
        lane.offer(lanes.chunk(statement(seq)))
        settle(lane)
    assert len(sink.tries) == 5

    offset[0] = lane_module.LEFT_OUT_S + 1
    lane.offer(lanes.chunk(statement(7)))
    settle(lane)

    assert seqs(sink) == [7]
    assert {(loss.reason, loss.events) for loss in lane.losses.take(is_last=True)} == {
        ("the sink failed", 5),
        ("the sink is left out after failures", 2),
    }
    assert "sink toy: left out for 30 s after 5 failures in a row" in lanes.warnings


def test_failures_that_are_not_in_a_row_leave_nobody_out(lanes: Lanes) -> None:
    """A batch that is delivered begins the count anew."""
    sink = MemorySink()
    lane = lanes.start(sink)
    for seq in range(12):
        sink._failures = [SinkError("no", retry=False)] if seq % 4 else []
        lane.offer(lanes.chunk(statement(seq)))
        settle(lane)
    assert len(sink.tries) == 12


def test_time_that_the_receiver_asks_for_is_waited(lanes: Lanes) -> None:
    """``retry_after_s`` decides when the next try is."""  # fault S10
    sink = MemorySink(failures=[SinkError("busy", retry_after_s=0.1)])
    lane = lanes.start(sink)
    before = time.monotonic()
    lane.offer(lanes.chunk(statement(0)))
    settle(lane)
    assert time.monotonic() - before >= 0.1
    assert lane.delivered == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seconds", [None, -1, 0, float("nan")])
def test_pauses_between_tries_grow_and_are_bounded(
    seconds: float | None, share: float, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a share of ``base * 2**n`` and of no more than the cap, by chance; so too where no time is asked for."""
    # fault S10
    pauses: list[float] = []
    clock = types.SimpleNamespace(monotonic=lambda: 0.0, monotonic_ns=time.monotonic_ns, sleep=time.sleep)
    stopping = types.SimpleNamespace(acquire=lambda timeout: void(pauses.append(timeout)))
    monkeypatch.setattr(lane_module, "time", clock)
    monkeypatch.setattr(lane_module, "chance", lambda: share)
    monkeypatch.setattr(lane_module, "BACKOFF_BASE_S", 0.1)  # as it is, but for the fixture
    lane = Lane(
        "toy", MemorySink(failures=[SinkError("away", retry_after_s=seconds)] * 12), max_bytes=1, new_id=lanes.new_id,
        warn=lanes.warnings.append, on_thread=lambda: None,
    )  # fmt: skip
    lane._stopping = stopping  # type: ignore[assignment]

    assert lane._attempt(lanes.chunk(statement(0)).batch) == ""

    ceilings = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0, 30.0]
    assert pauses == pytest.approx([share * ceiling for ceiling in ceilings])


@pytest.mark.parametrize("seconds", [-1, -5.0, 0, 1e30, float("inf"), float("nan")])
def test_impossible_times_to_wait_are_bounded(seconds: float, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``retry_after_s`` that is negative, endless or no number ends neither the thread nor the deliveries."""
    # fault S10
    monkeypatch.setattr(lane_module, "MAX_RETRY_AFTER_S", 0.01)
    sink = MemorySink(failures=[SinkError("busy", retry_after_s=seconds)])
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    settle(lane)
    assert lane.delivered == 1


class Vague:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError


class Bare(SinkError):
    """Lacks what its base class would have set."""

    def __init__(self) -> None:
        Exception.__init__(self, "bare")


@pytest.mark.parametrize(
    "odd",
    [
        SinkError("x", retry_after_s="soon"),
        SinkError("x", retry_after_s=10**400),
        SinkError("x", retry=Vague()),
        Bare(),
    ],  # type: ignore[arg-type]
    ids=["text", "too large", "neither", "bare"],
)
def test_odd_sink_error_is_like_any_other(odd: SinkError, lanes: Lanes) -> None:
    """One whose wishes cannot be read: three tries, then the batch is lost, and the next one has its turn."""
    # fault S18
    failures: list[int] = []
    sink = MemorySink(failures=[odd] * 3)
    lane = lanes.start(sink, on_failure=lambda: failures.append(1))
    lane.offer(lanes.chunk(statement(0)))
    lane.offer(lanes.chunk(statement(1)))
    settle(lane)

    assert (seqs(sink), len(sink.tries), lane.losses.events, failures) == ([1], 4, 1, [])


def test_receiver_that_is_away_for_hours_is_tried_on(lanes: Lanes) -> None:
    """The number of tries has no end: the next one after 1,100 works as any."""
    sink = MemorySink(failures=[SinkError("away")] * 1_100)
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    settle(lane)
    assert lane.delivered == 1


def test_batch_that_is_never_taken_holds_the_others_up_for_five_minutes(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., Any]
) -> None:
    """A sink that always hopes for the next try gives a batch up after all, and those behind it flow."""  # fault S17
    offset = [0.0]
    clock = types.SimpleNamespace(
        monotonic=lambda: time.monotonic() + offset[0], monotonic_ns=time.monotonic_ns, sleep=time.sleep
    )
    monkeypatch.setattr(lane_module, "time", clock)

    class Poisoned(MemorySink):
        """Never takes the first batch, each try of which takes a minute."""

        def write(self, batch: Batch) -> None:
            """Hopes."""
            if batch.id.endswith("-0"):
                self.tries.append(batch.id)
                offset[0] += 60.0
                raise SinkError("not today")
            super().write(batch)

    sink = Poisoned()
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    lane.offer(lanes.chunk(statement(1)))
    wait_until(lambda: not lane.waiting)

    assert (len(sink.tries), seqs(sink)) == (6, [1])
    assert [(loss.reason, loss.events) for loss in lane.losses.take(is_last=True)] == [("the sink failed", 1)]


def test_failing_flush_is_said_and_costs_nothing(lanes: Lanes, wait_until: Callable[..., Any]) -> None:
    """What ``flush`` raises does not end the thread."""
    sink = MemorySink()

    def fail() -> None:
        raise SystemExit("disk full")

    sink.flush = fail  # type: ignore[method-assign]
    lane = lanes.start(sink)
    for seq in range(2):
        lane.offer(lanes.chunk(statement(seq)))
        wait_until(lambda: lanes.warnings)
    settle(lane)
    assert lane.delivered == 2
    assert set(lanes.warnings) == {"sink toy: SystemExit: disk full"}


def test_idle_sink_is_flushed_again_and_again(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., Any]
) -> None:
    """While there is nothing to write, a spool gets its turn."""
    monkeypatch.setattr(lane_module, "IDLE_FLUSH_S", 0.005)
    sink = MemorySink()
    lanes.start(sink).offer(lanes.chunk(statement(0)))
    wait_until(lambda: sink.calls.count("flush") > 3)
    assert sink.calls.count("write") == 1


def test_threads_are_not_the_programs(lanes: Lanes) -> None:
    """``threading.enumerate`` does not show the thread of a lane."""
    before = threading.enumerate()
    sink = Gated()
    lanes.start(sink).offer(lanes.chunk(statement(0)))
    assert sink.entered.wait(SOON_S)
    assert threading.enumerate() == before


def test_taken_back_events_are_lost(lanes: Lanes) -> None:
    """What a sink accepted and lost after all moves from one count to the other."""
    lane = lanes.start(MemorySink())
    lane.offer(lanes.chunk(*map(statement, range(5))))
    settle(lane)

    lane.lose("the spool was full", 2)

    assert lane.delivered == 3
    assert [(loss.reason, loss.events) for loss in lane.losses.take(is_last=True)] == [("the spool was full", 2)]


def test_loss_of_a_loss_makes_no_further_one(lanes: Lanes) -> None:
    """A receiver that refuses whatever comes is not sent a LOSS event for each LOSS event."""
    lane = lanes.start(MemorySink())
    lane.offer(lanes.chunk(enter(0), leave(1, 0)))
    settle(lane)
    lane.lose("refused", 2)
    first = lane.take_losses()
    lane.offer(lanes.chunk(statement(2)))
    settle(lane)
    lane.lose("refused", 1)
    second = lane.take_losses()
    lane.offer(lanes.chunk(enter(3)))
    settle(lane)
    lane.lose("refused", 1)

    assert [[(loss.reason, loss.events) for loss in losses] for losses in (first, second, lane.take_losses())] == [
        [("refused", 2)],
        [],
        [("refused", 2)],
    ]


# -- the end ---------------------------------------------------------------------------------------------------------


def test_close_is_last_and_knows_the_deadline(lanes: Lanes) -> None:
    """What was offered before ``finish`` is written, then the sink is closed, once."""
    deadlines: list[float] = []
    sink = MemorySink()
    sink.close = deadlines.append  # type: ignore[method-assign]
    lane = lanes.start(sink)
    for seq in range(3):
        lane.offer(lanes.chunk(statement(seq)))

    deadline = time.monotonic() + SOON_S
    lane.finish(deadline)

    assert lane.wait_ended(deadline)
    assert seqs(sink) == [0, 1, 2]
    assert deadlines == [deadline]


def test_failing_close_is_said(lanes: Lanes) -> None:
    """What ``close`` raises does not keep the lane from ending."""
    sink = MemorySink()

    def fail(deadline: float) -> None:
        raise OSError("gone")

    sink.close = fail  # type: ignore[method-assign]
    lane = lanes.start(sink)
    lane.finish(time.monotonic() + SOON_S)
    assert lane.wait_ended(time.monotonic() + SOON_S)
    assert lanes.warnings == ["sink toy: did not close: OSError: gone"]


class Awkward(MemorySink):
    """Hangs or raises where one of its attributes is asked for, until its gate is opened."""

    def __init__(self, attribute: str, deed: Callable[[Awkward], object]) -> None:
        super().__init__()
        self.gate = threading.Event()
        self._attribute, self._deed = attribute, deed

    def __getattr__(self, name: str) -> Any:
        if name == self._attribute:
            return self._deed(self)
        raise AttributeError(name)


def wait_for_gate(sink: Awkward, *_: object) -> None:
    """As long as the test lasts, and longer."""
    sink.gate.wait(2 * SOON_S)


def refuse(*_: object) -> None:
    """Raise what no sink should."""
    raise SystemExit("odd")


@pytest.mark.parametrize(
    ("attribute", "deed"),
    [
        ("batching", wait_for_gate),
        ("ending", wait_for_gate),
        ("ending", lambda sink: lambda deadline: wait_for_gate(sink)),
    ],
    ids=["batching", "ending", "call of ending"],
)
def test_attribute_that_hangs_delays_its_own_lane_only(
    attribute: str, deed: Callable[[Awkward], object], lanes: Lanes
) -> None:
    """Who offers and who tells of the end returns at once."""  # fault S18
    sink = Awkward(attribute, deed)
    lane = lanes.start(sink)
    before = time.monotonic()
    lane.offer(lanes.chunk(statement(0)))
    lane.end_by(time.monotonic() + SOON_S)
    lane.tell_ending()
    lane.finish(time.monotonic() + SOON_S)
    took = time.monotonic() - before
    sink.gate.set()

    assert took < SOON_S
    assert lane.wait_ended(time.monotonic() + SOON_S)
    assert seqs(sink) == [0]


@pytest.mark.parametrize(
    ("batching", "problem"),
    [
        (17, "AttributeError: 'int' object has no attribute 'max_bytes'"),
        (Batching("much", 1.0), "ValueError: invalid literal for int() with base 10: 'much'"),  # type: ignore[arg-type]
        (Batching(1, None), "TypeError: float() argument must be a string or a real number, not 'NoneType'"),  # type: ignore[arg-type]
        (Batching(0, 1.0), "ValueError: 0 bytes within 1.0 s"),
        (Batching(1, float("inf")), "ValueError: 1 bytes within inf s"),
        (Batching(1, float("nan")), "ValueError: 1 bytes within nan s"),
    ],
)
def test_batching_that_cannot_be_used_is_done_without(batching: object, problem: str, lanes: Lanes) -> None:
    """The sink gets its batches as they come; one line says why."""  # fault S18
    sink = Awkward("batching", lambda sink: batching)
    lane = lanes.start(sink)
    for seq in range(3):
        lane.offer(lanes.chunk(statement(seq)))
        settle(lane)

    assert seqs(sink) == [0, 1, 2]
    assert lanes.warnings == [f"sink toy: its batching cannot be used: {problem}"]


@pytest.mark.parametrize("attribute", ["batching", "ending"])
def test_attribute_that_raises_is_done_without(attribute: str, lanes: Lanes) -> None:
    """Whatever it raises is said once, and the lane goes on."""  # fault S18
    sink = Awkward(attribute, refuse)
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    lane.finish(time.monotonic() + SOON_S)

    assert lane.wait_ended(time.monotonic() + SOON_S)
    assert (seqs(sink), len(lanes.warnings)) == ([0], 1)
    assert lanes.warnings[0].endswith("SystemExit: odd")


def test_sink_that_nobody_can_tell_of_the_end_ends_as_others_do(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there can be no thread that tells it, it is only closed."""  # fault T10
    told: list[float] = []
    sink = Awkward("ending", lambda sink: told.append)
    start, starts = lane_module.threads.start, itertools.count()
    monkeypatch.setattr(lane_module.threads, "start", lambda run: no_thread(run) if next(starts) else start(run))
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    lane.finish(time.monotonic() + SOON_S)

    assert lane.wait_ended(time.monotonic() + SOON_S)
    assert (seqs(sink), sink.calls[-1], told, lane.threads) == ([0], "close", [], 1)


@pytest.mark.parametrize("fails", [False, True])
def test_sink_is_told_that_the_end_begins(fails: bool, lanes: Lanes) -> None:
    """While its ``write`` is under way, with the time until which that should be over; what it raises is said."""
    told: list[float] = []

    class Hasty(Gated):
        """Ends a write early when asked to."""

        def ending(self, deadline: float) -> None:
            """Opens the gate."""
            told.append(deadline)
            self.gate.set()
            if fails:
                raise SystemExit("too late")

    sink = Hasty()
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    assert sink.entered.wait(SOON_S)
    deadline = time.monotonic() + SOON_S
    lane.end_by(deadline)
    lane.tell_ending()
    lane.finish(deadline)

    assert lane.wait_ended(deadline)
    assert (told, seqs(sink), lane.delivered) == ([deadline], [0], 1)
    assert lanes.warnings == (["sink toy: SystemExit: too late"] if fails else [])


def test_last_words_are_asked_for_when_all_else_is_delivered(lanes: Lanes) -> None:
    """They can say what was delivered, and are in no count."""
    sink = Gated()
    lane = lanes.start(sink)
    for seq in range(3):
        lane.offer(lanes.chunk(statement(seq)))
    lane.finish(time.monotonic() + SOON_S, lambda: Batch("last", [b'{"seq":%d}' % (100 + lane.delivered)]))
    sink.gate.set()

    assert lane.wait_ended(time.monotonic() + SOON_S)
    assert (seqs(sink), lane.delivered) == ([0, 1, 2, 103], 3)


def test_retries_end_with_the_deadline(lanes: Lanes) -> None:
    """A receiver that stays away costs no more time than there is, and its batch is counted."""  # fault P9
    sink = MemorySink(failures=[SinkError("away", retry_after_s=60.0)] * 1_000)
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))

    deadline = time.monotonic() + 0.2
    lane.finish(deadline)

    assert lane.wait_ended(deadline + SOON_S)
    assert sink.calls[-1] == "close"
    assert (lane.delivered, lane.losses.events) == (0, 1)


def test_sink_that_hangs_is_not_waited_for(lanes: Lanes) -> None:
    """Waiting ends at the deadline; what is under way counts as waiting."""
    lane = lanes.start(Gated())
    lane.offer(lanes.chunk(statement(0)))
    assert not lane.wait_idle(time.monotonic() + 0.02)
    assert not lane.wait_ended(time.monotonic() + 0.02)
    assert lane.waiting == 1


# -- a slow sink -----------------------------------------------------------------------------------------------------


def test_lines_larger_than_the_bound_pass_when_nothing_waits(lanes: Lanes) -> None:
    """The bound is on what waits; something always may."""
    lane = lanes.start(MemorySink(), max_bytes=1)
    for seq in (0, 2):
        lane.offer(lanes.chunk(enter(seq), leave(seq + 1, seq)))
        settle(lane)
    assert lane.delivered == 4


def test_whole_calls_are_dropped(lanes: Lanes) -> None:
    """When the bound is reached, a call goes with its end and all below it; the end of one admitted still passes."""
    sink = Gated()
    lane = lanes.start(sink, max_bytes=2 * LINE_BYTES)
    lane.offer(lanes.chunk(enter(0), enter(1, 0)))
    lane.offer(lanes.chunk(enter(2, 1), leave(3, 1)))
    sink.gate.set()
    settle(lane)
    lane.offer(lanes.chunk(enter(4, 2), leave(5, 4), leave(6, 2), enter(7, 0), leave(8, 7), leave(9, 0)))
    settle(lane)

    assert seqs(sink) == [0, 1, 3, 7, 8, 9]
    [loss] = lane.losses.take()
    assert (loss.reason, loss.calls, loss.events, loss.size) == ("the sink is too slow", 2, 4, 4 * LINE_BYTES)


steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1_000)), max_size=60)


@given(steps, st.integers(1, 12), st.booleans(), st.sampled_from([0, 2, 65_536]))
def test_what_is_delivered_is_closed(script: list[tuple[int, int]], room: int, tasks: bool, left: int) -> None:
    """However calls of many threads and tasks interleave with a slow sink: no end without its beginning, no call
    without the one that made it, no admitted call without its end; and each loss is counted. Nor does it depend on how
    many dropped calls are remembered that have ended, while tasks go on below them.
    """  # fault T12
    lanes, sink = Lanes(), Gated()
    entered: dict[int, int | None] = {}
    open_calls: list[int] = []
    offered: list[Record] = []
    pending: list[Record] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane_module, "MAX_LEFT_SPANS", left if tasks else 0)
        lane = lanes.start(sink, max_bytes=room * LINE_BYTES)
        for step, choice in script:
            seq = len(offered) + len(pending)
            if step in (0, 1):  # a call, made by any that is open, or by a task that outlived the call it began in
                parents = [None, *(entered if tasks else open_calls)]
                entered[seq] = parents[choice % len(parents)]
                open_calls.append(seq)
                pending.append(enter(seq, entered[seq]))
            elif step == 2 and open_calls:
                pending.append(leave(seq, open_calls.pop(choice % len(open_calls))))
            elif step == 3 and pending:
                lane.offer(lanes.chunk(*pending))
                offered += pending
                pending = []
            elif step == 4:  # the sink catches up
                sink.gate.set()
                settle(lane)
                sink.gate.clear()
            elif step == 5:
                pending.append(statement(seq))
        sink.gate.set()
        settle(lane)
        lanes.end()

    delivered = seqs(sink)
    kept = {*delivered}
    assert delivered == sorted(kept)
    for record in offered:
        kind, seq = record[0], record[2]
        if kind == ENTER and seq in kept:
            assert entered[seq] is None or entered[seq] in kept
        elif kind == EXIT:
            assert (seq in kept) == (record[9] in kept)
    dropped = [record for record in offered if record[2] not in kept]
    losses = lane.losses.take(is_last=True)
    assert lane.delivered == len(kept)
    assert lane.losses.events == len(dropped)
    assert sum(loss.events for loss in losses) == len(dropped)
    assert sum(loss.calls for loss in losses) == sum(record[0] == ENTER for record in dropped)
    assert sum(loss.size for loss in losses) == LINE_BYTES * len(dropped)


def test_long_call_that_was_dropped_stays_dropped(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropped call that is still open is remembered, however many short ones are dropped after it."""
    monkeypatch.setattr(lane_module, "MAX_LEFT_SPANS", 4)
    sink = Gated()
    lane = lanes.start(sink, max_bytes=LINE_BYTES)
    lane.offer(lanes.chunk(statement(0)))
    lane.offer(lanes.chunk(enter(1)))
    for seq in range(2, 40, 2):
        lane.offer(lanes.chunk(enter(seq), leave(seq + 1, seq)))
    sink.gate.set()
    settle(lane)

    lane.offer(lanes.chunk(enter(40, 1), leave(41, 40), leave(42, 1)))
    settle(lane)

    assert seqs(sink) == [0]


def test_task_below_a_dropped_call_that_is_forgotten_is_left_out(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not remembered to have been let pass is not what a call may be below; what came before, or is new, is."""
    monkeypatch.setattr(lane_module, "MAX_LEFT_SPANS", 0)
    sink = Gated()
    lane = lanes.start(sink, max_bytes=LINE_BYTES)
    lane.offer(lanes.chunk(enter(0)))
    lane.offer(lanes.chunk(enter(1), leave(2, 1)))
    sink.gate.set()
    settle(lane)

    lane.offer(lanes.chunk(enter(3, 1), leave(4, 3), enter(5, 0), leave(6, 5), enter(7), leave(8, 7)))
    settle(lane)

    assert seqs(sink) == [0, 5, 6, 7, 8]
    assert lane.losses.events == 4


def test_waiting_stays_bounded_while_losses_are_reported(lanes: Lanes) -> None:
    """A sink that hangs for days does not fill the memory with LOSS events."""  # fault T12
    sink = Gated()
    lane = lanes.start(sink, max_bytes=10 * LINE_BYTES)
    for seq in range(100):
        lane.offer(lanes.chunk(statement(seq)))
    assert lane.waiting <= 12
    sink.gate.set()
    settle(lane)
    assert lane.delivered + lane.losses.events == 100


def test_what_a_loss_said_is_said_again_when_there_is_room(lanes: Lanes) -> None:
    """A LOSS event that finds no room is missing itself; what it said of this sink comes with the next one."""
    sink = Gated()
    lane = lanes.start(sink, max_bytes=LINE_BYTES)
    lane.offer(lanes.chunk(enter(0), leave(1, 0)))
    assert not lane.takes_losses
    lane.offer(lanes.chunk(statement(2, None, 20), statement(3, "toy", 6), statement(4, "other", 8)))
    total = lane.losses.events
    sink.gate.set()
    settle(lane)

    assert lane.takes_losses
    assert lane.losses.take() == []  # an event about lost LOSS events alone would be lost next
    assert {loss.reason: (loss.calls, loss.events, loss.size) for loss in lane.losses.take(is_last=True)} == {
        "r": (13, 26, 260),
        "the sink is too slow": (0, 3, 3 * LINE_BYTES),
    }
    assert (total, seqs(sink)) == (3, [0, 1])  # the others were counted when they were lost


def test_sink_that_takes_nothing_is_not_waited_for_any_longer(lanes: Lanes, wait_until: Callable[..., Any]) -> None:
    """With ``overflow: block``, one that hangs loses after the time, and then at once, until it takes something."""
    sink = Gated()
    lane = lanes.start(sink, max_bytes=LINE_BYTES, block_s=0.05)
    looks = itertools.count()
    lane.while_full = lambda: void(next(looks))
    for seq in range(0, 6, 2):
        lane.offer(lanes.chunk(enter(seq), leave(seq + 1, seq)))
    lost, looked = lane.losses.events, next(looks)
    sink.gate.set()
    settle(lane)
    sink.gate.clear()
    for seq in range(6, 10, 2):
        lane.offer(lanes.chunk(enter(seq), leave(seq + 1, seq)))

    assert lost == 4
    assert next(looks) > looked + 1 > 1
    assert [text for text in lanes.warnings if "took nothing" in text] == [
        "sink toy: took nothing for 0.05 s and is not waited for"
    ] * 2
    sink.gate.set()
    settle(lane)
    assert seqs(sink) == [0, 1, 6, 7]


def void(_: object) -> None:
    """Forget a value."""


def test_blocking_lane_waits_and_loses_nothing(lanes: Lanes) -> None:
    """With ``overflow: block`` the one who offers waits for room."""
    sink = Gated()
    lane = lanes.start(sink, max_bytes=LINE_BYTES, block_s=SOON_S)
    offered: list[int] = []

    def offer() -> None:
        for seq in range(0, 10, 2):
            lane.offer(lanes.chunk(enter(seq), leave(seq + 1, seq)))
            offered.append(seq)

    thread = threading.Thread(target=offer)
    thread.start()
    assert sink.entered.wait(SOON_S)
    thread.join(0.05)
    assert offered == [0]

    sink.gate.set()
    thread.join(SOON_S)
    settle(lane)

    assert seqs(sink) == [*range(10)]
    assert lane.losses.events == 0


def test_blocking_lane_drops_when_there_is_no_time_left(lanes: Lanes) -> None:
    """At the end of the program, waiting for a sink that hangs has an end too."""
    lane = lanes.start(Gated(), max_bytes=LINE_BYTES, block_s=SOON_S)
    lane.offer(lanes.chunk(enter(0)))
    lane.end_by(time.monotonic() + 0.02)
    lane.offer(lanes.chunk(enter(1)))
    assert lane.losses.events == 1


@pytest.mark.parametrize(
    "limits", [{"max_bytes": 99 * LINE_BYTES, "block_s": SOON_S}, {"max_bytes": 1, "block_s": 0.0}]
)
def test_limits_change_while_a_full_lane_is_waited_for(limits: dict[str, Any], lanes: Lanes) -> None:
    """Room that is made, or the leave to drop, ends the waiting; who waits can be asked for it."""
    sink = Gated()
    lane = lanes.start(sink, max_bytes=LINE_BYTES, block_s=SOON_S)
    lane.offer(lanes.chunk(enter(0)))
    lane.while_full = lambda: lane.limit(**limits)

    lane.offer(lanes.chunk(enter(1)))

    assert lane.losses.events == (0 if limits["block_s"] else 1)


# -- batches as a sink wants them ------------------------------------------------------------------------------------


def batching(max_lines: int, *, max_wait_s: float = SOON_S) -> Gated:
    """A sink that wants batches of so many lines."""
    sink = Gated()
    sink.batching = Batching(max_bytes=max_lines * LINE_BYTES, max_wait_s=max_wait_s)  # type: ignore[attr-defined]
    return sink


def sizes(sink: MemorySink) -> list[int]:
    """The lengths of the batches that were taken."""
    return [len(batch) for batch in sink.batches]


def test_chunks_are_joined_as_far_as_they_fit(lanes: Lanes) -> None:
    """Batches grow up to ``max_bytes``; what does not fit begins the next."""
    sink = batching(4)
    sink.gate.set()
    lane = lanes.start(sink)
    for seq in range(0, 12, 2):
        lane.offer(lanes.chunk(statement(seq), statement(seq + 1)))
    settle(lane)
    assert sizes(sink) == [4, 4, 4]
    assert seqs(sink) == [*range(12)]


def test_chunk_that_did_not_fit_begins_the_next_batch(lanes: Lanes) -> None:
    """Where chunks do not add up to the bound, each batch is still as large as it can be."""
    sink = batching(5)
    sink.gate.set()
    lane = lanes.start(sink)
    for seq in range(0, 12, 2):
        lane.offer(lanes.chunk(statement(seq), statement(seq + 1)))
    settle(lane)
    assert sizes(sink) == [4, 4, 4]


def test_chunk_above_the_bound_becomes_several_batches(lanes: Lanes) -> None:
    """No batch is larger than the sink wants it, but for a line that is: lines are not cut."""
    sink = batching(2)
    sink.gate.set()
    lane = lanes.start(sink)
    for records in ([0], [1, 2, 3], [4]):
        lane.offer(lanes.chunk(*map(statement, records)))
    settle(lane)
    assert sizes(sink) == [1, 2, 2]
    assert seqs(sink) == [*range(5)]


def test_calls_of_the_parts_are_known(lanes: Lanes) -> None:
    """What a refused part of a chunk costs is counted by itself."""
    sink = batching(2)
    sink._failures = [SinkError("no", retry=False)]
    sink.gate.set()
    lane = lanes.start(sink)
    lines = [b'{"timestamp":1,"event":"%b","seq":%d}' % (kind, seq) for seq, kind in enumerate([b"ENTER", b"EXIT"] * 2)]
    records = [enter(0), leave(1, 0), enter(2), leave(3, 2)]
    lane.offer(Chunk(Batch("r-1-0", [line.ljust(LINE_BYTES - 1) for line in lines]), records, 2))
    settle(lane)

    assert [(loss.events, loss.calls, loss.size) for loss in lane.losses.take()] == [(2, 1, 2 * LINE_BYTES)]
    assert seqs(sink) == [2, 3]


def test_batch_is_handed_on_after_its_time(lanes: Lanes, wait_until: Callable[..., Any]) -> None:
    """An event waits for company no longer than ``max_wait_s``."""
    sink = batching(100, max_wait_s=0.05)
    sink.gate.set()
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    wait_until(lambda: sink.batches)
    lane.offer(lanes.chunk(statement(1)))
    wait_until(lambda: len(sink.batches) == 2)


@pytest.mark.parametrize("ends", [False, True])
def test_end_does_not_wait_for_more(ends: bool, lanes: Lanes) -> None:
    """When the program ends, what was joined so far is delivered at once."""
    sink = batching(100, max_wait_s=60.0)
    sink.gate.set()
    lane = lanes.start(sink)
    lane.offer(lanes.chunk(statement(0)))
    lane.offer(lanes.chunk(statement(1)))
    if ends:
        lane.finish(time.monotonic() + SOON_S)
        assert lane.wait_ended(time.monotonic() + SOON_S)
    else:
        settle(lane)
    assert seqs(sink) == [0, 1]
