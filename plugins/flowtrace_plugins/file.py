"""The file sink: appends JSON lines to a file of its own, which it rotates by size.

One write per batch, to a descriptor opened for appending, so that several processes may share a path. The file is
looked at before each write: somebody may have renamed or deleted it, and the program may have closed the descriptor
and opened a file of its own under the same number.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time

from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import SinkContext
from flowtrace_plugins.options import FileOptions
from flowtrace_plugins.private import exclusive, make_private_directory, open_private

_ROTATION_PAUSE_S = 60.0  # after a rotation that failed
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EINTR, errno.EAGAIN}


class FileSink:
    """Appends each batch to the file that its options name."""

    def __init__(self, options: FileOptions, context: SinkContext) -> None:
        path = options.resolved_path(service=context.service, pid=context.pid, run=context.run)
        self.path = os.path.join(context.directory, os.path.expanduser(path))
        self._context, self._rotate_options = context, options.rotate
        self._fsync_interval_s = options.fsync_interval_s()
        self._fd: int | None = None
        self._identity = (0, 0)
        self._unsynced = False
        self._synced_at, self._rotate_after = -math.inf, 0.0

    def open(self) -> None:
        """Open the file, make its directory if needed, and end a line that a crash left unfinished.

        Raises:
            SinkError: the path cannot be opened, or is not a regular file of this user's (no retry).
        """
        if self._fd is not None and self._is_ours(self._fd):
            return
        try:
            make_private_directory(os.path.dirname(self.path))
            self._fd = open_private(self.path, os.O_RDWR | os.O_APPEND)
            self._identity = _identity(os.fstat(self._fd))
            _end_last_line(self._fd)
        except OSError as error:
            self._release()
            raise SinkError(f"cannot open {self.path}: {error.strerror}") from error

    def write(self, batch: Batch) -> None:
        """Append the batch, as a whole or not at all.

        Raises:
            SinkError: the disk is full or failing (worth a retry), or the path is not ours (never).
        """
        fd = self._current()
        size = os.fstat(fd).st_size
        if size and size + len(batch.body) > self._rotate_options.max_size and time.monotonic() >= self._rotate_after:
            fd = self._rotate()
        self._append(fd, batch.body)
        self._unsynced = True
        self._sync_when_due()

    def flush(self) -> None:
        """Force what was written to the disk, if ``fsync`` says that it is time."""
        self._sync_when_due()

    def close(self, deadline: float) -> None:
        """Close the file; what ``fsync`` promised is kept first."""
        try:
            if self._fsync_interval_s is not None:
                self._sync()
        finally:
            self._release()

    def _current(self) -> int:
        """The descriptor of the file that stands at the path, reopened where that has become another."""
        if self._fd is not None and not (self._is_ours(self._fd) and self._is_in_place()):
            self._release()
        self.open()
        assert self._fd is not None
        return self._fd

    def _is_ours(self, fd: int) -> bool:
        try:
            return _identity(os.fstat(fd)) == self._identity
        except OSError:
            return False

    def _is_in_place(self) -> bool:
        try:
            return _identity(os.lstat(self.path)) == self._identity
        except OSError:
            return False

    def _release(self) -> None:
        """Close the descriptor, unless its number belongs to somebody else by now."""
        fd, self._fd = self._fd, None
        if fd is not None and self._is_ours(fd):
            os.close(fd)

    def _append(self, fd: int, body: bytes) -> None:
        rest = memoryview(body)
        try:
            while rest:
                rest = rest[os.write(fd, rest) :]
        except OSError as error:
            self._take_back(fd, len(body) - len(rest))
            if error.errno not in _NO_ROOM:
                self._abandon()
            raise SinkError(f"cannot write to {self.path}: {error.strerror}") from error

    def _take_back(self, fd: int, written: int) -> None:
        """Remove the part of a batch that was written, so that the retry neither tears nor repeats a line."""
        try:
            end = os.lseek(fd, 0, os.SEEK_CUR)
            if written and os.fstat(fd).st_size == end:
                os.ftruncate(fd, end - written)
            elif written:
                self._release()  # another process has written after us; reopening ends the torn line
        except OSError:
            self._release()

    def _rotate(self) -> int:
        """Put the file aside and begin a new one; where that fails, go on with the old one for a while."""
        try:
            self._put_aside()
        except OSError as error:
            self._rotate_after = time.monotonic() + _ROTATION_PAUSE_S
            self._context.warn(f"cannot rotate {self.path}: {error.strerror}; it grows beyond its max_size")
        else:
            if self._fsync_interval_s is not None:
                self._sync()
        return self._current()

    def _put_aside(self) -> None:
        """Rename ``path`` to ``path.1``, ``path.1`` to ``path.2`` and so on, unless another process just did."""
        with exclusive(f"{self.path}.lock"):
            if not self._is_in_place():
                return
            for number in range(self._rotate_options.keep - 1, 0, -1):
                if os.path.lexists(f"{self.path}.{number}"):
                    os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
            os.replace(self.path, f"{self.path}.1")

    def _sync_when_due(self) -> None:
        if self._fsync_interval_s is not None and time.monotonic() - self._synced_at >= self._fsync_interval_s:
            self._sync()

    def _sync(self) -> None:
        """Force the file to the disk.

        Raises:
            SinkError: that failed; the file is put aside, as a second fsync would hide the loss.
        """
        if not self._unsynced or self._fd is None or not self._is_ours(self._fd):
            return
        self._unsynced, self._synced_at = False, time.monotonic()
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._abandon()
            raise SinkError(f"cannot force {self.path} to the disk: {error.strerror}") from error

    def _abandon(self) -> None:
        """Trust this file no more: after EIO or a failed fsync the kernel may have dropped what was written."""
        with contextlib.suppress(OSError):  # reopening the same path is the next best
            self._put_aside()
        self._release()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _end_last_line(fd: int) -> None:
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")
