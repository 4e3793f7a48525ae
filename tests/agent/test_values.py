"""Values: whatever the program passes around becomes strict, bounded, redacted JSON, and none of its code runs."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import ipaddress
import json
import pathlib
import re
import sys
import threading
import tracemalloc
import types
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from flowtrace.descriptions import SLOW_NS, Descriptions
from flowtrace.redaction import MARKER, Redactor
from flowtrace.values import CYCLE, Encoder, Limits


def encoder(describe: dict[type, Callable[[Any], object]] | None = None, **limits: int) -> Encoder:
    """An encoder with the default redaction and these limits."""
    return Encoder(limits=Limits(**limits), redactor=Redactor(), describe=describe or {})


def strict(text: bytes) -> Any:
    """JSON as a strict reader sees it: one line, no NaN, no key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert len(text.decode().splitlines()) <= 1
    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)


def shown(value: object, **limits: int) -> Any:
    """What is recorded of a value."""
    return strict(encoder(**limits).result(value))


# Plain data


@pytest.mark.parametrize("value", [True, False, 0, -(2**62), 1.5, "", "text", "ünï \u2028 \x00 \x1b[0m \r\n", [], {}])
def test_plain_scalars_are_json_values(value: object) -> None:
    """Scalars arrive as what they are, on one line whatever they hold."""
    # fault U19
    assert shown(value) == value


def test_arguments_are_an_object_in_the_order_given() -> None:
    """Scalar arguments become one JSON object, first parameter first."""
    text = encoder().arguments({"room_id": "general", "count": 3, "rate": 1.5, "last": None})

    assert text == b'{"room_id":"general","count":3,"rate":1.5,"last":null}'


