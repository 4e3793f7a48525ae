"""JSON values as short Python-like text, safe for a terminal."""

from __future__ import annotations

import re
import unicodedata

ELLIPSIS = "…"
TYPE_KEY = "@type"
_OPENING = {")": "(", "]": "[", "}": "{", "'": "'", '"': '"'}  # by what closes it
_MORE = re.compile(r"… \d+ more(?: \(\w+\))?")
_STAND_IN = re.compile(r"<(?:class )?(?:\w+\.)+(\w+)>|<cycle>|<uncapturable>|<changed while it was read>")
_LEAST_CELLS = 8  # a value shorter than this tells nothing


def literal(value: object) -> str:
    """``value`` as Python would write it; an object with ``"@type"`` as ``Type(field=...)``."""
    if isinstance(value, dict):
        return _mapping(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str) and value[:1] in "<…":
        return _stand_in(value)
    return repr(value)  # escapes what is not printable: controls, ANSI, bidi marks, line separators, surrogates


def _stand_in(text: str) -> str:
    """A text that the agent wrote in place of a value, such as ``<app.Socket>`` or ``… 5 more``, without quotes."""
    if match := _STAND_IN.fullmatch(text):
        return f"<{match[1]}>" if match[1] else text
    return text if _MORE.fullmatch(text) else repr(text)


def _mapping(value: dict[str, object]) -> str:
    if TYPE_KEY not in value:
        return "{" + ", ".join(_item(f"{key!r}: ", key, item) for key, item in value.items()) + "}"
    name = escaped(str(value[TYPE_KEY])).rpartition(".")[2]
    if len(value) == 2 and "value" in value:  # a subclass of a built-in type
        return f"{name}({literal(value['value'])})"
    return f"{name}({', '.join(_item(f'{escaped(k)}=', k, item) for k, item in value.items() if k != TYPE_KEY)})"


def _item(lead: str, key: str, item: object) -> str:
    return f"{ELLIPSIS} {escaped(str(item))}" if key == ELLIPSIS else lead + literal(item)


def escaped(text: str) -> str:
    """``text`` with everything that is not printable written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def cells(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clip(text: str, room: int) -> str:
    """``text`` in at most ``room`` columns; what is cut shows an ellipsis, and a bracket or quote still closes."""
    if len(text) * 2 <= room or cells(text) <= room:
        return text
    kept = _start(text, room - 2)
    if text[-1] in _OPENING and _OPENING[text[-1]] in kept:
        return kept + ELLIPSIS + text[-1]
    return _start(text, room - 1) + ELLIPSIS * (room > 0)


def _start(text: str, room: int) -> str:
    end = 0
    while end < len(text) and (room := room - _cell(text[end])) >= 0:
        end += 1
    return text[:end]


def fit(texts: list[str], room: int) -> list[str]:
    """Clip texts so that they take ``room`` columns together: short ones stay whole, long ones share what is left."""
    fitted = list(texts)
    left = len(texts)
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        fitted[index] = clip(texts[index], max(room // left, _LEAST_CELLS))
        room -= cells(fitted[index])
        left -= 1
    return fitted
