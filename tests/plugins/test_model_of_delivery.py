"""A model of the http sink, its spool and a receiver: whatever happens, each event is delivered once or counted.

Processes write, are killed at any system call, end and follow each other; the receiver is away, refuses, or breaks off
before or after it has stored a batch; files are damaged and grow old, the disk is full. Everything runs on one thread,
so that a failure can be repeated: what threads add is in test_http.py and test_spool.py.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import gzip
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from harness import ENDURANCE
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from flowtrace.config import decode
from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins import spool as spool_module
from flowtrace_plugins.http import HttpSink
from flowtrace_plugins.options import HttpOptions
from tests.faults.chaos_server import ChaosServer, Step, answer, limit, reset, reset_after_commit, running
from tests.faults.syscalls import Calls, Killed

TROUBLE: dict[str, Step] = {
    "503": answer(503),
    "429": answer(429, Retry_After="300"),
    "500": answer(500),
    "400": answer(400),
    "reset": reset,
    "reset after commit": reset_after_commit,
}
EXAMPLES = 3_000 if ENDURANCE else 60
LAST_TRIES = 5
LARGE, SMALL = 15_000, 10  # bytes of noise in an event: five large ones fill the spool


class Process:
    """A process with an http sink, and as much of a lane as it needs: a batch that is not taken is tried again."""

    def __init__(self, directory: Path, server: ChaosServer, pid: int) -> None:
        self.pid, self.batches = pid, 0
        self.warnings: list[str] = []
        self.losses: list[tuple[str, int]] = []
        self.waiting: Batch | None = None

        def start_thread(function: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

        context = make_context(directory=directory, run="r", pid=pid, warnings=self.warnings, losses=self.losses)
        context = context._replace(start_thread=start_thread)
        spool = {"dir": "spool", "max_size": "64KiB", "max_age": "1h"}
        self.sink = HttpSink(decode({"url": server.url, "timeout": "10s", "spool": spool}, HttpOptions), context)
        self.sink.open()

    @property
    def counted(self) -> collections.Counter[str]:
        """The events that this process has said are lost, by reason."""
        counted = collections.Counter(self.sink._of_others)
        for reason, events in self.losses:
            counted[reason] += events
        return counted


class Delivery(RuleBasedStateMachine):
    """See the module."""

    server: ChaosServer

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.pids = iter(range(1, 1_000_000))
        self.events = iter(range(1, 1_000_000))
        self.accepted: list[int] = []
        self.given_up: set[int] = set()  # the sink said that it never can: the lane has counted them
        self.spoiled: set[int] = set()  # their files were damaged, made old, or had no room
        self.counted: collections.Counter[str] = collections.Counter()
        self.has_killed = self.has_large = False
        self.has_unsaid = False  # that something was stored: its loss may be counted all the same
        self.server.script.clear()
        self.server.requests.clear()
        self.server.stored.clear()

    @initialize(is_limited=st.booleans())
    def begin(self, is_limited: bool) -> None:
        """Two processes, and a receiver that takes large bodies or does not."""
        self.is_up, self.is_limited = False, is_limited
        self.switch()
        self.processes = [self.new_process(), self.new_process()]

    def new_process(self) -> Process:
        """One more, with a number of its own."""
        return Process(self.directory, self.server, next(self.pids))

    # -- what processes do ---------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), sizes=st.lists(st.sampled_from([SMALL, SMALL, LARGE]), min_size=1, max_size=3))
    def write(self, which: int, sizes: list[int]) -> None:
        """A process writes a batch; one that was not taken comes first."""
        process = self.processes[which]
        self.prepare(process, sizes)
        self.attempt(process)

    @rule(which=st.integers(0, 1), call=st.integers(1, 60))
    def write_and_die(self, which: int, call: int) -> None:
        """A process is killed by a system call that it makes while it writes, if it makes so many."""
        process = self.processes[which]
        self.prepare(process, [SMALL, SMALL])
        with Calls(self.directory, at=call, error=Killed) as calls, contextlib.suppress(Killed):
            self.attempt(process)
        if calls.reached:
            self.has_killed = True
            self.die(which)

    @rule(which=st.integers(0, 1), call=st.integers(1, 20))
    def write_to_a_full_disk(self, which: int, call: int) -> None:
        """The disk has no room from some system call on, until the batch is written or is not."""
        process = self.processes[which]
        self.prepare(process, [SMALL])
        before, sent = process.counted, len(self.server.requests)
        with Calls(self.directory, at=call, error=errno.ENOSPC, lasting=True, only=("open", "write", "fsync", "mkdir")):
            self.attempt(process)
        if process.counted != before:  # what the receiver has refused had no room in its file either
            self.spoiled |= {event["seq"] for request in self.server.requests[sent:] for event in request.events}

    @rule(which=st.integers(0, 1))
    def flush(self, which: int) -> None:
        """A process has nothing to write."""
        self.processes[which].sink.flush()

    @rule(which=st.integers(0, 1))
    def flush_where_nothing_can_be_deleted(self, which: int) -> None:
        """A process delivers what waits, and cannot delete it for a while: it neither sends nor counts it again."""
        process, sent = self.processes[which], len(self.server.requests)
        answers_all = self.is_up and not self.server.script
        with Calls(self.directory, at=1, error=errno.EROFS, lasting=True, only=("unlink",)):
            for _ in range(3):
                process.sink._not_before = 0.0
                process.sink.flush()
        ids = [request.batch_id for request in self.server.requests[sent:]]
        assert len(ids) == len({*ids}) or not answers_all, "a process has sent again what it has delivered"
        process.sink.flush()

    @rule()
    def wait(self) -> None:
        """The time for which the processes leave the receiver alone is over."""
        for process in self.processes:
            process.sink._not_before = 0.0

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        """A process is killed, and another one follows; the system takes its locks from it."""
        spool_module._forget_the_parents()
        self.counted += self.processes[which].counted
        self.processes[which] = self.new_process()

    @rule(which=st.integers(0, 1))
    def end(self, which: int) -> None:
        """A process ends in order, and another one follows."""
        process = self.processes[which]
        process.sink.ending(time.monotonic())
        if process.waiting:
            self.attempt(process)
        process.sink.close(time.monotonic())
        self.die(which)

    # -- what happens elsewhere ----------------------------------------------------------------------------------

    @rule()
    def switch(self) -> None:
        """The receiver goes away, or comes back."""
        self.is_up = not self.is_up
        self.server.always = reset if not self.is_up else limit(1) if self.is_limited else answer(200)

    @rule(troubles=st.lists(st.sampled_from(sorted(TROUBLE)), min_size=1, max_size=3))
    def be_in_trouble(self, troubles: list[str]) -> None:
        """The receiver fails at some requests."""
        if self.is_limited:  # it has stored nothing that is too large for it
            troubles = ["reset" if name == "reset after commit" else name for name in troubles]
        self.has_unsaid |= "reset after commit" in troubles
        self.server.script = [TROUBLE[name] for name in troubles]

    @rule(number=st.integers(0, 9), length=st.sampled_from([0, 5, None]))
    def damage(self, number: int, length: int | None) -> None:
        """A file of the spool is cut off, or a bit of it is flipped."""
        path = self.spoiled_file(number)
        if path:
            content = bytearray(path.read_bytes().ljust(9, b"x"))
            content[-7] ^= 64  # of the checksum
            path.write_bytes(content[:length])

    @rule(number=st.integers(0, 9))
    def grow_old(self, number: int) -> None:
        """A file of the spool has waited too long."""
        path = self.spoiled_file(number)
        if not path:
            return
        old_ns = int(path.name.partition("-")[0]) - 7_200_000_000_000
        path.rename(path.with_name(f"{old_ns:020}-{path.name.partition('-')[2]}"))

    # -- what must hold ------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Once the receiver is back, each event was delivered once, in order, or was counted."""
        try:
            if hasattr(self, "processes"):
                self.check()
        finally:
            shutil.rmtree(self.directory)

    def check(self) -> None:
        """See `teardown`."""
        if not self.is_up:
            self.switch()
        self.server.script.clear()
        for which in (0, 1):
            self.wait()
            while self.processes[which].waiting:
                self.attempt(self.processes[which])
            self.die(which)
        for _ in range(LAST_TRIES):
            self.wait()
            self.processes[0].sink.flush()
        assert not self.files(), "something stays on disk"
        self.die(0)

        stored = self.server.stored_events
        delivered = {event["seq"] for event in stored}
        lost = set(self.accepted) - delivered
        assert len(stored) == len(delivered), "something came twice"
        for pid in {event["pid"] for event in stored}:
            own = [event["seq"] for event in stored if event["pid"] == pid]
            assert own == sorted(own), f"what process {pid} wrote came in another order"
        if not self.has_killed:
            counted = self.counted.total()
            assert len(lost) <= counted, f"{lost} are lost, and counted: {self.counted}"
            assert len(lost) == counted or self.has_unsaid, f"counted without being lost: {self.counted}"
            assert self.has_unsaid or not self.given_up & delivered
        elif not self.has_large:  # else a process may have made room, and have been killed before it said so
            assert lost <= self.spoiled | self.refused(), "lost silently"

    # -- what these need -----------------------------------------------------------------------------------------

    def prepare(self, process: Process, sizes: list[int]) -> Batch:
        """The next batch of a process, or the one that was not taken."""
        if process.waiting is None:
            process.batches += 1
            self.has_large |= LARGE in sizes
            events = [
                {"pid": process.pid, "seq": next(self.events), "noise": os.urandom(size).hex()[:size]} for size in sizes
            ]
            process.waiting = make_batch(*events, id=f"r-{process.pid}-{process.batches}")
        return process.waiting

    def attempt(self, process: Process) -> None:
        """Have the batch of a process written."""
        batch = process.waiting
        assert batch
        try:
            process.sink.write(batch)
        except SinkError as error:
            if error.retry:
                return
            self.given_up |= set(numbers(batch))
        else:
            self.accepted += numbers(batch)
        process.waiting = None

    def files(self) -> list[Path]:
        """What waits on disk."""
        return sorted(self.directory.glob("spool/*/*.gz"))

    def spoiled_file(self, number: int) -> Path | None:
        """One of the files, if there are any, whose batch may not be delivered any more.

        Which files there are depends on the clock, so neither rules nor what they draw may depend on that.
        """
        files = self.files()
        if not files:
            return None
        path = files[number % len(files)]
        with contextlib.suppress(EOFError, OSError, zlib.error):  # spoilt before
            self.spoiled |= {orjson.loads(line)["seq"] for line in gzip.decompress(path.read_bytes()).splitlines()}
        return path

    def refused(self) -> set[int]:
        """What the receiver has refused, which is kept in files."""
        paths = self.directory.glob("dead-letter/*.jsonl")
        return {orjson.loads(line)["seq"] for path in paths for line in path.read_bytes().splitlines()}


def numbers(batch: Batch) -> list[int]:
    """The numbers of the events of a batch."""
    return [event["seq"] for event in batch.events()]


@pytest.mark.timeout(1_200)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # generators of processes that are dead
def test_each_event_is_delivered_once_or_counted() -> None:
    """See the module: hypothesis looks for an order of things that loses an event, or has it come twice."""
    # fault S10, S11, S16, S19, S20, S21
    with running() as server:
        Delivery.server = server
        run_state_machine_as_test(
            Delivery, settings=settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None)
        )