def test_no_result_is_null() -> None:
    """None is null, which the dispatcher writes as void."""
    assert encoder().result(None) == b"null"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**64, "18446744073709551616"),
        pytest.param(1 << 20_000, "0x8000000000000000… (20001 bits)", id="int of 6021 digits"),
        (-(1 << 600), "-0x8000000000000000… (601 bits)"),
        ("\ud800x", "\\ud800x"),
        (1 + 2j, "(1+2j)"),
        (b"ab\xff", "b'ab\\xff'"),
        (bytearray(b"ab"), "b'ab'"),
        (memoryview(b"ab"), "b'ab'"),
        (range(3), "range(0, 3, 1)"),
        (slice(None, 3), "slice(None, 3, None)"),
        (datetime.datetime(2024, 1, 15, 10, 30, tzinfo=datetime.UTC), "2024-01-15T10:30:00+00:00"),
        (datetime.date(2024, 1, 15), "2024-01-15"),
        (datetime.time(10, 30), "10:30:00"),
        (datetime.timedelta(days=1, seconds=5), "1 day, 0:00:05"),
        (uuid.UUID(int=10), "00000000-0000-0000-0000-00000000000a"),
        (decimal.Decimal("1.50"), "1.50"),
        pytest.param(decimal.Decimal("1" * 9000), "<decimal.Decimal of magnitude 8999>", id="decimal of 9000 digits"),
        (fractions.Fraction(1, 3), "1/3"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (pathlib.Path("a") / "b", str(pathlib.Path("a/b"))),
        (pathlib.PurePosixPath("a//b/./c/", "../d"), "a/b/c/../d"),
        (pathlib.PurePosixPath("a", "/b", ".hidden"), "/b/.hidden"),
        (pathlib.PurePosixPath(), "."),
        (pathlib.PureWindowsPath("c:/a", "b"), "c:\\a\\b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (ipaddress.ip_address("2001:db8::1%eth0"), "2001:db8::1%eth0"),
        (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (ipaddress.ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (re.compile("a+"), "<pattern 'a+'>"),
        (int, "<class int>"),
        (collections.OrderedDict, "<class collections.OrderedDict>"),
        (len, "<function len>"),
        (json.dumps, "<function json.dumps>"),
        (threading.Event().wait, "<method threading.Event.wait>"),
        (json, "<module json>"),
        (object(), "<object>"),
        (iter([]), "<list_iterator>"),
        (functools.partial(len), "<functools.partial>"),
        (weakref.ref(json.JSONDecoder), "<weakref.ReferenceType>"),
    ],
)
def test_values_that_json_does_not_have_are_short_texts(value: object, text: str) -> None:
    """Numbers beyond JSON, bytes, times, paths, callables and opaque objects are one short text."""
    # fault U6, U19, U20
    assert shown(value) == text


def test_a_timezone_of_the_program_is_not_asked() -> None:
    """A datetime whose zone is the program's own class is shown without its offset; ZoneInfo is asked."""
    zoneinfo = pytest.importorskip("zoneinfo")

    class Local(datetime.tzinfo):
        def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
            raise AssertionError("the program's code ran")

    noon = datetime.datetime(2024, 1, 15, 12)

    assert shown(noon.replace(tzinfo=Local())) == "2024-01-15T12:00:00[tz]"
    assert shown(noon.replace(tzinfo=zoneinfo.ZoneInfo("UTC"))) == "2024-01-15T12:00:00+00:00"


def test_containers_are_arrays_and_objects() -> None:
    """Built-in containers keep their order and become JSON arrays and objects."""
    value = {
        "list": [1, "a"],
        "tuple": (1,),
        "set": {1},
        "frozen": frozenset(),
        "deque": collections.deque([1]),
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, x=[]),
        "proxy": types.MappingProxyType({"k": 1}),
    }

    assert shown(value) == {
        "list": [1, "a"],
        "tuple": [1],
        "set": [1],
        "frozen": [],
        "deque": [1],
        "ordered": {"b": 1, "a": 2},
        "default": {"x": []},
        "proxy": {"k": 1},
    }


def test_keys_are_texts_and_never_clash() -> None:
    """Keys that are not texts are written as texts; two that come out alike are told apart."""
    # fault U20
    value = {"1 #3": 0, 1: "a", "1": "b", None: "c", (1, 2): "d", b"k": "e", 2.5: "f", Colour.RED: "g", "\ud800": "h"}

    assert shown(value) == {
        "1 #3": 0,
        "1": "a",
        "1 #3 #3": "b",
        "None": "c",
        "<tuple>": "d",
        "b'k'": "e",
        "2.5": "f",
        "Colour.RED": "g",
        "\\ud800": "h",
    }


# Bounds


def test_cuts_tell_the_original_size() -> None:
    """Texts, bytes, lists and dicts beyond a limit say how much is missing."""
    # fault U5, U15
    value = {
        "text": "a" * 300,
        "bytes": b"b" * 300,
        "list": list(range(10_000)),
        "dict": dict.fromkeys(range(1_000), 0),
    }

    result = shown(value, max_string=5, max_items=4)

    assert result == {
        "text": "aaaaa… [+295 chars]",
        "bytes": "b'bbbbb'… [+295 bytes]",
        "list": [0, 1, 2, 3, "… 9996 more"],
        "dict": {"0": 0, "1": 0, "2": 0, "3": 0, "…": "996 more"},
    }


def test_cuts_tell_the_original_type() -> None:
    """What JSON has no brackets for says what it was, be it cut in width, in depth or for its bytes."""
    # fault U15
    many = range(10)
    kinds = {kind.__name__: kind(many) for kind in (tuple, set, frozenset, collections.deque)}

    assert shown(kinds, max_items=4) == {name: [0, 1, 2, 3, f"… 6 more ({name})"] for name in kinds}
    assert shown([{"list": list(many), **kinds}], max_depth=2) == [
        {
            "list": "[… 10 items]",
            "tuple": "(… 10 items)",
            "set": "{… 10 items}",
            "frozenset": "frozenset([… 10 items])",
            "deque": "deque([… 10 items])",
        }
    ]
    assert shown([[DictKind(a=1), ListKind(many)]], max_depth=2) == [
        [{"@type": "DictKind", "value": "{… 1 keys}"}, {"@type": "ListKind", "value": "[… 10 items]"}]
    ]
    assert shown({1, 2, *range(100, 200)}, max_items=99, max_bytes=40)[-1].endswith(" more (set)")


@pytest.mark.parametrize("max_bytes", range(64, 500, 7))
def test_a_cut_of_a_cut_tells_the_size_of_the_whole(max_bytes: int) -> None:
    """Where the bytes are too few for what the other limits left, the number of all that is missing is told."""
    # fault U15
    limits = {"max_bytes": max_bytes, "max_items": 20, "max_string": 100}

    numbers = shown(list(range(1000, 2000)), **limits)
    pairs = shown({f"key{number}": number for number in range(1000)}, **limits)
    text = shown("x" * 1000, **limits)
    data = shown(b"x" * 1000, **limits)

    assert len(numbers) - 1 + int(numbers[-1].split()[1]) == 1000
    assert len(pairs) - 1 + int(pairs["…"].split()[0]) == 1000
    for cut, unit in ((text, "chars"), (data, "bytes")):
        assert cut.endswith((f"… [+900 {unit}]", f"… [of 1000 {unit}]")), cut


def test_an_object_with_more_fields_than_are_read_tells_how_many() -> None:
    """Slots and attributes beyond those that are read are counted too."""
    # fault U15
    wide, slotted = Node(), type("Slotted", (), {"__slots__": [f"field{number}" for number in range(1000)]})()
    wide.__dict__.update({f"field{number}": number for number in range(998)})
    for number in range(1000):
        setattr(slotted, f"field{number}", number)

    for value in (wide, slotted):
        record = shown(value, max_items=4)
        assert len(record) == 6
        assert int(record["…"].split()[0]) >= 995  # the one private attribute may be among what was not read


def test_names_that_clash_with_marks_stay_apart() -> None:
    """A key or field that looks like a mark of ours does not replace it, nor is it replaced."""
    named = Node()
    named.__dict__.update({"@type": "fake", "next": 1})

    assert shown({"…": 1, "a": 2, "b": 3}, max_items=2) == {"…": 1, "a": 2, "……": "1 more"}
    assert shown(named) == {"@type": "Node", "@type…": "fake", "next": 1}


def calls_made(value: object, **limits: int) -> int:
    """How many functions, of Python and of C, capturing a value calls: the work, without a clock."""
    capture = encoder(**limits)
    capture.result(value)  # classes are examined once
    calls = 0

    def count(frame: types.FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()  # callbacks of the collector would count
    sys.setprofile(count)
    try:
        capture.result(value)
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


@pytest.mark.parametrize(
    ("make", "small", "large"),
    [
        (lambda size: list(range(size)), 100, 10**6),
        (lambda size: dict.fromkeys(range(size)), 100, 10**5),
        (lambda size: set(range(size)), 100, 10**5),
        (bytes, 1000, 10**7),
        (lambda size: "x" * size, 1000, 10**7),
        (lambda size: [[[number] * size for number in range(size)] for _ in range(size)], 40, 80),
        (lambda size: [[[] for _ in range(size)] for _ in range(size)], 100, 300),
        (lambda size: ValueError(*range(size)), 100, 10**5),
        (lambda size: UserFields(size), 300, 10**5),
        (lambda size: 1 << size, 1000, 10**6),
    ],
)
def test_the_work_does_not_grow_with_the_value(make: Callable[[int], object], small: int, large: int) -> None:
    """Beyond the limits, a value that is a thousand times larger takes the very same number of calls to capture."""
    # fault U5
    assert calls_made(make(large)) == calls_made(make(small))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [[UserFields(1000, prefix="_private") for _ in range(32)] for _ in range(32)],
        lambda: [[UserFields(1000) for _ in range(32)] for _ in range(32)],
        lambda: [[[calls_made] * 32] * 32] * 32,
        lambda: [[[object()] * 32] * 32] * 32,
        lambda: [[[Colour.RED] * 32] * 32] * 32,
        lambda: [[{("k", number): [] for number in range(32)} for _ in range(32)] for _ in range(32)],
        lambda: [[["password", "x"]] * 32] * 32,
        lambda: [["password=" + "x" * 200] * 32] * 32,
    ],
)
def test_what_is_read_counts_even_if_it_is_not_shown(make: Callable[[], object]) -> None:
    """The bytes of a call bound its work: private fields, names, hidden values and whatever takes few bytes to show."""
    # fault U5
    assert calls_made(make(), max_bytes=8192) < 22_000
    assert calls_made(make(), max_bytes=1024) < 4_000


