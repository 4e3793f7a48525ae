"""The stdout sink while each write of its stream fails, once and for good: whole lines, and each of them once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins import stdout
from flowtrace_plugins.options import StdoutOptions
from flowtrace_plugins.stdout import StdoutSink
from tests.faults.syscalls import each_call

BATCHES, EVENTS, TRIES = 3, 30, 3  # a batch takes a pipe two writes
GONE = {errno.EPIPE, errno.EIO}  # the sink says that it is no use to try again
FAULTS: dict[str, dict[str, Any]] = {
    "is full for now": {"error": errno.EAGAIN},
    "is interrupted": {"error": errno.EINTR},
    "has no room once": {"error": errno.ENOSPC},
    "has no room": {"error": errno.ENOSPC, "lasting": True},
    "has room for a part": {"error": errno.ENOSPC, "lasting": True, "short": True},
    "takes a part": {"short": True},
    "is torn once": {"error": errno.EIO},
    "is torn": {"error": errno.EIO, "lasting": True, "short": True},
    "is not read once": {"error": errno.EPIPE},
    "is not read": {"error": errno.EPIPE, "lasting": True, "short": True},
}
LASTING = [fault for fault in FAULTS if FAULTS[fault].get("lasting")]
OF_NOTHING_LOST = [fault for fault in FAULTS if FAULTS[fault].get("error") not in GONE]


class Stream:
    """A file or a pipe in a directory, as the program's standard output, and a sink for it."""

    def __init__(self, directory: Path, kind: str, setattr: Callable[..., None]) -> None:
        path = directory / "stream"
        if kind == "pipe":
            os.mkfifo(path)
            self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            self._fd = os.open(path, os.O_WRONLY)
        else:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self._reader = os.open(path, os.O_RDONLY)
        setattr(stdout, "DESCRIPTORS", {"stdout": self._fd})
        self.sink = StdoutSink(StdoutOptions(), make_context())
        self.sink.open()
        self.taken: list[int] = []
        self.lost: list[int] = []

    def write(self, batch: Batch) -> None:
        """Write a batch as a lane does: so many tries, but one where that is no use."""
        for _ in range(TRIES):
            try:
                self.sink.write(batch)
            except SinkError as error:
                if not error.retry:
                    break
            else:
                self.taken += [event["seq"] for event in batch.events()]
                return
        self.lost += [event["seq"] for event in batch.events()]

    def end(self) -> bytes:
        """All that was written."""
        os.close(self._fd)
        text = b""
        while part := os.read(self._reader, 65536):
            text += part
        os.close(self._reader)
        return text


@pytest.fixture(params=["file", "pipe"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Stream]:
    """``stream(directory)`` makes one there."""
    return lambda directory: Stream(directory, request.param, monkeypatch.setattr)


def batches(first: int) -> Iterator[Batch]:
    """Some of them, with consecutive numbers."""
    for number in range(first, first + BATCHES):
        seqs = range(number * EVENTS, (number + 1) * EVENTS)
        yield make_batch(*({"seq": seq, "text": "x" * 180} for seq in seqs), id=f"r-1-{number}")


@pytest.mark.parametrize("fault", FAULTS)
def test_lines_are_whole_and_there_once(tmp_path: Path, stream: Callable[[Path], Stream], fault: str) -> None:
    """Whichever write fails: what was taken is there once, in order; of a batch given up, one line may be torn."""
    # fault S1, S2, S3, S4
    for calls in each_call(tmp_path, only=["write"], **FAULTS[fault]):
        written = stream(calls.directory)
        with calls:
            for batch in batches(0):
                written.write(batch)
        for batch in batches(BATCHES):
            written.write(batch)

        seqs, torn = read(written.end())
        assert seqs == sorted({*seqs}), calls
        assert [seq for seq in seqs if seq not in written.lost] == written.taken, calls
        assert sorted(written.taken + written.lost) == list(range(2 * BATCHES * EVENTS))
        assert torn <= len(written.lost) // EVENTS, calls


@pytest.mark.parametrize("fault", [fault for fault in OF_NOTHING_LOST if fault not in LASTING])
def test_fault_that_passes_costs_nothing(tmp_path: Path, stream: Callable[[Path], Stream], fault: str) -> None:
    """Where it is of use to try again, the second try goes on where the first one broke off."""  # fault S2, S3
    for calls in each_call(tmp_path, only=["write"], **FAULTS[fault]):
        written = stream(calls.directory)
        with calls:
            for batch in batches(0):
                written.write(batch)

        assert read(written.end()) == (list(range(BATCHES * EVENTS)), 0), calls


@pytest.mark.parametrize("fault", LASTING)
def test_stream_that_fails_for_good_is_left_alone(tmp_path: Path, stream: Callable[[Path], Stream], fault: str) -> None:
    """A batch costs no more writes than it has tries."""  # fault S1, S3
    for calls in each_call(tmp_path, only=["write"], **FAULTS[fault]):
        written = stream(calls.directory)
        with calls:
            for batch in batches(0):
                written.write(batch)

        most = TRIES if fault in OF_NOTHING_LOST else 1
        assert calls.failed <= BATCHES * most + 1, calls  # and the one that fell short
        assert not calls.reached or written.lost
        written.end()


def read(text: bytes) -> tuple[list[int], int]:
    """The numbers of the lines that are whole, and how many are not."""
    seqs, torn = [], 0
    for line in text.splitlines():
        try:
            seqs.append(orjson.loads(line)["seq"])
        except orjson.JSONDecodeError:
            torn += 1
    return seqs, torn
