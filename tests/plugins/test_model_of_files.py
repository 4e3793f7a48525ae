"""The file sink as a state machine: processes write, rotate, fail, are killed and start again, while others rotate."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Iterator

import pytest
from harness import ENDURANCE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from flowtrace.config import Duration, Size
from flowtrace.testing import make_context
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.options import FileOptions, Rotate
from tests.faults.model import MAX_PROCESSES, DeliveryMachine, Process

DAY_NS = 86_400 * 10**9
EXAMPLES = 1_000 if ENDURANCE else 100


class FileMachine(DeliveryMachine):
    """Processes that write to one path."""

    def __init__(self) -> None:
        super().__init__()
        self.path = self.directory / "trace.jsonl"
        self.now_ns = time.time_ns()
        self.renamed = 0
        self._stamped: dict[int, int] = {}
        self._database = os.open(self.directory / "app.db", os.O_CREAT | os.O_RDWR)
        os.write(self._database, b"rows")

    def new_sink(self, process: Process) -> FileSink:
        """Every other one forces each batch to the disk."""
        rotate = Rotate(max_size=Size("1KiB"), every=Duration("1d"), keep=1000, compress="gzip")
        options = FileOptions(path="trace.jsonl", rotate=rotate, fsync="always" if process.number % 2 else "off")
        return FileSink(options, make_context(directory=self.directory), clock=lambda: self.now_ns)

    def containers(self) -> Iterator[bytes]:
        """The file, those put aside and those that others have made of it."""
        for path in self.directory.iterdir():
            if path.suffix not in (".lock", ".tmp", ".db"):
                content = path.read_bytes()
                yield gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content

    def after_each_call(self) -> None:
        """What was written now is as old as the clock of the model says."""
        for path in self.directory.iterdir():
            status = path.stat()
            if self._stamped.get(status.st_ino) != status.st_mtime_ns and path.suffix != ".gz":
                os.utime(path, ns=(self.now_ns, self.now_ns))
                self._stamped[status.st_ino] = path.stat().st_mtime_ns

    def teardown(self) -> None:
        """The program's file is as it was."""
        super().teardown()
        assert os.pread(self._database, 100, 0) == b"rows"
        os.close(self._database)

    @rule(days=st.integers(1, 3))
    def time_passes(self, days: int) -> None:
        """What was written so far is of the past."""
        self.now_ns += days * DAY_NS

    @precondition(lambda self: self.path.exists())
    @rule()
    def logrotate_renames(self) -> None:
        """Somebody else puts the file aside."""
        self.renamed += 1
        self.path.rename(self.directory / f"old-{self.renamed}")

    @precondition(lambda self: self.path.exists())
    @rule()
    def logrotate_copies_and_truncates(self) -> None:
        """Somebody else copies the file and empties it."""
        self.renamed += 1
        shutil.copy(self.path, self.directory / f"old-{self.renamed}")
        os.truncate(self.path, 0)

    @precondition(lambda self: self.running)
    @rule(who=st.integers(0, MAX_PROCESSES - 1), reuses=st.booleans())
    def program_closes_descriptors(self, who: int, *, reuses: bool) -> None:
        """The program closes the descriptor of the sink, and opens a file of its own under the same number."""
        process = self._chosen(who)
        assert isinstance(process.sink, FileSink)
        file = process.sink._file
        if file and file.status():
            os.close(file.fd)
            if reuses:
                os.dup2(self._database, file.fd)
            self._call(process, events=1)  # before another process of the model, which is none, gets the number


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that needs no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


FileMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_files_keep_what_they_took = FileMachine.TestCase
