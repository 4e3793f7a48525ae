"""Lanes whose turns a test takes by hand, and sinks that note what they took until their process dies.

With these, all of the agent that follows the queue runs on one thread, in an order that a test decides and can repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowtrace.events import Batch
from flowtrace.hooks import Sink
from flowtrace.lane import Lane


class Stepped(Lane):
    """A lane without a thread: it delivers when it is told to. Where it would wait, time passes at once."""

    def __init__(self, name: str, sink: Sink, *, wait: Callable[[], None], **options: Any) -> None:
        super().__init__(name, sink, **options)
        self._stopping: Any = Waits(wait)
        self._batching, self._is_known = getattr(sink, "batching", None), True

    def step(self) -> None:
        """Deliver what there is."""
        while self.waiting:
            self._is_hurried = True
            self._deliver(self._gather())

    def idle(self) -> None:
        """Nothing comes for a while."""
        self._flush()

    def tell_ending(self) -> None:
        """Tell the sink, on this thread."""
        ending = getattr(self.sink, "ending", None)
        if ending and not self._is_told:
            self._is_told = True
            ending(self._stop_at or 0.0)

    def wait_idle(self, deadline: float) -> bool:
        """Nobody else delivers."""
        self.step()
        return True

    def wait_ended(self, deadline: float) -> bool:
        """Nor closes the sink."""
        self.step()
        self._close()
        return True


class Waits:
    """A lock that nobody gives free; who waits for it lets time pass."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait

    def acquire(self, *, timeout: float) -> bool:
        """Wait in vain."""
        self._wait()
        return False

    def release(self) -> None:
        """The end has begun: nobody waits any more."""


class Watched:
    """A sink of a process that may be dead, and what it was given.

    Args:
        sink: The sink itself.
        live: Raises `Killed` where the process is dead: the sink does nothing more then.

    Attributes:
        taken: The numbers of the events that it took.
        unsure: Those of batches that it did not take, in the end: the process was killed, or the lane gave up.
        given_up: How many times that happened.
        refused: How many of those that it took are lost after all, by what it says.
    """

    def __init__(self, sink: Sink, live: Callable[[], None]) -> None:
        self.batching = getattr(sink, "batching", None)
        self.taken: set[int] = set()
        self.unsure: set[int] = set()
        self.given_up = self.refused = 0
        self.sink, self._live = sink, live
        self._pending: Batch | None = None

    def settle(self) -> None:
        """Nobody tries the batch again that was not taken."""
        if self._pending:
            self.unsure |= numbers(self._pending)
            self.given_up += 1
            self._pending = None

    def open(self) -> None:
        """Open it."""
        self._live()
        self.sink.open()

    def write(self, batch: Batch) -> None:
        """Write, and note what came of it."""
        self._live()
        if self._pending and self._pending.id != batch.id:
            self.settle()
        self._pending = batch
        self.sink.write(batch)
        self.taken |= numbers(batch)
        self._pending = None

    def flush(self) -> None:
        """Nothing comes for a while."""
        self._live()
        self.sink.flush()

    def ending(self, deadline: float) -> None:
        """The end begins."""
        self._live()
        ending = getattr(self.sink, "ending", None)
        if ending:
            ending(deadline)

    def close(self, deadline: float) -> None:
        """Close it."""
        self._live()
        self.sink.close(deadline)


def numbers(batch: Batch) -> set[int]:
    """The numbers of the events of a batch."""
    return {event["seq"] for event in batch.events()}