class UserFields:
    """An object with as many fields as asked for."""

    def __init__(self, count: int, prefix: str = "field") -> None:
        self.__dict__.update({f"{prefix}{number}": number for number in range(count)})


def test_a_table_that_was_emptied_is_not_searched() -> None:
    """Of a dict or set of which nearly all was removed the size is told: to find what is left takes as long as ever."""
    # fault U5
    counts, members = dict.fromkeys(range(100_000)), set(range(100_000))
    for number in range(99_997):
        del counts[number]
        members.remove(number)

    assert shown([counts, collections.defaultdict(None, counts), members]) == [
        "{… 3 keys}",
        {"99997": None, "99998": None, "99999": None},
        "{… 3 items}",
    ]


def test_nothing_is_kept_of_classes_that_are_gone() -> None:
    """A program that makes classes all the time does not make the agent grow."""
    # fault U18
    capture = encoder()
    for _ in range(100):
        capture.result(type("Passing", (), {})())
    gc.collect()
    capture.result(Point(1, 2))

    assert len(capture._shapes) == 1


def test_names_of_any_length_are_not_kept() -> None:
    """The names that are remembered to be no secrets are short ones; an attribute may have a megabyte of name."""
    # fault U18
    capture, name = encoder(), "x" * 1_000_000
    before = sys.getrefcount(name)
    capture.arguments({name: 1})

    assert sys.getrefcount(name) == before


def test_depth_counts_from_the_argument() -> None:
    """At the third level containers are still opened, below it their size or type is told."""
    # fault U4
    value = {"a": {"b": {"list": [1, 2], "dict": {"k": 1}, "empty": [], "object": Point(1, 2)}}}

    innermost = shown(value)["a"]["b"]

    assert innermost == {"list": "[… 2 items]", "dict": "{… 1 keys}", "empty": [], "object": f"<{__name__}.Point>"}


def test_nesting_beyond_any_stack_is_no_matter() -> None:
    """A list nested a hundred thousand deep is opened three times."""
    # fault U4
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]

    assert shown(value) == [[["[… 1 items]"]]]


def test_cycles_are_marked_and_shared_references_shown() -> None:
    """A container inside itself is marked; the same container twice is shown twice."""
    # fault U15
    cycle: dict[str, Any] = {}
    cycle["self"] = [cycle]
    node = Node()
    node.next = node
    shared = [1]

    assert shown(cycle) == {"self": [CYCLE]}
    assert shown(node) == {"@type": "Node", "next": CYCLE}
    assert shown([shared, shared]) == [[1], [1]]


