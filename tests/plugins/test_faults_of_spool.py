"""The spool and what it is for, while each of their system calls fails, once and for good: all is stored or counted."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowtrace.config import decode
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins import http as http_module
from flowtrace_plugins.http import HttpSink
from flowtrace_plugins.options import HttpOptions, Spool
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.spool import DiskSpool
from tests.faults import chaos_server
from tests.faults.chaos_server import ChaosServer, answer
from tests.faults.model import take_descriptors
from tests.faults.syscalls import Killed, each_call, path_of

WAITING, DAMAGED = 4, 1  # batches, and the number of one whose file is damaged
KIB_64, SIZE = 65_536, 20_000  # of a spool, and of each batch where room is to be made: three have room
TRIES = 5
MOST_CALLS = 400  # of a few tries: one that goes on without end makes more
FAULTS: dict[str, dict[str, Any]] = {
    "fails once": {"error": errno.EIO},
    "fails": {"error": errno.EIO, "lasting": True},
    "is out of reach once": {"error": errno.ESTALE},
    "is read-only": {"error": errno.EROFS, "lasting": True},
    "may not be used": {"error": errno.EACCES, "lasting": True},
    "has no descriptor left": {"error": errno.EMFILE, "lasting": True},
    "is full": {"error": errno.ENOSPC, "lasting": True, "short": True},
}


@pytest.fixture(scope="module")
def listening() -> Iterator[ChaosServer]:
    """A server for all tests."""
    with chaos_server.running() as running:
        yield running


@pytest.fixture
def server(listening: ChaosServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChaosServer]:
    """It, answering 200 unless told otherwise; sinks try again at once, and the disk is fast."""
    monkeypatch.setattr(http_module, "_BACKOFF_BASE_S", 0.0)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    listening.always = answer(200)
    yield listening
    listening.always = answer(200)


def no_thread(function: Callable[[], None]) -> None:
    """What a context has where no thread can be started: all happens within the calls of the sink."""
    raise RuntimeError("can't start new thread")


class Opened:
    """A sink with a spool, that is open, and what it has said is lost."""

    def __init__(self, server: ChaosServer, directory: Path, *, pid: int = 1) -> None:
        self.directory = directory
        self.losses: list[tuple[str, int]] = []
        context = make_context(directory=directory, run="r", pid=pid, losses=self.losses)
        options = {"url": server.url, "timeout": "60s", "spool": {"dir": "spool", "max_size": "64KiB"}}
        self.sink = HttpSink(decode(options, HttpOptions), context._replace(start_thread=no_thread))
        self.sink.open()

    @property
    def lost(self) -> int:
        """How many events it has counted as lost."""
        return sum(events for _, events in self.losses)

    def write(self, number: int) -> bool:
        """Write a batch of one event; says whether the sink took it."""
        try:
            self.sink.write(make_batch({"seq": number}, id=f"r-1-{number}"))
        except SinkError as error:
            if not error.retry:
                raise
            return False
        return True

    def close(self) -> None:
        """Close the sink."""
        self.sink.close(time.monotonic() + 1)


def fill(server: ChaosServer, directory: Path) -> None:
    """Put batches of one event each into the spool that sinks in a directory have, and damage one."""
    server.requests.clear()
    server.stored.clear()
    spool = Opened(server, directory).sink._spool
    assert spool
    entries = [
        spool.put(Parcel.of(make_batch({"seq": number}, id=f"r-1-{number}")), durably=False)
        for number in range(WAITING)
    ]
    os.truncate(entries[DAMAGED].path, 7)


def stored(server: ChaosServer) -> list[int]:
    """The numbers of the events that the server has stored, in the order of their coming."""
    return [event["seq"] for event in server.stored_events]


def waiting(directory: Path) -> list[Path]:
    """The files of the spool."""
    return sorted(directory.glob("spool/*/*.gz"))


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_while_the_spool_is_drained(server: ChaosServer, tmp_path: Path, fault: str) -> None:
    """Each batch is sent once, or is counted once, whichever call fails; what fails for good leads to no storm."""
    # fault S4, S5, S19
    for calls in each_call(tmp_path, **FAULTS[fault]):
        fill(server, calls.directory)
        opened = Opened(server, calls.directory)
        with calls:
            flush(opened)
        assert len(calls.made) < MOST_CALLS, calls
        flush(opened)
        assert opened.write(WAITING)
        opened.close()
        later = Opened(server, calls.directory, pid=2)
        flush(later)
        later.close()

        sent = Counter(request.batch_id for request in server.requests)
        assert set(sent.values()) == {1}, f"{calls}: {sent}"
        assert stored(server) == sorted(stored(server)), calls
        assert DAMAGED not in stored(server)
        assert len(stored(server)) + opened.lost == WAITING + 1, f"{calls}: {stored(server)}, {opened.losses}"
        assert not waiting(calls.directory), calls
        assert later.losses == []


def test_killed_while_the_spool_is_drained(server: ChaosServer, tmp_path: Path) -> None:
    """Whichever call is the last one: the next process delivers the rest, and at most one batch a second time."""
    # fault P6, S16, S20
    for calls in each_call(tmp_path, error=Killed):
        fill(server, calls.directory)
        opened = Opened(server, calls.directory)
        with calls, contextlib.suppress(Killed):
            flush(opened)
        take_descriptors(calls.directory)
        later = Opened(server, calls.directory, pid=2)
        flush(later)
        later.close()

        assert stored(server) == [seq for seq in range(WAITING) if seq != DAMAGED], calls
        assert len(server.requests) <= WAITING, calls
        assert not waiting(calls.directory), calls
        assert opened.losses in ([], [("spool corrupt", 1)])


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_while_room_is_made(server: ChaosServer, tmp_path: Path, fault: str) -> None:
    """What was taken waits, or is counted as lost once; the bound holds; nothing goes round in circles."""
    # fault S3, S4, S5, S21
    for calls in each_call(tmp_path, **FAULTS[fault]):
        losses: list[str] = []
        spool = large_spool(calls.directory, losses)
        taken = [id for id in ("r-1-0", "r-1-1", "r-1-2") if put(spool, id)]
        with calls:
            taken += [id for id in ("r-1-3", "r-1-4", "r-1-5") if put(spool, id)]
        assert len(calls.made) < MOST_CALLS, calls
        taken += [id for id in ("r-1-6", "r-1-7") if put(spool, id)]

        ids = [entry.id for entry in spool.entries()]
        assert {"r-1-6", "r-1-7"} <= {*taken}, calls
        assert Counter(ids) + Counter(losses) == Counter(taken), calls
        assert ids == sorted(ids)
        assert sum(path.stat().st_size for path in waiting(calls.directory)) <= KIB_64, calls


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_while_the_lease_is_taken(tmp_path: Path, fault: str) -> None:
    """It is held or it is not: once the fault has passed it can be had, and no descriptor is left open."""
    # fault S4, S20, C4
    for calls in each_call(tmp_path, **FAULTS[fault]):
        spool = large_spool(calls.directory, [])
        with calls, contextlib.suppress(OSError, SinkError):
            first = spool.lease()
            assert first is None or first.is_held or calls.reached
            if first:
                first.release()

        second = spool.lease()
        assert second, calls
        assert second.is_held
        assert spool.lease() is None, "two have the lease"
        second.release()
        assert not open_below(calls.directory), calls


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_while_dead_letters_are_written(server: ChaosServer, tmp_path: Path, fault: str) -> None:
    """What the server refuses is counted once, and is in the file once or not at all; what follows is in it."""
    # fault S3, S4, S5, S11
    for calls in each_call(tmp_path, **FAULTS[fault]):
        server.always = answer(400)
        opened = Opened(server, calls.directory)
        began = len(server.requests)
        calls.directory /= "dead-letter"
        with calls:
            taken = [opened.write(number) for number in range(WAITING)]
        taken.append(opened.write(WAITING))
        opened.close()

        assert all(taken), calls
        assert opened.losses == [("refused by the server", 1)] * (WAITING + 1), calls
        assert len(server.requests) - began == WAITING + 1, calls
        letters = dead_letters(calls.directory)
        assert letters == sorted({*letters}), calls
        assert calls.reached or letters == list(range(WAITING + 1))
        assert WAITING in letters, calls


def flush(opened: Opened) -> None:
    """Have a sink look for what is in the spool, some times."""
    for _ in range(TRIES):
        opened.sink.flush()


def large_spool(directory: Path, losses: list[str]) -> DiskSpool:
    """A spool that is open, and says the ids of what it loses."""
    options = decode({"dir": "spool", "max_size": "64KiB"}, Spool)
    context = make_context(directory=directory)
    spool = DiskSpool(options, "server", context, lambda id, reason, events: losses.append(id))
    spool.open()
    return spool


def put(spool: DiskSpool, id: str) -> bool:
    """Put a large batch; says whether the spool took it."""
    parcel = Parcel.of(make_batch({"noise": os.urandom(SIZE * 9 // 10).hex()}, id=id))
    try:
        spool.put(parcel)
    except SinkError:
        return False
    return True


def open_below(directory: Path) -> list[str]:
    """The files below a directory that this process has open."""
    paths = [path_of(int(descriptor)) for descriptor in os.listdir("/dev/fd")]
    return [path for path in paths if path.startswith(os.path.join(os.path.realpath(directory), ""))]


def dead_letters(directory: Path) -> list[int]:
    """The numbers of the events that were set aside, of whole lines."""
    paths = sorted(directory.glob("*.jsonl*"), reverse=True)
    lines = [line for path in paths if path.suffix != ".lock" for line in path.read_bytes().splitlines()]
    return [orjson.loads(line)["seq"] for line in lines if line.endswith(b"}")]
