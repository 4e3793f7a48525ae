"""Regular expressions that are compiled when they are first used.

To compile those that know secrets takes 12 ms; few processes ever meet a text that needs each of them.
"""

from __future__ import annotations

import re

from flowtrace.typed import Any, TypeVar

AnyStr = TypeVar("AnyStr", str, bytes)


class Pattern:
    """The methods of a compiled expression, each as an attribute: as fast to call as those of the expression."""

    def __init__(self, pattern: Any, flags: int) -> None:
        self._source = pattern, flags


class _Late(Pattern):
    """One that compiles itself when it is asked for a method. In a class of its own: ``__getattr__`` costs 30 ns."""

    def __getattr__(self, name: str) -> Any:
        compiled = re.compile(*self._source)
        for each in ("findall", "finditer", "flags", "fullmatch", "match", "pattern", "search", "sub"):
            setattr(self, each, getattr(compiled, each))
        self.__class__ = Pattern  # type: ignore[assignment]
        return getattr(compiled, name)


def late(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """An expression that is compiled when it is first used; what is wrong with it is found then."""
    made: Any = _Late(pattern, flags)
    expression: re.Pattern[AnyStr] = made
    return expression
