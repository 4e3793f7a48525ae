"""Arguments that are defaults are marked where that is asked for."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from flowtrace.defaults import MarksDefaults
from flowtrace.redaction import Redactor
from flowtrace.values import Encoder, Limits
from tests.agent.engine import Engine

SOURCE = """
NOTHING = object()
def f(a, b=1000, *args, c="text", d=NOTHING, **kwargs):
    return a
class C:
    def m(self, x=None, /, y=()):
        return x
    async def co(self, z=2.5):
        return z
def made():
    return [lambda v=v: v for v in range(2)], [given for _ in range(2)]
def given(v=3):
    return v
def several():
    def inner(w=1):
        return w
    return inner
"""


def marked(engine: Engine) -> list[list[str]]:
    """For each call, what is marked."""
    return [list(span.args.get("@defaults", ())) for span in engine.spans()]


def engine(max_bytes: int = 8192) -> tuple[Engine, Any]:
    """An engine that marks defaults, and the module."""

    def encoder() -> Any:
        return MarksDefaults(Encoder(limits=Limits(max_bytes=max_bytes), redactor=Redactor()), max_bytes)

    some = Engine(encoder=encoder())
    return some, some.load(SOURCE)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda m: m.f(1), ["b", "c", "d"]),
        (lambda m: m.f(1, 2), ["c", "d"]),
        (lambda m: m.f(1, 2, 3, c="other", e=5), ["d"]),
        (lambda m: m.f(1, 1000 + int("0"), d=0), ["c"]),
        (lambda m: m.f(1, d=m.NOTHING), ["b", "c", "d"]),
        (lambda m: m.C().m(), ["x", "y"]),
        (lambda m: m.C().m(7), ["y"]),
        (lambda m: m.C().co().send(None), ["z"]),
    ],
)  # fmt: skip
def test_what_is_the_default_is_marked(call: Any, expected: list[str]) -> None:
    """By identity: an equal value that was passed is not the default, the default object that was passed is."""
    some, module = engine()
    with contextlib.suppress(StopIteration):
        call(module)

    assert marked(some) == [expected]


def test_values_are_shown_as_ever() -> None:
    """The mark comes after them."""
    some, module = engine()
    module.f(1, password="x")

    [args] = [span.args for span in some.spans()]
    assert list(args)[:2] == ["a", "b"]
    assert args["b"] == 1000
    assert "x" not in json.dumps(args["kwargs"])


def test_defaults_that_are_replaced_count_anew() -> None:
    """What the function has at the time of the call is compared."""
    some, module = engine()
    module.given()
    module.given.__defaults__ = (4,)
    module.given()
    module.given(3)

    assert marked(some) == [["v"], ["v"], []]


def test_functions_that_share_their_code_are_not_told_apart() -> None:
    """Nothing is marked, and the heap is not searched at each call."""
    some, module = engine()
    first, second = module.several(), module.several()
    for _ in range(5):
        first()
        second()

    assert marked(some) == [[]] * 12


@pytest.mark.parametrize("room", range(64, 140, 7))
def test_mark_takes_no_room_that_is_not_there(room: int) -> None:
    """Arguments stay within their bound."""
    some, module = engine(max_bytes=room)
    module.f("a" * 30)

    [record] = [record for record in some.recorder.queue if record[0] == 0]
    assert len(record[8]) <= room
    json.loads(record[8])
