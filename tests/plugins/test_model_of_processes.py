"""A model of whole processes, from the call to the receiver and the file: whatever happens, the numbers add up.

Calls are recorded, the dispatcher takes its turns, a lane delivers to an http sink with a spool and another one to a
file; the receiver is away, refuses, or breaks off before or after it has stored a batch; disks are full; processes are
killed at any system call, or end in order, and others go on in the same places. All of it is on one thread, and the
turns are taken by hand, so that a failure can be repeated: what threads add is in test_model_of_pipeline.py.
"""

from __future__ import annotations

import contextvars
import errno
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from harness import ENDURANCE
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from ledger import audit

from flowtrace import lane as lane_module
from flowtrace.config import Size, decode
from flowtrace.dispatcher import Dispatcher
from flowtrace.events import Described, Ids, Lines
from flowtrace.hooks import SinkContext
from flowtrace.recorder import Recorder, Target
from flowtrace.testing import make_context
from flowtrace_plugins import http as http_module
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.http import HttpSink
from flowtrace_plugins.options import FileOptions, HttpOptions, Rotate
from tests.agent.engine import Shown
from tests.faults.chaos_server import ChaosServer, Step, answer, limit, reset, reset_after_commit, running
from tests.faults.model import take_descriptors
from tests.faults.stepped import Stepped, Watched
from tests.faults.syscalls import Calls, Killed

EXAMPLES = 2_000 if ENDURANCE else 50
CONTEXTS = 2  # tasks, each with calls of its own
MAX_EVENTS, MAX_BYTES = 60, 6_000  # on the queue, and in a lane: both are full now and then
MAX_LINES = 7  # in a body, where the receiver takes no large ones
SOON_S = 20.0
TROUBLES: list[Step] = [answer(503), answer(500), answer(400), reset, reset_after_commit]
OF_A_FULL_DISK = ("open", "write", "fsync", "mkdir")
PLACES = ["spool", "files"]  # each on a disk of its own
UNCLOSED = ("not entered", "never entered", "never left", "was not open", "is left after", "not with START")

small = st.integers(0, 7)
some = st.integers(0, 12)
bits = st.integers(0, 1)


class Process:
    """A process: its recorder, its dispatcher, and a lane for each of its sinks.

    Attributes:
        end: The number of STOP, where it has ended in order.
        is_killed: It dies of the system call that fails.
        calls: What of its system calls fails at the moment.
        waits: So many times a lane waits until that is over.
    """

    def __init__(self, directory: Path, url: str, pid: int) -> None:
        self.pid, self.end, self.is_killed = pid, 0, False
        self.calls, self.waits = Calls(directory), 0
        self.recorder = Recorder()
        run = f"{pid:016x}"
        lines = Lines(
            describe=lambda index: Described("m", "f"), ids=Ids(lambda count: pid.to_bytes(count, "big")),
            pid=pid, wall_offset_ns=0, values_as_text=True,
        )  # fmt: skip
        self.dispatcher = Dispatcher(self.recorder, lines, run=run, interval_ns=1)
        self.functions = self.recorder.functions(Target("m", "f", 1, Shown()))
        self.contexts = [contextvars.Context() for _ in range(CONTEXTS)]
        self.open: list[list[Any]] = [[] for _ in range(CONTEXTS)]
        self.recorder.state.max_events = MAX_EVENTS
        context = make_context(directory=directory, run=run)
        self.http = Watched(http_sink(url, context._replace(start_thread=no_thread, lost=self._lose)), self.live)
        self.file = Watched(file_sink(context), self.live)
        self.lanes = [self._lane("http", self.http), self._lane("file", self.file)]
        self.dispatcher.lanes = self.lanes
        self.dispatcher.state("START")
        self.turn()

    def _lane(self, name: str, sink: Watched) -> Stepped:
        return Stepped(
            name, sink, wait=self._wait, max_bytes=MAX_BYTES, new_id=self.dispatcher.new_id, warn=lambda text: None,
            on_thread=lambda: None,
        )  # fmt: skip

    def _wait(self) -> None:
        self.waits -= 1
        if self.waits <= 0:
            self.calls.pass_over()

    def _lose(self, reason: str, events: int) -> None:
        self.http.refused += events
        self.lanes[0].lose(reason, events)

    @property
    def is_dead(self) -> bool:
        """True once it was killed."""
        return self.is_killed and self.calls.reached

    def live(self) -> None:
        """Do nothing where it is dead."""
        if self.is_dead:
            raise Killed

    def turn(self, *, http: int = 1, file: int = 1) -> None:
        """A turn of the dispatcher, and of the lanes of whose sinks this is 1."""
        self.dispatcher._turn()
        for lane, has_turn in zip(self.lanes, (http, file), strict=True):
            if has_turn:
                lane.step()

    def stop(self) -> None:
        """End in order."""
        deadline = time.monotonic() + SOON_S
        self.dispatcher._stop_at = deadline
        state = self.recorder.state
        state.max_events, state.wake_at, state.rate = -1, 0, -1.0
        for lane in self.lanes:
            lane.end_by(deadline)
        self.dispatcher._finish(deadline)
        stopped = self.dispatcher._stopped
        assert stopped
        self.end = stopped[2]

    def lost(self, lane: Stepped) -> int:
        """How many events were counted as lost on the way to a sink."""
        return self.recorder.state.lost_events + self.dispatcher._losses.events + lane.losses.events


