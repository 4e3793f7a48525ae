"""The handover of a batch to the receiver, whatever that answers: in parts, again from where it broke off, or aside.

Used on one thread at a time.
"""

from __future__ import annotations

import math
import os

from flowtrace.config import Size
from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import SinkContext
from flowtrace.unpatched import time
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.options import FileOptions, HttpOptions, Rotate, Spool
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.receiver import Receiver, Refused, ServerFailed

_POISON_TRIES = 10  # a batch that the server fails at this often, and for this long, is the cause:
_POISON_S = 120.0  # it holds up all behind it; a server that fails at whatever comes should be back sooner
_DEAD_LETTERS = Rotate(max_size=Size("16MiB"), keep=1)


class Handover:
    """Hands batches over to the server of the options; what it refuses goes to a file."""

    def __init__(self, options: HttpOptions, context: SinkContext) -> None:
        self._options, self._context = options, context
        self._timeout_s = options.timeout / 1e9
        self._receiver: Receiver | None = None
        self._dead_letters = _dead_letters(options.spool, context)
        self._parts = _Parts(Parcel.of(Batch("", [])))

    def open(self) -> None:
        """Prepare the connection.

        Raises:
            SinkError: the proxy that the environment names cannot be used.
        """
        self._receiver = self._receiver or Receiver(self._options)

    def close(self, deadline: float) -> None:
        """Close the connection, and the file by ``deadline``."""
        self._dead_letters.close(deadline)
        if self._receiver:
            self._receiver.close()

    def unanswered(self, when: str) -> SinkError:
        """The error of a try whose time was over."""
        assert self._receiver, "write before open"
        return self._receiver.unanswered(when)

    def hand_over(self, parcel: Parcel) -> int:
        """Hand a batch to the server, in halves of halves where it is too large; goes on where a try broke off.

        Returns:
            How many of its events the server refused or rejected.

        Raises:
            SinkError: not all of it was handed over now.
        """
        assert self._receiver, "write before open"
        if self._parts.id != parcel.id or not self._parts.left:
            self._parts = _Parts(parcel)
        parts = self._parts
        while parts.left:
            part = parts.left[-1]
            try:
                parts.lost += self._receiver.post(part, timeout_s=self._timeout_s)
                parts.left.pop()
            except Refused as refused:
                parts.left.pop()
                if refused.too_large and part.events > 1:
                    parts.left += reversed(part.halves())
                else:
                    self._set_aside(part, str(refused))
            except ServerFailed as failed:
                if not parts.is_poison():
                    raise
                parts.left.pop()
                self._set_aside(part, f"{failed} {parts.failures} times")
        return parts.lost

    def _set_aside(self, part: Parcel, problem: str) -> None:
        """Keep what the server refused in a file, for a person to look at, and count it."""
        self._parts.lost += part.events
        try:
            self._dead_letters.open()
            self._dead_letters.write(part.batch)
            self._context.warn(f"{problem}; what it refuses is kept in {self._dead_letters.path}")
        except SinkError as error:
            self._context.warn(f"{problem}; what it refuses is lost: {error}")


class _Parts:
    """How far a batch is delivered."""

    def __init__(self, parcel: Parcel) -> None:
        self.id = parcel.id
        self.left = [parcel] if parcel.events else []  # the next one last
        self.lost = 0
        self.failures, self.failing_since = 0, math.inf

    def is_poison(self) -> bool:
        """Count a failure of the server; says whether there were enough of them, for long enough."""
        now = time.monotonic()
        self.failures += 1
        self.failing_since = min(self.failing_since, now)
        return self.failures >= _POISON_TRIES and now - self.failing_since >= _POISON_S


def _dead_letters(spool: Spool | None, context: SinkContext) -> FileSink:
    """A file beside the spool, shared by all processes and bounded."""
    parent = os.path.dirname(os.path.expanduser(spool.dir)) if spool else ".flowtrace"
    place = context._replace(directory=os.path.join(context.directory, parent, "dead-letter"))
    return FileSink(FileOptions(path="{service}.jsonl", rotate=_DEAD_LETTERS), place)
