"""What the tests of a plugin need: a sink that remembers, batches from plain dictionaries, and a context."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from flowtrace import threads
from flowtrace.events import Batch
from flowtrace.hooks import SinkContext

__all__ = ["MemorySink", "make_batch", "make_context"]

_numbers = itertools.count(1)


class MemorySink:
    """A sink that keeps what it is given, and fails on demand.

    Args:
        failures: Raised by the next calls of ``write``, one each, before batches are taken again.

    Attributes:
        batches: The batches that were taken, in order.
        tries: The id of each batch ``write`` was called with, the failed ones included.
        calls: The names of the methods called, in order.
    """

    def __init__(self, *, failures: Iterable[BaseException] = ()) -> None:
        self.batches: list[Batch] = []
        self.tries: list[str] = []
        self.calls: list[str] = []
        self._failures = list(failures)

    @property
    def lines(self) -> list[bytes]:
        """The lines of all batches taken."""
        return [line for batch in self.batches for line in batch.lines]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all batches taken, decoded."""
        return [event for batch in self.batches for event in batch.events()]

    def open(self) -> None:
        """Notes the call."""
        self.calls.append("open")

    def write(self, batch: Batch) -> None:
        """Keeps the batch, or raises the next of the failures."""
        self.calls.append("write")
        self.tries.append(batch.id)
        if self._failures:
            raise self._failures.pop(0)
        self.batches.append(batch)

    def flush(self) -> None:
        """Notes the call."""
        self.calls.append("flush")

    def close(self, deadline: float) -> None:
        """Notes the call."""
        self.calls.append("close")


def make_batch(*events: Mapping[str, Any], id: str = "") -> Batch:
    """A batch of these events, as the agent would hand it to a sink: with an id of its own, unless one is given."""
    return Batch(id or f"00000000000000aa-1-{next(_numbers)}", [orjson.dumps(event) for event in events])


def make_context(
    *,
    directory: str | os.PathLike[str] = ".",
    service: str = "test",
    run: str = "00000000000000aa",
    pid: int | None = None,
    warnings: list[str] | None = None,
    losses: list[tuple[str, int]] | None = None,
) -> SinkContext:
    """A context to build a sink with.

    Args:
        directory: What relative paths are relative to.
        service: The name of the service.
        run: The id of the run.
        pid: The process id; this process's by default.
        warnings: Receives what the sink says by ``context.warn``.
        losses: Receives ``(reason, events)`` of each ``context.lost``.
    """
    warned: list[str] = [] if warnings is None else warnings
    lost: list[tuple[str, int]] = [] if losses is None else losses
    return SinkContext(
        service=service,
        run=run,
        pid=os.getpid() if pid is None else pid,
        directory=os.path.abspath(directory),
        warn=warned.append,
        lost=lambda reason, events: lost.append((reason, events)),
        start_thread=_start_thread,
    )


def _start_thread(function: Callable[[], None]) -> None:
    threads.start(function)
