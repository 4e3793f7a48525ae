"""Shapes: a class is read once, by what it stores, and is not kept alive."""

from __future__ import annotations

import dataclasses
import enum
import gc
import sys
import weakref
from typing import NamedTuple

import pytest

from flowtrace.shapes import examine, stored_fields


class Plain:
    """A plain class."""

    __slots__ = ("__dict__", "_hidden", "name", "unset")


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: int


@dataclasses.dataclass
class Account:
    """A dataclass that hides a field."""

    name: str
    history: object = dataclasses.field(repr=False)


class Problem(KeyError):
    """An exception."""


def test_runs_on_this_version_of_the_interpreter() -> None:
    """The flags that tell C types and exceptions apart mean what they should."""
    assert sys.version_info >= (3, 11)
    assert int.__flags__ & (1 << 8)
    assert not Plain.__flags__ & (1 << 8)
    assert KeyError.__flags__ & (1 << 30)
    assert type.__flags__ & (1 << 31)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (Plain, "object"),
        (Pair, "named tuple"),
        (Problem, "exception"),
        (enum.IntFlag, "enum"),
        (type("Text", (str,), {}), "text"),
        (type("Number", (float,), {}), "number"),
        (type("Items", (list,), {}), "collection"),
        (type("Mapping", (dict,), {}), "dict"),
        (enum.EnumMeta, "class"),
        (type(sys), "name"),
    ],
)
def test_the_form_follows_from_the_bases(kind: type, form: str) -> None:
    """Which way instances are shown is decided by the built-in class or the declaration that theirs builds on."""
    assert examine(kind).form == form


def test_a_declaration_says_what_is_shown() -> None:
    """A class that declares its fields is marked so, and its hidden fields are known."""
    shape = examine(Account)

    assert shape.declared
    assert dict(shape.aliases) == {"history": None}
    assert not examine(Plain).declared


def test_fields_are_the_public_slots_and_the_dict() -> None:
    """Slots come first, unset and private ones are left out; no more than asked for is read, and the rest counted."""
    value = Plain()
    value.name, value._hidden = "n", 1  # type: ignore[attr-defined]
    value.__dict__.update(first=1, second=2)

    assert stored_fields(value, examine(Plain), 2) == ([("name", "n"), ("first", 1), ("second", 2)], 0)
    assert stored_fields(value, examine(Plain), 1) == ([("name", "n"), ("first", 1)], 2)


def test_the_innermost_built_in_base_of_an_exception_is_found() -> None:
    """Messages are made by the interpreter's own class, never by one of the program's."""
    assert examine(Problem).base is KeyError


def test_a_shape_does_not_keep_its_class() -> None:
    """The class, its slots and its dict are referred to weakly."""
    kind = type("Brief", (), {"__slots__": ("name", "__dict__")})
    gone = weakref.ref(kind)
    shape = examine(kind)

    del kind
    gc.collect()

    assert gone() is None
    assert shape.kind() is None
