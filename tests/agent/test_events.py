"""Records become lines of JSON: the field order is the format's, and nothing in a value can break a line."""

from __future__ import annotations

import json
import re
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
    json_text,
)  # fmt: skip

PLACE = ["module", "traceId", "spanId", "parentId", "seq", "pid"]
ORDER = {
    "ENTER": ["timestamp", "event", "thread", "class", "function", "args"],
    "EXIT": ["timestamp", "event", "thread", "class", "function", "result", "durationMicros", "durationMillis"],
    "EXCEPTION": ["timestamp", "event", "thread", "class", "function", "exception", "durationMicros", "durationMillis"],
}

numbers = st.integers(0, 2**62)
texts = st.text(st.characters(), max_size=20)  # lone surrogates included
spans = numbers | st.from_regex("[0-9a-f]{16}", fullmatch=True)
traces = numbers | st.from_regex("[0-9a-f]{32}", fullmatch=True)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
)
payloads = plain.map(orjson.dumps)
scalars = st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
scalars |= st.text(st.characters(codec="ascii"), max_size=10)
enters = st.builds(
    Enter, st.just(ENTER), st.just(0), numbers, numbers, numbers, st.none() | texts, traces, st.none() | spans,
    payloads | st.just(NOT_CAPTURED) | st.tuples(scalars, st.none(), scalars), st.none() | st.just(b'{"method":"GET"}'),
    st.just(("a", "b", "c")),
)  # fmt: skip
leaves = st.builds(
    Leave, st.just(EXIT), st.just(0), numbers, numbers, numbers, st.none() | texts, traces,
    st.none() | spans, payloads | st.just(NOT_CAPTURED) | scalars, numbers, numbers, st.none() | numbers,
    st.sampled_from([None, "closed", "abandoned"]),
)  # fmt: skip
leaves |= st.builds(
    Leave, st.just(EXCEPTION), st.just(0), numbers, numbers, numbers, st.none() | texts, traces,
    st.none() | spans, payloads, numbers, numbers, st.none() | numbers, st.sampled_from([None, "closed", "abandoned"]),
)  # fmt: skip
statements = st.builds(
    Statement, st.just(STATEMENT), st.sampled_from(["START", "ATTACH", "LOSS", "STOP"]), numbers, numbers, numbers,
    st.dictionaries(st.text(max_size=5), plain, max_size=3).map(lambda fields: orjson.dumps(fields)[1:-1]),
)  # fmt: skip


def lines(*, as_text: bool = True, module: str = "app.chat", qualname: str = "Chat.send") -> Lines:
    """A maker of lines with one target."""
    return Lines(
        describe=lambda index: Described(module, qualname),
        ids=Ids(bytes),
        pid=42,
        wall_offset_ns=1_705_318_200_000_000_000,
        values_as_text=as_text,
    )


def strict(line: bytes) -> dict[str, Any]:
    """The object of a line, by two parsers; keys that come twice and NaN are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refused(constant: str) -> None:
        raise ValueError(constant)

    assert b"\n" not in line
    event: dict[str, Any] = json.loads(line.decode(), object_pairs_hook=unique, parse_constant=refused)
    assert orjson.loads(line).keys() == event.keys()
    return event


@given(record=enters | leaves, as_text=st.booleans())
def test_each_record_is_one_line_in_the_fields_order(record: Record, as_text: bool) -> None:
    """Whatever is in it, a record becomes one valid JSON object, the original fields first."""  # fault U19
    event = strict(lines(as_text=as_text).line(tuple(record)))

    added = [name for name in ("task",) if record[5] is not None]
    if record[0] == ENTER and record[9]:
        added.append("request")
    if record[0] != ENTER:
        added = [
            name for name, value in (("activeMicros", record[11]), ("ended", record[12])) if value is not None
        ] + added
    assert list(event)[: len(ORDER[event["event"]])] == ORDER[event["event"]]
    assert set(event) == {*ORDER[event["event"]], *PLACE, *added}
    assert len(event["traceId"]) == 32
    assert len(event["spanId"]) == 16
    assert type(event["thread"]) is str


@given(record=statements)
def test_statements_are_lines_too(record: Record) -> None:
    """The agent's own events carry their fields between the common ones."""
    event = strict(lines().line(tuple(record)))

    assert list(event)[:3] == ["timestamp", "event", "thread"]
    assert list(event)[-2:] == ["seq", "pid"]


def test_an_enter_reads_as_in_the_original_format() -> None:
    """The example of the format, field by field."""
    record = Enter(ENTER, 0, 17, 25_000_000, 7, "Task-7", 16, 16, b'{"room_id":"general"}')

    line = lines().line(tuple(record))

    assert line.startswith(
        b'{"timestamp":1705318200025,"event":"ENTER","thread":"7","class":"Chat","function":"send",'
        b'"args":"{\\"room_id\\":\\"general\\"}","module":"app.chat","traceId":"'
    )
    assert line.endswith(b',"seq":17,"pid":42,"task":"Task-7"}')


@pytest.mark.parametrize(("as_text", "none", "five"), [(True, "void", "5"), (False, None, 5)])
def test_results_are_text_or_values(as_text: bool, none: object, five: object) -> None:
    """As text, None is ``void`` and other results are JSON in a string; as values, both are JSON."""
    make = lines(as_text=as_text)
    leave = Leave(EXIT, 0, 1, 0, 7, None, 0, None, b"null", 0, 1_999_999, None, None)

    events = [strict(make.line(tuple(leave._replace(payload=payload)))) for payload in (b"null", b"5", NOT_CAPTURED)]

    assert [event["result"] for event in events] == [none, five, None]
    assert (events[0]["durationMicros"], events[0]["durationMillis"]) == (1999, 1)


