"""Contexts that are held while the collector runs traced code."""

from __future__ import annotations

import contextvars
import ctypes
import functools
import gc
import opcode
import operator
import signal
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from flowtrace import contexts
from flowtrace.contexts import HeldContexts


class Value:
    """Something that a variable holds."""


current: contextvars.ContextVar[object] = contextvars.ContextVar("current", default=None)


@pytest.fixture
def held() -> Iterator[HeldContexts]:
    """Collections watched."""
    before, some = gc.callbacks[:], HeldContexts()
    some.install()
    gc.disable()
    yield some
    gc.enable()
    gc.callbacks[:] = before


def a_collection(*, is_traced: bool) -> weakref.ref[Value]:
    """Collect while a variable holds a value, perhaps with a traced call in the midst of it."""
    value = Value()
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    def collect() -> None:
        variable.set(value)
        gc.collect()

    def call(phase: str, _: object) -> None:
        if phase == "start" and is_traced:
            current.set(1)
            current.set(None)

    gc.callbacks.append(call)
    contextvars.copy_context().run(collect)
    gc.callbacks.remove(call)
    return weakref.ref(value)


def test_context_is_held_where_traced_code_has_run(held: HeldContexts) -> None:
    """What ``ContextVar.set`` may be reading stays until another thread has its turn."""
    value = a_collection(is_traced=True)

    assert value() is not None
    held.release()
    assert value() is None


def test_nothing_is_held_where_none_has(held: HeldContexts) -> None:
    """The program's objects die when they would."""  # fault U18
    assert a_collection(is_traced=False)() is None


def test_nothing_is_released_in_the_midst_of_a_collection(held: HeldContexts) -> None:
    """A finalizer may wait for something, and the dispatcher have its turn meanwhile."""
    gc.callbacks.append(lambda phase, _: held.release() if phase == "stop" else None)
    gc.callbacks.insert(1, lambda phase, _: held.release() if phase == "start" else None)
    seen: list[int] = []
    gc.callbacks.insert(2, lambda phase, _: seen.append(len(held._held)))

    gc.collect()

    assert seen == [1, 0]


def test_nothing_is_released_while_it_is_looked_at(held: HeldContexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher may have its turn between the look at what is held and its end."""
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)  # where the collector says what its callbacks raise
    look = gc.get_referents

    def look_and_release(*of: object) -> list[object]:
        held.release()
        return look(*of)

    monkeypatch.setattr(gc, "get_referents", look_and_release)
    gc.collect()

    assert unraisable == []


@pytest.mark.skipif(not contexts.IS_NEEDED, reason="3.12 and later begin collections between instructions")
def test_signal_handlers_come_after_it(held: HeldContexts) -> None:
    """One that waits while a collection begins, as nobody looks for signals in C, runs when the context is held."""
    interrupted: list[tuple[str, str]] = []  # fault C3

    def handler(number: int, frame: types.FrameType) -> None:
        interrupted.append((frame.f_code.co_name, opcode.opname[frame.f_code.co_code[frame.f_lasti]]))

    send: Any = getattr(ctypes.CDLL(None), "raise")
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        list(map(operator.call, [functools.partial(send, signal.SIGUSR1), gc.collect]))  # type: ignore[attr-defined]
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert interrupted == [("_on_collection", "CALL")]
