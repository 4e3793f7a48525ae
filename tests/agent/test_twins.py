"""Recorders and their lines, in Python and in C, against the plainest ones that there could be, byte for byte."""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.constants import Raised
from flowtrace.events import (
    ENTER,
    EXCEPTION,
    EXIT,
    NO_RESULT,
    NOT_CAPTURED,
    STATEMENT,
    Described,
    Ids,
    Lines,
    Record,
    size_of,
)
from flowtrace.native import native
from flowtrace.recorder import Recorder, Target
from flowtrace.redaction import Redactor
from flowtrace.values import Encoder, Limits

NATIVE = [False, *([True] if native else [])]
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


def by_recorder(encoder: Encoder, calls: list[Call], *, is_native: bool) -> bytes:
    """The lines of these calls, as traced bodies have them recorded."""
    recorder = Recorder(clock=itertools.count(10**15, 123_456).__next__, is_native=is_native)
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
        is_native=is_native,
    )
    body, enters, ends = lines.body(list(recorder.queue))
    assert enters == ends == len(recorder.queue) // 2
    assert size_of(list(recorder.queue)) == recorder.state.queued_bytes
    return body


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


@pytest.mark.parametrize("is_native", NATIVE)
@given(calls=programs)
def test_the_bytes_of_all_lines_are_those_of_the_plain_ones(is_native: bool, calls: list[Call]) -> None:
    """Whatever is called with whatever, nested and failing: queue, ids, templates and shortcuts show nowhere."""
    encoder = Encoder(limits=Limits(), redactor=Redactor())

    lines = by_recorder(encoder, calls, is_native=is_native)

    assert lines == b"".join(line + b"\n" for line in plainly(encoder, calls))


FIRST_OF_CHILD = 1_000  # of the spans, in a process that was forked
numbers = st.integers(0, 2**40) | st.integers(FIRST_OF_CHILD - 2, FIRST_OF_CHILD + 2)
times = st.integers(0, 2**62)
texts = st.text(st.characters(max_codepoint=127), max_size=12)
scalars = st.none() | st.booleans() | texts | st.integers(1 - 10**12, 10**12 - 1)
scalars |= st.floats(allow_nan=False, allow_infinity=False)
payloads = st.sampled_from([NO_RESULT, NOT_CAPTURED, b'{"a":"\\n\xc3\xa9"}', b'"\\u2028"', b"[1,2]"])
shared = (
    st.integers(0, len(TARGETS) - 1), numbers, times, st.integers(1, 2**31),
    st.sampled_from([None, "Task-1", 'a"\u00e9']),
    numbers | st.just("0af7651916cd43dd8448eb211c80319c"), st.none() | numbers | st.just("b7ad6b7169203331"),
)  # fmt: skip
of_arguments = st.sampled_from(NAMES).flatmap(
    lambda names: st.tuples(payloads | st.tuples(*(scalars for _ in names)), st.just(names))
)
enters = st.builds(
    lambda start, arguments, request, size: (ENTER, *start, arguments[0], request, arguments[1], size),
    st.tuples(*shared), of_arguments, st.sampled_from([None, b'{"path":"/"}']), st.integers(0, 2**31),
)  # fmt: skip
ends = st.builds(
    lambda start, payload, span, took, active, ended, size: (EXIT, *start, payload, span, took, active, ended, size),
    st.tuples(*shared), payloads | scalars.filter(lambda value: value is not None), numbers, times,
    st.none() | times, st.sampled_from([None, "closed", "abandoned"]), st.integers(0, 2**31),
)  # fmt: skip
failures = ends.map(lambda record: (EXCEPTION, *record[1:8], b'{"type":"E","message":"\\"","at":null}', *record[9:]))
statements = st.builds(
    lambda number, now, fields: (STATEMENT, "LOSS", number, now, THREAD, fields, 9),
    numbers, times, st.sampled_from([b"", b'"calls":1']),
)  # fmt: skip


@pytest.mark.skipif(native is None, reason="there is no C code here")
@given(records=st.lists(enters | ends | failures | statements, max_size=8), as_text=st.booleans())
def test_lines_made_in_c_are_those_made_in_python(records: list[Record], as_text: bool) -> None:
    """Of whatever records there may be, with ids from elsewhere and from before a fork, and requests."""
    ids = Ids(lambda count: bytes(range(count)))
    ids.begin(FIRST_OF_CHILD)

    def made(*, is_native: bool) -> Lines:
        return Lines(
            describe=lambda number: Described(*TARGETS[number]), pid=PID, wall_offset_ns=1_234_567, ids=ids,
            values_as_text=as_text, is_native=is_native,
        )  # fmt: skip

    lines = [made(is_native=False).line(record) for record in records]  # what one remembers of a call is of that call
    fast = made(is_native=True)

    assert fast.body(records)[0] == b"".join(line + b"\n" for line in lines)
    assert [fast.line(record) for record in records] == lines
    assert fast.body(records)[1:] == made(is_native=False).body(records)[1:]
    assert size_of(records) == sum(record[-1] for record in records)


@pytest.mark.skipif(native is None, reason="there is no C code here")
@pytest.mark.parametrize("record", [None, (), (EXIT, 0, 1), ("x",) * 7, (ENTER, 0, 1, "x", *[None] * 8)])
def test_what_is_no_record_is_an_error(record: Any) -> None:
    """C code is not the place for trust: what is of another form raises, and the next line is right."""
    lines = Lines(
        describe=lambda number: Described("m", "f"), ids=Ids(bytes), pid=1, wall_offset_ns=0, values_as_text=True
    )

    for make in (lines.line, lambda each: lines.body([each])):
        with pytest.raises((TypeError, ValueError)):
            make(record)
    assert b'"LOSS"' in lines.line((STATEMENT, "LOSS", 1, 2, 3, b"", 0))
