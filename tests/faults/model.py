"""State machines of processes that deliver to sinks, fail, are killed and come back.

`DeliveryMachine` has the processes, the numbered events, the faults and the law; a subclass says what a sink is and
where its events are found, and adds what else may happen to it:

    class SpoolMachine(DeliveryMachine):
        def new_sink(self, process): ...
        def containers(self): ...

The law: what a sink took is found once, in order, as long as nobody else removed it; what it did not take is found
at most once. A process that is killed in a call may leave the events of that call in part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import Sink
from flowtrace_plugins import spool
from tests.faults.syscalls import ALL, CHANGES, Calls, Killed, path_of

CALLS = st.one_of(
    st.tuples(st.just(ALL), st.integers(1, 60)),
    st.tuples(st.just(CHANGES), st.integers(1, 20)),
    st.tuples(st.just(("write", "ftruncate", "fsync")), st.integers(1, 3)),
)
ERRORS = st.sampled_from([errno.ENOSPC, errno.EIO, errno.EROFS])
MAX_PROCESSES = 2  # at a time


class Event(NamedTuple):
    """An event by the number of its process and its own there."""

    process: int
    seq: int


class Process:
    """A process with its sink, and what it has handed to it.

    Attributes:
        number: No two of a machine have the same.
        taken: The events that the sink took, in order.
        pending: The batch that it did not take; a lane offers it again before any other.
        unsure: The events of a call that the process was killed in, or of a batch that was given up.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken: list[Event] = []
        self.pending: Batch | None = None
        self.unsure: list[Event] = []
        self.descriptors: set[str] = set()
        self.sink: Sink | None = None
        self._next_seq = self._next_batch = 0

    def new_batch(self, events: int) -> Batch:
        """The batch that failed, or a new one with so many events."""
        if self.pending is None:
            seqs = range(self._next_seq, self._next_seq + events)
            lines = [orjson.dumps({"process": self.number, "seq": seq, "text": "x" * (seq % 7 * 40)}) for seq in seqs]
            self.pending = Batch(f"run-{self.number}-{self._next_batch}", lines)
            self._next_seq += events
            self._next_batch += 1
        return self.pending

    def settle(self, *, is_taken: bool) -> None:
        """Book the batch: the sink took it, or the process ends with it."""
        if self.pending:
            events = [Event(self.number, event["seq"]) for event in self.pending.events()]
            (self.taken if is_taken else self.unsure).extend(events)
            self.pending = None


