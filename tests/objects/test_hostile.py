"""Hostile objects: captured by the thousand, none of their code runs, and the traced program cannot tell."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowtrace.redaction import Redactor
from flowtrace.values import Encoder, Limits
from tests.agent.engine import Engine, plain
from tests.objects.capture import check_batch
from tests.objects.hostile import BASES, Workshop, build
from tests.objects.traps import LEDGER, SPECIAL, hostile_metaclass, traps

PROGRAM = '''
import contextlib

class Holder:
    def __init__(self, value, *more, **named):
        self.value, self.more, self.named = value, more, named

    def give(self):
        return self.value

    @property
    def first(self):
        return self.more[0] if self.more else self.value

    @classmethod
    def made(cls, value):
        return cls(value, value, name=value)

def same(value):
    return value

def several(one, /, *rest, password=None, **named):
    return [one, *rest, password, named]

def failing(error):
    raise error

def generator(value):
    received = yield value
    return received

async def coroutine(value):
    return value

async def awaiting(value):
    return await coroutine(value)

def drive(value, is_error):
    """All of these with a value; what they give, in order."""
    found = [same(value), Holder.made(value).give(), Holder(value).first]
    found += several(value, value, password=value, x=value)
    running = generator(value)
    found.append(running.send(None))
    try:
        running.send(value)
    except StopIteration as end:
        found.append(end.value)
    try:
        awaiting(value).send(None)
    except StopIteration as end:
        found.append(end.value)
    if is_error:
        try:
            failing(value)
        except BaseException as error:
            found.append(error)
    return found
'''


@pytest.mark.parametrize("seed", range(8))
def test_no_code_of_hostile_objects_runs(seed: int) -> None:
    """Thousands of objects, captured in all ways, stay untouched; ``tox -e objects`` does it with a million."""
    # fault U1 to U4, U6 to U15, U18 to U20
    assert check_batch(random.Random(f"test {seed}")) > 100


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_no_code_of_hostile_objects_runs_and_failures_shrink(choose: random.Random) -> None:
    """The same objects, drawn by hypothesis: should one defeat the encoder, the smallest such is found."""
    check_batch(choose, roots=3, kinds=4)


@pytest.mark.parametrize("seed", range(4))
def test_traced_functions_give_what_untraced_ones_give(seed: int) -> None:
    """Given hostile objects, functions that are traced run none of their code and return the very same."""
    # fault U1 to U15
    _compare(seed, raising=False)


@pytest.mark.parametrize("seed", range(4))
def test_traced_functions_raise_what_untraced_ones_raise(seed: int) -> None:
    """Hostile exceptions leave functions that are traced as they leave others, and none of their code runs."""
    # fault U10, C1, C2
    _compare(seed, raising=True)


def _compare(seed: int, *, raising: bool) -> None:
    """Drive the program and its twin with hostile objects: with exceptions, that are raised, or with all others."""
    engine = Engine(encoder=Encoder(limits=Limits(), redactor=Redactor()))
    traced, twin = engine.load(PROGRAM), plain(PROGRAM)
    with warnings.catch_warnings(action="ignore"):
        shop = Workshop(random.Random(f"traced {seed}"))
        for _ in range(40):
            shop.value()
    values = [value for value in shop.made if raising == issubclass(type(value), BaseException)]

    for value in values:
        with LEDGER.watch():
            expected = _outcome(twin.drive, value, raising)
            calls = list(LEDGER.calls)  # Python itself looks at a SyntaxError that is raised
        with LEDGER.watch():
            found = _outcome(traced.drive, value, raising)
            ran = list(LEDGER.calls)
        if raising and sys.version_info < (
            3,
            12,
        ):  # there Python asks a metaclass at each `except` or `finally` it meets
            calls, ran = ([name for name in each if name != "__subclasscheck__"] for each in (calls, ran))
        if calls != ran or not (len(found) == len(expected) and all(map(_is_same, found, expected))):
            pytest.fail(f"ran {ran}, untraced {calls}", pytrace=False)  # no repr of what is hostile

    assert values
    assert engine.recorder.state.failures == 0
    assert len(engine.recorder.queue) >= 2 * 10 * len(values)


def _outcome(drive: Callable[..., list[Any]], value: Any, is_error: bool) -> list[Any]:
    try:
        return drive(value, is_error)
    except BaseException as error:  # noqa: BLE001  # the traps raise what they like
        return [type(error)]


def _is_same(one: Any, other: Any) -> bool:
    """The very same object, or what each call makes anew: a dict of keywords, the exception of a trap."""
    kind = type(one)
    if kind is not type(other):
        return False
    made_anew = issubclass(kind, BaseException) or (kind is dict and one.get("x") is other.get("x"))
    return one is other or made_anew


def test_a_batch_can_be_made_again() -> None:
    """The same seed makes the same objects, so that a failure can be looked at."""
    sizes = [check_batch(random.Random("again"), roots=10) for _ in range(2)]

    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("number", range(len(BASES)))
def test_hostile_subclasses_are_still_recognised(number: int) -> None:
    """An object of a class of traps, whose class is one itself, is shown under the name of its class."""
    # fault U9, U13
    base, arguments = BASES[number]
    choose = random.Random(number)
    meta = type if type(base) is not type else hostile_metaclass(choose)
    kind = type.__new__(meta if meta is not type else type(base), f"Hostile{number}", (base,), traps(choose, base))
    value = build(kind, arguments(Workshop(choose, kinds=0)))

    with LEDGER.watch():
        text = Encoder(limits=Limits(), redactor=Redactor()).result(value)

    assert f"Hostile{number}" in text.decode()
    assert LEDGER.calls == []


def test_the_traps_work() -> None:
    """What Python does with an object is written down while the ledger is armed, whatever the trap does then."""
    kind = type("Hostile", (), traps(random.Random(1)))
    value = object.__new__(kind)
    asking: list[Any] = [
        repr, str, bytes, hash, bool, len, iter, next, list, dict, float, int, abs, callable, dir, isinstance,
        *(functools.partial(getattr, value, name) for name in ("x", "__class__", "__dict__")),
        lambda v: v == v, lambda v: v + v, lambda v: v[0], lambda v: v(), lambda v: 1 in v, lambda v: f"{v}",
        lambda v: isinstance(v, str), lambda v: setattr(v, "x", 1), lambda v: sys.getsizeof(v),
    ]  # fmt: skip

    caught = 0
    for ask in asking:
        with LEDGER.watch():
            with contextlib.suppress(BaseException):
                ask(value)
            caught += bool(LEDGER.calls)

    assert caught >= len(asking) - 3  # `callable` looks at the type, `isinstance` and `partial` want more arguments


def test_every_special_name_is_a_trap() -> None:
    """All that the interpreter has slots for is among the names, and every class gets a trap for each."""
    slots = {name for kind in (object, int, list, dict, type, BaseException) for name in dir(kind) if name[:2] == "__"}
    namespace = traps(random.Random(1))

    assert slots - set(SPECIAL) <= {
        "__abstractmethods__", "__annotate__", "__dict__", "__firstlineno__", "__module__", "__qualname__",
        "__static_attributes__", "__weakref__",
    }  # fmt: skip
    assert set(SPECIAL) - namespace.keys() == {"__subclasses__"}
    assert len(SPECIAL) > 150
