"""Fields and arguments: the one loop that shows them, against the plainest way that there could be, byte for byte."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import types
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.jsontext import Rest, unused
from flowtrace.redaction import MARKER, Redactor
from flowtrace.shapes import Shape, stored_fields
from flowtrace.values import CYCLE, Encoder, Limits, _holds_nothing

NAMES = [
    "id", "room_id", "username", "name", "value", "key", "val", "Value", "password", "api_key", "token", "_private",
    "__mangled", "@type", "…", "… …", "", "x" * 130, "é", "created_at", "password_length", "name…", "k", "v",
]  # fmt: skip
TEXTS = [
    "", "Alice", "client-1", "Hello to everybody here!", "password=hunter2", "x" * 300, "Bearer abcdefghijklmnop", "é",
    "Authorization", "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "\u2028", "\ud800", "4111111111111111", "a b", "--password",
]  # fmt: skip
SETTINGS = [
    Limits(),
    Limits(max_bytes=5),
    Limits(max_bytes=60),
    Limits(max_bytes=150),
    Limits(max_bytes=400),
    Limits(max_depth=0),
    Limits(max_depth=1, max_items=3, max_string=5, max_bytes=120),
    Limits(max_depth=6, max_items=2, max_string=20),
    Limits(max_items=0),
    Limits(max_string=0),
]  # fmt: skip


class Plain:
    """Whatever attributes it is given."""


class Text(str):
    """A key that is not Python's own."""

    __slots__ = ()


class Slotted:
    """Slots, and a dict that may have the same name."""

    __slots__ = ("__dict__", "_hidden", "id", "name", "username")


class More(Slotted):
    """A slot of the base once more, and others."""

    __slots__ = ("name", "value")


@dataclasses.dataclass
class Declared:
    """Declares what it shows."""

    id: object = 1
    name: object = None
    room_id: object = dataclasses.field(default=2, repr=False)


class Model(pydantic.BaseModel):
    """Aliases that meet other names, each other, and secrets."""

    model_config = pydantic.ConfigDict(extra="allow", populate_by_name=True)

    id: Any = pydantic.Field(default=1, serialization_alias="name")
    name: Any = pydantic.Field(default="x", serialization_alias="password")
    username: Any = pydantic.Field(default="y", serialization_alias="room_id")
    room_id: Any = "z"


class Lookup(dict):  # type: ignore[type-arg]
    """A dict that keeps attributes as well."""


class Colour(enum.Enum):
    """Some members."""

    RED = 1
    GREEN = "green"


Pair = collections.namedtuple("Pair", ["name", "value"])
KINDS = [Plain, Slotted, More, Declared, Model, Lookup, types.SimpleNamespace]


class Reference(Encoder):
    """Filters, renames, cuts off and shows, one after the other, and looks at every name and text each time."""

    def _text(self, text: str, call: Any) -> str:
        self._clean_texts.clear()
        self._unchecked = self._unchecked_word = 0
        return super()._text(text, call)

    def _object(self, value: Any, call: Any, shape: Shape) -> object:
        if id(value) in call.path:
            return CYCLE
        if len(call.path) >= self._max_depth or not (shape.declared or call.package in ("", shape.package)):
            return shape.name
        stored, unread = stored_fields(value, shape, self._max_items * 8)
        call.left -= len(stored)
        fields = [field for field in stored if type(field[0]) is str and field[0][:1] != "_"]
        renamed = [(shape.aliases.get(name, name), item) for name, item in fields]
        shown = [(name, item) for name, item in renamed if name is not None]
        if not shown and not shape.declared:
            return shape.name
        return self._opened(value, shown[: self._max_items], len(shown) + unread, call, shape)

    def _fields(
        self, fields: Any, total: int, call: Any, shown: Any, names: Any, shape: Shape | None = None
    ) -> dict[str, object]:
        announced = False
        for count, (name, item) in enumerate(fields):
            if call.left <= 0:
                total -= count
                break
            call.left -= len(name) + 4
            secret = self._is_secret(name)
            if name in ("value", "Value", "val", "v"):
                secret = secret or announced
            elif name in ("name", "key", "k"):
                announced = self._is_header(item)
            plain = MARKER if secret and not _holds_nothing(item) else self._plain(item, call)
            shown[unused(name, shown)] = plain
        else:
            total -= len(fields)
        if total > 0:
            shown[unused("…", shown)] = Rest(total, "{} more")
        return shown  # type: ignore[no-any-return]


