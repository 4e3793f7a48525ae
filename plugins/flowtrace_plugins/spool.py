"""The spool of the http sink: batches that wait on disk, one gzip file each, for the server to come back.

A file's name is ``<time in ns>-<events>-<batch id>.ndjson.gz``, so the order of names is the order of time, and
``zcat`` shows what waits. A file appears under its name complete or not at all. Several processes may share the
directory; one at a time drains it.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import stat
import sys
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote, unquote

from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import SinkContext
from flowtrace_plugins.options import Spool
from flowtrace_plugins.private import exclusive, make_private_directory, open_private

_NAME = re.compile(r"(\d{20})-(\d+)-(.+)\.ndjson\.gz")
_TEMPORARY = re.compile(rf"{_NAME.pattern}\.\d+\.tmp")
_GZIP_LEVEL = 5
_RECOUNT_S = 30.0  # other processes add to the directory as well
_ABANDONED_S = 3600.0  # a temporary file as old as this is left from a crash


class Entry(NamedTuple):
    """A batch that waits."""

    time_ns: int
    events: int
    id: str
    path: str


class DiskSpool:
    """Batches in a directory, the oldest first, bounded in bytes and in age."""

    def __init__(self, options: Spool, context: SinkContext) -> None:
        self.directory = os.path.join(context.directory, os.path.expanduser(options.dir))
        self._max_bytes, self._max_age_ns = int(options.max_size), int(options.max_age)
        self._context = context
        self._last_ns = 0
        self._bytes, self._counted_at = 0, 0.0

    def open(self) -> None:
        """Make the directory.

        Raises:
            SinkError: others could read or change what is in it.
            OSError: it cannot be made.
        """
        make_private_directory(self.directory)
        status = os.stat(self.directory)
        if sys.platform != "win32" and status.st_uid != os.geteuid():
            raise SinkError(f"{self.directory} belongs to another user; choose another spool.dir", retry=False)
        if sys.platform != "win32" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SinkError(f"others can write to {self.directory}; chmod 700 it", retry=False)
        self._recount()

    def put(self, batch: Batch) -> None:
        """Store a batch durably; the oldest make room.

        Raises:
            SinkError: it cannot be stored, now or (larger than the spool) ever.
        """
        data = gzip.compress(batch.body, _GZIP_LEVEL, mtime=0)
        if len(data) > self._max_bytes:
            raise SinkError("the batch is larger than the spool; raise spool.max_size", retry=False)
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        name = f"{self._last_ns:020}-{len(batch)}-{quote(batch.id, safe='')}.ndjson.gz"
        try:
            self._make_room(len(data))
            self._store(os.path.join(self.directory, name), data)
        except OSError as error:
            raise SinkError(f"cannot write to the spool {self.directory}: {error.strerror}") from error
        self._bytes += len(data)

    def is_empty(self) -> bool:
        """True where nothing waits."""
        try:
            with os.scandir(self.directory) as files:
                return not any(_NAME.fullmatch(file.name) for file in files)
        except OSError:
            return True

    def entries(self) -> list[Entry]:
        """What waits, oldest first; what is too old is dropped on the way."""
        found = sorted(filter(None, map(self._entry, self._names())))
        expired = time.time_ns() - self._max_age_ns
        for entry in found:
            if entry.time_ns < expired:
                self._drop(entry, "spool expired")
        return [entry for entry in found if entry.time_ns >= expired]

    def read(self, entry: Entry) -> Batch | None:
        """The batch of an entry; None where it is gone, or damaged: that file is put aside and its loss counted."""
        try:
            fd = os.open(entry.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with open(fd, "rb") as file:
                lines = gzip.decompress(file.read()).splitlines()
            if len(lines) != entry.events:
                raise EOFError
        except FileNotFoundError:
            return None
        except (OSError, EOFError, zlib.error):
            with contextlib.suppress(OSError):
                os.replace(entry.path, f"{entry.path}.corrupt")
                self._context.lost("spool corrupt", entry.events)
                self._context.warn(f"a damaged file of the spool is put aside: {entry.path}.corrupt")
            return None
        return Batch(entry.id, lines)

    def remove(self, entry: Entry) -> bool:
        """Take an entry out; False where it was gone."""
        try:
            os.unlink(entry.path)
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def lease(self) -> Iterator[bool]:
        """Hold the right to drain, unless another process does; yields whether it is held."""
        with exclusive(os.path.join(self.directory, ".lease"), wait=False) as held:
            yield held

    def _store(self, path: str, data: bytes) -> None:
        temporary = f"{path}.{self._context.pid}.tmp"
        fd = open_private(temporary, os.O_WRONLY | os.O_TRUNC)
        try:
            with open(fd, "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(fd)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _make_room(self, size: int) -> None:
        if self._bytes + size <= self._max_bytes and time.monotonic() - self._counted_at < _RECOUNT_S:
            return
        entries = self._recount()
        while entries and self._bytes + size > self._max_bytes:
            entry = entries.pop(0)
            self._bytes -= _size(entry.path)
            self._drop(entry, "spool full")

    def _recount(self) -> list[Entry]:
        entries = self.entries()
        self._bytes, self._counted_at = sum(_size(entry.path) for entry in entries), time.monotonic()
        return entries

    def _drop(self, entry: Entry, reason: str) -> None:
        if self.remove(entry):
            self._context.lost(reason, entry.events)

    def _names(self) -> list[str]:
        names = os.listdir(self.directory)
        for name in names:
            if _TEMPORARY.fullmatch(name):
                self._remove_if_abandoned(os.path.join(self.directory, name))
        return names

    def _remove_if_abandoned(self, path: str) -> None:
        with contextlib.suppress(OSError):
            if time.time() - os.stat(path).st_mtime > _ABANDONED_S:
                os.unlink(path)

    def _entry(self, name: str) -> Entry | None:
        match = _NAME.fullmatch(name)
        return match and Entry(int(match[1]), int(match[2]), unquote(match[3]), os.path.join(self.directory, name))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