class DeliveryMachine(RuleBasedStateMachine):
    """Processes that deliver to sinks below `directory`."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="flowtrace-model-"))
        self.running: list[Process] = []
        self.all: list[Process] = []
        self.torn = 0  # lines that processes may have left unfinished

    def new_sink(self, process: Process) -> Sink:
        """A sink for ``process``, not yet open."""
        raise NotImplementedError

    def containers(self) -> Iterable[bytes]:
        """All that was delivered: the lines of each file or of each request, in any order."""
        raise NotImplementedError

    def after_each_call(self) -> None:
        """Whatever has to be so after a sink was called."""

    def teardown(self) -> None:
        """End all processes; everything that waits is delivered now, as nothing fails any more."""
        try:
            for process in self.running:
                if process.pending:
                    self._call(process, events=1)
                    assert process.pending is None, "a sink did not recover"
            for process in list(self.running):
                self.stop(process)
            self.everything_is_found_once()
        finally:
            shutil.rmtree(self.directory)

    # -- what happens ----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.running) < MAX_PROCESSES)
    @rule()
    def start(self) -> None:
        """A process starts."""
        process = Process(len(self.all))
        process.sink = self.new_sink(process)
        self.running.append(process)
        self.all.append(process)

    @precondition(lambda self: self.running)
    @rule(who=st.integers(0, MAX_PROCESSES - 1), events=st.integers(1, 12))
    def write(self, who: int, events: int) -> None:
        """A process hands a batch to its sink."""
        self._call(self._chosen(who), events=events)

    @precondition(lambda self: self.running)
    @rule(who=st.integers(0, MAX_PROCESSES - 1), times=st.integers(1, 3))
    def flush(self, who: int, times: int) -> None:
        """A process has nothing to write for a while."""
        for _ in range(times):
            self._call(self._chosen(who), is_idle=True)

    @precondition(lambda self: self.running)
    @rule(
        who=st.integers(0, MAX_PROCESSES - 1), events=st.integers(1, 12), which=CALLS, error=ERRORS,
        lasting=st.booleans(), short=st.booleans(),
    )  # fmt: skip
    def write_with_a_fault(
        self, who: int, events: int, which: tuple[tuple[str, ...], int], error: int, *, lasting: bool, short: bool
    ) -> None:
        """A system call fails, once or until the sink has given up, while it writes and then has nothing to write."""
        process = self._chosen(who)
        calls = Calls(self.directory, only=which[0], at=which[1], error=error, lasting=lasting, short=short)
        self._call(process, events=events, is_idle=True, calls=calls)
        self.torn += process.pending is not None

    @precondition(lambda self: self.running)
    @rule(who=st.integers(0, MAX_PROCESSES - 1), events=st.integers(1, 12), which=CALLS, short=st.booleans())
    def kill(self, who: int, events: int, which: tuple[tuple[str, ...], int], *, short: bool) -> None:
        """A process is killed in the midst of a system call, or between two batches."""
        process = self._chosen(who)
        with contextlib.suppress(Killed):
            calls = Calls(self.directory, only=which[0], at=which[1], error=Killed, short=short)
            self._call(process, events=events, is_idle=True, calls=calls)
        with Calls(self.directory, at=1, error=Killed, only=CHANGES):
            for descriptor in process.descriptors:
                os.close(int(descriptor))
            process.sink = None  # what its generators do when they are collected, they do to nothing
        process.settle(is_taken=False)
        self.torn += 1
        self.running.remove(process)

    @precondition(lambda self: self.running)
    @rule(who=st.integers(0, MAX_PROCESSES - 1))
    def end(self, who: int) -> None:
        """A process ends; a batch that its sink did not take is lost."""
        self.stop(self._chosen(who))

    def stop(self, process: Process) -> None:
        """Close the sink of a process."""
        assert process.sink
        with self._watched(process):
            process.sink.close(time.monotonic() + 1)
        process.settle(is_taken=False)
        self.running.remove(process)

    # -- the law ---------------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_found_once(self) -> None:
        """What was taken is found once and in order, what was not at most once, and nothing else but torn lines."""
        found, torn = self._found()
        for process in self.all:
            parts = [[event for event in events if event.process == process.number] for events in found]
            own = [event for part in sorted(filter(None, parts)) for event in part]
            assert own == sorted(set(own)), f"process {process.number}: doubled or out of order: {own}"
            waiting = process.pending.events() if process.pending else []
            unsure = {*process.unsure, *(Event(process.number, event["seq"]) for event in waiting)}
            assert [event for event in own if event not in unsure] == process.taken
        assert torn <= self.torn, f"{torn} torn lines"

    def _found(self) -> tuple[list[list[Event]], int]:
        """The events of each container, and how many lines are none."""
        found, torn = [], 0
        for content in self.containers():
            events = []
            for line in content.splitlines():
                try:
                    fields = orjson.loads(line)
                    events.append(Event(fields["process"], fields["seq"]))
                except orjson.JSONDecodeError:
                    torn += 1
            found.append(events)
        return found, torn

    # -- calls of sinks --------------------------------------------------------------------------------------------

    def _chosen(self, who: int) -> Process:
        return self.running[who % len(self.running)]

    def _call(self, process: Process, *, events: int = 0, is_idle: bool = False, calls: Calls | None = None) -> None:
        """Let a process write some events, and then have nothing to write."""
        assert process.sink
        batch = process.new_batch(events) if events else None
        with self._watched(process), calls or contextlib.nullcontext():
            if batch:
                with contextlib.suppress(SinkError):
                    process.sink.open()
                    process.sink.write(batch)
                    process.settle(is_taken=True)
            if is_idle:
                process.sink.flush()

    @contextlib.contextmanager
    def _watched(self, process: Process) -> Iterator[None]:
        """Note which descriptors a process opens, to close them should it be killed."""
        before = _descriptors()
        try:
            yield
        finally:
            after = _descriptors()
            process.descriptors = (process.descriptors & after) | (after - before)
            self.after_each_call()


def take_descriptors(directory: Path) -> None:
    """What the system does when a process dies: close what is open below ``directory``, and so release its locks."""
    leases = [*spool._leases]
    for descriptor in _descriptors():
        if path_of(int(descriptor)).startswith(os.path.join(os.path.realpath(directory), "")):
            os.close(int(descriptor))
    spool._leases.clear()
    for lease in leases:
        lease.release()  # now, when it has nothing to release: not once the collector finds it and others have a lease


def _descriptors() -> set[str]:
    """Those that are open, without that of the listing itself."""
    return {each for each in os.listdir("/dev/fd") if os.path.lexists(f"/dev/fd/{each}")}
