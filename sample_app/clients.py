"""A connected client, its outgoing queue, and how fast it may send."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


class MessageRate:
    """Allows a number of messages in any one second, by remembering when the last ones came."""

    def __init__(self, max_per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._recent: deque[float] = deque(maxlen=max_per_second)
        self._clock = clock

    def allows_one_more(self) -> bool:
        """Count a message, unless it is one too many."""
        now = self._clock()
        if len(self._recent) == self._recent.maxlen and now - self._recent[0] < 1.0:
            return False
        self._recent.append(now)
        return True


@dataclass(eq=False, kw_only=True)
class ConnectedClient:
    """One connection to one room: who it is, and the queue that its one writer task empties."""

    id: str
    room_id: str
    username: str
    rate: MessageRate
    outgoing: asyncio.Queue[str]
    writing: asyncio.Task[None]
    too_slow: bool = False
