"""The dispatcher between the recorder's queue and the lanes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flowtrace.dispatcher import Dispatcher
from flowtrace.errors import SinkError
from flowtrace.events import Batch, Described, Ids, Lines
from flowtrace.lane import Lane
from flowtrace.testing import MemorySink
from tests.agent.engine import Engine

SOURCE = "def outer(n):\n  for i in range(n):\n    inner(i)\ndef inner(i):\n  return i\n"


class Running:
    """A recorder, a dispatcher and lanes to some sinks, all running."""

    def __init__(self, *sinks: Any, interval_ns: int = 5_000_000, **options: Any) -> None:
        self.engine = Engine()
        recorder = self.engine.recorder
        self.lines = Lines(
            describe=lambda index: Described("m", recorder.targets[index].qualname),
            ids=Ids(bytes), pid=1, wall_offset_ns=0, values_as_text=True,
        )  # fmt: skip
        self.dispatcher = Dispatcher(recorder, self.lines, run="00000000000000aa", interval_ns=interval_ns)
        self.warnings: list[str] = []
        self.lanes = [
            Lane(
                f"memory{number}", sink, max_bytes=options.get("max_bytes", 1 << 22), warn=self.warnings.append,
                new_batch=self.dispatcher.new_batch, on_thread=self.dispatcher.guard_thread,
            )
            for number, sink in enumerate(sinks)
        ]  # fmt: skip
        self.module = self.engine.load(SOURCE)
        self.dispatcher.start(self.lanes)

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.002)


def events(sink: MemorySink, kind: str) -> list[dict[str, Any]]:
    return [event for event in sink.events if event["event"] == kind]


def check_totals(sink: MemorySink, name: str) -> dict[str, Any]:
    """In STOP, recorded = delivered + lost, and delivered is what the sink got before it."""
    (stop,) = events(sink, "STOP")
    assert stop["recorded"] == stop["delivered"][name] + stop["lost"][name]
    assert stop["recorded"] == stop["seq"]
    assert stop["delivered"][name] == len(sink.lines) - 1
    assert sink.events[-1] == stop
    return stop


def test_calls_reach_every_sink() -> None:
    """All sinks get the same lines in the same order, and the totals in STOP hold."""
    one, two = MemorySink(), MemorySink()
    running = Running(one, two)

    running.module.outer(3)
    running.dispatcher.stop(10)

    assert [event["function"] for event in events(one, "ENTER")] == ["outer", "inner", "inner", "inner"]
    assert one.lines == two.lines
    assert [event["seq"] for event in one.events] == list(range(9))
    assert check_totals(one, "memory0")["lost"] == {"memory0": 0, "memory1": 0}
    assert check_totals(two, "memory1")["openCalls"] == 0
    assert len({batch.id for batch in one.batches}) == len(one.batches)
    assert all(batch.id.startswith("00000000000000aa-") for batch in one.batches)


def test_events_come_without_being_asked_for() -> None:
    """After the interval at most, what was recorded is with the sink."""  # fault T11
    sink = MemorySink()
    running = Running(sink)

    running.module.outer(1)
    running.wait(lambda: len(sink.lines) == 4)

    running.dispatcher.stop(10)


def test_a_full_queue_does_not_wait_for_the_interval() -> None:
    """The recorder wakes the dispatcher early."""
    sink = MemorySink()
    running = Running(sink, interval_ns=3_600 * 10**9)
    running.engine.recorder.state.wake_at = 10

    began = time.monotonic()
    running.module.outer(20)
    running.wait(lambda: sink.lines)

    assert time.monotonic() - began < 1
    running.dispatcher.stop(10)


def test_a_failing_sink_harms_only_itself() -> None:
    """The other sink gets all, the failing one's loss is counted and reported to the other."""
    broken, sound = MemorySink(failures=[SinkError("no", retry=False)]), MemorySink()
    running = Running(broken, sound)

    running.module.outer(2)
    running.wait(lambda: running.lanes[0].losses.events or events(sound, "LOSS"))
    running.module.outer(2)
    running.dispatcher.stop(10)

    stop = check_totals(sound, "memory1")
    assert len(events(sound, "ENTER")) == 6
    (loss,) = events(sound, "LOSS")
    assert (loss["sink"], loss["reason"]) == ("memory0", "the sink failed")
    assert loss["from"] <= loss["to"]
    assert stop["lost"] == {"memory0": loss["events"], "memory1": 0}
    assert check_totals(broken, "memory0")["delivered"]["memory0"] == stop["delivered"]["memory0"]


def test_what_the_recorder_lost_is_reported_and_counted() -> None:
    """A LOSS event names the reason and the counts, and STOP's totals include it."""
    sink = MemorySink()
    running = Running(sink, interval_ns=3_600 * 10**9)
    running.engine.recorder.state.max_events = 4

    running.module.outer(20)
    running.dispatcher.stop(10)

    (loss,) = events(sink, "LOSS")
    assert (loss["reason"], loss["sink"], loss["calls"], loss["events"]) == ("the queue is full", None, 18, 36)
    assert check_totals(sink, "memory0")["lost"] == {"memory0": 36}


