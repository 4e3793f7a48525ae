"""Earlier resolutions: what a configuration came to is kept, as Python keeps bytecode, so that the next start is fast.

To read and check a configuration takes 50 ms, mostly to import what does it; to find that nothing has changed, one.
A resolution is kept in a file of its own, together with all that it depends on, and used where that is the same. What
may hold a secret is not kept: values of variables, ``--set``, and sinks that send headers somewhere. Nor is what came
from plugins that others have written. Whatever goes wrong, the configuration is read as if nothing were kept.
"""

from __future__ import annotations

import os
import stat
import sys
from _imp import source_hash  # which Python names the contents of source files by: to import hashlib takes 3 ms

from flowtrace import __version__
from flowtrace.cli.source import is_on
from flowtrace.entrypoints import BUILTIN, entry_points

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowtrace.cli.source import Source
    from flowtrace.config import Resolved

VARIABLE = "FLOWTRACE_CACHE"
MAX_KEPT = 64
MAX_BYTES = 2**22
HARMLESS_SINKS = {"stdout", "file"}
PACKAGES = ("flowtrace", "flowtrace/cli", "flowtrace_plugins")


class Resolutions:
    """Those of one user.

    Args:
        environ: Says where they are: in ``XDG_CACHE_HOME``, by default ``~/.cache``; ``FLOWTRACE_CACHE=0``: nowhere.

    Raises:
        ConfigError: ``FLOWTRACE_CACHE`` says neither on nor off.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        caches = environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(caches):  # the specification of XDG: such a path is to be ignored
            caches = os.path.join(environ.get("HOME", ""), ".cache")
        is_kept = is_on(VARIABLE, environ) and hasattr(os, "geteuid")
        self._folder = os.path.join(caches, "flowtrace") if is_kept and os.path.isabs(caches) else None

    def get(self, source: Source) -> str | None:
        """What a source came to, as `flowtrace.config.handed_on` gives it; None if that is not known."""
        if self._folder is None or not _may_be_kept(source):
            return None
        try:
            return self._read(self._folder, _key(source))
        except (OSError, ValueError):
            return None

    def keep(self, source: Source, resolved: Resolved, text: str) -> None:
        """Keep ``text``, what a source came to, unless it may hold a secret or others have a say in it."""
        is_harmless = not resolved.sets and {sink["type"] for sink in resolved.config.sinks} <= HARMLESS_SINKS
        if self._folder is None or not is_harmless or not _may_be_kept(source):
            return
        try:
            self._write(self._folder, _key(source), text)
        except (OSError, ValueError):
            return

    def _read(self, folder: str, key: bytes) -> str | None:
        if not _is_private(os.lstat(folder), stat.S_IFDIR):
            return None
        with open(_path(folder, key), "rb", opener=_without_following) as file:
            if not _is_private(os.fstat(file.fileno()), stat.S_IFREG):
                return None
            data = file.read(MAX_BYTES)
        return data[len(key) :].decode() if data.startswith(key) and data.endswith(b"}") else None

    def _write(self, folder: str, key: bytes, text: str) -> None:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        if not os.path.lexists(folder):
            os.mkdir(folder, 0o700)
        if not _is_private(os.lstat(folder), stat.S_IFDIR):
            return
        _make_room(folder)
        draft = f"{_path(folder, key)}.{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(key + text.encode())
            os.replace(draft, _path(folder, key))
        except BaseException:
            os.unlink(draft)
            raise


def _may_be_kept(source: Source) -> bool:
    """Whether a source is a file without variables, or none at all, and no plugin of others has a say."""
    is_plain = b"$" not in source.data and (source.name is None or source.is_regular)
    return is_plain and set(entry_points(sys.path)) <= {BUILTIN}


def _key(source: Source) -> bytes:
    """All that a resolution depends on, on one line."""
    said = (source.name, source.is_named, source.cwd, source.directory, source.data)
    return f"{(__version__, sys.version, sys.prefix, sys.path, *said, *_code())!r}\n".encode()


def _code() -> Iterator[tuple[str, int]]:
    """The files that flowtrace consists of, and when they were changed, in nanoseconds."""
    for folder in (os.path.join(entry, package) for entry in sys.path for package in PACKAGES):
        if os.path.isdir(folder):
            with os.scandir(folder) as files:
                yield from sorted((file.path, file.stat().st_mtime_ns) for file in files if file.name.endswith(".py"))


def _path(folder: str, key: bytes) -> str:
    return os.path.join(folder, f"{source_hash(0, key).hex()}.json")  # the key itself is in the file


def _make_room(folder: str) -> None:
    """Leave room for one more."""
    with os.scandir(folder) as files:
        oldest_last = sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in oldest_last[MAX_KEPT - 1 :]:
        os.unlink(file.path)


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_private(status: os.stat_result, kind: int) -> bool:
    """Whether nobody else can have written it."""
    is_own = status.st_uid == os.geteuid() == os.getuid() and stat.S_IFMT(status.st_mode) == kind
    return is_own and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