def test_memory_does_not_grow_with_the_value() -> None:
    """Megabytes of text, bytes, list and dict are captured in a few kilobytes."""
    # fault U5
    value = [
        "x" * 10_000_000,
        bytearray(10_000_000),
        [0] * 1_000_000,
        dict.fromkeys(range(100_000)),
        TextKind("y" * 10_000_000),
    ]
    capture = encoder()
    capture.result(value)
    tracemalloc.start()

    text = capture.result(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(text) < 8192
    assert peak < 200_000


@pytest.mark.parametrize("max_bytes", [2, 5, 10, 30, 100, 1000])
def test_total_bytes_are_a_strict_bound(max_bytes: int) -> None:
    """However tight, the text is valid JSON of at most max_bytes, and looser bounds keep the first values."""
    values: dict[str, object] = {
        "first": 1,
        "rows": [{"name": "é\x00" * 50, "cells": list(range(30))} for _ in range(30)],
    }

    text = encoder(max_bytes=max_bytes).arguments(values)

    assert len(text) <= max_bytes
    assert strict(text) is not None
    if max_bytes >= 30:
        assert strict(text)["first"] == 1


def test_a_change_after_the_call_does_not_show() -> None:
    """What is recorded is the value at the moment of the call."""
    # fault U17
    value = {"state": "before"}

    text = encoder().result(value)
    value["state"] = "after"

    assert text == b'{"state":"before"}'


def test_dicts_and_sets_may_change_in_another_thread() -> None:
    """A dict, a set and an object that another thread grows and shrinks are captured or marked, never an error."""
    # fault U16
    capture, stop = encoder(), threading.Event()
    counts: dict[int, int] = {}
    members: set[int] = set()
    thing = Node()

    def churn() -> None:
        while not stop.is_set():
            for number in range(100):
                counts[number] = number
                members.add(number)
                setattr(thing, f"field{number}", number)
            counts.clear()
            members.clear()
            thing.__dict__.clear()

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        for _ in range(500):
            assert strict(capture.result([counts, members, thing])) is not None
    finally:
        stop.set()
        worker.join()
    assert capture.failures == 0


def test_nothing_of_a_value_outlives_the_call() -> None:
    """Values, exceptions and classes are collected as if nobody had looked."""
    # fault U18
    capture = encoder()

    class Passing:
        def __init__(self) -> None:
            self.content = [1]

    class Failure(Exception):
        pass

    value, error = Passing(), Failure(Passing())
    ends = [weakref.ref(value), weakref.ref(error), weakref.ref(Passing), weakref.ref(Failure)]
    capture.arguments({"value": value})
    capture.result(value)
    capture.exception(error)

    del value, error, Passing, Failure
    gc.collect()
    assert [end() for end in ends] == [None, None, None, None]


# The program's own classes


class Colour(enum.Enum):
    """An enum."""

    RED = 1


class Permission(enum.Flag):
    """A flag."""

    READ = 1
    WRITE = 2


class Place(NamedTuple):
    """A named tuple."""

    x: int
    password: str


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    y: int
    parent: object = dataclasses.field(default=None, repr=False)
    total = 7

    @property
    def computed(self) -> int:
        """A property, which is code."""
        raise AssertionError("the program's code ran")


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass with slots, not in the order of the alphabet."""

    second: int
    first: int
    unset: int = dataclasses.field(init=False)


class Node:
    """A plain class, with private attributes."""

    def __init__(self) -> None:
        self._private = 1
        self.next: object = None


class SlottedNode:
    """A plain class with slots and a base class."""

    __slots__ = ("_hidden", "name", "unset")

    def __init__(self) -> None:
        self.name, self._hidden = "n", 1


class Stranger:
    """A plain class of another package."""

    __module__ = "elsewhere.module"

    def __init__(self) -> None:
        self.name = "s"


class TextKind(str):
    """A text of the program's own kind."""

    __slots__ = ()


class ListKind(list):  # type: ignore[type-arg]
    """A list of the program's own kind."""


class DictKind(dict):  # type: ignore[type-arg]
    """A dict of the program's own kind."""


class IntKind(int):
    """An int of the program's own kind."""


class TimeKind(datetime.datetime):
    """A datetime of the program's own kind."""


class ComplexKind(complex):
    """A complex number of the program's own kind."""


class HourKind(datetime.time):
    """A time of the program's own kind."""


class SpanKind(datetime.timedelta):
    """A timedelta of the program's own kind."""


class UuidKind(uuid.UUID):
    """A UUID of the program's own kind."""


class MoneyKind(decimal.Decimal):
    """A decimal of the program's own kind."""


class PathKind(pathlib.PurePosixPath):
    """A path of the program's own kind."""


class Refused(Exception):
    """An exception with fields instead of arguments."""

    def __init__(self, *, status: int, token: str) -> None:
        self.status, self.token = status, token


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "Colour.RED"),
        (Permission.READ | Permission.WRITE, "Permission.READ|WRITE"),
        (Permission(0), "Permission(0)"),
        (Place(1, "hunter2"), {"@type": "Place", "x": 1, "password": MARKER}),
        (Point(1, 2, parent=[1]), {"@type": "Point", "x": 1, "y": 2}),
        (Slotted(1, 2), {"@type": "Slotted", "second": 1, "first": 2}),
        (Node(), {"@type": "Node", "next": None}),
        (SlottedNode(), {"@type": "SlottedNode", "name": "n"}),
        (TextKind("abc"), {"@type": "TextKind", "value": "abc"}),
        (ListKind([1]), {"@type": "ListKind", "value": [1]}),
        (DictKind(a=1), {"@type": "DictKind", "a": 1}),
        (IntKind(7), {"@type": "IntKind", "value": 7}),
        (TimeKind(2024, 1, 15), {"@type": "TimeKind", "value": "2024-01-15T00:00:00"}),
        (ComplexKind(1, 2), {"@type": "ComplexKind", "value": "(1+2j)"}),
        (HourKind(10, 30), {"@type": "HourKind", "value": "10:30:00"}),
        (SpanKind(1), {"@type": "SpanKind", "value": "1 day, 0:00:00"}),
        (UuidKind(int=10), {"@type": "UuidKind", "value": "00000000-0000-0000-0000-00000000000a"}),
        (MoneyKind("1.50"), {"@type": "MoneyKind", "value": "1.50"}),
        (PathKind("a") / "b", {"@type": "PathKind", "value": "a/b"}),
        (IntKind(1 << 600), {"@type": "IntKind", "value": "0x8000000000000000… (601 bits)"}),
        (types.SimpleNamespace(a=1, password="x"), {"@type": "SimpleNamespace", "a": 1, "password": MARKER}),
        (collections.Counter("aab"), {"@type": "Counter", "a": 2, "b": 1}),
        (ValueError("a", 1), {"@type": "ValueError", "args": ["a", 1]}),
        (Point, f"<class {__name__}.Point>"),
        (Node().__init__, f"<method {__name__}.Node.__init__>"),  # type: ignore[misc]
    ],
)
def test_objects_show_their_type_and_what_they_store(value: object, expected: object) -> None:
    """Enums by name; data classes, tuples and objects by stored fields; subclasses of built-ins by their content."""
    assert shown(value) == expected


