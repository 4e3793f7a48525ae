"""Contexts that are held while the collector runs traced code."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import Iterator

import pytest

from flowtrace.contexts import MOST_HELD, HeldContexts
from flowtrace.recorder import State


class Value:
    """Something that a variable holds."""


@pytest.fixture
def state() -> Iterator[State]:
    """The counters of a recorder, with collections watched."""
    state, before = State(), gc.callbacks[:]
    HeldContexts(state).install()
    gc.disable()
    yield state
    gc.enable()
    gc.callbacks[:] = before


def a_collection(state: State, *, calls: int) -> weakref.ref[Value]:
    """Collect while a variable holds a value, with so many traced calls in the midst of it."""
    value = Value()
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    def collect() -> None:
        variable.set(value)
        gc.collect()

    def call(phase: str, _: object) -> None:
        state.queued_bytes += 300 * calls if phase == "start" else 0

    gc.callbacks.append(call)
    contextvars.copy_context().run(collect)
    gc.callbacks.remove(call)
    return weakref.ref(value)


def test_context_is_held_where_traced_code_has_run(state: State) -> None:
    """What ``ContextVar.set`` may be reading stays, until as many other collections have begun as can within it."""
    held = a_collection(state, calls=1)

    assert held() is not None
    for _ in range(MOST_HELD):
        a_collection(state, calls=1)
    gc.collect()
    assert held() is None


def test_nothing_is_held_where_none_has(state: State) -> None:
    """The program's objects die when they would."""  # fault U18
    assert a_collection(state, calls=0)() is None
