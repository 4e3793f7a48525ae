"""The dispatcher: from the queue to every lane, what is said of losses, and the totals at the end."""

from __future__ import annotations

import ctypes
import itertools
import json
import threading
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from ledger import audit

from flowtrace import dispatcher as dispatcher_module
from flowtrace import lane as lane_module
from flowtrace.config import Keep
from flowtrace.constants import Raised
from flowtrace.dispatcher import Dispatcher, _next_of
from flowtrace.errors import SinkError
from flowtrace.events import STATEMENT, Batch, Described, Ids, Lines
from flowtrace.hooks import Batching
from flowtrace.keeping import Keeper
from flowtrace.lane import Lane
from flowtrace.quantities import Duration
from flowtrace.recorder import Recorder, Target
from flowtrace.redaction import Redactor
from flowtrace.testing import MemorySink
from flowtrace.values import Encoder, Limits
from tests.agent.engine import Shown

SOON_S = 10.0  # for what takes milliseconds on an idle machine
Event = dict[str, Any]


class Gated(MemorySink):
    """A sink whose ``write`` waits while its gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def write(self, batch: Batch) -> None:
        """Waits for the gate."""
        self.gate.wait(SOON_S)
        super().write(batch)


class Pipeline:
    """A recorder, its dispatcher, and a lane for each sink, called ``sink0``, ``sink1`` and so on."""

    def __init__(self, keep: Keep | None = None) -> None:
        self.recorder = Recorder()
        lines = Lines(
            describe=lambda index: Described("m", self.recorder.targets[index].qualname),
            ids=Ids(lambda count: bytes(range(count))),
            pid=1,
            wall_offset_ns=0,
            values_as_text=True,
        )
        self.dispatcher = Dispatcher(self.recorder, lines, run="00000000000000aa", interval_ns=5_000_000, keep=keep)
        self.functions = self.recorder.functions(Target("m", "f", 1, Shown()))
        self.sinks: list[MemorySink] = []
        self.warnings: list[str] = []

    def start(self, *sinks: MemorySink, **options: Any) -> list[Lane]:
        """Start with these sinks; returns their lanes."""
        self.sinks = list(sinks)
        lanes = [
            Lane(
                f"sink{number}",
                sink,
                max_bytes=options.get("max_bytes", 1 << 20),
                block_s=options.get("block_s", 0.0),
                new_id=self.dispatcher.new_id,
                warn=self.warnings.append,
                on_thread=self.dispatcher.guard_thread,
            )
            for number, sink in enumerate(sinks)
        ]
        self.dispatcher.start(lanes)
        return lanes

    def call(self, times: int = 1) -> None:
        """Record calls without any inside."""
        for _ in range(times):
            self.functions.leave(self.functions.enter((), ()), None)

    def fail(self) -> None:
        """Record a call that raises."""
        flow = self.functions.enter((), ())
        try:
            raise KeyError("x")
        except KeyError:
            self.functions.leave(flow, Raised)

    def stop(self, timeout_s: float = SOON_S) -> None:
        """End the dispatcher."""
        self.dispatcher.stop(timeout_s)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline that waits for nothing between tries."""
    monkeypatch.setattr(lane_module, "BACKOFF_BASE_S", 0.0)
    some = Pipeline()
    yield some
    for sink in some.sinks:
        if isinstance(sink, Gated):
            sink.gate.set()
    some.stop()


def kinds(sink: MemorySink) -> list[str]:
    """The kinds of the events that the sink took."""
    return [event["event"] for event in sink.events]


def last(sink: MemorySink) -> Event:
    """The STOP event."""
    stop = sink.events[-1]
    assert stop["event"] == "STOP"
    return stop


def balanced(stop: Event) -> bool:
    """Whether recorded = delivered + lost + discarded for each sink."""
    recorded = stop["recorded"] - stop["discardedEvents"]
    return all(recorded == stop["delivered"][name] + stop["lost"][name] for name in stop["delivered"])


# -- what is delivered -----------------------------------------------------------------------------------------------