def test_objects_inside_others_are_opened_within_their_package() -> None:
    """A plain object inside another is opened if both are of one package, and declared data always."""
    outer = Node()
    outer.next = [Node(), Stranger(), Point(1, 2)]

    assert shown(outer, max_depth=4)["next"] == [
        {"@type": "Node", "next": None},
        "<elsewhere.module.Stranger>",
        {"@type": "Point", "x": 1, "y": 2},
    ]
    assert shown([Stranger()]) == [{"@type": "Stranger", "name": "s"}]


def test_pydantic_models_show_their_aliases_and_no_secrets() -> None:
    """A model shows the keys that it is sent with; SecretStr never shows."""
    pydantic = pytest.importorskip("pydantic")
    namespace: dict[str, Any] = {
        "__annotations__": {"type": str, "room_id": str, "pin": pydantic.SecretStr, "plain": int},
        "__module__": __name__,
        "type": pydantic.Field(alias="Type"),
        "room_id": pydantic.Field(serialization_alias="RoomId"),
        "plain": 3,
    }
    message = type("ChatMessage", (pydantic.BaseModel,), namespace)(Type="join", room_id="general", pin="1234")

    assert shown(message) == {"@type": "ChatMessage", "Type": "join", "RoomId": "general", "pin": MARKER, "plain": 3}


def test_attrs_classes_show_their_fields() -> None:
    """An attrs class with slots shows its public fields in order, those with repr=False left out."""
    attrs = pytest.importorskip("attrs")
    kind = attrs.make_class("Order", {"total": attrs.field(), "lines": attrs.field(), "cache": attrs.field(repr=False)})

    assert shown(kind(3, [1], "x")) == {"@type": "Order", "total": 3, "lines": [1]}


def test_msgspec_structs_show_their_fields() -> None:
    """A msgspec struct shows its fields in order."""
    msgspec = pytest.importorskip("msgspec")
    kind = msgspec.defstruct("Row", [("zone", str), ("amount", int)])

    assert shown(kind("eu", 3)) == {"@type": "Row", "zone": "eu", "amount": 3}


def test_numpy_arrays_show_their_shape_only() -> None:
    """An array is named with element type and shape, a numpy number is a number."""
    # fault U20
    numpy = pytest.importorskip("numpy")

    assert shown(numpy.zeros((3, 4))) == "<numpy.ndarray float64 (3, 4)>"
    assert shown([numpy.int64(3), numpy.float32(1.5), numpy.bool_(True)]) == [3, 1.5, True]


def test_mocks_are_left_alone() -> None:
    """A mock records every access; none is made."""
    # fault U8
    mock = pytest.importorskip("unittest.mock").MagicMock()

    assert shown(mock) == "<unittest.mock.MagicMock>"
    assert mock.mock_calls == []


def test_a_dead_proxy_is_no_error() -> None:
    """A weak proxy, alive or dead, is shown by its type."""
    # fault U8
    node = Node()
    proxy = weakref.proxy(node)
    del node

    assert shown(proxy) == "<weakref.ProxyType>"


# No code of the program runs: tests/objects has the hostile ones


def test_a_lazy_query_is_not_run() -> None:
    """An object that would query on repr, len, bool and iteration shows the fields it has loaded."""
    # fault U7

    class Query:
        runs = 0

        def __init__(self) -> None:
            self.table, self._rows = "rooms", None

        def run(self, *args: object) -> Iterator[object]:
            Query.runs += 1
            raise AssertionError("the query ran")

        __len__ = __bool__ = __iter__ = __repr__ = __getitem__ = __eq__ = __hash__ = run  # type: ignore[assignment]

    query = Query()

    assert encoder().result(query) == b'{"@type":"%b","table":"rooms"}' % Query.__qualname__.encode()
    assert Query.runs == 0


def test_a_class_that_hides_its_dict_is_named() -> None:
    """A class with a ``__dict__`` of its own keeps it to itself."""
    # fault U10

    class Secretive:
        __slots__ = ()

        @property
        def __dict__(self) -> dict[str, object]:  # type: ignore[override]
            raise AssertionError("the program's code ran")

    assert shown(Secretive()).startswith(f"<{__name__}.")


# Redaction


