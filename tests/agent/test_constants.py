"""The names by which the constants of instrumented code are pickled."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace import constants
from flowtrace.constants import Raised, name_of, named, parse

names = st.from_regex(r"[a-z_]\w{0,5}(\.[a-z_]\w{0,5}){0,3}", fullmatch=True)


@given(module=names, qualname=names | st.just("A.<locals>.f.<lambda>"), line=st.integers(0, 10**6))
def test_names_read_back(module: str, qualname: str, line: int) -> None:
    """What `name_of` makes, `parse` takes apart; it has no dots, at which pickle would split it."""
    name = name_of("enter", module, qualname, line)

    assert parse(name) == ("enter", module, qualname, line)
    assert "." not in name


@pytest.mark.parametrize("part", ["enter", "leave"])
def test_constants_are_pickled_by_reference(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A pickle holds the name; loaded where an agent runs, it gives that agent's function."""

    def function(*_: object) -> str:
        return "resolved"

    name = name_of(part, "shop.cart", "Cart.add", 12)
    monkeypatch.setattr(constants, "resolve", {name: named(function, name)}.__getitem__)

    loaded: Any = pickle.loads(pickle.dumps(function))

    assert loaded is function


@pytest.mark.parametrize("part", ["enter", "leave"])
def test_without_an_agent_constants_do_nothing(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A function that was pickled while it was traced runs untraced elsewhere."""
    monkeypatch.setattr(constants, "resolve", None)

    constant = getattr(constants, name_of(part, "shop", "f", 1))

    assert constant({"a": 1}) is None
    assert constant(None, 2) is None


def test_other_attributes_are_missing_as_ever() -> None:
    """Asking for anything else is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        constants.nothing  # noqa: B018

    assert not hasattr(constants, "__path__")
    assert pickle.loads(pickle.dumps(Raised)) is Raised
