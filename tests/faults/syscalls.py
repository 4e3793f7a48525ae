"""System calls that fail: the k-th call of an ``os`` function, once or from then on, and only for some files.

    for calls in each_call(tmp_path, error=errno.ENOSPC, lasting=True):
        sink = FileSink(path=calls.directory / "trace.jsonl")   # opened before the fault is in force
        with calls:
            ...                                                 # the k-th call for a file below calls.directory fails
        ...                                                     # the fault has passed

The loop runs once for k = 1, 2, 3, ... and ends after the first run that made fewer than k calls, so each call that
the code makes has failed once. Code under test has to say ``os.write(...)``: what a file object of ``io`` or a module
in C does by itself is out of reach.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

OF_PATHS = (
    "open", "stat", "lstat", "replace", "rename", "unlink", "remove", "mkdir", "rmdir", "listdir", "scandir", "utime",
    "truncate", "link", "chmod",
)  # fmt: skip
OF_DESCRIPTORS = (
    "write", "read", "pread", "pwrite", "lseek", "fstat", "fsync", "fdatasync", "ftruncate", "fchmod", "close",
)  # fmt: skip
WRITES = ("write", "pwrite")
CHANGES = (
    "open", "write", "pwrite", "fsync", "ftruncate", "replace", "rename", "unlink", "remove", "mkdir", "utime", "link",
)  # fmt: skip
ALL = (*OF_PATHS, *OF_DESCRIPTORS, "flock")
_INHERITED = object()


class Killed(BaseException):
    """The process is killed: each call fails from now on, and what is written stays as it is."""


class Faults:
    """Counts calls of some functions while it is entered, and makes one or more fail; a subclass says of which.

    Threads may make the calls.

    Args:
        at: Which call fails, counted from 1; None to count only.
        error: What it fails with: the number of an OSError, or the type of another exception, such as `Killed`.
        lasting: It and all calls after it fail, until the ``with`` block ends; else it alone. `Killed` lasts always.
        short: The call does half of what it should, if it can, instead of failing; so it is then the next call that
            fails where ``lasting`` is set.

    Attributes:
        made: The names of the functions called, in order.
        failed: How many calls failed or fell short.
    """

    def __init__(
        self, *, at: int | None = None, error: int | type[BaseException] = errno.EIO, lasting: bool = False,
        short: bool = False,
    ) -> None:  # fmt: skip
        self.made: list[str] = []
        self.failed = 0
        self._at, self._error, self._lasting, self._short = at, error, lasting or error is Killed, short
        self._lock = threading.Lock()
        self._originals: list[tuple[Any, str, Any]] = []

    def __repr__(self) -> str:
        return f"<{len(self.made)} calls, at call {self._at}: {self._error}, last: {self.made[-3:]}>"

    @property
    def reached(self) -> bool:
        """Whether there were so many calls that one of them failed."""
        return self.failed > 0

    def pass_over(self) -> None:
        """From now on nothing fails, though the ``with`` block goes on."""
        self._at = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._originals:
            owner, name, original = self._originals.pop()
            if original is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    def _watch(self, owner: Any, name: str, concerns: Callable[[tuple[Any, ...]], bool]) -> None:
        """Put a function in the place of ``owner.name``, that counts calls with arguments that are of concern."""
        original = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if not concerns(args):
                return original(*args, **options)
            with self._lock:
                self.made.append(name)
                number = len(self.made)
                fails = self._at is not None and (number >= self._at if self._lasting else number == self._at)
                self.failed += fails
            if not fails:
                return original(*args, **options)
            return self._failed(name, original, args, options, is_first=number == self._at)

        self._originals.append((owner, name, vars(owner).get(name, _INHERITED)))
        setattr(owner, name, call)

    def _failed(
        self, name: str, original: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], *, is_first: bool
    ) -> Any:
        """What a call that fails does."""
        raise self._problem()

    def _problem(self) -> BaseException:
        """What it fails with."""
        return OSError(self._error, os.strerror(self._error)) if isinstance(self._error, int) else self._error()


class Calls(Faults):
    """The `Faults` of ``os`` functions, for files below a directory.

    A descriptor is looked up at each call, so one that the code under test opened before is seen as well, and one that
    belongs to another file by now is not.

    Args:
        directory: Calls for files elsewhere are neither counted nor failed.
        only: The functions that count, of `ALL`.
        fault: As `Faults` takes it. Where the call is a write, ``short`` has it take half of the data.
    """

    def __init__(self, directory: Path, *, only: Collection[str] = ALL, **fault: Any) -> None:
        super().__init__(**fault)
        self.directory = directory
        self._only = only

    def __enter__(self) -> Self:
        prefixes = {os.path.abspath(self.directory), os.path.realpath(self.directory)}
        below = tuple(os.path.join(prefix, "") for prefix in prefixes)

        def concerns(args: tuple[Any, ...]) -> bool:
            return os.path.join(path_of(args[0] if args else "."), "").startswith(below)

        for name in self._only:
            self._watch(fcntl if name == "flock" else os, name, concerns)
        return self

    def _failed(
        self, name: str, original: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], *, is_first: bool
    ) -> Any:
        if name == "close":
            original(*args)  # Linux and macOS release the descriptor whatever close reports
        if self._short and is_first and name in WRITES and len(args[1]) > 1:
            taken = original(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
            if self._error is not Killed:
                return taken
        raise self._problem()


def each_call(directory: Path, **fault: Any) -> Iterator[Calls]:
    """One `Calls` after another with a new directory below ``directory`` each; the k-th makes its k-th call fail.

    Args:
        directory: Where the directories are made.
        fault: As `Calls` takes them, except ``at``.
    """
    for at in itertools.count(1):
        calls = Calls(directory / f"call-{at}", at=at, **fault)
        calls.directory.mkdir()
        yield calls
        if not calls.reached:
            return


def path_of(file: Any) -> str:
    """The absolute path of what a call is about; of a descriptor, where the system says so."""
    if not isinstance(file, int):
        return os.path.abspath(os.fsdecode(file))  # asks the system for nothing: this runs within each call
    try:
        if hasattr(fcntl, "F_GETPATH"):  # macOS
            return os.fsdecode(fcntl.fcntl(file, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
        return os.readlink(f"/proc/self/fd/{file}")
    except OSError:
        return ""