def test_secret_names_hide_values_at_every_level() -> None:
    """Parameters, keys, fields and header pairs with a secret name are hidden; what holds nothing is shown."""
    # fault X1
    account = Node()
    account.__dict__.update(api_key="k-1", owner="bob")
    values: dict[str, object] = {
        "password": "hunter2",
        "pin_code": 1234,
        "token": None,
        "auth": False,
        "credentials": {"user": "bob"},
        "cookie": "",
        "account": account,
        "body": {"user": {"passwd": "x", "name": "y"}, b"Cookie": "a=b"},
        "headers": [(b"authorization", b"Bearer x"), ("Accept", "text/html"), ["x-api-key", "k-2"]],
    }

    assert strict(encoder().arguments(values)) == {
        "password": MARKER,
        "pin_code": MARKER,
        "token": None,
        "auth": False,
        "credentials": MARKER,
        "cookie": "",
        "account": {"@type": "Node", "next": None, "api_key": MARKER, "owner": "bob"},
        "body": {"user": {"passwd": MARKER, "name": "y"}, "b'Cookie'": MARKER},
        "headers": [["b'authorization'", MARKER], ["Accept", "text/html"], ["x-api-key", MARKER]],
    }


class Text(str):
    """A text of the program's own."""


class Field(enum.StrEnum):
    """Keys that are members of an enum."""

    PASSWORD = "password"
    SORT = "sort"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["mysql", "--password", "x", "-u", "bob"], ["mysql", "--password", MARKER, "-u", "bob"]),
        (("--api-key", "x", "--token", "y"), ["--api-key", MARKER, "--token", MARKER]),
        (["mysql", "-phunter2", "db"], ["mysql", f"-p{MARKER}", "db"]),
        (("sudo", "/usr/bin/sshpass", "-p", "x", "ssh"), ["sudo", "/usr/bin/sshpass", "-p", MARKER, "ssh"]),
        (["ssh", "-p", "22"], ["ssh", "-p", "22"]),
        (["mysql", 1, None], ["mysql", 1, None]),
        (["--password=x", "db"], [f"--password={MARKER}", "db"]),
        (["--sort", "x", "-", "y", "--"], ["--sort", "x", "-", "y", "--"]),
        (["--password", None, "--token"], ["--password", None, "--token"]),
        ({"name": "Authorization", "value": "x"}, {"name": "Authorization", "value": MARKER}),
        ({"value": "x", "name": "password"}, {"value": MARKER, "name": "password"}),
        ({"Key": b"api_key", "Value": ["x"]}, {"Key": "b'api_key'", "Value": MARKER}),
        ({"name": "colour", "value": "x"}, {"name": "colour", "value": "x"}),
        ({"name": "password", "value": ""}, {"name": "password", "value": ""}),
        (slice("password=x", 1), f"slice('password={MARKER}', 1, None)"),
        ({("db", "password"): "x", ("db", "user"): "bob"}, {"<tuple>": MARKER, "<tuple> #2": "bob"}),
        ({frozenset({1, b"api_key"}): ["x"], frozenset({"key"}): 1}, {"<frozenset>": MARKER, "<frozenset> #2": 1}),
        ({(1, ("password", 2)): "shown", ("password_length",): 8}, {"<tuple>": "shown", "<tuple> #2": 8}),
    ],
)  # fmt: skip
def test_secrets_are_found_where_another_part_names_them(value: object, expected: object) -> None:
    """Arguments of commands after their option; lists of names and values, as of headers in HAR files."""  # fault X1
    assert shown(value) == expected


Header = collections.namedtuple("Header", ["name", "value"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "Authorization", "value": "x"}, MARKER),
        ({"key": "api_key", "val": "x"}, MARKER),
        ({"k": b"password", "v": ["x"]}, MARKER),
        ({"name": "colour", "value": "x"}, "x"),
        ({"value": "x", "other": "password"}, "x"),
        ({"name": "password", "value": None}, None),
        ({"name": "password", "n": 1, "value": "x"}, MARKER),
    ],
)  # fmt: skip
def test_arguments_are_hidden_where_another_names_them(values: dict[str, Any], expected: object) -> None:
    """``set_header(name, value)``, ``__setitem__(key, value)``; fields of objects likewise."""  # fault X1
    last = [*values][-1] if "other" not in values else "value"

    assert strict(encoder().arguments(values))[last] == expected
    assert strict(encoder().arguments({"a": Header("password", "x")}))["a"]["value"] == MARKER


def test_configured_name_may_be_value() -> None:
    """What the config calls a secret is one, whatever it is called."""
    some = Encoder(limits=Limits(), redactor=Redactor(names=["value"]))

    assert strict(some.arguments({"name": "colour", "value": "x"})) == {"name": "colour", "value": MARKER}


@pytest.mark.parametrize("mark", ["\x80", "\x9b", "\x85", "\u200e", "\u2028", "\u202e", "\u2066", "\u2069"])
def test_nothing_steers_a_terminal(mark: str) -> None:
    """Controls that terminals obey and marks that turn the direction of writing are escaped."""  # fault U19, X5
    text = encoder().result(f"é{mark}ü")

    assert mark.encode() not in text
    assert strict(text) == f"é{mark}ü"


def test_keys_of_the_programs_own_are_asked_by_what_they_hold() -> None:
    """Whatever they are shown as."""  # fault X1
    found = shown([{Text("password"): "x", Text("colour"): "z"}, {Field.PASSWORD: "y", Field.SORT: "up"}])

    assert [sorted(each.values()) for each in found] == [[MARKER, "z"], [MARKER, "up"]]


