"""Queue, dispatcher and lanes as a state machine: whatever happens in whatever order, each sink's account is right."""

from __future__ import annotations

import contextvars
import itertools
import time
from collections.abc import Callable
from typing import Any

from harness import wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger import audit

from flowtrace import lane as lane_module
from flowtrace.dispatcher import Dispatcher
from flowtrace.errors import SinkError
from flowtrace.events import Batch, Described, Ids, Lines
from flowtrace.lane import Lane
from flowtrace.recorder import Recorder, Target
from flowtrace.testing import MemorySink
from tests.agent.engine import Shown

SINKS = 2
CONTEXTS = 3  # tasks, each with calls of its own
SOON_S = 20.0
ODD = [ValueError, SystemExit, KeyboardInterrupt, MemoryError, RecursionError]
numbers = st.integers(0, SINKS - 1)


class Fickle(MemorySink):
    """A sink that fails when it is told to, and hangs while it is told to."""

    is_held = False

    def write(self, batch: Batch) -> None:
        """Waits, in small pieces, and fails or takes the batch."""
        until = time.monotonic() + SOON_S
        while self.is_held and time.monotonic() < until:
            time.sleep(0.001)
        super().write(batch)

    def fail(self, error: BaseException, times: int) -> None:
        """Raise this from the next calls of ``write``."""
        self._failures += [error] * times


class Process:
    """A recorder with dispatcher and lanes, as one process has them."""

    pids = itertools.count(1)

    def __init__(self, max_bytes: int, block_s: float) -> None:
        self.recorder, self.pid = Recorder(), next(self.pids)
        lines = Lines(
            describe=lambda index: Described("m", "f"), ids=Ids(lambda count: self.pid.to_bytes(count, "big")),
            pid=self.pid, wall_offset_ns=0, values_as_text=True,
        )  # fmt: skip
        self.dispatcher = Dispatcher(self.recorder, lines, run="00000000000000aa", interval_ns=2_000_000)
        self.functions = self.recorder.functions(Target("m", "f", 1, Shown()))
        self.sinks = [Fickle() for _ in range(SINKS)]
        self.contexts = [contextvars.Context() for _ in range(CONTEXTS)]
        self.open: list[list[Any]] = [[] for _ in range(CONTEXTS)]
        state = self.recorder.state
        state.max_events, state.block_ns = 200, round(block_s * 1e9)
        self.dispatcher.state("START")
        self.lanes = [
            Lane(
                f"sink{number}", sink, max_bytes=max_bytes, block_s=block_s, new_id=self.dispatcher.new_id,
                warn=lambda text: None, on_thread=self.dispatcher.guard_thread,
                on_failure=self.dispatcher.count_failure,
            )
            for number, sink in enumerate(self.sinks)
        ]  # fmt: skip
        self.dispatcher.start(self.lanes)
        wait_until(lambda: all(sink.lines for sink in self.sinks))

    def problems(self, number: int, *, ended: bool) -> list[str]:
        """What is wrong with what a sink has taken; where batches were given up, calls may lack an end of theirs."""
        lines = [line + b"\n" for line in self.sinks[number].lines]
        problems = audit({"sink": lines}, sink=f"sink{number}", ended=ended).problems
        gave_up = b"the sink failed" in b"".join(self.sinks[number].lines) or not ended
        torn = ("not entered", "never entered", "never left", "was not open", "is left after") if gave_up else ()
        return [problem for problem in problems if not any(words in problem for words in torn)]


