"""Quantities: sizes and durations, written with a unit and counted in bytes and nanoseconds."""

from __future__ import annotations

import re
from typing import ClassVar, Self

from flowtrace.explanations import OptionError, shown

_MAX = 2**63 - 1
_QUANTITY = re.compile(r"([0-9]{1,19})(\.[0-9]{1,9})?\s*(\D+)")  # the unit is looked up


class Quantity(int):
    """An int that is written with a unit; `Size` and `Duration` are its kinds."""

    noun: ClassVar[str]
    example: ClassVar[str]
    units: ClassVar[dict[str, int]]

    def __new__(cls, value: str | int) -> Self:
        """Take a text with a unit, or a count of the smallest unit.

        Raises:
            ValueError: it is not such a text, negative or beyond 63 bits.
        """
        count = cls._parse(value) if isinstance(value, str) else value
        if not 0 <= count <= _MAX:
            raise ValueError(f"{value!r} is out of range; write a {cls.noun} such as {cls.example}")
        return super().__new__(cls, count)

    @classmethod
    def decode(cls, value: object) -> Self:
        """Read what stands in a config file: a text with a unit, or 0."""
        if isinstance(value, str) or (value == 0 and type(value) is int):
            return cls(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f"{value!r} has no unit; write a {cls.noun} such as {cls.example}")
        raise ValueError(f"expected a {cls.noun} such as {cls.example}, got {shown(value)}")

    @classmethod
    def _parse(cls, text: str) -> int:
        if text.strip() == "0":
            return 0
        match = _QUANTITY.fullmatch(text.strip())
        scale = cls.units.get(match[3]) if match else None
        if match is None or scale is None:
            units = ", ".join(cls.units)
            raise ValueError(
                f"{shown(text)} is not a {cls.noun}; write a number with a unit such as {cls.example} (units: {units})"
            )
        return int(match[1]) * scale + round(float(match[2] or 0) * scale)

    def __str__(self) -> str:
        """The shortest text that gives this quantity again."""
        texts = (f"{int(self) // scale}{unit}" for unit, scale in self.units.items() if int(self) % scale == 0)
        return min(texts, key=len)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class Size(Quantity):
    """A number of bytes, written as ``64MiB``."""

    noun = "size"
    example = "32MiB"
    units: ClassVar = {
        "B": 1,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "kB": 10**3,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
    }


class Duration(Quantity):
    """A number of nanoseconds, written as ``100ms``."""

    noun = "duration"
    example = "250ms"
    units: ClassVar = {
        "ns": 1,
        "us": 10**3,
        "µs": 10**3,  # U+00B5 MICRO SIGN
        "μs": 10**3,  # U+03BC GREEK SMALL LETTER MU
        "ms": 10**6,
        "s": 10**9,
        "m": 60 * 10**9,
        "h": 3600 * 10**9,
        "d": 86400 * 10**9,
    }

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self / 1e9


def check_range(options: object, **bounds: tuple[str, str]) -> None:
    """Hold quantities to bounds, in ``__post_init__``: ``check_range(self, timeout=("1ms", "1h"))``.

    Raises:
        OptionError: a field is below or above its two bounds, which are both allowed values.
    """
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if isinstance(value, Quantity) and not type(value)(low) <= value <= type(value)(high):
            raise OptionError(name, f"{value} is out of range; write a {value.noun} from {low} to {high}")
