"""What was lost, by reason, until a LOSS event says so."""

from __future__ import annotations

from flowtrace.typed import NamedTuple
from flowtrace.unpatched import _thread, time


class Loss(NamedTuple):
    """What was lost for one reason since it was last asked for. Times are monotonic nanoseconds.

    Attributes:
        is_repeated: Another LOSS event has said it, which this sink did not get.
    """

    reason: str
    calls: int
    events: int
    size: int
    since_ns: int
    until_ns: int
    is_repeated: bool = False


class Losses:
    """Counts losses by reason until they are reported.

    Two threads add (the lane's and the dispatcher's), one takes; a lock is fine: none of them is the program's.
    """

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._open: dict[tuple[str, bool], list[int]] = {}
        self._is_due = False
        self.events = 0

    def add(
        self,
        reason: str,
        events: int,
        *,
        calls: int = 0,
        size: int = 0,
        is_counted: bool = False,
        is_quiet: bool = False,
    ) -> None:
        """Count ``events`` events, ENTERs among them ``calls``, of ``size`` bytes.

        Args:
            reason: Why they were lost.
            events: How many.
            calls: How many of them are ENTERs.
            size: In bytes.
            is_counted: They are in the totals, but the report of them was lost.
            is_quiet: This alone is no reason for a LOSS event, which would be lost as well: it waits for another.
        """
        now = time.monotonic_ns()
        with self._lock:
            self.events += 0 if is_counted else events
            self._is_due |= not is_quiet
            entry = self._open.setdefault((reason, is_counted), [0, 0, 0, now, now])
            entry[:] = [entry[0] + calls, entry[1] + events, entry[2] + size, entry[3], now]

    def take(self, *, is_last: bool = False) -> list[Loss]:
        """What was added since the last call, if it is worth an event."""
        with self._lock:
            if not self._is_due and not is_last:
                return []
            taken, self._open, self._is_due = self._open, {}, False
        return [
            Loss(reason, calls, events, size, since, until, is_repeated=is_counted)
            for (reason, is_counted), (calls, events, size, since, until) in taken.items()
        ]