def no_thread(function: Callable[[], None]) -> None:
    """What a context has where no thread can be started: all happens within the calls of the sink."""
    raise RuntimeError("can't start new thread")


def http_sink(url: str, context: SinkContext) -> HttpSink:
    """An http sink with a spool in a directory of its own."""
    options = {"url": url, "timeout": "60s", "batch": {"max_size": "2KiB"}, "spool": {"dir": "spool"}}
    return HttpSink(decode(options, HttpOptions), context)


def file_sink(context: SinkContext) -> FileSink:
    """A file sink that rotates often."""
    return FileSink(FileOptions(path="files/trace.jsonl", rotate=Rotate(max_size=Size("8KiB"), keep=1000)), context)


def unless_stored(step: Step) -> Step:
    """What a receiver does that knows what it has: it says so, and does the step with all else."""

    def known(handler: Any, request: Any) -> None:
        (answer(200) if request.batch_id in handler.chaos.stored else step)(handler, request)

    return known


class Processes(RuleBasedStateMachine):
    """See the module. What rules draw are plain numbers: nothing may depend on how fast the machine is."""

    server: ChaosServer

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="flowtrace-model-"))
        self.pids = itertools.count(1)
        self.all: list[Process] = []
        self.killed = 0
        self.server.script.clear()
        self.server.requests.clear()
        self.server.stored.clear()

    @initialize(is_limited=bits)
    def begin(self, is_limited: int) -> None:
        """A process, and a receiver that takes large bodies or does not."""
        self.up = unless_stored(limit(MAX_LINES)) if is_limited else answer(200)
        self.is_limited = is_limited
        self.server.always = self.up
        self.start()

    def start(self) -> None:
        """One more process."""
        self.refused_before = self.refused()
        self.process = Process(self.directory, self.server.url, next(self.pids))
        self.all.append(self.process)

    # -- what a process does -------------------------------------------------------------------------------------

    @rule(context=small, depth=st.integers(1, 30))
    def enter(self, context: int, depth: int) -> None:
        """Calls, each inside the one before; every other rule begins with some."""
        process, number = self.process, context % CONTEXTS
        for _ in range(depth):
            process.open[number].append(process.contexts[number].run(process.functions.enter, ("n",), (1,)))

    @rule(context=small, levels=st.integers(1, 30))
    def leave(self, context: int, levels: int) -> None:
        """As many of them end."""
        process, number = self.process, context % CONTEXTS
        flows = process.open[number]
        for _ in range(min(levels, len(flows))):
            process.contexts[number].run(process.functions.leave, flows.pop(), 2)

    @rule(calls=some, http=bits, file=bits)
    def turn(self, calls: int, http: int, file: int) -> None:
        """The agent's threads have their turns, or some of them."""
        self.enter(calls, calls)
        self.process.turn(http=http, file=file)

    @rule()
    def idle(self) -> None:
        """Nothing comes for a while."""
        for lane in self.process.lanes:
            lane.step()
            lane.idle()

    @rule(calls=some)
    def end(self, calls: int) -> None:
        """A process ends in order, whatever is open, and another one follows."""
        self.enter(calls, calls)
        self.end_in_order()
        self.start()

    def end_in_order(self) -> None:
        """A process ends, and has said of all that was refused meanwhile that it is lost."""
        process = self.process
        process.stop()
        assert isinstance(process.http.sink, HttpSink)
        counted = process.http.refused + process.http.sink._of_others.total()
        assert self.refused() - self.refused_before == counted, "refused, and not counted once"

    @rule(calls=some, call=st.integers(1, 40), short=bits, is_any=bits)
    def kill(self, calls: int, call: int, short: int, is_any: int) -> None:
        """A process is killed by a system call of a turn, any or one for the file, or after it; another one follows."""
        self.enter(calls, calls)
        process = self.process
        process.is_killed = True
        directory, at = (self.directory, call) if is_any else (self.directory / "files", 1 + call % 12)
        process.calls = Calls(directory, at=at, error=Killed, short=bool(short))
        with process.calls:
            process.turn()
        self.bury(process)
        self.start()

    @rule(calls=some, call=st.integers(1, 40))
    def kill_at_its_end(self, calls: int, call: int) -> None:
        """A process is killed while it ends."""
        self.enter(calls, calls)
        process = self.process
        process.is_killed = True
        process.calls = Calls(self.directory, at=call, error=Killed)
        with process.calls:
            process.stop()
        if process.calls.reached:
            process.end = 0
            self.bury(process)
        self.start()

    def bury(self, process: Process) -> None:
        """The system takes what a process had open."""
        self.killed += 1
        take_descriptors(self.directory)
        for watched in (process.http, process.file):
            watched.settle()

    # -- what happens elsewhere ----------------------------------------------------------------------------------

    @rule(
        calls=some, place=bits, call=st.integers(1, 4), lasting=bits, short=bits, waits=st.integers(1, 3),
        is_patient=bits,
    )  # fmt: skip
    def fill_a_disk(
        self, calls: int, place: int, call: int, lasting: int, short: int, waits: int, is_patient: int
    ) -> None:
        """A disk has no room during a turn, once or until the lane has waited, if it does."""
        self.enter(calls, calls)
        process = self.process
        directory = self.directory / PLACES[place]
        fault = {"at": call, "error": errno.ENOSPC, "lasting": bool(lasting), "short": bool(short)}
        process.calls, process.waits = Calls(directory, only=OF_A_FULL_DISK, **fault), waits
        lane_module.MAX_RETRY_S = 300.0 * is_patient
        with process.calls:
            process.turn()
        lane_module.MAX_RETRY_S = 300.0
        process.calls, process.waits = Calls(directory), 0

    @rule()
    def switch(self) -> None:
        """The receiver goes away, or comes back."""
        self.server.always = self.up if self.server.always is reset else reset

    @rule(troubles=st.lists(small, min_size=1, max_size=3))
    def be_in_trouble(self, troubles: list[int]) -> None:
        """The receiver fails at some requests; it stores nothing that is too large for it."""
        possible = TROUBLES[: len(TROUBLES) - self.is_limited]
        self.server.script = [unless_stored(possible[number % len(possible)]) for number in troubles]

    # -- what must hold ------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Once the receiver is back and all has ended, the numbers of each process add up, at both its sinks."""
        try:
            if self.all:
                self.server.script.clear()
                self.server.always = self.up
                self.end_in_order()
                self.deliver_the_rest()
                self.check_file()
                self.check_receiver()
        finally:
            shutil.rmtree(self.directory)

    def deliver_the_rest(self) -> None:
        """Another run delivers what waits on disk."""
        before = self.refused()
        sink = http_sink(self.server.url, make_context(directory=self.directory)._replace(start_thread=no_thread))
        sink.open()
        until = time.monotonic() + SOON_S
        while self.waiting() and time.monotonic() < until:
            sink.flush()
        sink.close(time.monotonic())
        assert self.waiting() == [], "something stays on disk"
        assert self.refused() - before == sink._of_others.total(), "refused, and not counted once"

    def waiting(self) -> list[Path]:
        """The files of the spool."""
        return [*self.directory.glob("spool/*/*.gz")]

    def check_file(self) -> None:
        """What was written is there once, in order, and on whole lines but for one of each death and batch given up."""
        given_up = sum(process.file.given_up for process in self.all)
        result = audit(self.directory / "files", ended=False)
        assert [problem for problem in result.problems if not given_up or not is_unclosed(problem)] == []
        assert len(result.torn) <= self.killed + given_up
        found = self.found(self.lines_of_the_file())
        for process in self.all:
            self.check_sink(process, process.file, process.lanes[1], found.get(process.pid, []), set(), 0)

    def check_receiver(self) -> None:
        """What was stored came once and in order; what was refused is in the dead letters."""
        stored = [line for request in self.server.stored.values() for line in request.lines]
        found, refused = self.found(stored), self.found(self.dead_letters())
        for process in self.all:
            own, dead = found.get(process.pid, []), {*refused.get(process.pid, [])}
            by_others = len(dead - {*own} - {process.end}) - process.http.refused
            self.check_sink(process, process.http, process.lanes[0], own, dead, by_others)
        if not refused and not any(process.http.given_up for process in self.all):
            result = audit({"http": [line + b"\n" for line in stored]}, sink="http", ended=False)
            assert (result.problems, result.torn) == ([], [])

    def check_sink(
        self, process: Process, sink: Watched, lane: Stepped, found: list[int], dead: set[int], by_others: int
    ) -> None:
        """The law, for a process and a sink of it; see the model's docstring."""
        own, name = {*found}, f"{lane.name} of process {process.pid}"
        assert found == sorted(own), f"{name}: doubled or out of order: {found}"
        assert sink.taken <= own | dead, f"{name}: lost silently: {sorted(sink.taken - own - dead)}"
        assert own <= sink.taken | sink.unsure, f"{name}: never written: {sorted(own - sink.taken - sink.unsure)}"
        if not process.end:
            return
        sink.settle()
        recorded = {*range(process.recorder.state.first, process.end)}
        assert len(recorded) == lane.delivered + process.lost(lane), name
        missing, unsaid = recorded - own, own & recorded & sink.unsure - sink.taken
        assert len(missing) == process.lost(lane) + by_others - len(unsaid), (
            f"{name}: {len(missing)} are missing, counted are {process.lost(lane)}, by others {by_others}"
        )

    def refused(self) -> int:
        """How many events stand in the dead letters."""
        return sum(map(len, self.found(self.dead_letters()).values()))

    def found(self, lines: list[bytes]) -> dict[int, list[int]]:
        """The numbers that stand on lines, by process."""
        found: dict[int, list[int]] = {}
        for line in lines:
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # torn: they are counted elsewhere
            found.setdefault(event["pid"], []).append(event["seq"])
        return found

    def lines_of_the_file(self) -> list[bytes]:
        """Of the file and of those that were put aside, the oldest first."""
        asides = [path for path in (self.directory / "files").glob("trace.jsonl.*") if path.suffix[1:].isdigit()]
        paths = [*sorted(asides, key=lambda path: -int(path.suffix[1:])), self.directory / "files" / "trace.jsonl"]
        return [line for path in paths if path.exists() for line in path.read_bytes().splitlines()]

    def dead_letters(self) -> list[bytes]:
        """What the receiver has refused."""
        return [line for path in self.directory.glob("dead-letter/*.jsonl") for line in path.read_bytes().splitlines()]


def is_unclosed(problem: str) -> bool:
    """Whether a problem is that of a trace which lacks a batch."""
    return any(words in problem for words in UNCLOSED)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks and lanes that try again at once, and a disk that needs no time."""
    monkeypatch.setattr(lane_module, "BACKOFF_BASE_S", 0.0)
    monkeypatch.setattr(http_module, "_BACKOFF_BASE_S", 0.0)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(lane_module, "MAX_RETRY_S", 300.0)


@pytest.mark.timeout(3_000)  # hypothesis needs some minutes to make a failure small
@pytest.mark.usefixtures("_impatient")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # generators of processes that are dead
def test_numbers_of_each_process_add_up() -> None:
    """See the module: hypothesis looks for an order of things after which they do not."""
    # fault S3, S10, S11, S16, S20, P6
    with running() as server:
        Processes.server = server
        run_state_machine_as_test(
            Processes, settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None)
        )
