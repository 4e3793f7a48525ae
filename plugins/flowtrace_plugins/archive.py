"""The files that a file sink has put aside: ``path.1`` is the newest, ``path.2`` the one before, and so on.

Several processes may share a path. Who renames or deletes holds the lock ``path.lock``. Nobody writes to a file that
is put aside, as sinks write only to what stands at the path while they hold the lock on that file.

Compression goes on in slices while there is nothing to write. What a crash leaves is mended at the next start: at each
moment the events of a file are under one name, ``path.N`` or ``path.N.gz``.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterator

from flowtrace.errors import SinkError
from flowtrace.hooks import SinkContext
from flowtrace.typed import TYPE_CHECKING, Any, NamedTuple
from flowtrace_plugins.private import PrivateFile, exclusive, identity

if TYPE_CHECKING:
    from flowtrace_plugins.options import Rotate

MAX_KEPT = 1000

_LOOK_S = 60.0  # between two looks at the files put aside
_TURN_S = 0.05  # of compressing, then what has come in meanwhile is written
_SLICE_BYTES = 256 * 1024  # takes some 3 ms
_GZIP_LEVEL = 5
_GZIP_WINDOW = 31  # zlib's way to say: in a gzip envelope
_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, section 2.3.1; no JSON begins like this
_OVER = True  # where a slice yields None
_PUT_ASIDE = r"\.([1-9]\d{0,3})(\.gz)?"
_TEMPORARY = r"\.(\d+)\.gz\.tmp"  # numbered as the file system numbers the file it comes from


class Aside(NamedTuple):
    """A file that was put aside."""

    number: int
    suffix: str
    path: str
    status: os.stat_result


class Archive:
    """The files put aside beside the one at ``path``.

    Args:
        path: The absolute path of the file that is written to.
        options: How many there may be, how old, and how they are compressed.
        context: Whose user is warned.
        clock: The time of day, in nanoseconds.
    """

    def __init__(self, path: str, options: Rotate, context: SinkContext, *, clock: Callable[[], int]) -> None:
        self._path, self._lock_path = path, f"{path}.lock"
        self._options, self._context, self._clock = options, context, clock
        self._look_at = 0.0
        self._work: Generator[None, None, None] | None = None

    def put_aside(self, file: PrivateFile) -> None:
        """Rename ``path`` to ``path.1``, that to ``path.2`` and so on, unless ``file`` no longer stands at the path.

        Raises:
            OSError: that failed; no events are gone.
            SinkError: something else is at the path of the lock.
        """
        with exclusive(self._lock_path):
            if file.is_at(self._path):
                self._make_room()
                os.replace(self._path, f"{self._path}.1")
        self._look_at = 0.0

    def tend(self) -> None:
        """Delete and compress what is to be, for a moment; to be called again and again while nothing else is to do."""
        until = time.monotonic() + _TURN_S
        try:
            if not self._work and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + _LOOK_S
                self._delete_expired()
                self._work = self._compress_all() if self._options.compress == "gzip" else None
            while self._work:
                if next(self._work, _OVER):
                    self._work = None
                if time.monotonic() >= until:
                    break
        except (OSError, SinkError) as error:
            self._warn("delete old files of", error)

    def close(self) -> None:
        """Leave off compressing; the next start begins anew."""
        if self._work:
            self._work.close()

    def _make_room(self) -> None:
        """Rename the files from ``path.1`` to the first number that is free; where none is, the last one is deleted."""
        asides: dict[int, list[Aside]] = {}
        for aside in self._asides():
            asides.setdefault(aside.number, []).append(aside)
        keep = self._options.keep
        free = next((number for number in range(1, keep) if number not in asides), keep)
        for aside in asides.get(keep, []) if free == keep else []:
            os.unlink(aside.path)
        for number in range(free - 1, 0, -1):
            for aside in asides[number]:
                with contextlib.suppress(FileNotFoundError):
                    os.replace(aside.path, f"{self._path}.{number + 1}{aside.suffix}")

    def _delete_expired(self) -> None:
        """Delete what is too old or too many, and what a crash left half compressed."""
        if next(self._expired(), None):
            with exclusive(self._lock_path):
                for path in list(self._expired()):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)

    def _expired(self) -> Iterator[str]:
        asides = [aside for aside in self._asides() if stat.S_ISREG(aside.status.st_mode)]
        max_age_ns = self._options.max_age
        for aside in asides:
            is_old = max_age_ns is not None and self._clock() - aside.status.st_mtime_ns > max_age_ns
            if is_old or aside.number > self._options.keep:
                yield aside.path
        sources = {aside.status.st_ino for aside in asides}
        for match in self._names(_TEMPORARY):
            if int(match[1]) not in sources:
                yield self._path + match[0]

    def _compress_all(self) -> Generator[None, None, None]:
        """Compress what is not yet, the oldest first; yields after each slice."""
        for aside in sorted(self._asides(), reverse=True):
            if not aside.suffix and stat.S_ISREG(aside.status.st_mode):
                try:
                    yield from self._compress(aside)
                except FileNotFoundError:
                    continue  # another process has dealt with it
                except (OSError, SinkError) as error:
                    self._warn("compress old files of", error)

    def _compress(self, aside: Aside) -> Iterator[None]:
        """Compress one file, unless another process is at it; yields after each slice."""
        source = PrivateFile(aside.path, os.O_RDONLY, create=False)
        try:
            with source.locked() as held:
                if held:
                    yield from self._compress_locked(source)
        finally:
            source.close()

    def _compress_locked(self, source: PrivateFile) -> Iterator[None]:
        import zlib

        temporary = f"{self._path}.{source.identity[1]}.gz.tmp"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        target = PrivateFile(temporary, os.O_WRONLY | os.O_APPEND | os.O_EXCL)
        try:
            compressor, size = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW), 0
            while (status := source.status()) and (data := os.pread(source.fd, _SLICE_BYTES, size)):
                if data.startswith(_GZIP_MAGIC) and not size:
                    self._settle(source, None)  # a crash came between the two renames
                    return
                size += len(data)
                target.write_all(compressor.compress(data))
                yield
            if status and status.st_size == size:
                target.write_all(compressor.flush())
                os.utime(target.fd, ns=(status.st_atime_ns, status.st_mtime_ns))  # its age is that of the events
                os.fsync(target.fd)
                self._settle(source, temporary)
        finally:
            if target.is_at(temporary):
                os.unlink(temporary)
            target.close()

    def _settle(self, source: PrivateFile, temporary: str | None) -> None:
        """Let the compressed file take the place of its source, wherever that is by now, and then its own name."""
        with exclusive(self._lock_path):
            for aside in self._asides():
                if identity(aside.status) == source.identity and not os.path.lexists(f"{aside.path}.gz"):
                    if temporary:
                        os.replace(temporary, aside.path)
                    os.replace(aside.path, f"{aside.path}.gz")

    def _asides(self) -> Iterator[Aside]:
        """The files put aside, in no order."""
        for match in self._names(_PUT_ASIDE):
            number, path = int(match[1]), self._path + match[0]
            if number <= MAX_KEPT:
                with contextlib.suppress(FileNotFoundError):
                    yield Aside(number, match[2] or "", path, os.lstat(path))

    def _names(self, pattern: str) -> Iterator[re.Match[str]]:
        """What is behind the name of the file, of those in its directory that fit."""
        directory, name = os.path.split(self._path)
        for other in os.listdir(directory):
            if other.startswith(name) and (match := re.fullmatch(pattern, other[len(name) :])):
                yield match

    def _warn(self, attempt: str, error: Any) -> None:
        self._context.warn(f"cannot {attempt} {self._path}: {getattr(error, 'strerror', error)}")