@pytest.mark.parametrize(
    ("qualname", "owner", "function"),
    [
        ("send", "app.chat", "send"),
        ("Chat.send", "Chat", "send"),
        ("Chat.Inner.send", "Chat.Inner", "send"),
        ("outer.<locals>.inner", "app.chat", "outer.<locals>.inner"),
        ("outer.<locals>.Local.send", "outer.<locals>.Local", "send"),
    ],
)
def test_class_and_function(qualname: str, owner: str, function: str) -> None:
    """A method has its class, a plain function its module in the field ``class``."""
    assert Described("app.chat", qualname).class_and_function == (owner, function)


@given(text=st.text())
def test_any_text_can_be_written(text: str) -> None:
    """Lone surrogates are written as escapes; all else reads back."""
    written = json.loads(json_text(text))

    assert written == text or any("\ud800" <= character <= "\udfff" for character in text)


@given(st.lists(numbers, unique=True, max_size=50))
def test_ids_are_unique_and_stable(seqs: list[int]) -> None:
    """Different spans of a process have different ids, the same one always the same."""
    ids = Ids(lambda n: b"\x07" * n)

    assert len({ids.span(seq) for seq in seqs}) == len(seqs)
    assert [ids.span(seq) for seq in seqs] == [ids.span(seq) for seq in seqs]
    assert all(int(ids.span(seq), 16) and int(ids.trace(seq), 16) for seq in seqs)


def test_a_forked_child_has_ids_of_its_own() -> None:
    """From the fork on, numbers give other ids than in the parent; before it, the same."""
    keys = iter([bytes(range(16)), bytes(range(16, 32))])
    ids = Ids(lambda n: next(keys))
    before = [ids.span(seq) for seq in range(20)], [ids.trace(seq) for seq in range(20)]

    ids.begin(10)

    assert [ids.span(seq) for seq in range(10)] == before[0][:10]
    assert [ids.trace(seq) for seq in range(10)] == before[1][:10]
    assert not {ids.span(seq) for seq in range(10, 20)} & set(before[0])


def test_a_batch_gives_events_anew() -> None:
    """A sink may change the events it asked for; lines and body stay."""
    batch = Batch("run-1-0", [b'{"a":1}', b'{"a":2}'])

    batch.events()[0].clear()

    assert batch.events() == [{"a": 1}, {"a": 2}]
    assert batch.body == b'{"a":1}\n{"a":2}\n'
    assert (len(batch), repr(batch)) == (2, "<Batch run-1-0 of 2 events>")


def documented(kind: str) -> list[str]:
    """The fields of ENTER, EXIT or EXCEPTION in the order of docs/events.md."""
    text = (Path(__file__).parents[2] / "docs/events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \| ([A-Z, ]+|all) \|", text, re.MULTILINE)
    return [name for fields, kinds in rows if kinds in ("all",) or kind in kinds.split(", ")
            for name in re.findall(r"`(\w+)`", fields)]  # fmt: skip


@given(record=enters | leaves.filter(lambda leave: leave.kind == EXIT or not leave.ended), as_text=st.booleans())
def test_fields_are_the_documented_ones(record: Record, as_text: bool) -> None:
    """docs/events.md names each field, in the order and of the type it has; few may be absent."""
    event = strict(lines(as_text=as_text).line(tuple(record)))

    expected = documented(event["event"])
    assert list(event) == [name for name in expected if name in event]
    assert {*expected} - {*event} <= {"task", "activeMicros", "ended", "request"}
    for name in {"timestamp", "seq", "pid", "durationMicros", "durationMillis", "activeMicros"} & event.keys():
        assert type(event[name]) is int


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=4), st.integers(0, 5_000))
def test_calls_from_before_a_fork_keep_their_ids(steps: list[int], number: int) -> None:
    """After forks of forks, a number from before one has the id it had there; later ones have new ids."""
    keys = iter(range(1, 256))
    ids = Ids(lambda count: bytes([next(keys)]) * count)
    first = 0
    for step in steps:
        before = (ids.span(number), ids.trace(number))
        first += step
        ids.begin(first)
        assert ((ids.span(number), ids.trace(number)) == before) == (number < first)


def test_ids_are_never_all_zeros() -> None:
    """W3C trace context forbids it, whatever the source of randomness gives."""
    ids = Ids(bytes)
    assert int(ids.span(0), 16)
    assert int(ids.trace(0)[:16], 16)


def test_functions_are_described_once() -> None:
    """The static data of a function is asked for when its first line is made, not for each."""
    asked: list[int] = []

    def describe(index: int) -> Described:
        asked.append(index)
        return Described("m", f"f{index}")

    make = Lines(describe=describe, ids=Ids(bytes), pid=1, wall_offset_ns=0, values_as_text=True)
    record = Enter(ENTER, 0, 1, 0, 7, None, 0, None, b"{}")
    functions = [strict(make.line(tuple(record._replace(target=target))))["function"] for target in (0, 1, 0, 1)]

    assert functions == ["f0", "f1", "f0", "f1"]
    assert asked == [0, 1]
