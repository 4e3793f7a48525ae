"""Regular expressions that are compiled late: they do what others do, and cost nothing before."""

from __future__ import annotations

import re

import pytest

from flowtrace import patterns
from flowtrace.patterns import late


def test_nothing_is_compiled_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then once, whatever is asked of it."""
    compiled: list[str] = []
    plain = re.compile
    monkeypatch.setattr(patterns.re, "compile", lambda *args: compiled.append(args[0]) or plain(*args))

    pattern = late("a+")
    assert compiled == []
    for _ in range(2):
        pattern.search("a"), pattern.match("a"), pattern.findall("a")
    assert compiled == ["a+"]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("findall", ("xaAx",)), ("fullmatch", ("aA",)), ("match", ("aAx", 1)), ("search", ("xxa", 1)),
        ("sub", ("-", "xaAx")), ("finditer", ("xaxa",)),
    ],
)  # fmt: skip
def test_methods_are_those_of_the_expression(method: str, arguments: tuple[object, ...]) -> None:
    """The first time and later, with its flags and all arguments."""
    pattern, plain = late("(?P<letter>a)+", re.IGNORECASE), re.compile("(?P<letter>a)+", re.IGNORECASE)
    for _ in range(2):
        results = [_plain(getattr(each, method)(*arguments)) for each in (pattern, plain)]
        assert results[0] == results[1] != []


def _plain(result: object) -> object:
    """A result in a form that can be compared."""
    if isinstance(result, re.Match):
        return result.span(), result.groupdict()
    return [each.span() for each in result] if hasattr(result, "__next__") else result  # type: ignore[attr-defined]


def test_mistake_is_found_on_use() -> None:
    """As ``re.compile`` says it, each time."""
    pattern = late("(")
    for _ in range(2):
        with pytest.raises(re.error):
            pattern.search("")
