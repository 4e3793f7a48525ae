"""Files and directories that only this user can read, and a lock between processes."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator

from flowtrace.errors import SinkError

_SAFE_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def make_private_directory(path: str) -> None:
    """Make a directory and its missing parents, each for this user only."""
    if path and not os.path.isdir(path):
        make_private_directory(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)


def open_private(path: str, flags: int) -> int:
    """Open a file, made for this user only if missing, and return its descriptor.

    Raises:
        SinkError: there is something else at the path: a link, a device, somebody else's file. No retry.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(path, flags | os.O_CREAT | _SAFE_FLAGS, 0o600)
    except OSError as error:
        if os.path.islink(path):
            raise SinkError(f"{path} is a symbolic link; name the file itself", retry=False) from error
        raise
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and (sys.platform == "win32" or status.st_uid == os.geteuid()):
        return fd
    os.close(fd)
    problem = "belongs to another user" if stat.S_ISREG(status.st_mode) else "is not a regular file"
    raise SinkError(f"{path} {problem}; choose another path", retry=False)


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
    """
    if sys.platform == "win32":  # no flock; see CONTRIBUTING on what differs there
        yield True
        return
    import fcntl

    fd = open_private(path, os.O_RDWR)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            try:
                yield True
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough: a child forked meanwhile shares the lock
    finally:
        os.close(fd)