@pytest.mark.parametrize(
    "value",
    [
        "Bearer abcdef123456",
        b"Bearer abcdef123456",
        4111111111111111,
        [4111111111111111],
        "x" * 250 + " ghp_" + "abcdef123456" * 3,
        TextKind("token=abcdef123456"),
        {"ghp_" + "abcdef123456" * 2: 1},
        b'{"password": "abcdef123456"}' + b"x" * 999,
        pathlib.PurePosixPath("/x?token=abcdef123456"),
        re.compile("ghp_" + "abcdef123456" * 2),
        "https://x.org/?" + "a" * 220 + "&token=abcdef123456" * 30,
        memoryview(b"jwt=abcdef123456"),
    ],
)
def test_secrets_inside_values_are_hidden(value: object) -> None:
    """Tokens in texts, bytes, keys, paths and numbers are hidden, also where the cut goes through them."""
    # fault X2
    text = encoder().arguments({"value": value})

    assert MARKER[:4] in text.decode()  # of the marker too the end may be cut
    assert b"abcdef123456" not in text
    assert b"4111" not in text


def test_a_cut_through_a_redaction_shows_no_more_than_it_should() -> None:
    """Before the cut everything is kept, the end of what was read, which may be half a secret, is not."""
    secrets = " ".join(["ghp_" + "abcdef123456" * 3] * 20)

    assert shown("note: " + secrets, max_string=60) == f"note: {' '.join([MARKER] * 7)}"[:60] + "… [+765 chars]"
    assert shown("pay 4111111111111111 " + "x" * 90, max_string=30) == f"pay {MARKER} xxxxxxxxx… [+81 chars]"


# Exceptions


def raised(error: BaseException) -> dict[str, Any]:
    """What is recorded of an exception that was raised."""
    try:
        raise error
    except BaseException as caught:
        record: dict[str, Any] = strict(encoder().exception(caught))
        return record


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("bad value"),
        ValueError(),
        ValueError("a", 2),
        FileNotFoundError(2, "No such file", "/x"),
        OSError(5, "failed"),
        ZeroDivisionError("division by zero"),
        KeyError(3),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ImportError("no module", name="x"),
        StopIteration(3),
        KeyboardInterrupt(),
    ],
)
def test_built_in_exceptions_read_as_python_writes_them(error: BaseException) -> None:
    """Type, message and place of an exception are those of its traceback."""
    record = raised(error)

    assert record["type"] == type(error).__name__
    assert record["message"] == str(error)
    assert re.fullmatch(r"test_values\.py:\d+", record["at"])


def test_long_messages_tell_their_length() -> None:
    """Of a message the first characters are kept, of many arguments the first, and both say what is missing."""
    # fault U5
    assert raised(ValueError("x" * 1000))["message"] == "x" * 256 + "… [+744 chars]"
    assert raised(ValueError(*range(50)))["message"] == ", ".join(map(str, range(32))) + ", … 18 more"
    assert raised(ExceptionGroup("several", [ValueError(), KeyError()]))["message"] == "several (2 sub-exceptions)"


def test_messages_are_made_without_the_programs_code() -> None:
    """Arguments and fields that are objects are named, and a ``__str__`` of the program does not run."""
    # fault X3

    class Loud(Refused):
        def __str__(self) -> str:
            raise AssertionError("the program's code ran")

    assert raised(Loud(status=404, token="abc"))["message"] == f"status=404, token={MARKER}"
    assert raised(ValueError(Node(), 3))["message"] == f"<{__name__}.Node>, 3"
    assert raised(ValueError(uuid.UUID(int=10), Colour.RED, [1]))["message"] == f"{uuid.UUID(int=10)}, Colour.RED, [1]"
    assert raised(FileNotFoundError(2, "No such file", pathlib.Path("/x")))["message"] == "[Errno 2] No such file: '/x'"
    assert raised(ValueError("cannot reach https://u:p@db/x with token=abc"))["message"] == (
        f"cannot reach https://{MARKER}@db/x with token={MARKER}"
    )


def test_an_exception_that_was_not_raised_has_no_place() -> None:
    """Without a traceback the place is null; a recursion that failed is placed nowhere, and quickly."""

    def fall(depth: int) -> None:
        if depth:
            fall(depth - 1)
        raise ValueError("end")

    with pytest.raises(ValueError, match="end") as caught:
        fall(300)

    assert strict(encoder().exception(ValueError("x")))["at"] is None
    assert strict(encoder().exception(caught.value))["at"] is None


# Plugins and failures


def test_a_description_is_encoded_like_data() -> None:
    """What a plugin says of a type is bounded and redacted like any value, and only for that very type."""
    capture = encoder({Node: lambda node: {"next": "n" * 300, "token": "abc"}})

    assert strict(capture.result(Node())) == {"next": "n" * 256 + "… [+44 chars]", "token": MARKER}
    assert "@type" in strict(capture.result(type("Derived", (Node,), {})()))


@pytest.mark.parametrize("failure", [ValueError, SystemExit, RecursionError])
def test_a_description_that_raises_is_dropped_after_three_times(failure: type[BaseException]) -> None:
    """A failing description leaves the type's name and is counted; the fourth time it is not asked."""
    # fault U1, U2
    asked = []

    def describe(node: Node) -> object:
        asked.append(1)
        raise failure

    capture = encoder({Node: describe})
    texts = [strict(capture.result([Node()])) for _ in range(5)]

    assert texts == [[f"<{__name__}.Node>"]] * 3 + [[{"@type": "Node", "next": None}]] * 2
    assert (len(asked), capture.failures) == (3, 3)