ENCODERS = [
    [kind(limits=limits, redactor=Redactor()) for kind in (Encoder, Reference)] for limits in SETTINGS
]  # that go on: what they have learned must not matter

zones = st.sampled_from([None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))])
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**12, 10**15 + 7, -(10**12), 0.0])
    | st.sampled_from(TEXTS) | st.text(max_size=20) | st.binary(max_size=20) | st.sampled_from(Colour)
    | st.datetimes(timezones=zones) | st.dates()
)  # fmt: skip
keys = st.sampled_from(NAMES) | st.text(max_size=5) | st.sampled_from(TEXTS)


@st.composite
def objects(draw: Any, inner: st.SearchStrategy[Any]) -> object:
    """An instance of some class with some attributes, of which some were there once."""
    made = draw(st.sampled_from(KINDS))()
    stored = draw(st.dictionaries(keys, inner, max_size=8))
    for name, item in stored.items():
        if type(made) is More and name in ("name", "id"):
            object.__setattr__(made, name, item)
        made.__dict__[name] = item
    for name in draw(st.lists(st.sampled_from([*made.__dict__] or ["id"]), max_size=2)):
        made.__dict__.pop(name, None)
    if draw(st.integers(0, 9)) == 0:
        made.__dict__[draw(st.sampled_from([1, Text("id"), None]))] = 1
    if draw(st.integers(0, 9)) == 0:
        made.__dict__["self"] = made
    return made


values = st.recursive(
    scalars,
    lambda inner: (
        objects(inner)
        | objects(scalars)
        | st.lists(inner, max_size=5)
        | st.lists(inner, min_size=2, max_size=2).map(tuple)
        | st.dictionaries(keys | st.integers(), inner, max_size=5)
        | st.builds(Pair, inner, inner)
        | st.builds(ValueError, inner)
    ),
    max_leaves=12,
)  # fmt: skip


@given(arguments=st.dictionaries(keys, values, max_size=5), number=st.integers(0, len(SETTINGS) - 1))
def test_what_is_known_of_names_and_texts_changes_nothing(arguments: dict[str, Any], number: int) -> None:
    """Whatever an object stores, and wherever the limits cut, the bytes are those of the plainest way."""
    encoder, reference = ENCODERS[number]

    for _ in range(2):
        assert encoder.arguments(arguments) == reference.arguments(arguments)
        for value in arguments.values():
            assert encoder.result(value) == reference.result(value)
    assert encoder.failures == reference.failures


@pytest.mark.parametrize("room", range(5, 200))
def test_fields_are_left_out_where_the_plainest_way_leaves_them_out(room: int) -> None:
    """Of scalars in a row, those are shown that began while there was room; what comes after sees what is left."""
    inner = Declared(id="client-1", name=types.SimpleNamespace(a=1, b="two", c=None, d="Hello to you", e=2.5))
    encoder, reference = (kind(limits=Limits(max_bytes=room), redactor=Redactor()) for kind in (Encoder, Reference))

    for _ in range(2):
        assert encoder.result([inner, Plain(), inner, 1]) == reference.result([inner, Plain(), inner, 1])


def test_names_of_a_class_are_learned_without_end() -> None:
    """Objects whose attributes have other names each time are shown as any others, and little of them is kept."""
    encoder = Encoder(limits=Limits(), redactor=Redactor())

    for number in range(1_000):
        value = Plain()
        value.__dict__.update({f"field_{number}": 1, f"_hidden_{number}": 2, "password": number})
        assert encoder.result(value) == (b'{"@type":"Plain","field_%d":1,"password":"[redacted]"}' % number)

    shape = next(shape for shape in encoder._shapes.values() if shape.title == "Plain")
    assert len(shape.names) <= 128
