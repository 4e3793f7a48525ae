"""What must hold when any object is captured: checked for hostile ones, a batch for each seed."""

from __future__ import annotations

import gc
import json
import random
import sys
import traceback
import warnings
from typing import Any, NamedTuple

from flowtrace.redaction import Redactor
from flowtrace.values import Encoder, Limits
from tests.objects.hostile import Workshop, state
from tests.objects.traps import LEDGER

LIMITS = (
    Limits(),
    Limits(max_depth=6, max_items=100, max_string=1000, max_bytes=64 << 10),
    Limits(max_depth=1, max_items=2, max_string=5, max_bytes=100),
    Limits(max_depth=0, max_items=0, max_string=0, max_bytes=64),
)
ROOTS = 50  # objects that a batch begins with; with all that is inside them they are about a thousand

_type_name = type.__dict__["__qualname__"].__get__


def strict(text: bytes) -> Any:
    """JSON as a strict reader sees it: one line, no NaN, no key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), f"a key twice: {pairs}"
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert len(text.decode().splitlines()) <= 1, f"more than a line: {text!r}"
    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)


def check_batch(choose: random.Random, *, roots: int = ROOTS, kinds: int = 40) -> int:
    """Make objects and capture each of them in every way; returns how many there were.

    Raises:
        AssertionError: some of their code ran, what came out is no strict JSON within its bound, or they are not as
            they were.
    """
    with warnings.catch_warnings(action="ignore"):  # coroutines that are never awaited
        shop = Workshop(choose, kinds=kinds)
        for _ in range(roots):
            shop.value()
        total = len(shop.made)
        _check(shop, choose.choice(LIMITS))
        del shop
        gc.collect()  # here, where their finalizers are harmless
    return total


class Outcome(NamedTuple):
    """What came of a batch."""

    seed: int
    objects: int
    failure: str = ""


def check(seed: int) -> Outcome:
    """Check the objects that a seed makes."""
    try:
        return Outcome(seed, check_batch(random.Random(seed)))
    except BaseException:  # noqa: BLE001  # the traps raise what they like, and the seed must be said
        return Outcome(seed, 0, traceback.format_exc())


def _check(shop: Workshop, limits: Limits) -> None:
    made = shop.made
    capture = Encoder(limits=limits, redactor=Redactor())
    before = [state(value) for value in made]
    counted = [value for value in made if not _is_shared(value)] + [kind for kind, _ in shop.kinds]
    gc.collect()  # garbage refers to things as well
    counts = [sys.getrefcount(value) for value in counted]
    texts = _capture(capture, made)
    after = [sys.getrefcount(value) for value in counted]
    assert capture.failures == 0, "a value defeated the encoder"
    for number in range(len(counted)):
        assert after[number] == counts[number], f"a reference to {_described(counted, number)} was kept"
    for number, value in enumerate(made):
        assert state(value) == before[number], f"{_described(made, number)} was changed"
    for number, text in texts:
        assert len(text) <= limits.max_bytes, f"{_described(made, number)}: {len(text)} > {limits.max_bytes} bytes"
        strict(text)


def _is_shared(value: Any) -> bool:
    """Whether the interpreter, the libraries and flowtrace refer to it as well: built-in classes and ``()``."""
    return issubclass(type(value), type) or (type(value) is tuple and len(value) == 0)


def _capture(capture: Encoder, made: list[Any]) -> list[tuple[int, bytes]]:
    """All texts, each with the index of its object; at the first line of the objects' code that runs it ends."""
    texts: list[tuple[int, bytes]] = []
    with LEDGER.watch():
        for number, value in enumerate(made):
            try:
                texts.append((number, capture.result(value)))
                texts.append((number, capture.arguments({"value": value, "password": value, "values": made[-3:]})))
                if issubclass(type(value), BaseException):
                    texts.append((number, capture.exception(value)))
            except BaseException as error:
                error.add_note(f"of {_described(made, number)}, in which ran: {LEDGER.calls}")
                raise AssertionError(f"{_described(made, number)} raised {type(error).__name__}") from error
            assert LEDGER.calls == [], f"of {_described(made, number)} ran {LEDGER.calls[:10]}"
    return texts


def _described(made: list[Any], number: int) -> str:
    kind = type(made[number])
    bases = " ".join(ascii(str.__str__(_type_name(base)))[:40] for base in type.__dict__["__mro__"].__get__(kind))
    return f"object {number} ({bases})"
