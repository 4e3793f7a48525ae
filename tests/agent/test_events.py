"""Events: every record becomes one line of JSON with the fields, order and types that docs/events.md names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.events import (
    ENTER,
    EXCEPTION,
    EXIT,
    NO_RESULT,
    NOT_CAPTURED,
    STATEMENT,
    Batch,
    Described,
    Enter,
    Ids,
    Leave,
    Lines,
    Record,
    Statement,
)
from flowtrace.testing import make_batch

DOCUMENT = Path(__file__).parents[2] / "docs/events.md"
DAY = 1_790_000_000_000_000_000  # nanoseconds since the epoch

texts = st.text(st.characters(codec=None), max_size=12)  # lone surrogates and control characters included
numbers = st.integers(0, 2**63 - 1)
spans = numbers | st.integers(0, 2**64 - 1).map("{:016x}".format)
traces = numbers | st.integers(0, 2**128 - 1).map("{:032x}".format)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
payloads = values.map(orjson.dumps) | st.just(NOT_CAPTURED)
places = {"target": st.just(0), "seq": numbers, "time_ns": st.integers(0, 2**62), "thread": numbers}
call = {"task": st.none() | texts, "trace": traces, "parent": st.none() | spans, **places}
enters = st.builds(Enter, kind=st.just(ENTER), args=payloads, **call)
ending = {"span": numbers, "duration_ns": numbers, "active_ns": st.none() | numbers, **call}
exits = st.builds(
    Leave, kind=st.just(EXIT), payload=payloads, ended=st.sampled_from([None, "closed", "abandoned"]), **ending
)
exceptions = st.builds(
    Leave, kind=st.just(EXCEPTION), payload=st.fixed_dictionaries({"type": st.text()}).map(orjson.dumps),
    ended=st.none(), **ending,
)  # fmt: skip
statements = st.builds(
    Statement, kind=st.just(STATEMENT), name=st.sampled_from(["START", "ATTACH", "LOSS", "STOP"]),
    seq=numbers, time_ns=places["time_ns"], thread=numbers,
    fields=st.dictionaries(st.sampled_from(["a", "b"]), values).map(lambda fields: orjson.dumps(fields)[1:-1]),
)  # fmt: skip
described = st.builds(Described, module=texts, qualname=texts)


def lines(describes: Described | None = None, *, text: bool = True, wall_offset_ns: int = 0) -> Lines:
    """A maker of lines whose only target is ``describes``."""
    static = describes or Described("shop.cart", "Cart.add")
    return Lines(
        describe=lambda index: static,
        ids=Ids(lambda count: bytes(range(count))),
        pid=4242,
        wall_offset_ns=wall_offset_ns,
        values_as_text=text,
    )


def enter(**changes: Any) -> Enter:
    """An ENTER record, plain but for ``changes``."""
    return Enter(ENTER, 0, 7, 5_000_000, 42, None, 3, 3, b'{"x":1}')._replace(**changes)


def leave(**changes: Any) -> Leave:
    """An EXIT record, plain but for ``changes``."""
    return Leave(EXIT, 0, 8, 9_000_000, 42, None, 3, 3, b"1", 7, 4_321_999, None, None)._replace(**changes)


def event(record: Record, describes: Described | None = None, **options: Any) -> dict[str, Any]:
    """The decoded line of a record."""
    decoded: dict[str, Any] = orjson.loads(lines(describes, **options).line(record))
    return decoded


def documented(kind: str) -> list[str]:
    """The fields of ENTER, EXIT or EXCEPTION in the order of docs/events.md."""
    rows = re.findall(r"^\| (`[^|]+) \| ([A-Z, ]+|all) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [name for names, kinds in rows if kinds == "all" or kind in kinds for name in re.findall(r"`(\w+)`", names)]


# -- lines -----------------------------------------------------------------------------------------------------------


@given(enters | exits | exceptions | statements, described, st.booleans())
def test_each_record_is_one_line_of_strict_json(record: Record, describes: Described, text: bool) -> None:
    """Whatever names and values a record has, its line is one JSON object, without control characters."""  # fault U19
    line = lines(describes, text=text).line(record)

    assert not re.search(rb"[\x00-\x1f]", line)
    assert orjson.loads(line) == json.loads(line)
    assert orjson.loads(line)["seq"] == record[2]


@given(enters | exits | exceptions, st.booleans())
def test_fields_have_the_documented_order(record: Record, text: bool) -> None:
    """The fields are those of docs/events.md and come in that order; those that may be absent are named there."""
    found = event(record, text=text)

    expected = documented(found["event"])
    assert list(found) == [name for name in expected if name in found]
    assert {*expected} - {*found} <= {"task", "activeMicros", "ended"}


@given(statements)
def test_own_events_keep_their_fields_between_the_common_ones(record: Statement) -> None:
    """START, ATTACH, LOSS and STOP begin with timestamp, event and thread, and end with seq and pid."""
    found = event(record)

    own = orjson.loads(b"{" + record.fields + b"}")
    assert list(found) == ["timestamp", "event", "thread", *own, "seq", "pid"]
    assert {name: found[name] for name in own} == own
    assert (found["event"], found["thread"]) == (record.name, str(record.thread))


@given(enters | exits | exceptions)
def test_fields_have_the_documented_types(record: Record) -> None:
    """Numbers are integers, ids and the thread are text."""
    found = event(record)

    integers = {"timestamp", "seq", "pid", "durationMicros", "durationMillis", "activeMicros"}
    for name, value in found.items():
        if name in integers:
            assert type(value) is int, name
        elif name == "exception":
            assert type(value) is dict
        else:
            assert type(value) is str or (value is None and name in ("args", "result", "parentId")), name


@given(exits | enters, st.booleans())
def test_values_are_what_was_captured(record: Record, text: bool) -> None:
    """Values are JSON text in a string or plain JSON; None is "void" as text, and what is not captured null."""
    found = event(record, text=text)

    shown, payload = found["args" if record[0] == ENTER else "result"], record[8]
    if payload == NOT_CAPTURED:
        assert shown is None
    elif payload == NO_RESULT and record[0] == EXIT:
        assert shown == ("void" if text else None)
    else:
        assert shown == (payload.decode() if text else json.loads(payload))


def test_enter_is_written_as_in_the_original_format() -> None:
    """The bytes of an ENTER line: the original fields, then those that were added."""
    line = lines(wall_offset_ns=DAY).line(enter(task="Task-7", trace="ab" * 16, parent="cd" * 8))

    assert line.startswith(
        b'{"timestamp":1790000000005,"event":"ENTER","thread":"42","class":"Cart","function":"add",'
        b'"args":"{\\"x\\":1}","module":"shop.cart","traceId":"abababababababababababababababab","spanId":"'
    )
    assert line.endswith(b'","parentId":"cdcdcdcdcdcdcdcd","seq":7,"pid":4242,"task":"Task-7"}')


def test_exit_says_how_long_it_took() -> None:
    """Durations are whole micro- and milliseconds, rounded down; active time and end only where there are any."""
    plain = event(leave())
    suspended = event(leave(active_ns=2_000_999, ended="closed"))

    assert (plain["durationMicros"], plain["durationMillis"]) == (4321, 4)
    assert plain.keys().isdisjoint({"activeMicros", "ended"})
    assert (suspended["activeMicros"], suspended["ended"]) == (2000, "closed")


def test_exit_has_the_span_of_its_enter() -> None:
    """The span is that of the call, not of the record that ends it."""
    maker = lines()
    entered, left = (orjson.loads(maker.line(record)) for record in (enter(), leave()))
    assert entered["spanId"] == left["spanId"]
    assert entered["traceId"] == left["traceId"]
    assert entered["spanId"] != entered["parentId"]


def test_none_that_is_an_argument_is_not_void() -> None:
    """Only the result of a call is "void"."""
    assert event(enter(args=b'{"x":null}'))["args"] == '{"x":null}'


@pytest.mark.parametrize(
    ("qualname", "owner", "function"),
    [
        ("run", "shop.cart", "run"),
        ("Cart.add", "Cart", "add"),
        ("Cart.Item.price", "Cart.Item", "price"),
        ("run.<locals>.step", "shop.cart", "run.<locals>.step"),
        ("Cart.add.<locals>.step", "shop.cart", "Cart.add.<locals>.step"),
        ("run.<locals>.Local.add", "run.<locals>.Local", "add"),
    ],
)
def test_class_and_function(qualname: str, owner: str, function: str) -> None:
    """A method is named by its class, a plain function by its module, one inside another by its qualified name."""
    found = event(enter(), Described("shop.cart", qualname))
    assert (found["class"], found["function"], found["module"]) == (owner, function, "shop.cart")


def test_lone_surrogates_are_shown_as_escapes() -> None:
    """Names that UTF-8 cannot hold are written with backslashes."""  # fault U19
    found = event(enter(task="a\udc80"), Described("m\ud800", "f\udfff"))
    assert (found["task"], found["module"], found["function"]) == ("a\\udc80", "m\\ud800", "f\\udfff")


def test_static_data_is_asked_for_once() -> None:
    """A function is described when its first line is made, not for each."""
    asked: list[int] = []

    def describe(index: int) -> Described:
        asked.append(index)
        return Described("m", f"f{index}")

    maker = Lines(describe=describe, ids=Ids(bytes), pid=1, wall_offset_ns=0, values_as_text=True)
    functions = [orjson.loads(maker.line(enter(target=target)))["function"] for target in (0, 1, 0, 1)]

    assert functions == ["f0", "f1", "f0", "f1"]
    assert asked == [0, 1]


# -- ids -------------------------------------------------------------------------------------------------------------


def counted() -> Callable[[int], bytes]:
    """Bytes that are different on each call."""
    calls = iter(range(1, 256))
    return lambda count: bytes([next(calls)]) * count


@given(st.sets(st.integers(0, 2**64 - 1)))
def test_ids_are_hex_and_unique(seqs: set[int]) -> None:
    """Each number of a process has a span id of 16 and a trace id of 32 hex digits of its own."""
    ids = Ids(counted())

    spans, traces = {ids.span(seq) for seq in seqs}, {ids.trace(seq) for seq in seqs}

    assert len(spans) == len(traces) == len(seqs)
    assert all(re.fullmatch("[0-9a-f]{16}", span) and int(span, 16) for span in spans)
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)


def test_ids_from_elsewhere_are_kept() -> None:
    """A trace that another process began goes on under its ids."""
    ids = Ids(counted())
    assert (ids.span("00f067aa0ba902b7"), ids.trace("4bf92f3577b34da6" * 2)) == (
        "00f067aa0ba902b7",
        "4bf92f3577b34da6" * 2,
    )


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=4), st.integers(0, 5000))
def test_ids_of_calls_before_a_fork_are_the_parents(steps: list[int], number: int) -> None:
    """After forks of forks, a number from before one has the id it had there; later ones have new ids."""
    ids = Ids(counted())
    first = 0
    for step in steps:
        before = (ids.span(number), ids.trace(number))
        first += step
        ids.begin(first)
        assert ((ids.span(number), ids.trace(number)) == before) == (number < first)


def test_a_process_without_randomness_has_valid_ids() -> None:
    """An id is never all zeros, which W3C trace context forbids."""
    ids = Ids(bytes)
    assert int(ids.span(0), 16)
    assert int(ids.trace(0)[:16], 16)


# -- batches ---------------------------------------------------------------------------------------------------------


def test_batch_is_lines_and_body() -> None:
    """The body is all lines, each ended by a newline, and is joined once."""
    batch = Batch("run-1-2", [b'{"a":1}', b'{"b":2}'])

    assert batch.body == b'{"a":1}\n{"b":2}\n'
    assert batch.body is batch.body
    assert len(batch) == 2
    assert repr(batch) == "<Batch run-1-2 of 2 events>"
    assert Batch("run-1-3", []).body == b""


def test_events_of_a_batch_are_decoded_anew() -> None:
    """What one sink changes in its events another does not see."""  # fault S18
    batch = make_batch({"args": {"x": [1]}})

    batch.events()[0]["args"]["x"].append(2)

    assert batch.events() == [{"args": {"x": [1]}}]
