"""The recorder and its lines against the plainest ones that there could be, byte for byte.

`RECORDERS` holds what is compared; another implementation of `Recorder`, such as one in C, belongs there too.
"""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.constants import Raised
from flowtrace.events import Described, Ids, Lines
from flowtrace.recorder import Recorder, Target
from flowtrace.redaction import Redactor
from flowtrace.values import Encoder, Limits

RECORDERS: list[Callable[..., Recorder]] = [Recorder]
TARGETS = [("shop", "Cart.add"), ("shop", "total"), ("shop.débit", "Account.<locals>.pay")]
NAMES = [(), ("a",), ("number", "text"), ("name", "value"), ("password", "user", "é"), tuple("abcdefgh")]
PID, THREAD = 4242, 7

values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(max_size=10)
    | st.sampled_from(["password=hunter2", "x" * 300, "\u2028", "\ud800", "back\\slash \"quoted\"", "a=b", 10**12])
    | st.lists(st.integers() | st.text(max_size=5), max_size=4)
    | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4)
)  # fmt: skip


class Call(NamedTuple):
    """A call of a target: with what, what it calls itself, and what comes of it."""

    target: int
    names: tuple[str, ...]
    values: tuple[Any, ...]
    calls: list[Call]
    result: Any
    fails: bool


def calls_of(inner: st.SearchStrategy[list[Call]]) -> st.SearchStrategy[list[Call]]:
    """Some calls, each with some of these inside."""
    named = st.sampled_from(NAMES).flatmap(lambda names: st.tuples(st.just(names), st.tuples(*(values for _ in names))))
    one = st.tuples(st.integers(0, len(TARGETS) - 1), named, inner, values, st.booleans())
    return st.lists(one.map(lambda each: Call(each[0], *each[1], *each[2:])), max_size=3)


programs = st.recursive(st.just([]), calls_of, max_leaves=8)


def fail(call: Call) -> None:
    """Raise, from a line of its own."""
    raise ValueError(call.target, call.result)


def by_recorder(made: Callable[..., Recorder], encoder: Encoder, calls: list[Call]) -> Iterator[bytes]:
    """The lines of these calls, as traced bodies have them recorded."""
    recorder = made(clock=itertools.count(10**15, 123_456).__next__)
    recorder.thread().id = THREAD
    parts = [recorder.functions(Target(*target, 1, encoder)) for target in TARGETS]

    def run(call: Call) -> Any:
        enter, leave = parts[call.target]
        flow = enter(call.names, call.values)
        try:
            for inner in call.calls:
                run_safely(inner)
            if call.fails:
                fail(call)
        except ValueError:
            leave(flow, Raised)
            raise
        leave(flow, call.result)

    def run_safely(call: Call) -> None:
        with contextlib.suppress(ValueError):
            run(call)

    for call in calls:
        run_safely(call)
    lines = Lines(
        describe=lambda number: Described(*TARGETS[number]),
        ids=Ids(bytes),
        pid=PID,
        wall_offset_ns=5 * 10**17,
        values_as_text=True,
    )
    return map(lines.line, recorder.queue)


def plainly(encoder: Encoder, calls: list[Call]) -> Iterator[bytes]:
    """The same as the documentation of events has it."""
    clock, seq, ids = itertools.count(10**15, 123_456), itertools.count(), Ids(bytes)

    def event(call: Call, kind: str, now: int, number: int, place: types.SimpleNamespace, **fields: Any) -> bytes:
        module, qualname = TARGETS[call.target]
        owner, _, name = qualname.rpartition(".")
        inside = owner and not owner.endswith("<locals>")
        return orjson.dumps(
            {"timestamp": (now + 5 * 10**17) // 10**6, "event": kind, "thread": str(THREAD)}
            | {"class": owner if inside else module, "function": name if inside else qualname}
            | fields
            | {"module": module, "traceId": ids.trace(place.trace), "spanId": ids.span(place.span)}
            | {"parentId": None if place.parent is None else ids.span(place.parent), "seq": number, "pid": PID}
        )

    def run(call: Call, above: types.SimpleNamespace | None) -> Iterator[bytes]:
        number = next(seq)
        place = types.SimpleNamespace(
            span=number, trace=above.trace if above else number, parent=above.span if above else None
        )
        began = next(clock)
        args = encoder.arguments(dict(zip(call.names, call.values, strict=True))).decode()
        yield event(call, "ENTER", began, number, place, args=args)
        for inner in call.calls:
            yield from run(inner, place)
        now = next(clock)
        took = {"durationMicros": (now - began) // 1000, "durationMillis": (now - began) // 10**6}
        if call.fails:
            try:
                fail(call)
            except ValueError as error:
                shown = orjson.loads(encoder.exception(error))
            yield event(call, "EXCEPTION", now, next(seq), place, exception=shown, **took)
        else:
            result = "void" if call.result is None else encoder.result(call.result).decode()
            yield event(call, "EXIT", now, next(seq), place, result=result, **took)

    for call in calls:
        yield from run(call, None)


@pytest.mark.parametrize("made", RECORDERS)
@given(calls=programs)
def test_the_bytes_of_all_lines_are_those_of_the_plain_ones(made: Callable[..., Recorder], calls: list[Call]) -> None:
    """Whatever is called with whatever, nested and failing: queue, ids, templates and shortcuts show nowhere."""
    encoder = Encoder(limits=Limits(), redactor=Redactor())

    assert list(by_recorder(made, encoder, calls)) == list(plainly(encoder, calls))
