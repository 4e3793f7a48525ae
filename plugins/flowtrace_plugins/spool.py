"""The spool of the http sink: batches that wait on disk, one gzip file each, for the server to come back.

A file's name is ``<time in ns>-<events>-<batch id>.ndjson.gz``, so the order of names is the order of time, and
``zcat`` shows what waits. A file appears under its name complete or not at all. Several processes may share the
directory; the one that has the lease delivers from it.

Two threads of a process use it at a time: one puts batches in while another takes them out.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import math
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote, unquote

from flowtrace.errors import SinkError
from flowtrace.hooks import SinkContext
from flowtrace.unpatched import _thread, time
from flowtrace_plugins.options import Spool
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.private import (
    PrivateFile,
    identity,
    make_private_directory,
    sync_directory,
)

_NAME = re.compile(r"(\d{20})-(\d+)-(.+)\.ndjson\.gz")
_PUT_ASIDE = re.compile(rf"{_NAME.pattern}\.corrupt")
_TEMPORARY = re.compile(rf"{_NAME.pattern}\.\d+\.tmp")
_RECOUNT_S = 30.0  # other processes add to the directory as well
_ABANDONED_S = 3600.0  # a temporary file as old as this is left from a crash
_OF_THE_FILE = {errno.EIO, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP}  # and not of the process or the system
_READ_BYTES = 1024 * 1024
_CANDIDATES = 1_000  # to make room next, remembered from one listing of the directory
BLIND_S = 10.0  # what cannot be seen for so long cannot be delivered either: what is new need not wait for it


class Entry(NamedTuple):
    """A batch that waits."""

    time_ns: int
    events: int
    id: str
    path: str


class Lease:
    """The lock that a file stands for; processes that die lose it, and those that fork keep it to themselves.

    The file is never removed: two processes could hold the lock then.

    Raises:
        OSError: the file cannot be opened.
        SinkError: there is something else at the path.
    """

    def __init__(self, path: str) -> None:
        self.file = PrivateFile(path, os.O_RDWR)
        _leases.add(self)
        self._lock = contextlib.ExitStack()
        try:
            self._is_locked = self._lock.enter_context(self.file.locked())
        except BaseException:
            self.release()
            raise

    @property
    def is_held(self) -> bool:
        """False where another has it, and from when the program closes the file, which it does not know."""
        return self._is_locked and self.file.status() is not None

    def release(self) -> None:
        """Let others have it."""
        self._lock.close()
        _leases.discard(self)
        self.file.close()


_leases: set[Lease] = set()


def _forget_the_parents() -> None:
    """In a forked child: its copy of a descriptor would keep the lock when the parent is gone."""
    while _leases:
        file = _leases.pop().file
        with contextlib.suppress(OSError):
            if identity(os.fstat(file.fd)) == file.identity:
                os.close(file.fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents)


class DiskSpool:
    """Batches in a directory, the oldest first, bounded in bytes and in age.

    Args:
        place: The name of the directory below the one that the options name: what is meant for one server must not
            go to another one.
        lost: Told of each batch that is dropped, as ``lost(batch id, reason, events)``, on either thread.
    """

    def __init__(self, options: Spool, place: str, context: SinkContext, lost: Callable[[str, str, int], None]) -> None:
        self._parent = os.path.join(context.directory, os.path.expanduser(options.dir))
        self.directory = os.path.join(self._parent, place)
        self._max_bytes, self._max_age_ns = int(options.max_size), int(options.max_age)
        self._context, self._lost = context, lost
        self._lock = _thread.allocate_lock()  # what is listed while a batch is put has it, or none later
        self._last_ns = 0
        self._bytes, self._counted_at = 0, 0.0
        self._oldest: collections.deque[Entry] = collections.deque()
        self._under_way = ""
        self._removed: set[str] = set()  # paths of what was delivered, and whose file could not be deleted so far
        self._blind_since = math.inf

    def open(self) -> None:
        """Make the directory.

        Raises:
            SinkError: others could read or change what is in it, or it cannot be made.
        """
        try:
            self._open()
        except OSError as error:
            raise SinkError(f"cannot use the spool {self.directory}: {error.strerror}", retry=False) from error

    def _open(self) -> None:
        make_private_directory(self.directory)
        for path in (self._parent, self.directory):
            status = os.stat(path)
            if sys.platform != "win32" and status.st_uid != os.geteuid():
                raise SinkError(f"{path} belongs to another user; choose another spool.dir", retry=False)
            if sys.platform != "win32" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise SinkError(f"others can write to {path}; chmod 700 it", retry=False)
        self._recount()

    def put(self, parcel: Parcel, *, durably: bool = True) -> Entry:
        """Store a batch; the oldest make room.

        Args:
            parcel: The batch.
            durably: False where it need not outlive a loss of power: that of the process it outlives in any case.

        Raises:
            SinkError: it cannot be stored, now or (larger than the spool) ever.
        """
        data = parcel.packed
        if len(data) > self._max_bytes:
            raise SinkError("the batch is larger than the spool; raise spool.max_size", retry=False)
        try:
            self._make_room(len(data))
            with self._lock:
                entry = self._new_entry(parcel)
                self._store(entry.path, data, durably=durably)
                self._bytes += len(data)
        except OSError as error:
            raise SinkError(f"cannot write to the spool {self.directory}: {error.strerror}") from error
        return entry

    def is_empty(self) -> bool:
        """True where nothing waits; does not list what does. What cannot be seen may wait, for `BLIND_S`."""
        try:
            with os.scandir(self.directory) as files:
                waits = any(_NAME.fullmatch(file.name) and file.path not in self._removed for file in files)
        except FileNotFoundError:
            waits = False
        except OSError:
            now = time.monotonic()
            self._blind_since = min(self._blind_since, now)
            return now - self._blind_since >= BLIND_S
        self._blind_since = math.inf
        return not waits

    def entries(self) -> list[Entry]:
        """What waits, oldest first; what is too old is dropped on the way.

        Of two that one process has put while the directory was read, the system may show the later one only: nothing
        later than what a first look has shown is taken from the second.

        Raises:
            OSError: the directory cannot be read.
        """
        return [entry for entry in self._files() if entry.path not in self._removed]

    def take(self, entry: Entry) -> Parcel | None:
        """The batch of an entry, which makes no room for others until it is removed or another one is taken.

        Returns:
            None where it is gone, or damaged: that file is put aside and its loss counted.

        Raises:
            SinkError: it cannot be read now.
        """
        self._under_way = entry.path
        try:
            return Parcel.unpacked(entry.id, _content(entry.path), events=entry.events)
        except FileNotFoundError:
            return None
        except (SinkError, OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno and error.errno not in _OF_THE_FILE:
                raise SinkError(f"cannot read the spool {self.directory}: {error.strerror}") from error
            self._put_aside(entry)
            return None

    def remove(self, entry: Entry) -> None:
        """Take out what was delivered; where its file cannot be deleted, it is out for this process all the same."""
        self._removed.add(entry.path)
        with contextlib.suppress(OSError):
            self._delete(entry.path)
        if self._under_way == entry.path:
            self._under_way = ""

    def tidy(self) -> None:
        """Try again to delete the files of what was delivered."""
        with contextlib.suppress(OSError):  # what is in the way of one is so of the next
            for path in [*self._removed]:
                self._delete(path)

    def lease(self) -> Lease | None:
        """The right to deliver what waits, to be released; None where somebody else has it.

        Raises:
            OSError: the directory cannot be used.
            SinkError: there is something else in the place of the lease.
        """
        lease = Lease(os.path.join(self.directory, ".lease"))
        if lease.is_held:
            return lease
        lease.release()
        return None

    def _new_entry(self, parcel: Parcel) -> Entry:
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        name = f"{self._last_ns:020}-{parcel.events}-{quote(parcel.id, safe='')}.ndjson.gz"
        return Entry(self._last_ns, parcel.events, parcel.id, os.path.join(self.directory, name))

    def _store(self, path: str, data: bytes, *, durably: bool) -> None:
        temporary = f"{path}.{self._context.pid}.tmp"
        try:
            try:
                self._write(temporary, data, durably=durably)
            except FileNotFoundError:  # somebody has cleaned up
                make_private_directory(self.directory)
                self._write(temporary, data, durably=durably)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if durably:
            with contextlib.suppress(OSError):  # it is there: were it not accepted now, it would be delivered twice
                sync_directory(self.directory)

    def _write(self, path: str, data: bytes, *, durably: bool) -> None:
        file = PrivateFile(path, os.O_WRONLY | os.O_TRUNC)
        try:
            file.write_all(data)
            if durably:
                os.fsync(file.fd)
        finally:
            file.close()

    def _make_room(self, size: int) -> None:
        """Drop the oldest, but for one that is being delivered.

        Raises:
            OSError: what would make room cannot be deleted.
        """
        if time.monotonic() - self._counted_at > _RECOUNT_S:
            self._recount()
        problem: OSError | None = None
        while self._bytes + size > self._max_bytes:
            if not self._oldest:
                if problem:  # a recount would give the same again, for ever
                    raise problem
                self._recount()
            if not self._oldest:
                return
            try:
                self._drop(self._oldest.popleft(), "spool full")
            except OSError as error:
                problem = error

    def _recount(self) -> None:
        entries = self._files()
        with self._lock:
            self._bytes, self._counted_at = sum(_size(entry.path) for entry in entries), time.monotonic()
        self._oldest = collections.deque(entry for entry in entries[:_CANDIDATES] if entry.path != self._under_way)

    def _drop(self, entry: Entry, reason: str) -> None:
        """Delete what waits and say so; what another process is delivering is counted as lost all the same.

        Raises:
            OSError: it cannot be deleted.
        """
        was_delivered = entry.path in self._removed
        if entry.path != self._under_way and self._delete(entry.path) and not was_delivered:
            self._lost(entry.id, reason, entry.events)

    def _delete(self, path: str) -> bool:
        """Delete a file; False where it was gone.

        Raises:
            OSError: that is not possible.
        """
        is_there = True
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            is_there = False
        else:
            with self._lock:
                self._bytes -= size
        self._removed.discard(path)
        return is_there

    def _put_aside(self, entry: Entry) -> None:
        with contextlib.suppress(OSError):
            os.replace(entry.path, f"{entry.path}.corrupt")
            self._lost(entry.id, "spool corrupt", entry.events)
            self._context.warn(f"a damaged file of the spool is put aside: {entry.path}.corrupt")

    def _files(self) -> list[Entry]:
        """See `entries`; with what was delivered and could not be deleted."""
        with self._lock:
            latest = max(self._listed(), default=None)
            found = sorted(entry for entry in self._listed() if entry <= latest) if latest else []
        expired = time.time_ns() - self._max_age_ns
        for entry in found:
            if entry.time_ns < expired:
                with contextlib.suppress(OSError):  # it is too old all the same
                    self._drop(entry, "spool expired")
        return [entry for entry in found if entry.time_ns >= expired]

    def _listed(self) -> list[Entry]:
        return [entry for name in os.listdir(self.directory) if (entry := self._entry(name))]

    def _entry(self, name: str) -> Entry | None:
        if match := _NAME.fullmatch(name):
            return Entry(int(match[1]), int(match[2]), unquote(match[3]), os.path.join(self.directory, name))
        if _TEMPORARY.fullmatch(name):
            self._remove_if_older(name, _ABANDONED_S)
        elif _PUT_ASIDE.fullmatch(name):
            self._remove_if_older(name, self._max_age_ns / 1e9)
        return None

    def _remove_if_older(self, name: str, age_s: float) -> None:
        path = os.path.join(self.directory, name)
        with contextlib.suppress(OSError):
            if time.time() - os.stat(path).st_mtime > age_s:
                os.unlink(path)


def _content(path: str) -> bytes:
    file = PrivateFile(path, os.O_RDONLY, create=False)
    try:
        parts = []
        while part := os.read(file.fd, _READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        file.close()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:  # another process has delivered it; what cannot be looked at takes room
        return 0
