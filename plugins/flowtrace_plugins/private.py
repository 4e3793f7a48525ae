"""Files and directories that only this user can read, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator

from flowtrace.errors import SinkError

if sys.platform != "win32":  # no flock there; see CONTRIBUTING on what differs
    import fcntl

LOCK_POLL_S = 0.001
LOCK_TRIES = 5_000  # a process that was stopped while it held a lock holds up the others no longer than this
SAFE_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_LOCK, _UNLOCK = (0, 0) if sys.platform == "win32" else (fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN)
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # some network file systems


def make_private_directory(path: str) -> None:
    """Make a directory and its missing parents, each for this user only."""
    if path and not os.path.isdir(path):
        make_private_directory(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)


def sync_directory(path: str) -> None:
    """Force the names in a directory to the disk: that of a new file is not, when the file is (fsync(2))."""
    if sys.platform != "win32":
        fd = os.open(path, os.O_RDONLY | SAFE_FLAGS)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def open_private(path: str, flags: int, *, create: bool = True) -> int:
    """Open a file, made for this user only if missing, and return its descriptor.

    Raises:
        SinkError: there is something else at the path: a link, a device, somebody else's file. No retry.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(path, flags | (os.O_CREAT if create else 0) | SAFE_FLAGS, 0o600)
    except OSError as error:
        if os.path.islink(path):
            raise SinkError(f"{path} is a symbolic link; name the file itself", retry=False) from error
        raise
    try:
        status = os.fstat(fd)
    except OSError:
        os.close(fd)
        raise
    if stat.S_ISREG(status.st_mode) and (sys.platform == "win32" or status.st_uid == os.geteuid()):
        return fd
    os.close(fd)
    problem = "belongs to another user" if stat.S_ISREG(status.st_mode) else "is not a regular file"
    raise SinkError(f"{path} {problem}; choose another path", retry=False)


class PrivateFile:
    """An open file of this user's that is looked at before each use.

    Programs close descriptors they do not know, as daemons do, and open files of their own under the same numbers;
    a forked child has copies of ours. Neither is touched: it is this file, opened as we opened it, by this process, or
    none.

    Args:
        path: The file, made if missing.
        flags: As ``os.open`` takes them.
        create: False to open it only if it is there.

    Attributes:
        fd: The descriptor.
        identity: The device and the number of the file, which no other has while this is open.

    Raises:
        SinkError: there is something else at the path.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, flags: int, *, create: bool = True) -> None:
        self.fd = open_private(path, flags, create=create)
        try:
            self.identity = identity(os.fstat(self.fd))
            self._pid, self._flags = os.getpid(), _flags(self.fd)
        except OSError:
            os.close(self.fd)
            raise

    def status(self) -> os.stat_result | None:
        """What the system knows of the file; None where the descriptor may be no longer this file's."""
        try:
            return self._status()
        except OSError:
            return None

    def _status(self) -> os.stat_result | None:
        if os.getpid() != self._pid or _flags(self.fd) != self._flags:
            return None
        status = os.fstat(self.fd)
        return status if identity(status) == self.identity else None

    def _is_open(self) -> bool:
        """Whether there is something to unlock or close: also where the disk fails, or we would keep out ourselves."""
        try:
            return self._status() is not None
        except OSError as error:
            return error.errno != errno.EBADF

    def is_at(self, path: str) -> bool:
        """Whether the descriptor is ours, and the file stands at ``path``."""
        try:
            return self.status() is not None and identity(os.lstat(path)) == self.identity
        except OSError:
            return False

    def write_all(self, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            OSError: that was not possible, or the descriptor is no longer ours (EBADF).
        """
        rest = memoryview(data)
        while rest:
            if not self.status():
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            rest = rest[os.write(self.fd, rest) :]

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Lock the file, unless another process has; yields whether it is. Where there are no locks, it always is.

        Raises:
            OSError: the system fails at it.
        """
        if not _lock(self.fd):
            yield False
            return
        try:
            yield True
        finally:
            if self._is_open():  # closing is not enough: a child forked meanwhile shares the lock
                try:
                    _flock(self.fd, _UNLOCK)
                except OSError:
                    self.close()  # rather than keep out all others

    def close(self) -> None:
        """Close the descriptor, unless its number belongs to somebody else by now."""
        if self._is_open():
            with contextlib.suppress(OSError):
                os.close(self.fd)


@contextlib.contextmanager
def exclusive(path: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock that a file stands for; processes that die release it.

    Args:
        path: The file, made if missing and never removed: removing it would let two processes hold the lock.
        wait: False to go on without it where another process holds it.

    Yields:
        True where the lock is held.

    Raises:
        OSError: the file cannot be opened.
        TimeoutError: another process holds it for `LOCK_TRIES` times `LOCK_POLL_S`.
        SinkError: there is something else at the path.
    """
    file = PrivateFile(path, os.O_RDWR)
    try:
        for _ in range(LOCK_TRIES if wait else 1):
            with file.locked() as held:
                if held or not wait:
                    yield held
                    return
            time.sleep(LOCK_POLL_S)
        raise TimeoutError(errno.ETIMEDOUT, f"another process holds {path}")
    finally:
        file.close()


def identity(status: os.stat_result) -> tuple[int, int]:
    """What tells a file from all others: its device and its number there."""
    return status.st_dev, status.st_ino


def _flags(fd: int) -> int:
    """How a descriptor was opened; a program that opens the same file does so otherwise."""
    return 0 if sys.platform == "win32" else fcntl.fcntl(fd, fcntl.F_GETFL)


def _lock(fd: int) -> bool:
    try:
        _flock(fd, _LOCK)
    except BlockingIOError:
        return False
    return True


def _flock(fd: int, operation: int) -> None:
    """Lock or unlock, where that is possible at all."""
    if sys.platform != "win32":
        try:
            fcntl.flock(fd, operation)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