class Pipeline(RuleBasedStateMachine):
    """Calls in several tasks, sinks that fail, hang and recover, limits, switching, crashes and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.backoff, lane_module.BACKOFF_BASE_S = lane_module.BACKOFF_BASE_S, 0.0
        self.left_out, lane_module.LEFT_OUT_S = lane_module.LEFT_OUT_S, 0.01
        self.process = Process(1 << 20, 0.0)

    @rule(context=st.integers(0, CONTEXTS - 1), depth=st.integers(1, 30))
    def enter(self, context: int, depth: int) -> None:
        """Calls, each inside the one before."""
        process = self.process
        for _ in range(depth):
            flow = process.contexts[context].run(process.functions.enter, ("n",), (1,))
            process.open[context].append(flow)

    @rule(context=st.integers(0, CONTEXTS - 1), levels=st.integers(1, 30))
    def leave(self, context: int, levels: int) -> None:
        """As many of them end."""
        process = self.process
        for _ in range(min(levels, len(process.open[context]))):
            process.contexts[context].run(process.functions.leave, process.open[context].pop(), 2)

    @rule(number=numbers, odd=st.sampled_from(ODD), times=st.integers(1, 12))
    def break_down(self, number: int, odd: Callable[[], BaseException], times: int) -> None:
        """A sink raises what no sink should."""
        self.process.sinks[number].fail(odd(), times)

    @rule(number=numbers, retry=st.booleans(), times=st.integers(1, 12))
    def refuse(self, number: int, retry: bool, times: int) -> None:
        """A sink says that it cannot."""
        self.process.sinks[number].fail(SinkError("no", retry=retry), times)

    @rule(number=numbers, is_held=st.booleans())
    def hang(self, number: int, is_held: bool) -> None:
        """A sink takes nothing, or goes on."""
        self.process.sinks[number].is_held = is_held

    @rule(seconds=st.sampled_from([0.0, 0.002, 0.01]))
    def pass_time(self, seconds: float) -> None:
        """The agent's threads have their turn."""
        time.sleep(seconds)

    @rule(max_events=st.sampled_from([1, 20, 10_000]), max_bytes=st.sampled_from([1, 2_000, 1 << 20]))
    def limit(self, max_events: int, max_bytes: int) -> None:
        """Another configuration comes into force."""
        self.process.recorder.state.max_events = max_events
        for lane in self.process.lanes:
            lane.limit(max_bytes=max_bytes, block_s=0.0)

    @rule(rate=st.sampled_from([-1.0, 0.5, 1.0]))
    def sample(self, rate: float) -> None:
        """Tracing is switched off, on, or done in part."""
        state = self.process.recorder.state
        state.rate, state.wake_at = rate, 0 if rate < 0 else 1 << 60

    @precondition(lambda self: any(self.process.open))
    @rule(max_bytes=st.sampled_from([1, 4_000, 1 << 20]), block_s=st.sampled_from([0.0, 0.02]))
    def crash_and_restart(self, max_bytes: int, block_s: float) -> None:
        """The process ends at once; another one begins. What the sinks have is a beginning without a hole in it."""
        before = self.process
        assert [before.problems(number, ended=False) for number in range(SINKS)] == [[]] * SINKS
        self.finish(before)
        self.process = Process(max_bytes, block_s)

    @invariant()
    def memory_is_bounded(self) -> None:
        """No more waits than there is room for, and a batch, and what closes calls that were admitted."""
        for lane in self.process.lanes:
            assert lane.waiting >= 0
            assert len(lane._dropped_and_left) <= lane_module.MAX_LEFT_SPANS

    def finish(self, process: Process) -> None:
        """Let everything come to its end, and look at the accounts."""
        for sink in process.sinks:
            sink.is_held = False
            sink._failures.clear()
        for context, flows in zip(process.contexts, process.open, strict=True):
            while flows:
                context.run(process.functions.leave, flows.pop(), 2)
        time.sleep(lane_module.LEFT_OUT_S * 1.5)
        process.dispatcher.stop(SOON_S)
        assert [process.problems(number, ended=True) for number in range(SINKS)] == [[]] * SINKS
        assert process.recorder.state.queued_bytes == process.recorder.state.drained_bytes

    def teardown(self) -> None:
        """The last process ends as well."""
        try:
            self.finish(self.process)
        finally:
            lane_module.BACKOFF_BASE_S, lane_module.LEFT_OUT_S = self.backoff, self.left_out


TestPipeline = Pipeline.TestCase
TestPipeline.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