def test_records_reach_every_sink(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """Each sink gets each event, as the same batches, within the interval, without being asked."""
    first, second = MemorySink(), MemorySink()
    pipeline.start(first, second)
    pipeline.dispatcher.state("START", service="shop")
    pipeline.call(2)

    wait_until(lambda: len(first.events) == len(second.events) == 5)

    assert first.lines == second.lines
    assert kinds(first) == ["START", "ENTER", "EXIT", "ENTER", "EXIT"]
    assert [event["seq"] for event in first.events] == [*range(5)]
    assert first.tries == second.tries


def test_batch_ids_are_numbered(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """A batch is called after the run, the process and its number in it."""
    sink = MemorySink()
    pipeline.start(sink)
    for count in (1, 2, 3):
        pipeline.call()
        wait_until(lambda count=count: len(sink.batches) >= count)
    numbers = [batch.id.rsplit("-", 1) for batch in sink.batches]
    assert {prefix for prefix, _ in numbers} == {pipeline.dispatcher._name[:-1]}
    assert [int(number) for _, number in numbers] == [*range(len(numbers))]


def test_full_queue_is_looked_at_before_the_interval_is_over(wait_until: Callable[..., Any]) -> None:
    """The recorder wakes the dispatcher when the queue is getting full."""
    pipeline = Pipeline()
    pipeline.dispatcher._interval_s = 3_600.0
    pipeline.recorder.state.wake_at = 4
    sink = MemorySink()
    pipeline.start(sink)
    pipeline.call(3)
    wait_until(lambda: len(sink.events) >= 4)
    pipeline.stop()
    assert balanced(last(sink))


@pytest.mark.parametrize("woken", [False, True])
def test_events_come_though_nobody_wakes_the_dispatcher(
    woken: bool, pipeline: Pipeline, wait_until: Callable[..., Any]
) -> None:
    """A wake-up that is missed, or believed to be under way, delays them by no more than the interval."""  # fault T11
    sink = MemorySink()
    pipeline.start(sink)
    state = pipeline.recorder.state
    state.wake, state.wake_at = lambda: None, 1
    for times in range(1, 4):
        state.woken = woken
        pipeline.call()
        wait_until(lambda times=times: len(sink.events) == 2 * times)

    assert kinds(sink) == ["ENTER", "EXIT"] * 3


def test_flood_of_wake_ups_makes_one_turn(wait_until: Callable[..., Any]) -> None:
    """However often it is woken without need, it looks at the queue once, and everything arrives once."""  # fault T11
    pipeline, turns = Pipeline(), itertools.count()
    pipeline.dispatcher._interval_s = 3_600.0
    pipeline.dispatcher.after_turn = lambda: void(next(turns))
    sink = MemorySink()
    pipeline.call(3)
    for _ in range(10_000):
        pipeline.dispatcher._wakeup.put(None)
    pipeline.start(sink)
    wait_until(lambda: len(sink.events) == 6)
    wait_until(lambda: pipeline.dispatcher._wakeup.empty())
    taken = next(turns)
    pipeline.stop()

    assert taken == 1
    assert kinds(sink) == ["ENTER", "EXIT"] * 3 + ["STOP"]


def void(_: object) -> None:
    """Forget a value."""


def test_calls_of_our_own_threads_are_not_recorded(pipeline: Pipeline) -> None:
    """What a sink calls is no call of the program's, though it is a target."""  # fault T5

    class Traced(MemorySink):
        """Calls a traced function."""

        def write(self, batch: Batch) -> None:
            """Is blind to it."""
            pipeline.call()
            super().write(batch)

    sink = Traced()
    pipeline.start(sink)
    pipeline.call()
    pipeline.stop()
    assert kinds(sink) == ["ENTER", "EXIT", "STOP"]
    assert last(sink)["suppressedCalls"] >= 1


def test_threads_are_not_the_programs(pipeline: Pipeline) -> None:
    """``threading.enumerate`` shows neither the dispatcher nor its lanes."""
    before = threading.enumerate()
    pipeline.start(MemorySink(), MemorySink())
    assert threading.enumerate() == before


def test_text_that_is_not_unicode_can_be_stated(pipeline: Pipeline) -> None:
    """The name of a file that is not UTF-8 neither raises nor makes a line that cannot be read."""  # fault U19
    sink = MemorySink()
    pipeline.start(sink)
    pipeline.dispatcher.state("ATTACH", module="m", file="/x/\udc80.py", functions=[])
    pipeline.stop()
    attach, stop = sink.events
    assert attach["file"].startswith("/x/")
    assert json.loads(sink.lines[0]) == attach
    assert [attach["seq"], stop["seq"]] == [0, 1]


def test_one_turn_after_another(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """What is to happen after each turn happens, and its failures are counted, not raised."""
    calls = itertools.count()

    def fail() -> None:
        next(calls)
        raise ValueError

    pipeline.dispatcher.after_turn = fail
    sink = MemorySink()
    pipeline.start(sink)
    wait_until(lambda: pipeline.recorder.state.failures > 2)
    pipeline.call()
    pipeline.dispatcher.after_turn = lambda: None
    pipeline.stop()
    assert kinds(sink) == ["ENTER", "EXIT", "STOP"]
    assert last(sink)["failures"] == pipeline.recorder.state.failures


# -- what is lost ----------------------------------------------------------------------------------------------------


def test_record_that_cannot_be_encoded_is_counted(pipeline: Pipeline) -> None:
    """One bad record costs itself alone; a LOSS event says so."""
    sink = MemorySink()
    pipeline.recorder.queue.append((STATEMENT, None, next(pipeline.recorder.seq), 0, 0, b"", 0))
    pipeline.call()
    pipeline.start(sink)
    pipeline.stop()

    [loss] = [event for event in sink.events if event["event"] == "LOSS"]
    assert (loss["sink"], loss["reason"], loss["calls"], loss["events"]) == (None, "could not be encoded", 0, 1)
    assert kinds(sink) == ["ENTER", "EXIT", "LOSS", "STOP"]
    assert last(sink)["lost"] == {"sink0": 1}
    assert balanced(last(sink))


@pytest.mark.parametrize("place", ["line", "offer", "report"])
def test_program_that_leaves_no_room_loses_nothing(
    place: str, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the recursion limit strikes the dispatcher, it goes on with what it had at hand."""  # fault C7, T9
    lines = pipeline.dispatcher._lines
    owner, name = {"line": (lines, "line"), "offer": (Lane, "offer"), "report": (Dispatcher, "_report_losses")}[place]
    unharmed, calls = getattr(owner, name), itertools.count()

    def struck(*args: Any) -> Any:
        if next(calls) % 5 == 1:
            raise RecursionError
        return unharmed(*args)

    monkeypatch.setattr(owner, name, struck)
    sinks = MemorySink(), MemorySink()
    pipeline.call(20)
    pipeline.start(*sinks)
    pipeline.stop()

    for sink in sinks:
        assert kinds(sink) == ["ENTER", "EXIT"] * 20 + ["STOP"]
        assert sorted(event["seq"] for event in sink.events) == [*range(41)]
        assert balanced(last(sink))


def test_thread_survives_what_is_thrown_into_it(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """An exception that somebody sets asynchronously is counted, and the next turn comes."""  # fault T9
    sink = MemorySink()
    threads: list[int] = []
    pipeline.dispatcher.after_turn = lambda: threads.append(threading.get_ident())
    pipeline.start(sink)
    wait_until(lambda: threads)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threads[0]), ctypes.py_object(SystemExit))
    wait_until(lambda: pipeline.recorder.state.failures)
    pipeline.call()
    wait_until(lambda: sink.batches)

    assert len({*threads}) == 1
    assert kinds(sink) == ["ENTER", "EXIT"]


def test_thread_that_is_struck_twice_goes_on(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., Any]
) -> None:
    """What strikes while another strike is dealt with ends nothing, and no other thread is needed."""  # fault T9, T10
    step, strikes, threads = Dispatcher._step, [SystemExit(), RecursionError()], list[int]()

    def struck(self: Dispatcher) -> bool:
        threads.append(threading.get_ident())
        if strikes:
            raise strikes.pop()
        return step(self)

    def sleep(seconds: float) -> None:
        if strikes:
            raise strikes.pop()

    clock = types.SimpleNamespace(monotonic=time.monotonic, monotonic_ns=time.monotonic_ns, sleep=sleep)
    monkeypatch.setattr(dispatcher_module, "time", clock)
    monkeypatch.setattr(Dispatcher, "_step", struck)
    sink = MemorySink()
    pipeline.start(sink)
    pipeline.call()
    wait_until(lambda: sink.batches)
    pipeline.stop()

    assert kinds(sink) == ["ENTER", "EXIT", "STOP"]
    assert (last(sink)["failures"], len({*threads})) == (2, 1)


def test_memory_of_what_waits_is_what_is_counted() -> None:
    """With a sink that hangs, what waits on the queue and in its lane takes no more than the bounds say."""
    # fault T12
    some, sink = Pipeline(), Gated()
    some.functions = some.recorder.functions(Target("m", "f", 1, Encoder(limits=Limits(), redactor=Redactor())))
    state = some.recorder.state
    state.max_bytes, state.max_events = 4 << 20, 1 << 24
    some.start(sink, max_bytes=4 << 20)
    some.call()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        while not state.lost_events and not some.dispatcher.lanes[0].losses.events:
            some.functions.leave(some.functions.enter(("number", "text"), (1, "x" * 40)), "y" * 20)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        sink.gate.set()
        some.stop()

    assert 2 << 20 < grown < 1.1 * (8 << 20)


def test_full_queue_is_a_loss_for_all_sinks(pipeline: Pipeline) -> None:
    """Calls that found no room are said to all, and their numbers are missing."""
    sink = MemorySink()
    pipeline.recorder.state.max_events = 2
    pipeline.call(5)
    pipeline.start(sink)
    pipeline.stop()

    [loss] = [event for event in sink.events if event["event"] == "LOSS"]
    assert (loss["sink"], loss["reason"]) == (None, "the queue is full")
    assert (loss["calls"], loss["events"], loss["bytes"]) == (4, 8, 0)
    stop = last(sink)
    present = {event["seq"] for event in sink.events}
    assert stop["lost"]["sink0"] == len({*range(stop["seq"])} - present) == 8
    assert balanced(stop)


def test_numbers_that_nothing_was_recorded_for_are_a_loss(pipeline: Pipeline) -> None:
    """Where a signal handler has raised in the midst of the recorder, STOP and the LOSS events still agree."""
    sink = MemorySink()
    pipeline.call()
    next(pipeline.recorder.seq)
    pipeline.recorder.state.max_events = 0
    pipeline.call()
    pipeline.recorder.state.max_events = 100
    [lane] = pipeline.start(sink)
    pipeline.stop()

    losses = {event["reason"]: event["events"] for event in sink.events if event["event"] == "LOSS"}
    assert losses == {"the queue is full": 2, "interrupted by signals": 1}
    assert last(sink)["lost"] == {"sink0": 3}
    assert pipeline.dispatcher.lost(lane) == 3  # which is what is said on stderr
    assert balanced(last(sink))


def test_limit_is_reported_when_it_acts(pipeline: Pipeline) -> None:
    """How many calls of which function it has left out: at the end at the latest, and each of them once."""
    sink = MemorySink()
    hot = pipeline.recorder.functions(Target("m", "C.hot", 1, Shown(), max_per_second=1 << 31))
    for _ in range(3):
        hot.leave(hot.enter((), ()), None)
    [limit] = pipeline.recorder.limits
    limit.per_second = 0
    for _ in range(5):
        hot.leave(hot.enter((), ()), None)
    pipeline.start(sink)
    pipeline.stop()

    [event] = [event for event in sink.events if event["event"] == "LIMIT"]
    assert (event["module"], event["function"], event["perSecond"], event["calls"]) == ("m", "C.hot", 0, 5)
    assert event["from"] <= event["to"]
    assert (last(sink)["skippedCalls"], last(sink)["lost"]) == (5, {"sink0": 0})


def test_limit_is_reported_once_a_second() -> None:
    """With the time in which the calls were left out; what nobody called is not mentioned."""
    now = [10**9]
    some = Pipeline()
    some.recorder.clock = lambda: now[0]
    some.recorder.functions(Target("m", "quiet", 1, Shown(), max_per_second=1))
    some.recorder.functions(Target("m", "hot", 1, Shown(), max_per_second=1))
    said: list[tuple[int, int, int]] = []
    some.dispatcher.state = lambda name, **fields: said.append((fields["calls"], fields["from"], fields["to"]))  # type: ignore[method-assign, assignment]

    for tenth in range(35):
        now[0] = 10**9 + tenth * 10**8
        some.recorder.limits[1].left_out += 2
        some.dispatcher._report_limits()

    assert said == [(22, 1000, 2000), (20, 2000, 3000), (20, 3000, 4000)]


def test_loss_of_one_sink_is_told_to_all(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """A batch that one sink never takes reaches the other, and both are told."""  # fault S18
    bad = MemorySink(failures=[SinkError("no", retry=False)])
    good = MemorySink()
    pipeline.start(bad, good)
    pipeline.call(2)
    wait_until(lambda: "LOSS" in kinds(good))
    pipeline.stop()

    [loss] = [event for event in good.events if event["event"] == "LOSS"]
    assert list(loss)[3:-2] == ["sink", "reason", "calls", "events", "bytes", "from", "to", "repeated"]
    assert (loss["sink"], loss["reason"], loss["calls"], loss["events"]) == ("sink0", "the sink failed", 2, 4)
    assert loss["bytes"] == sum(len(line) + 1 for line in good.lines[:4])
    assert loss["from"] <= loss["to"]
    stop = last(good)
    assert (stop["delivered"], stop["lost"]) == ({"sink0": 1, "sink1": 5}, {"sink0": 4, "sink1": 0})
    assert stop == last(bad)


def test_loss_that_is_said_again_is_not_counted_twice_elsewhere(
    pipeline: Pipeline, wait_until: Callable[..., Any]
) -> None:
    """A LOSS event that its own sink did not get comes again there; elsewhere the second one is marked as repeated."""
    refused = SinkError("no", retry=False)
    bad, good = MemorySink(failures=[refused, refused]), MemorySink()
    pipeline.dispatcher.state("START")
    pipeline.call(2)
    pipeline.start(bad, good)
    wait_until(lambda: len(bad.tries) == 2 and "LOSS" in kinds(good))
    pipeline.call(3)
    pipeline.stop()

    losses = [event for event in good.events if event["event"] == "LOSS"]
    lost = last(good)["lost"]["sink0"]
    assert [event["events"] for event in losses if event["repeated"]] == [5]
    assert sum(event["events"] for event in losses if not event["repeated"]) == lost
    assert sum(event["events"] for event in bad.events if event["event"] == "LOSS") == lost
    assert account(good, "sink1")[0] == []


def test_slow_sink_loses_for_itself_alone(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """What a slow sink drops, another still gets; what each has is what STOP says."""
    slow, quick = Gated(), MemorySink()
    pipeline.start(slow, quick, max_bytes=4_000)
    for _ in range(8):
        have = len(quick.lines)
        pipeline.call(4)
        wait_until(lambda have=have: len(quick.lines) >= have + 8)
    slow.gate.set()
    pipeline.stop()

    stop = last(quick)
    assert balanced(stop)
    assert stop["lost"]["sink1"] == 0
    assert stop["lost"]["sink0"] > 0
    for number, sink in enumerate((slow, quick)):
        assert stop["delivered"][f"sink{number}"] == len(sink.events) - 1  # beside the STOP
        spans = {kind: [e["spanId"] for e in sink.events if e["event"] == kind] for kind in ("ENTER", "EXIT")}
        assert spans["ENTER"] == spans["EXIT"]
    reported = [e for e in quick.events if e["event"] == "LOSS"]
    assert {event["sink"] for event in reported} == {"sink0"}


def test_events_that_a_sink_lost_later_are_not_delivered(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """STOP counts what a sink took back as lost; ``lost`` may be called with any text."""
    sink = MemorySink()
    [lane] = pipeline.start(sink)
    pipeline.call(2)
    wait_until(lambda: lane.delivered == 4)
    lane.lose("the spool was f\udc80ll", 3)
    pipeline.stop()

    [loss] = [event for event in sink.events if event["event"] == "LOSS"]
    assert (loss["sink"], loss["events"]) == ("sink0", 3)
    assert last(sink)["delivered"] == {"sink0": 2}
    assert balanced(last(sink))


def test_blocked_calls_lose_nothing(pipeline: Pipeline) -> None:
    """With ``overflow: block`` a slow sink slows the program, and gets everything."""
    sink = Gated()
    state = pipeline.recorder.state
    state.max_events, state.block_ns = 4, int(SOON_S * 1e9)
    pipeline.start(sink, max_bytes=1_000, block_s=SOON_S)
    program = threading.Thread(target=pipeline.call, args=(40,))
    program.start()
    program.join(0.05)
    assert program.is_alive()

    sink.gate.set()
    program.join(SOON_S)
    pipeline.stop()

    assert kinds(sink) == ["ENTER", "EXIT"] * 40 + ["STOP"]
    assert last(sink)["lost"] == {"sink0": 0}


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline that delivers what has failed."""
    monkeypatch.setattr(lane_module, "BACKOFF_BASE_S", 0.0)
    some = Pipeline(Keep())
    yield some
    some.stop()


def test_what_did_not_fail_is_counted(keeping: Pipeline, wait_until: Callable[..., Any]) -> None:
    """A tree that has failed comes when it has ended; the numbers that are missing are those STOP says."""
    sinks = MemorySink(), MemorySink()
    keeping.start(*sinks)
    keeping.dispatcher.state("START", service="shop")
    keeping.call(10)
    keeping.fail()
    wait_until(lambda: all(len(sink.events) == 3 for sink in sinks))
    keeping.call(10)
    keeping.stop()

    for sink in sinks:
        assert kinds(sink) == ["START", "ENTER", "EXCEPTION", "STOP"]
        stop = last(sink)
        assert (stop["recorded"], stop["discardedCalls"], stop["discardedEvents"]) == (43, 20, 40)
        assert (stop["delivered"], stop["lost"]) == ({"sink0": 3, "sink1": 3}, {"sink0": 0, "sink1": 0})
        assert stop["seq"] - len({event["seq"] for event in sink.events[:-1]}) == 40
        assert balanced(stop)


def test_what_is_held_leaves_room_on_the_queue(keeping: Pipeline, wait_until: Callable[..., Any]) -> None:
    """Its bound is `keep.max_bytes`: a tree larger than the queue is whole."""
    state = keeping.recorder.state
    state.max_bytes = 20_000
    sink = MemorySink()
    keeping.start(sink)
    root = keeping.functions.enter((), ())
    for _ in range(20):
        keeping.call(10)
        wait_until(lambda: state.queued_bytes == state.drained_bytes)
    keeping.fail()
    keeping.functions.leave(root, None)
    keeping.stop()

    assert kinds(sink) == ["ENTER", *["ENTER", "EXIT"] * 200, "ENTER", "EXCEPTION", "EXIT", "STOP"]
    assert last(sink)["lost"] == {"sink0": 0}


@pytest.mark.parametrize("is_failed", [False, True])
def test_what_is_open_at_the_end_is_decided(is_failed: bool, keeping: Pipeline) -> None:
    """By what is known then; what ends later is in the totals all the same."""
    sink = MemorySink()
    keeping.start(sink)
    flow = keeping.functions.enter((), ())
    if is_failed:
        keeping.fail()
    keeping.stop()
    keeping.functions.leave(flow, None)

    assert kinds(sink) == (["ENTER", "ENTER", "EXCEPTION"] if is_failed else []) + ["STOP"]
    assert (last(sink)["openCalls"], last(sink)["discardedCalls"]) == ((1, 0) if is_failed else (0, 1))
    assert balanced(last(sink))


@pytest.mark.parametrize(
    ("owner", "name", "is_done"),
    [
        (None, "line", False),
        (Lane, "offer", False),
        *((Keeper, name, is_done) for name in ("take", "settle", "end", "batch", "sent") for is_done in (False, True)),
    ],
)
def test_program_that_leaves_no_room_doubles_nothing_that_is_kept(
    owner: type | None, name: str, is_done: bool, keeping: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error between the queue and the lanes, before or after a step: what was at hand goes on."""  # fault C7, T9
    of = owner or keeping.dispatcher._lines
    unharmed, calls, strikes = getattr(of, name), itertools.count(), {1, 3, 6, 10, 15, 21, 28}

    def struck(*args: Any) -> Any:
        is_struck = next(calls) in strikes
        if is_struck and not is_done:
            raise RecursionError
        result = unharmed(*args)
        if is_struck:
            raise RecursionError
        return result

    monkeypatch.setattr(of, name, struck)
    sinks = MemorySink(), MemorySink()
    keeping.start(*sinks)
    for _ in range(20):
        keeping.call()
        keeping.fail()
    keeping.stop()

    for sink in sinks:
        assert kinds(sink) == ["ENTER", "EXCEPTION"] * 20 + ["STOP"]
        assert len({event["seq"] for event in sink.events}) == 41
        assert (last(sink)["discardedCalls"], last(sink)["lost"]) == (20, {"sink0": 0, "sink1": 0})
        assert balanced(last(sink))
    assert keeping.recorder.state.queued_bytes == keeping.recorder.state.drained_bytes


def test_other_rules_come_into_force(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """Calls that were open before are delivered with their ends; without rules, all is delivered again, and at once."""
    sink = MemorySink()
    pipeline.start(sink)
    before = pipeline.functions.enter((), ())
    wait_until(lambda: len(sink.events) == 1)
    pipeline.dispatcher.keep(Keep(max_wait=Duration("1h")))
    wait_until(lambda: pipeline.dispatcher._keeper)
    pipeline.call()
    pipeline.fail()
    wait_until(lambda: len(sink.events) == 3)
    pipeline.functions.leave(before, None)
    wait_until(lambda: len(sink.events) == 4)
    held = pipeline.functions.enter((), ())
    pipeline.dispatcher.keep(None)
    wait_until(lambda: len(sink.events) == 5)
    pipeline.call()
    wait_until(lambda: len(sink.events) == 7)
    pipeline.functions.leave(held, None)
    pipeline.stop()

    assert kinds(sink) == ["ENTER", "ENTER", "EXCEPTION", "EXIT", "ENTER", "ENTER", "EXIT", "EXIT", "STOP"]
    spans = [event["spanId"] for event in sink.events[:-1]]
    assert [event["parentId"] for event in sink.events[:-1]] == [
        None,
        spans[0],
        spans[0],
        None,
        None,
        *spans[4:5] * 2,
        None,
    ]
    assert last(sink)["discardedEvents"] == 2
    assert balanced(last(sink))


def test_no_rules_before_and_after(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """A reload of a configuration without `keep` leaves everything as it is."""
    pipeline.start(MemorySink())
    pipeline.dispatcher.keep(None)
    wait_until(lambda: pipeline.dispatcher._terms is None)
    assert pipeline.dispatcher._keeper is None


@pytest.mark.parametrize("start", [0, 7, 1 << 40])
def test_next_number_is_seen_without_being_taken(start: int) -> None:
    """Of a counter at its beginning and later."""
    numbers = itertools.count(start)
    assert [_next_of(numbers), next(numbers), _next_of(numbers), next(numbers)] == [start, start, start + 1, start + 1]


# -- the end ---------------------------------------------------------------------------------------------------------


def test_stop_gives_the_totals(pipeline: Pipeline) -> None:
    """STOP is the last line of each sink, and the sinks are closed after it."""
    sink = MemorySink()
    pipeline.start(sink)
    pipeline.call(3)
    flow = pipeline.functions.enter((), ())
    pipeline.stop()
    pipeline.functions.leave(flow, None)

    assert last(sink) | {"timestamp": 0, "thread": ""} == {
        "timestamp": 0, "event": "STOP", "thread": "", "recorded": 7, "delivered": {"sink0": 7}, "lost": {"sink0": 0},
        "discardedCalls": 0, "discardedEvents": 0, "openCalls": 1, "skippedCalls": 0, "suppressedCalls": 0,
        "uncapturedValues": 0, "failures": 0, "seq": 7, "pid": 1,
    }  # fmt: skip
    assert sink.calls[-3:] == ["write", "flush", "close"]


def test_stop_is_said_once(pipeline: Pipeline) -> None:
    """A second stop, as from a signal handler and then ``atexit``, does nothing."""
    sink = MemorySink()
    pipeline.start(sink)
    pipeline.stop()
    pipeline.stop()
    assert kinds(sink) == ["STOP"]
    assert sink.calls.count("close") == 1


def test_stop_before_start_does_nothing() -> None:
    """Where no thread could be started, there is nothing to end."""
    Pipeline().stop()


def test_stop_does_not_wait_for_a_sink_that_hangs(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """It returns within its time; the other sink is told what the hanging one has not got."""  # fault P9, S18
    hanging, good = Gated(), MemorySink()
    pipeline.start(hanging, good)
    pipeline.call(2)

    before = time.monotonic()
    pipeline.stop(0.4)
    took = time.monotonic() - before

    assert 0.2 < took < 2.0
    wait_until(lambda: good.calls[-1] == "close")  # the machine may be busy
    assert (last(good)["delivered"], last(good)["lost"]) == ({"sink0": 0, "sink1": 4}, {"sink0": 4, "sink1": 0})


def test_stop_does_not_wait_for_a_lane_that_blocks(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """With ``overflow: block``, a sink that hangs keeps the others neither from their STOP nor from closing."""
    # fault S18
    hanging, good = Gated(), MemorySink()
    pipeline.start(hanging, good, max_bytes=100, block_s=SOON_S)
    pipeline.call()
    wait_until(lambda: good.batches)
    pipeline.call()
    wait_until(lambda: not pipeline.recorder.queue)

    before = time.monotonic()
    pipeline.stop(0.4)

    assert time.monotonic() - before < 2.0
    wait_until(lambda: good.calls[-1] == "close")
    assert balanced(last(good))


def test_stop_does_not_wait_for_a_batch_to_fill(pipeline: Pipeline) -> None:
    """A sink that collects large batches delays the end of the program no longer than any other."""
    sink = MemorySink()
    sink.batching = Batching(max_bytes=1 << 20, max_wait_s=60.0)  # type: ignore[attr-defined]
    pipeline.start(sink)
    pipeline.call()

    before = time.monotonic()
    pipeline.stop(SOON_S)

    assert time.monotonic() - before < SOON_S / 2
    assert last(sink)["delivered"] == {"sink0": 2}


def test_program_that_goes_on_calling_is_stopped_all_the_same(pipeline: Pipeline) -> None:
    """Daemon threads that record as fast as the dispatcher encodes do not keep STOP from being said."""
    sink = MemorySink()
    pipeline.start(sink, max_bytes=1 << 30)
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            pipeline.call()

    threads = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    pipeline.stop(SOON_S)
    over.set()
    for thread in threads:
        thread.join()

    assert balanced(last(sink))


def test_call_that_ends_while_a_slow_sink_is_waited_for(pipeline: Pipeline, wait_until: Callable[..., Any]) -> None:
    """Its EXIT, recorded after the last look at the queue, is in the totals."""
    sink = Gated()
    pipeline.start(sink)
    flow = pipeline.functions.enter((), ())
    stopping = threading.Thread(target=pipeline.stop)
    stopping.start()
    wait_until(lambda: pipeline.recorder.state.max_events == -1 and not pipeline.recorder.queue)
    pipeline.functions.leave(flow, None)
    sink.gate.set()
    stopping.join(SOON_S)

    assert balanced(last(sink))
    assert kinds(sink) == ["ENTER", "EXIT", "STOP"]
    assert last(sink)["openCalls"] == 0


def account(sink: MemorySink, name: str = "sink0") -> tuple[list[str], list[tuple[str, int]]]:
    """What is wrong with what a sink has, by its numbers alone, and what its LOSS events say."""
    losses = [(event["reason"], event["events"]) for event in sink.events if event["event"] == "LOSS"]
    return audit({name: [line + b"\n" for line in sink.lines]}, sink=name).problems, losses


@pytest.mark.parametrize("keep", [None, Keep(slower_than=Duration("0ms"))])
def test_calls_that_end_while_stop_is_said_are_in_it_or_not(keep: Keep | None) -> None:
    """At each moment of the end a call of a daemon thread ends: what was sent is what STOP counts."""
    some, sink, flows = Pipeline(keep), MemorySink(), list[Any]()
    recorder, clock = some.recorder, some.recorder.clock

    def clock_of_a_busy_program() -> int:
        if recorder.state.max_events < 0 and flows:
            some.functions.leave(flows.pop(), None)
        return clock()

    recorder.clock = clock_of_a_busy_program
    some.dispatcher.state("START")
    some.start(sink)
    flows += [some.functions.enter((), ()) for _ in range(500)]
    some.stop()

    assert account(sink) == ([], [])
    assert 0 < len(flows) < 500
    assert len(flows) < last(sink)["openCalls"] == kinds(sink).count("ENTER") - kinds(sink).count("EXIT")


@pytest.mark.parametrize("comes", [True, False])
def test_record_that_is_under_way_at_the_end_is_waited_for(comes: bool, pipeline: Pipeline) -> None:
    """A thread that has taken a number has a moment to put its record on the queue; or the number is lost."""
    sink, recorder, taken = MemorySink(), pipeline.recorder, list[int]()
    clock = recorder.clock

    def clock_of_a_busy_program() -> int:
        if recorder.state.max_events < 0 and not taken:
            taken.append(next(recorder.seq))
        elif comes and pipeline.dispatcher._end is not None and taken[-1] >= 0:
            recorder.queue.append((STATEMENT, "LIMIT", taken[0], clock(), 1, b'"calls":1', 0))
            taken.append(-1)
        return clock()

    recorder.clock = clock_of_a_busy_program
    pipeline.dispatcher.state("START")
    pipeline.start(sink)
    pipeline.stop()

    assert account(sink) == ([], [] if comes else [("interrupted by signals", 1)])
    assert kinds(sink) == ["START", "LIMIT" if comes else "LOSS", "STOP"]


def test_calls_that_are_counted_as_lost_while_stop_is_said(pipeline: Pipeline) -> None:
    """Where they were counted, and their numbers are not taken yet, STOP comes after these numbers."""
    sink = MemorySink()
    pipeline.recorder.state.max_events = 1
    pipeline.dispatcher.state("START")
    pipeline.recorder.state.lost_events += 2
    next(pipeline.recorder.seq)
    pipeline.start(sink)
    pipeline.stop()

    assert account(sink) == ([], [("the queue is full", 2)])
    assert last(sink)["lost"] == {"sink0": 2}


def test_what_is_called_after_stop_is_not_queued(pipeline: Pipeline) -> None:
    """The queue of a process that ends does not grow."""
    pipeline.start(MemorySink())
    pipeline.stop()
    pipeline.call(3)
    assert not pipeline.recorder.queue


def test_no_sinks(pipeline: Pipeline) -> None:
    """Without any sink, the queue is drained all the same."""
    pipeline.start()
    pipeline.call()
    pipeline.stop()
    assert not pipeline.recorder.queue


def test_events_of_many_threads_are_all_there(pipeline: Pipeline) -> None:
    """Under load from many threads, conservation is exact."""  # fault T1
    sink = MemorySink()
    pipeline.start(sink, max_bytes=1 << 30)
    threads = [threading.Thread(target=pipeline.call, args=(50,)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipeline.stop()

    stop = last(sink)
    assert sorted(event["seq"] for event in sink.events) == [*range(stop["seq"] + 1)]
    assert (stop["recorded"], stop["delivered"]) == (3_200, {"sink0": 3_200})
    assert [orjson.loads(line)["event"] for line in sink.lines].count("ENTER") == 1_600
