"""The http sink: posts batches to a server as newline-delimited JSON.

Without a spool, a try that fails is the lane's to repeat. With one, ``write`` returns once the batch is delivered or
on disk; what is on disk is delivered before anything newer, with the same ids, so the server can drop what it has.
"""

from __future__ import annotations

import os
import random
import time

import msgspec

from flowtrace.config import Size
from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import Batching, SinkContext
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.options import FileOptions, HttpOptions, Rotate
from flowtrace_plugins.receiver import Receiver, Refused, ServerFailed
from flowtrace_plugins.spool import DiskSpool

_DRAIN_S = 1.0  # then what waits in memory gets its turn to be put on disk
_BACKOFF_BASE_S, _BACKOFF_CAP_S = 0.5, 30.0
_POISON_TRIES = 10  # a batch that the server fails at this often is the cause, and holds up all behind it
_DEAD_LETTERS = Rotate(max_size=Size("16MiB"), keep=1)


class HttpSink:
    """Delivers each batch with one request, or several where the server asks for smaller ones."""

    def __init__(self, options: HttpOptions, context: SinkContext) -> None:
        self.batching = Batching(max_bytes=options.batch.max_size, max_wait_s=options.batch.max_wait.seconds)
        self._options, self._context = options, context
        self._receiver: Receiver | None = None
        self._spool = DiskSpool(options.spool, context) if options.spool else None
        self._dead_letters = _dead_letters(self._spool, context)
        self._parts = _Parts(Batch("", []))
        self._failures, self._not_before = 0, 0.0

    def open(self) -> None:
        """Prepare the connection and the spool; a spool that cannot be used is done without.

        Raises:
            SinkError: the proxy that the environment names cannot be used.
        """
        self._receiver = self._receiver or Receiver(self._options)
        try:
            if self._spool:
                self._spool.open()
        except (SinkError, OSError) as error:
            self._context.warn(f"going on without the spool: {error}")
            self._spool = None

    def write(self, batch: Batch) -> None:
        """Deliver a batch, or put it into the spool.

        Raises:
            SinkError: neither was possible now, or (``retry=False``) the server refused all of it.
        """
        if self._spool and not (self._may_try() and self._spool.is_empty()):
            self._spool.put(batch)
            self._drain(time.monotonic() + _DRAIN_S)
            return
        try:
            lost = self._send(batch, self._options.timeout.seconds)
        except SinkError as error:
            if not self._spool:
                raise
            self._back_off(error)
            self._spool.put(batch)
            return
        if lost and lost == len(batch):
            raise SinkError(self._parts.problem, retry=False)
        self._count(lost)

    def flush(self) -> None:
        """Try again to deliver what is in the spool, if it is time."""
        if self._spool and self._may_try() and not self._spool.is_empty():
            self._drain(time.monotonic() + _DRAIN_S)

    def close(self, deadline: float) -> None:
        """Use the time that is left for the spool; what stays in it, the next run delivers."""
        if self._spool and self._may_try() and not self._spool.is_empty():
            self._drain(deadline, is_last=True)
        self._dead_letters.close(deadline)
        if self._receiver:
            self._receiver.close()

    def _may_try(self) -> bool:
        return time.monotonic() >= self._not_before

    def _back_off(self, error: SinkError) -> None:
        self._context.warn(f"events wait on disk: {error}")
        ceiling = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(self._failures, 10))
        delay = random.uniform(0, ceiling) if error.retry_after_s is None else error.retry_after_s
        self._failures += 1
        self._not_before = time.monotonic() + delay

    def _drain(self, until: float, *, is_last: bool = False) -> None:
        """Deliver from the spool, oldest first, until it is empty, the time is over or the server is away again."""
        assert self._spool
        if not self._may_try():
            return
        try:
            with self._spool.lease() as held:
                for entry in self._spool.entries() if held else []:
                    left = until - time.monotonic()
                    if left <= 0:
                        return
                    timeout_s = self._options.timeout.seconds
                    if batch := self._spool.read(entry):
                        self._count(self._send(batch, min(left, timeout_s) if is_last else timeout_s))
                        self._spool.remove(entry)
        except SinkError as error:
            self._back_off(error)
        except OSError as error:
            self._context.warn(f"cannot read the spool {self._spool.directory}: {error.strerror}")

    def _send(self, batch: Batch, timeout_s: float) -> int:
        """Hand a batch to the server, in halves of halves where it is too large; goes on where a try broke off.

        Returns:
            How many of its events the server refused or rejected.
        """
        assert self._receiver, "write before open"
        if self._parts.id != batch.id or not self._parts.left:
            self._parts = _Parts(batch)
        parts = self._parts
        while parts.left:
            part = parts.left[-1]
            try:
                parts.lost += self._receiver.post(part, timeout_s=timeout_s)
                parts.left.pop()
            except Refused as refused:
                parts.left.pop()
                if refused.too_large and len(part) > 1:
                    parts.left += _halves(part)
                else:
                    self._set_aside(part, str(refused))
            except ServerFailed as failed:
                parts.failures += 1
                if parts.failures < _POISON_TRIES:
                    raise
                parts.left.pop()
                self._set_aside(part, f"{failed} {_POISON_TRIES} times")
        self._failures = 0
        return parts.lost

    def _set_aside(self, part: Batch, problem: str) -> None:
        """Keep what the server refused in a file, for a person to look at, and count it."""
        self._parts.lost += len(part)
        self._parts.problem = problem
        try:
            self._dead_letters.open()
            self._dead_letters.write(part)
            self._context.warn(f"{problem}; what it refuses is kept in {self._dead_letters.path}")
        except SinkError as error:
            self._context.warn(f"{problem}; what it refuses is lost: {error}")

    def _count(self, lost: int) -> None:
        if lost:
            self._context.lost("refused by the server", lost)


class _Parts:
    """How far a batch is delivered."""

    def __init__(self, batch: Batch) -> None:
        self.id = batch.id
        self.left = [batch] if batch.lines else []  # the next one last
        self.lost = 0
        self.failures = 0
        self.problem = "the server rejected all events"


def _halves(batch: Batch) -> list[Batch]:
    """Both halves under ids of their own, which are the same each time; the first one last."""
    middle = len(batch) // 2
    return [Batch(f"{batch.id}.1", batch.lines[middle:]), Batch(f"{batch.id}.0", batch.lines[:middle])]


def _dead_letters(spool: DiskSpool | None, context: SinkContext) -> FileSink:
    """A file beside the spool, shared by all processes and bounded."""
    parent = os.path.dirname(spool.directory) if spool else os.path.join(context.directory, ".flowtrace")
    place = msgspec.structs.replace(context, directory=os.path.join(parent, "dead-letter"))
    return FileSink(FileOptions(path="{service}.jsonl", rotate=_DEAD_LETTERS), place)
