"""The file sink: appends JSON lines to a file of its own, which it puts aside when it is large or old.

One write per batch, to a descriptor opened for appending and under a lock, so that several processes may share a path.
The file is looked at before each write: somebody may have renamed or deleted it, and the program may have closed the
descriptor and opened a file of its own under the same number.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import time
from collections.abc import Callable, Iterator

from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import SinkContext
from flowtrace.typed import TYPE_CHECKING, NamedTuple
from flowtrace_plugins.archive import Archive
from flowtrace_plugins.private import LOCK_POLL_S, LOCK_TRIES, PrivateFile, make_private_directory, sync_directory

if TYPE_CHECKING:
    from flowtrace_plugins.options import FileOptions

_ROTATION_PAUSE_S = 60.0  # after a rotation that failed, and between files that are put aside because the disk fails
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EINTR, errno.EAGAIN}


class _Remains(NamedTuple):
    """What is in a file of a batch that failed, as it could not be taken back, and what of the batch is delivered.

    Attributes:
        id: The batch.
        identity: The file.
        start: Where in the file it begins.
        end: Where it ends.
        begin: The byte of the batch's body that it begins with.
        whole: The byte of the batch's body behind the last whole line of it.
    """

    id: str
    identity: tuple[int, int]
    start: int
    end: int
    begin: int
    whole: int


class FileSink:
    """Appends each batch to the file that its options name.

    Args:
        options: The path, and what becomes of the file.
        context: The process.
        clock: The time of day, in nanoseconds; not asked of the module ``time`` each time, where programs may fake it.
    """

    def __init__(self, options: FileOptions, context: SinkContext, *, clock: Callable[[], int] = time.time_ns) -> None:
        path = filled_in(options.path, service=context.service, pid=context.pid, run=context.run)
        self.path = os.path.join(context.directory, os.path.expanduser(path))
        self._context, self._rotate, self._clock = context, options.rotate, clock
        self._archive = Archive(self.path, options.rotate, context, clock=clock)
        self._fsync_interval_s = _fsync_interval_s(options.fsync)
        self._file: PrivateFile | None = None
        self._end = -1  # where the last line that we wrote ends; unknown after opening
        self._period = -1  # of `rotate.every`, in which we began a file
        self._remains: _Remains | None = None
        self._delivered_id = ""  # of the last batch, which may be tried again: what follows its write can fail as well
        self._unsynced, self._is_new = False, False
        self._synced_at, self._rotate_after, self._distrust_after = -math.inf, 0.0, 0.0

    def open(self) -> None:
        """Open the file, and make its directory if needed.

        Raises:
            SinkError: the path cannot be opened, or is not a regular file of this user's (no retry).
        """
        if self._file and self._file.status():
            return
        try:
            make_private_directory(os.path.dirname(self.path))
            self._file, self._end, self._is_new = PrivateFile(self.path, os.O_RDWR | os.O_APPEND), -1, True
        except OSError as error:
            raise SinkError(f"cannot open {self.path}: {error.strerror}") from error

    def write(self, batch: Batch) -> None:
        """Append the batch, as a whole or not at all.

        Where the disk fails at taking back a part that it took, the next try goes on with the lines that are missing.

        Raises:
            SinkError: the disk is full or failing (worth a retry), or the path is not ours (never).
        """
        self._rotate_when_due(len(batch.body))
        try:
            with self._held() as file:
                if batch.id != self._delivered_id:
                    self._append_or_distrust(file, batch)
        except OSError as error:
            self._release()
            raise SinkError(f"cannot write to {self.path}: {error.strerror}") from error
        self._sync_when_due()

    def flush(self) -> None:
        """Do what is due though nothing is written: force to the disk, put aside, compress, delete."""
        self._rotate_when_due(0)
        self._sync_when_due()
        self._archive.tend()

    def close(self, deadline: float) -> None:
        """Close the file; what ``fsync`` promised is kept first."""
        self._archive.close()
        self._release()

    @contextlib.contextmanager
    def _held(self) -> Iterator[PrivateFile]:
        """The file that stands at the path, opened if need be, and locked: nobody else writes to it or renames it.

        Raises:
            OSError: the lock cannot be had.
            SinkError: the file cannot be opened.
        """
        for _ in range(LOCK_TRIES):
            if self._file and not self._file.is_at(self.path):
                self._release()
            self.open()
            assert self._file
            with self._file.locked() as held:
                if held and self._file.is_at(self.path):
                    yield self._file
                    return
            time.sleep(LOCK_POLL_S)
        raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock")

    def _release(self) -> None:
        """Close the file, after what ``fsync`` promised of it."""
        if self._fsync_interval_s is not None:
            self._sync()
        file, self._file = self._file, None
        if file:
            file.close()

    # -- writing -------------------------------------------------------------------------------------------------

    def _append_or_distrust(self, file: PrivateFile, batch: Batch) -> None:
        try:
            self._append(file, batch)
        except OSError as error:
            status = file.status()
            if status and status.st_size and error.errno not in _NO_ROOM:
                self._distrust(file, is_full=error.errno == errno.EFBIG)
            elif error.errno == errno.EFBIG:
                raise SinkError(
                    f"{self.path} may not become as large as a batch: {error.strerror}", retry=False
                ) from error
            raise

    def _append(self, file: PrivateFile, batch: Batch) -> None:
        begin = self._resume(file, batch)
        start = os.fstat(file.fd).st_size
        is_torn = start not in (0, self._end) and os.pread(file.fd, 1, start - 1) != b"\n"  # by a crash, of any process
        data = b"\n" * is_torn + batch.body[begin:]
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(file.fd, rest) :]
            if self._fsync_interval_s == 0:
                self._force(file)
        except BaseException:
            written = len(data) - len(rest)
            whole = batch.body.rfind(b"\n", begin, max(begin, begin + written - is_torn)) + 1
            self._end = -1
            self._remains = _Remains(batch.id, file.identity, start, start + written, begin, whole or begin)
            with contextlib.suppress(OSError):
                self._resume(file, batch)
            raise
        self._delivered_id, self._remains = batch.id, None
        self._end, self._unsynced = start + len(data), self._fsync_interval_s != 0
        if not start and self._rotate.every:
            self._period = self._clock() // self._rotate.every

    def _resume(self, file: PrivateFile, batch: Batch) -> int:
        """The byte from which on the batch is still to be written, after what a failed try left is taken back.

        It stays where others have written behind it, or the file was put aside: its whole lines are delivered then.
        """
        if not (remains := self._remains):
            return 0
        begin, is_there = remains.whole, file.identity == remains.identity and remains.start < remains.end
        if is_there and os.fstat(file.fd).st_size == remains.end:
            os.ftruncate(file.fd, remains.start)
            begin = remains.begin
        if batch.id != remains.id:
            begin = 0
        self._remains = _Remains(batch.id, file.identity, remains.start, remains.start, begin, begin)
        return begin

    # -- putting aside -------------------------------------------------------------------------------------------

    def _rotate_when_due(self, added: int) -> None:
        """Put the file aside where it is time; where that fails, go on with it for a while."""
        if not (self._file and self._is_due(self._file, added)):
            return
        try:
            with self._held() as file:
                if self._is_due(file, added):
                    self._archive.put_aside(file)
        except (OSError, SinkError) as error:
            self._rotate_after = time.monotonic() + _ROTATION_PAUSE_S
            problem = getattr(error, "strerror", error)
            self._context.warn(f"cannot rotate {self.path}: {problem}; it grows beyond its max_size")
        else:
            self._release()

    def _is_due(self, file: PrivateFile, added: int) -> bool:
        status = file.status()
        if not (status and status.st_size) or time.monotonic() < self._rotate_after:
            return False
        is_large = status.st_size + added > self._rotate.max_size
        return (is_large or self._is_of_the_past(status)) and file.is_at(self.path)

    def _is_of_the_past(self, status: os.stat_result) -> bool:
        """Whether the file was last written to in an earlier period, and is not the one that we began in this."""
        every = self._rotate.every
        if not every:
            return False
        period = self._clock() // every
        return status.st_mtime_ns // every < period != self._period

    def _distrust(self, file: PrivateFile, *, is_full: bool = False) -> None:
        """Put aside a file that the disk failed at: the kernel may have dropped what was written.

        At most once a minute, or a disk that goes on failing would push out all old files.
        """
        now = time.monotonic()
        if is_full or now >= self._distrust_after:
            self._distrust_after = now + _ROTATION_PAUSE_S
            with contextlib.suppress(OSError, SinkError):  # reopening the same path is the next best
                self._archive.put_aside(file)

    # -- forcing to the disk -------------------------------------------------------------------------------------

    def _sync_when_due(self) -> None:
        if self._fsync_interval_s is not None and time.monotonic() - self._synced_at >= self._fsync_interval_s:
            self._sync()

    def _sync(self) -> None:
        """Force what was written to the disk.

        A failure is said, not raised: the batches are written, and a retry would write one of them again.
        """
        file, is_due, self._unsynced = self._file, self._unsynced, False
        if not (file and is_due):
            return
        try:
            self._force(file)
        except OSError as error:
            self._context.warn(
                f"cannot force {self.path} to the disk: {error.strerror}; what was written may not survive a power cut"
            )
            with contextlib.suppress(OSError, SinkError), self._held() as held:
                if held is file:
                    self._distrust(held)
            self._release()

    def _force(self, file: PrivateFile) -> None:
        """Force a file to the disk, and its name when it is new."""
        self._synced_at, self._unsynced = time.monotonic(), False
        if not file.status():
            return
        os.fsync(file.fd)
        if self._is_new:
            sync_directory(os.path.dirname(self.path))
            self._is_new = False


def filled_in(path: str, *, service: str, pid: int, run: str) -> str:
    """A path with its placeholders filled in; what the service's name adds stays one file name."""
    name = re.sub(r"[^\w.-]|^\.+", "_", service)
    return path.replace("{service}", name).replace("{pid}", str(pid)).replace("{run}", run)


def _fsync_interval_s(fsync: str) -> float | None:
    """How many seconds pass between two fsyncs at least; None for never."""
    if fsync in ("off", "always"):
        return 0.0 if fsync == "always" else None
    from flowtrace.config import Duration  # brings msgspec along, and is seldom needed

    return Duration(fsync).seconds
