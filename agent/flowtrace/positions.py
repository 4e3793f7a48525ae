"""The table of positions of a code object (PEP 626, PEP 657, CPython's ``Objects/locations.md``), made anew."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from flowtrace.typed import TypeAlias

Position: TypeAlias = tuple[int | None, int | None, int | None, int | None]  # line, end line, column, end column

_DIGITS = [bytes([value]) for value in range(64)]
_LONG, _NO_COLUMNS, _NONE = 14, 13, 15  # kinds of entries
_MOST_UNITS = 8  # code units that one entry can cover


def encoded(positions: Iterable[Position], first_line: int) -> bytes:
    """The table that gives these positions, one for each code unit."""
    return bytes(itertools.chain.from_iterable(_entries(positions, first_line)))


def _entries(positions: Iterable[Position], line: int) -> Iterator[bytes]:
    for position, run in itertools.groupby(positions):
        units = len(list(run))
        while units:
            length = min(units, _MOST_UNITS)
            yield _entry(position, length, line)
            line = line if position[0] is None else position[0]
            units -= length


def _entry(position: Position, length: int, previous_line: int) -> bytes:
    line, end_line, column, end_column = position
    if line is None:
        return _head(_NONE, length)
    delta = _signed(line - previous_line)
    if end_line is None or column is None or end_column is None:
        return _head(_NO_COLUMNS, length) + delta
    return _head(_LONG, length) + delta + _number(end_line - line) + _number(column + 1) + _number(end_column + 1)


def _head(kind: int, length: int) -> bytes:
    return bytes([0x80 | kind << 3 | length - 1])


def _signed(value: int) -> bytes:
    return _number(-value << 1 | 1 if value < 0 else value << 1)


def _number(value: int) -> bytes:
    """Six bits a byte, the lowest first; 64 says that more follow."""
    if value < 64:
        return _DIGITS[value]
    digits = bytearray()
    while value >= 64:
        digits.append(64 | value & 63)
        value >>= 6
    digits.append(value)
    return bytes(digits)
