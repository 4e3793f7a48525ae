"""Explanations: an error names the exact key, also in the options of a plugin, and stays one short line."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec
import pytest

from flowtrace.config import Capture, OptionError, Options, decode
from flowtrace.errors import ConfigError
from flowtrace.explanations import joined, shown


@dataclasses.dataclass
class Foreign:
    """A type that msgspec decodes and that is not a struct."""

    numbers: dict[str, int]


class Nested(Options, frozen=True, kw_only=True):
    """Options as a plugin might have them."""

    headers: dict[str, str] = msgspec.field(default_factory=dict)
    captures: dict[str, Capture] = msgspec.field(default_factory=dict)
    spool: Capture | None = None
    foreign: Foreign | None = None
    named: dict[Annotated[str, msgspec.Meta(min_length=2)], int] = msgspec.field(default_factory=dict)
    odd: int = 0

    def __post_init__(self) -> None:
        if self.odd % 2:
            raise OptionError("odd", f"{self.odd} is not even")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"headers": {"a": "b", "c": 5}}, "sinks[1].headers.c: expected text, got 5; put it in quotes"),
        ({"captures": {"a": {}, "b": {"arg": 1}}}, "sinks[1].captures.b.arg: unknown key; did you mean 'args'?"),
        ({"captures": {"b": {"max_bytes": "1B"}}}, "sinks[1].captures.b.max_bytes: 1B is out of range"),
        ({"spool": {"arg": 1}}, "sinks[1].spool.arg: unknown key; did you mean 'args'?"),
        ({"spool": 1}, "sinks[1].spool: expected a mapping or nothing, got 1"),
        ({"foreign": {"numbers": {"a": "b"}}}, "sinks[1].foreign.numbers: expected a whole number"),
        ({"named": {"a": 1}}, "sinks[1].named: has a key that is not text of length >= 2"),
        ({"odd": 3}, "sinks[1].odd: 3 is not even"),
    ],
)
def test_option_errors(data: object, error: str) -> None:
    """The errors of a plugin's options are as precise, inside mappings and unions too."""
    with pytest.raises(ConfigError) as caught:
        decode(data, Nested, key="sinks[1]")

    assert str(caught.value).startswith(error)


def test_long_values_are_cut_in_errors() -> None:
    """An error shows enough of a value to find it, and stays one line."""
    assert shown("x" * 1000) == "'" + "x" * 55 + "...'"
    assert shown("a\nb") == "'a\\nb'"


def test_joined_keys() -> None:
    """Keys are joined as they are written with --set."""
    assert joined("sinks", "[0]", "rotate.keep") == "sinks[0].rotate.keep"
    assert joined("", "service", "") == "service"
