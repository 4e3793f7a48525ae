"""What `scale.py` has traced: methods that do nothing but be called, nested, fail or wait."""

from __future__ import annotations

import asyncio


class Targets:
    """Methods that take two scalars."""

    def leaf(self, number: int, text: str) -> None:
        """Does nothing."""

    async def step(self, number: int, text: str) -> None:
        """Lets the other tasks go first, once."""
        await asyncio.sleep(0)

    def descend(self, number: int, text: str) -> None:
        """Calls itself until so many calls are open."""
        if number > 1:
            self.descend(number - 1, text)

    def fall(self, number: int, text: str) -> None:
        """Calls itself until so many calls are open, and fails; the exception leaves them all."""
        if number == 1:
            raise LookupError(text)
        self.fall(number - 1, text)
