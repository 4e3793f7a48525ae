"""JSON text of plain data, in as many bytes as there are: what comes first is kept, what is left out is counted.

Plain data are exact dict, list, str, int, float, bool and None, and the two kinds of text below, which know what was
left out before.
"""

from __future__ import annotations

import re

from flowtrace.late import orjson
from flowtrace.patterns import late
from flowtrace.typed import Any


class Rest(str):
    """In place of the last elements: how many are missing, which changes when more have to go."""

    __slots__ = ("missing", "template")

    missing: int
    template: str

    def __new__(cls, missing: int, template: str) -> Rest:
        """The text that the template gives for this number."""
        made = super().__new__(cls, template.format(missing))
        made.missing, made.template = missing, template
        return made


class Cut(str):
    """The first characters of a text, or of the literal of bytes, and how much is missing of how much."""

    __slots__ = ("kept", "size", "unit")

    kept: str
    size: int
    unit: str

    def __new__(cls, kept: str, size: int, missing: int, unit: str) -> Cut:
        """What is kept, with a mark where something is missing."""
        made = super().__new__(cls, f"{kept}… [+{missing} {unit}]" if missing else kept)
        made.kept, made.size, made.unit = kept, size, unit
        return made


def dumps(plain: object) -> bytes:
    """JSON as one line of UTF-8, whatever its reader takes for the end of a line, and harmless on a terminal."""
    try:
        text = orjson.dumps(plain)
    except TypeError:  # the only reason with plain data: a lone surrogate, which UTF-8 cannot hold
        text = orjson.dumps(_without_surrogates(plain))
    if not text.isascii() and not text.replace(_ELLIPSIS, b"").isascii():  # most often it is our own mark of a cut
        text = _UNSAFE.sub(_escaped, text)
    return b"%b" % text  # 50 ns for a copy: orjson gives 4 KiB of memory to what has 20 bytes, and this is to wait


_ELLIPSIS = "…".encode()

# Controls that terminals obey (C1), line ends, and marks that turn the direction of what follows.
_UNSAFE = late(rb"\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def _without_surrogates(plain: Any) -> Any:
    if isinstance(plain, str):
        return plain.encode("utf-8", "backslashreplace").decode()
    if type(plain) is list:
        return [_without_surrogates(item) for item in plain]
    if type(plain) is dict:
        return {_without_surrogates(key): _without_surrogates(item) for key, item in plain.items()}
    return plain


def fit(plain: Any, room: int) -> bytes:
    """JSON of plain data in at most ``room`` bytes: what comes first is kept, what was left out is counted.

    Below 5 bytes, which a text of one ellipsis needs, only ``{}`` or ``0`` fits.
    """
    text = dumps(plain)
    if len(text) <= room:
        return text
    if room < 5:
        return b"{}" if room >= 2 else b"0"
    if type(plain) is dict:
        members = [(dumps(key) + b":", item) for key, item in plain.items()]
        return b"{%b}" % b",".join(_fit_members(members, room, dumps(_free_key(plain)) + b":", "{} more"))
    if type(plain) is list:
        return b"[%b]" % b",".join(_fit_members([(b"", item) for item in plain], room, b"", "… {} more"))
    return _fit_text(plain, room) if isinstance(plain, str) else dumps("…")


def _free_key(plain: dict[str, object]) -> str:
    """For the count of what is missing; it replaces the one that there is."""
    last = next(reversed(plain), "")
    return last if type(plain.get(last)) is Rest else unused("…", plain)


def _fit_text(text: str, room: int) -> bytes:
    """The beginning of a text and how long it was."""
    kept, size, unit = (text.kept, text.size, text.unit) if type(text) is Cut else (text, len(text), "chars")
    for ending in (f"… [of {size} {unit}]", "…"):
        while True:
            if len(shown := dumps(kept + ending)) <= room:
                return shown
            if len(kept) <= 8:
                break
            kept = kept[: len(kept) * 3 // 4]
    return dumps("…")


def _fit_members(members: list[tuple[bytes, Any]], room: int, note_key: bytes, template: str) -> list[bytes]:
    """As many members as fit between two brackets, the last one shortened, and how many do not."""
    pieces: list[bytes] = []
    left = room - 2
    missing = len(members)
    if missing and type(members[-1][1]) is Rest:
        rest = members.pop()[1]
        missing, template = missing - 1 + rest.missing, rest.template
    for key, item in members:
        note = note_key + dumps(template.format(missing))
        space = left - len(key) - (len(note) + 1 if missing > 1 else 0)
        text = dumps(item)
        if len(text) > space:
            if space < 16:  # a shortened value would be hardly more than an ellipsis
                return [*pieces, note] if len(note) <= left else pieces
            text = fit(item, space)
        pieces.append(key + text)
        left -= len(key) + len(text) + 1
        missing -= 1
    note = note_key + dumps(template.format(missing))
    return [*pieces, note] if missing and len(note) <= left else pieces


def unused(name: str, shown: dict[str, object]) -> str:
    """A key like ``name`` that a dict does not have."""
    while name in shown:
        name += "…"
    return name