def test_a_description_that_was_dropped_is_said_once() -> None:
    """All encoders share the descriptions: after the third failure one line tells type and reason, and no secret."""
    warnings: list[str] = []

    def describe(node: Node) -> object:
        raise ValueError("token=abcdef123456")

    descriptions = Descriptions({Node: describe}, warn=warnings.append)
    captures = [Encoder(limits=Limits(), redactor=Redactor(), describe=descriptions) for _ in range(2)]
    texts = [strict(capture.result(Node())) for _ in range(4) for capture in captures]

    assert texts == [f"<{__name__}.Node>"] * 3 + [{"@type": "Node", "next": None}] * 5
    assert warnings == [
        f"a plugin's description of <{__name__}.Node> raised ValueError for the third time; it is used no more"
    ]


def test_a_description_that_is_slow_is_dropped_after_three_times_in_a_row() -> None:
    """A description may be slow now and then, for it may have to wait for its turn; three times in a row it may not."""
    # fault U5
    warnings: list[str] = []
    now, asked = 0, 0
    slow = [True, True, False, True, True, True]

    def describe(node: Node) -> object:
        nonlocal now, asked
        now += SLOW_NS + 1 if slow[asked] else SLOW_NS
        asked += 1
        return {"asked": asked}

    descriptions = Descriptions({Node: describe}, warn=warnings.append, clock=lambda: now)
    capture = Encoder(limits=Limits(), redactor=Redactor(), describe=descriptions)
    texts = [strict(capture.result(Node())) for _ in range(8)]

    assert texts == [{"asked": number} for number in range(1, 7)] + [{"@type": "Node", "next": None}] * 2
    assert warnings == [
        f"a plugin's description of <{__name__}.Node> took more than 10 ms for the third time; it is used no more"
    ]
    assert capture.failures == 0


def test_the_descriptions_of_one_capture_take_a_bounded_time() -> None:
    """Many that are not slow together are: when their time is over, the others of that capture are named."""
    # fault U5
    now = 0

    def describe(node: Node) -> object:
        nonlocal now
        now += SLOW_NS // 4
        return {"at": now}

    capture = Encoder(limits=Limits(), redactor=Redactor(), describe=Descriptions({Node: describe}, clock=lambda: now))

    for _ in range(2):
        texts = strict(capture.result([Node() for _ in range(6)]))
        assert [type(text) for text in texts] == [dict] * 4 + [str] * 2


def test_a_built_in_type_is_shown_as_ever_when_its_description_is_dropped() -> None:
    """A plugin may describe what flowtrace knows already, and then it may fail."""

    def describe(moment: datetime.date) -> object:
        raise ValueError

    capture = encoder({datetime.date: describe})
    texts = [strict(capture.result(datetime.date(2024, 1, 15))) for _ in range(4)]

    assert texts[3] == "2024-01-15"


@pytest.mark.parametrize(
    "thrown", [KeyboardInterrupt, type("Timeout", (BaseException,), {}), type("SoftLimit", (Exception,), {})]
)
def test_what_is_thrown_into_the_thread_passes(thrown: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that comes from outside while a value is captured belongs to the program."""
    # fault U2, C3
    capture = encoder()

    def interrupted(text: str) -> bool:
        raise thrown

    monkeypatch.setattr(capture, "_is_clean", interrupted)

    for method in (
        capture.result,
        lambda value: capture.arguments({"x": value}),
        lambda value: capture.exception(ValueError(value)),
    ):
        with pytest.raises(thrown):
            method("a longer text")


@pytest.mark.parametrize("failure", [MemoryError, RecursionError, TypeError])
def test_a_failure_of_its_own_is_a_placeholder(failure: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory or stack, the value is given up and counted, and of an exception nothing is said."""
    # fault C7
    capture = encoder()

    def fail(text: str) -> bool:
        raise failure

    monkeypatch.setattr(capture, "_is_clean", fail)

    assert strict(capture.result("a longer text")) == "<uncapturable>"
    assert strict(capture.arguments({"a": "a longer text"})) == {"…": "<uncapturable>"}
    assert capture.exception(ValueError("a longer text")) == b""
    assert capture.failures == 3


def test_at_the_end_of_the_stack_nothing_is_raised() -> None:
    """Called on the last frames that the recursion limit leaves, capturing fails alone or not at all."""
    # fault C7
    capture = encoder()
    value = {"nested": [Node(), {"more": [1]}]}
    texts: list[bytes] = []
    depths: list[object] = []
    reached = 0

    def fall() -> None:
        nonlocal reached
        with contextlib.suppress(RecursionError):
            fall()
        if reached < 40:  # on the way back up: with no frame left, then one, then two
            reached += 1
            try:
                texts.append(capture.result(value))
            except RecursionError as error:
                depths.append(error.__traceback__ and error.__traceback__.tb_next)

    fall()

    assert all(depth is None for depth in depths), "it was raised inside the encoder, not on the way in"
    assert capture.failures > 0
    assert {text[:1] for text in texts} <= {b"{", b'"'}
    assert strict(capture.result(value)) == {"nested": [{"@type": "Node", "next": None}, {"more": "[… 1 items]"}]}


def test_a_new_class_at_an_old_address_is_told_apart() -> None:
    """Classes that come and go by the thousand are shown by their own names."""
    capture = encoder()
    for number in range(300):
        kind = type(f"Kind{number}", (), {"__module__": "m"})
        assert capture.result(kind()) == b'"<m.Kind%d>"' % number