class Stuck(MemorySink):
    """A sink that hangs in ``write`` until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, batch: Batch) -> None:
        """Hangs."""
        self.go.wait(20)
        super().write(batch)


def test_stop_ends_in_time_though_a_sink_hangs() -> None:
    """The others get everything, and STOP counts as lost what the hanging sink has not taken."""  # fault P9
    stuck, sound = Stuck(), MemorySink()
    running = Running(stuck, sound)
    running.module.outer(3)

    began = time.monotonic()
    running.dispatcher.stop(0.5)
    took = time.monotonic() - began

    stuck.go.set()
    assert took < 2
    assert check_totals(sound, "memory1")["lost"] == {"memory0": 8, "memory1": 0}


def test_a_slow_sink_gets_whole_trees() -> None:
    """Every end has its beginning, every child its parent, and all the rest is counted."""
    slow, sound = Stuck(), MemorySink()
    running = Running(slow, sound, max_bytes=6_000)

    for _ in range(30):
        running.module.outer(2)
        running.wait(lambda: not running.engine.recorder.queue)
    slow.go.set()
    running.dispatcher.stop(10)

    begun = {event["spanId"]: event for event in events(slow, "ENTER")}
    assert 0 < len(begun) < 90
    assert {event["spanId"] for event in events(slow, "EXIT")} == begun.keys()
    assert all(event["parentId"] in {None, *begun} for event in begun.values())
    assert check_totals(slow, "memory0")["lost"]["memory0"] > 0
    assert len(events(sound, "ENTER")) == 90


def test_the_report_of_a_loss_breeds_no_other() -> None:
    """While a sink hangs and is full, the others are told of its loss once, not again and again."""
    stuck, sound = Stuck(), MemorySink()
    running = Running(stuck, sound, max_bytes=1_000)
    turns = itertools.count()
    running.dispatcher.after_turn = lambda: next(turns)  # type: ignore[assignment]

    for _ in range(2):
        running.module.outer(20)
        running.wait(lambda: not running.engine.recorder.queue)
    running.wait(lambda: events(sound, "LOSS"))
    first = next(turns)
    running.wait(lambda: next(turns) > first + 10)

    assert len(events(sound, "LOSS")) <= 2
    stuck.go.set()
    running.dispatcher.stop(10)


def test_a_record_that_cannot_be_encoded_is_counted() -> None:
    """It is lost for all sinks, and the rest goes on."""
    sink = MemorySink()
    running = Running(sink, interval_ns=3_600 * 10**9)
    running.engine.recorder.state.strict = False
    line = running.lines.line
    broken = itertools.count()
    running.lines.line = lambda record: 1 / (next(broken) - 2) and line(record)  # type: ignore[method-assign, return-value]

    running.module.outer(3)
    running.dispatcher.stop(10)

    (loss,) = events(sink, "LOSS")
    assert (loss["reason"], loss["events"]) == ("could not be encoded", 1)
    assert check_totals(sink, "memory0")["lost"] == {"memory0": 1}


def test_calls_after_stop_are_not_recorded() -> None:
    """The program may go on; a second stop does nothing."""
    sink = MemorySink()
    running = Running(sink)
    running.dispatcher.stop(10)
    count = len(sink.lines)

    running.module.outer(3)
    running.dispatcher.stop(10)

    assert len(sink.lines) == count
    assert not running.engine.recorder.queue


def test_calls_still_open_at_the_end_are_told() -> None:
    """STOP says how many calls have begun and not ended."""
    sink = MemorySink()
    running = Running(sink)
    running.module.inner = lambda i: running.dispatcher.stop(10)

    running.module.outer(1)

    assert check_totals(sink, "memory0")["openCalls"] == 1


def test_the_agents_threads_are_not_traced() -> None:
    """A sink that calls traced code adds no events: its thread is guarded."""  # fault T5
    class Calls(MemorySink):
        module: Any = None

        def write(self, batch: Batch) -> None:
            self.module.inner(7)
            super().write(batch)

    sink = Calls()
    running = Running(sink)
    sink.module = running.module

    running.module.outer(1)
    running.wait(lambda: len(sink.lines) == 4)
    running.dispatcher.stop(10)

    assert len(events(sink, "ENTER")) == 2
    assert check_totals(sink, "memory0")["suppressedCalls"] > 0


def test_statements_with_odd_values_are_lines() -> None:
    """Paths with lone surrogates and objects of any type are written somehow."""
    sink = MemorySink()
    running = Running(sink)

    running.dispatcher.state("ATTACH", file="caf\udce9.py", other=object)
    running.dispatcher.stop(10)

    (attach,) = events(sink, "ATTACH")
    assert attach["file"].startswith("caf")


def test_conservation_under_load() -> None:
    """Threads that record as fast as they can, a small queue: what was recorded is delivered or lost, exactly."""  # fault T1
    sink = MemorySink()
    running = Running(sink, max_bytes=200_000)
    running.engine.recorder.state.max_events = 500
    threads = [threading.Thread(target=lambda: [running.module.outer(3) for _ in range(300)]) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.dispatcher.stop(20)

    stop = check_totals(sink, "memory0")
    assert stop["recorded"] >= 4 * 300 * 4 * 2
    assert sum(event["events"] for event in events(sink, "LOSS")) == stop["lost"]["memory0"]
    begun = [event["spanId"] for event in events(sink, "ENTER")]
    assert sorted(begun) == sorted(event["spanId"] for event in events(sink, "EXIT"))


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is told to the agent, which goes on without."""  # fault T10
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)

    with pytest.raises(RuntimeError, match="can't start"):
        Running(MemorySink())
