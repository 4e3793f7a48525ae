"""One line of the call tree: styled pieces that are fitted to the width of the terminal and painted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from flowtrace_plugins.literal import ELLIPSIS, cells, clip, fit

Piece: TypeAlias = tuple[str, str]  # style and text

_SGR = {
    "plain": "",
    "quiet": "2",
    "name": "1",
    "slow": "33",
    "very slow": "1;33",
    "error": "31",
    "error name": "1;31",
    "warning": "33",
}
_LANE_SGR = ("36", "35", "34", "32", "96", "95", "94", "92")  # no red or yellow: those mean something
_NUMBER_AT_END = re.compile(r"(\d+)$")


class Line:
    """The pieces of a line; those that are flexible share what room there is, and the tail stays whole.

    Attributes:
        tail: The pieces at the end.
    """

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._flexible: list[int] = []
        self.tail: list[Piece] = []

    def put(self, style: str, text: str, *, flexible: bool = False) -> None:
        """Add a piece."""
        if flexible:
            self._flexible.append(len(self._pieces))
        self._pieces.append((style, text))

    def text_from(self, start: str) -> str:
        """What was put so far, without what stands before ``start``."""
        text = "".join(text for _, text in self._pieces)
        return text[text.find(start) :]

    def fitted(self, room: int) -> list[Piece]:
        """The pieces in at most ``room`` columns."""
        room -= sum(cells(text) for _, text in self.tail)
        pieces = list(self._pieces)
        if room < sum(cells(text) for _, text in pieces):
            texts = [pieces[index][1] for index in self._flexible]
            fixed = sum(cells(text) for _, text in pieces) - sum(map(cells, texts))
            for index, text in zip(self._flexible, fit(texts, room - fixed), strict=True):
                pieces[index] = (pieces[index][0], text)
        return [*_clipped(pieces, room), *self.tail]


def _clipped(pieces: list[Piece], room: int) -> Iterator[Piece]:
    for style, text in pieces:
        if room <= 0:
            return
        kept = clip(text, room)
        yield style, kept
        room = room - cells(kept) if kept == text else 0


def painted(pieces: Iterable[Piece], *, colour: bool) -> str:
    """The line as text, with ANSI colours or without."""
    if not colour:
        return "".join(text for _, text in pieces).rstrip() + "\n"
    return "".join(map(_paint, pieces)) + "\n"


def lane_style(lane: str) -> str:
    """The colour of a lane: neighbours such as Task-7 and Task-8 differ."""
    number = _NUMBER_AT_END.search(lane)
    return f"lane {int(number[1][-9:]) if number else sum(map(ord, lane))}"


def _paint(piece: Piece) -> str:
    style, text = piece
    sgr = _SGR[style] if style in _SGR else _LANE_SGR[int(style.split()[1]) % len(_LANE_SGR)]
    return f"\x1b[{sgr}m{text}\x1b[0m" if sgr and text.strip() else text


def duration(micros: int) -> str:
    """A time for people: ``4 µs``, ``1.2 ms``, ``25 ms``, ``1.2 s``, ``2 m 05 s``, ``3 h 12 m``."""
    if micros < 1000:
        return f"{micros} µs"
    for limit, scale, unit in ((1_000_000, 1000, "ms"), (60_000_000, 1_000_000, "s")):
        if micros < limit:
            value = micros / scale
            return f"{value:.1f} {unit}" if value < 9.95 else f"{min(round(value), limit // scale - 1)} {unit}"
    seconds = micros // 1_000_000
    if seconds < 3600:
        return f"{seconds // 60} m {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds // 60 % 60:02} m"


def clip_start(text: str, room: int) -> str:
    """The end of ``text``, where the number of a task stands, in at most ``room`` columns."""
    if cells(text) <= room:
        return text
    while cells(text) > room - 1:
        text = text[1:]
    return ELLIPSIS + text
