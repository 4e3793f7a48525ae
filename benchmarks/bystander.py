"""What is called as ``workload`` is, and is no target."""

from __future__ import annotations

import types
from collections.abc import Generator


class Bystander:
    """Has the method that no tracer is asked to trace."""

    def untouched(self, number: int, text: str) -> None:
        """Two scalar arguments."""


@types.coroutine
def pause() -> Generator[None]:
    """Suspends the coroutine that awaits it once, as ``asyncio.sleep(0)`` does."""
    yield
