"""The file sink behind its lane, while each of its system calls fails, once and for good."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from harness import ENDURANCE

from flowtrace import lane as lane_module
from flowtrace.config import Duration, Size
from flowtrace.events import STATEMENT, Batch
from flowtrace.lane import Chunk, Lane
from flowtrace.testing import make_context
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.options import FileOptions, Rotate
from tests.faults.syscalls import each_call

SOON_S = 20.0
BATCHES, EVENTS = 3, 3  # of 200 bytes each: every second batch, the file is put aside
ROTATION = Rotate(max_size=Size("1KiB"), keep=1000, every=Duration("1d"), max_age=Duration("1d"), compress="gzip")
FAULTS: dict[str, dict[str, Any]] = {
    "the disk fails once": {"error": errno.EIO},
    "the disk fails": {"error": errno.EIO, "lasting": True},
    "the disk is full": {"error": errno.ENOSPC, "lasting": True, "short": True},
    "a write falls short": {"short": True, "only": ["write"]},
}
FSYNC = ["always"]
if ENDURANCE:
    FSYNC += ["off", "1ns"]
    FAULTS |= {
        "the disk is full once": {"error": errno.ENOSPC},
        "the disk is full, to the line": {"error": errno.ENOSPC, "lasting": True},
        "the disk fails within a line": {"error": errno.EIO, "lasting": True, "short": True},
        "the disk is read-only": {"error": errno.EROFS, "lasting": True},
        "the disk is out of reach": {"error": errno.ESTALE, "lasting": True},
    }


class Delivery:
    """A lane that delivers numbered events to a file sink."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.warnings: dict[str, None] = {}
        context = make_context(directory=directory)._replace(warn=self._warn)
        self.sink = FileSink(FileOptions(path="trace.jsonl", **{"rotate": ROTATION} | options), context)
        self._numbers, self._batches = itertools.count(), itertools.count()
        self.lane = Lane(
            "file",
            self.sink,
            max_bytes=1 << 20,
            new_id=self._id,
            warn=self._warn,
            on_thread=lambda: None,
        )
        self.lane.start()

    def _warn(self, text: str) -> None:
        self.warnings[text] = None

    def _id(self) -> str:
        return f"run-1-{next(self._batches)}"

    def offer(self) -> None:
        """Hand a batch to the lane."""
        numbers = list(itertools.islice(self._numbers, EVENTS))
        lines = [orjson.dumps({"seq": number, "text": "x" * 180}) for number in numbers]
        records = [(STATEMENT, "EVENT", number, 0, 1, b"") for number in numbers]
        self.lane.offer(Chunk(Batch(self._id(), lines), records, 0))

    def settle(self, *, or_else: Callable[[], bool] = lambda: False) -> None:
        """Wait until the lane has nothing left to do, or something else is so."""
        deadline = time.monotonic() + SOON_S
        while self.lane.waiting and not or_else():
            assert time.monotonic() < deadline, f"{self.lane.waiting} events wait: {list(self.warnings)}"
            time.sleep(0.0005)

    def end(self) -> None:
        """Let the lane finish, at once where it cannot deliver."""
        deadline = time.monotonic() + (SOON_S if not self.lane.waiting else 0.01)
        self.lane.finish(deadline)
        assert self.lane.wait_ended(time.monotonic() + SOON_S)

    def texts(self) -> list[bytes]:
        """What is in the files, the oldest first."""
        asides = sorted(self.directory.glob("trace.jsonl.[0-9]*"), key=lambda p: -int(p.name.split(".")[2]))
        files = [path for path in [*asides, self.directory / "trace.jsonl"] if path.suffix != ".tmp" and path.exists()]
        contents = [path.read_bytes() for path in files]  # a name without .gz may be left from a process that ended
        return [gzip.decompress(each) if each.startswith(b"\x1f\x8b") else each for each in contents]

    def seqs(self) -> list[int]:
        """The events in the files, in order; each line has to be a whole one."""
        return [orjson.loads(line)["seq"] for text in self.texts() for line in text.splitlines()]

    def whole_seqs(self) -> list[int]:
        """Likewise, of files whose last lines may be torn."""
        return [orjson.loads(line)["seq"] for text in self.texts() for line in text.rpartition(b"\n")[0].splitlines()]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that try again at once, and a disk that is fast."""
    monkeypatch.setattr(lane_module, "BACKOFF_BASE_S", 0.0)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """``untouched(directory)`` puts files of the program there; in the end they are as they were."""
    contents: dict[int, bytes] = {}

    def make(directory: Path) -> None:
        fd = os.open(directory / "app.db", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"rows")
        contents[fd] = b"rows"

    yield make
    for fd, content in contents.items():
        assert os.pread(fd, 100, 0) == content
        os.close(fd)


@pytest.mark.parametrize("fsync", FSYNC)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_failing_call_costs_an_event(
    tmp_path: Path, untouched: Callable[[Path], None], fault: str, fsync: str
) -> None:
    """Whichever call fails, once or for a while: each event is in the files once, in order, on a whole line."""
    # fault S3, S4, S5, S6, S9
    for calls in each_call(tmp_path, **FAULTS[fault]):
        untouched(calls.directory)
        (calls.directory / "trace.jsonl").write_bytes(b'{"seq":-1}\n')
        delivery = Delivery(calls.directory, fsync=fsync)
        with calls:
            for _ in range(BATCHES):
                delivery.offer()
                delivery.settle(or_else=lambda calls=calls: calls.failed > 3)
        for _ in range(BATCHES):
            delivery.offer()
            delivery.settle()
        delivery.end()

        every = [-1, *range(2 * BATCHES * EVENTS)]
        assert delivery.seqs() == every, f"{calls}: {list(delivery.warnings)}"
        assert (delivery.lane.delivered, delivery.lane.losses.events) == (len(every) - 1, 0)
        assert list(calls.directory.glob("*.tmp")) == []


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if FAULTS[fault].get("lasting")])
def test_end_during_a_fault_is_counted(tmp_path: Path, untouched: Callable[[Path], None], fault: str) -> None:
    """A process that ends while the disk fails counts what is lost; what it says it delivered is there, once."""
    # fault S3, S4, S5
    for calls in each_call(tmp_path, **FAULTS[fault]):
        untouched(calls.directory)
        delivery = Delivery(calls.directory)
        with calls:
            for _ in range(BATCHES):
                delivery.offer()
                delivery.settle(or_else=lambda calls=calls: calls.failed > 3)
            delivery.end()

        lane = delivery.lane
        assert lane.delivered + lane.losses.events == BATCHES * EVENTS
        assert delivery.whole_seqs()[: lane.delivered] == list(range(lane.delivered)), (
            f"{calls}: {list(delivery.warnings)}"
        )
        assert len(set(delivery.whole_seqs())) == len(delivery.whole_seqs())
