"""What the agent itself says on stderr: one line per process about what is traced, and warnings, each once."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from flowtrace.patcher import Traced
from flowtrace.typed import TYPE_CHECKING, Any
from flowtrace.unpatched import select, time

if TYPE_CHECKING:
    from flowtrace.config import Started

SETTLED_S = 0.3  # so long no module was attached: then the line is written,
WARNED_S = 1.0  # after a fork, Python has warned of it
IMPORTING_S = 10.0  # or after so long, while the import of a target is under way


class Warnings:
    """Writes lines to stderr, redacted, each text once per process, past ``sys.stderr``, which is the program's.

    A program may close descriptor 2 and get its number for a file of its own, or put another stream in its place, as
    daemons do. These cannot be told apart, so neither gets a line: only what stderr was at the start.
    """

    def __init__(self, scrub: Callable[[str], str]) -> None:
        self._scrub = scrub
        self._stderr = _identity(2)
        self._said: set[tuple[int, str]] = set()

    def warn(self, text: str) -> None:
        """Say ``text``, unless this process has said it."""
        key = (os.getpid(), text)
        if key not in self._said and len(self._said) < 1_000:
            self._said.add(key)
            self.say(text)

    def say(self, text: str) -> None:
        """Say ``text``."""
        line = " ".join(self._scrub(text).split())
        line = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in line)
        with contextlib.suppress(OSError, ValueError):  # nobody listens
            # a pipe that nobody reads must hold nobody up
            if select.select([], [2], [], 0)[1] and _identity(2) == self._stderr:
                os.write(2, f"flowtrace: {line}\n".encode("utf-8", "backslashreplace")[-select.PIPE_BUF :])


def _identity(fd: int) -> tuple[int, int, int] | None:
    """What a descriptor stands for; None where it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_rdev


class ForkSilence:
    """From 3.12 on, Python warns of a fork where there are threads: this keeps it from warning of ours.

    A filter in front of the program's own, while the fork lasts; the filters' version stays, as in `instrument`.

    Args:
        own_threads: How many threads are the agent's.
    """

    def __init__(self, own_threads: Callable[[], int]) -> None:
        self._own_threads = own_threads
        self._filter: Any = ("ignore", self, DeprecationWarning, None, 0)
        self._over_at = -math.inf  # when the last fork was over; inf: one is under way

    def match(self, text: str) -> bool:
        """Asked by Python whether the filter is for a warning with this text."""
        if "is multi-threaded, use of " not in text:
            return False
        try:
            threads = len(os.listdir("/proc/self/task"))
        except OSError:
            return False  # elsewhere Python counts the threads of `threading`, which ours are not
        return threads == 1 + self._own_threads()

    def begin(self) -> None:
        """Before a fork."""
        import warnings  # not before the first fork: it takes 0.6 ms

        self._over_at = math.inf
        filters: Any = warnings.filters
        filters.insert(0, self._filter)

    def end_in_parent(self) -> None:
        """After it; from 3.13 on, Python warns a moment after the hooks, so the filter stays for as long."""
        self._over_at = time.monotonic()
        if sys.version_info < (3, 13):
            self.end()

    def end_when_due(self) -> None:
        """Called by the dispatcher on each of its turns."""
        if time.monotonic() - self._over_at > WARNED_S:
            self.end()

    def end(self) -> None:
        """Take the filter out, if it is there."""
        filters: Any = getattr(sys.modules.get("warnings"), "filters", ())
        while any(each is self._filter for each in filters):
            with contextlib.suppress(ValueError):  # another thread has reset them
                filters.remove(self._filter)


class Announcement:
    """Says once per process what is traced there: when imports have come to rest, or at the end.

    Args:
        resolved: Names the service and says whether to be quiet.
        sinks: Their names.
        modules: What is attached; grows.
        warnings: Through which to speak.
        is_importing: Whether more is about to be attached.
    """

    def __init__(
        self,
        resolved: Started,
        *,
        sinks: Sequence[str],
        modules: Mapping[str, Traced],
        warnings: Warnings,
        is_importing: Callable[[], bool],
    ) -> None:
        self._resolved, self._sinks, self._modules, self._warnings = resolved, sinks, modules, warnings
        self._is_importing = is_importing
        self._pid = os.getpid()
        self._seen = (0, time.monotonic())
        self._is_said = resolved.quiet

    def when_settled(self) -> None:
        """Called by the dispatcher on each of its turns."""
        count, since = self._seen
        now = time.monotonic()
        if len(self._modules) != count:
            self._seen = (len(self._modules), now)
        elif count and now - since >= (IMPORTING_S if self._is_importing() else SETTLED_S):
            self._say()

    def at_exit(self) -> None:
        """Say it now, if it has not been said; nothing from helper processes that imported no target."""
        if self._modules or self._pid == self._resolved.root_pid:
            self._say()

    def _say(self) -> None:
        if self._is_said:
            return
        self._is_said = True
        modules = [traced for traced in list(self._modules.values()) if traced.functions]
        functions = [function for traced in modules for function in traced.functions if function.how != "not traced"]
        left_out = sum(len(traced.functions) for traced in modules) - len(functions)
        counts = f"{plural(len(functions), 'function')} in {plural(len(modules), 'module')}"
        rest = f" ({left_out} cannot be)" if left_out else ""
        hint = "" if functions else "; no target was imported here"
        sinks = ", ".join(self._sinks) or "no sink"
        self._warnings.say(f"{self._resolved.config.service}, pid {self._pid}: {counts} traced{rest}, to {sinks}{hint}")


def plural(count: int, noun: str) -> str:
    """``1 module``, ``2 modules``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
