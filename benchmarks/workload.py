"""What the benchmarks call: nothing but the call itself."""

from __future__ import annotations


class Empty:
    """A method that does nothing with two scalar arguments."""

    def method(self, number: int, text: str) -> None:
        """Does nothing."""
