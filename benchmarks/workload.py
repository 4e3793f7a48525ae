"""What the benchmarks call: hardly anything but the call itself.

Empty bodies have a ``return``, since Logfire leaves alone those that have none.
"""

from __future__ import annotations

from collections.abc import Iterator

from bystander import pause


class Empty:
    """Methods that do next to nothing, one of each kind that is traced in its own way."""

    def method(self, number: int, text: str) -> None:
        """Two scalar arguments."""
        return

    def mapping(self, values: dict[str, object]) -> None:
        """A dict."""
        return

    def model(self, order: object) -> None:
        """An object with fields."""
        return

    async def coroutine(self, number: int, text: str) -> None:
        """Suspended once."""
        await pause()

    def generator(self, number: int, text: str) -> Iterator[int]:
        """Yields ten numbers."""
        for index in range(10):  # noqa: UP028 - `yield from` would not come back to us between the numbers
            yield index

    def failing(self, number: int, text: str) -> None:
        """Raises."""
        raise ValueError("as it was told")

    def fib(self, number: int) -> int:
        """Calls itself, 21,890 times where the number is 20."""
        return number if number < 2 else self.fib(number - 1) + self.fib(number - 2)
