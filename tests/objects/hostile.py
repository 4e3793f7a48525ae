"""Hostile objects, made at random: instances of classes full of traps, and all that Python can wrap around them.

A workshop makes a set of classes first and then any number of objects. It draws all that it decides from one
``random.Random``: seeded for volume, driven by hypothesis where a failure is to shrink.
"""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import contextvars
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import io
import ipaddress
import itertools
import pathlib
import random
import re
import sys
import threading
import types
import uuid
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from tests.objects.traps import MISDEEDS, Impostor, Name, hostile_metaclass, trap, traps

try:
    import attrs
except ImportError:  # pragma: no cover
    attrs = None  # type: ignore[assignment]

Make = Callable[["Workshop"], tuple[Any, ...]]


def _nothing(shop: Workshop) -> tuple[Any, ...]:
    return ()


def _some(shop: Workshop) -> tuple[Any, ...]:
    return (shop.values(4),)


def _pairs(shop: Workshop) -> tuple[Any, ...]:
    return (shop.mapping(),)


@dataclasses.dataclass
class Declared:
    """A dataclass to derive from."""

    name: Any
    value: Any
    secret: Any = dataclasses.field(default=None, repr=False)


class Pair(collections.namedtuple("Pair", "left right")):
    """A named tuple to derive from."""

    __slots__ = ()


class Plain:
    """A class to derive from."""

    def __init__(self, **fields: Any) -> None:
        object.__getattribute__(self, "__dict__").update(fields)


# Bases of the classes, with the arguments that their instances are made of
BASES: list[tuple[type, Make]] = [
    (object, _nothing),
    (Plain, _nothing),
    (Declared, lambda shop: (shop.value(), shop.value())),
    (Pair, lambda shop: (shop.value(), shop.value())),
    (dict, _pairs),
    (collections.OrderedDict, _pairs),
    (collections.defaultdict, lambda shop: (list, shop.mapping())),
    (collections.Counter, _pairs),
    (collections.ChainMap, _pairs),
    (collections.UserDict, _nothing),
    (collections.UserList, _nothing),
    (list, _some),
    (tuple, _some),
    (set, lambda shop: (shop.keys(4),)),
    (frozenset, lambda shop: (shop.keys(4),)),
    (collections.deque, _some),
    (str, lambda shop: (shop.text(),)),
    (bytes, lambda shop: (shop.text().encode("utf-8", "replace"),)),
    (bytearray, lambda shop: (shop.text().encode("utf-8", "replace"),)),
    (int, lambda shop: (shop.number(),)),
    (float, lambda shop: (shop.choose.choice([0.0, 1.5, float("nan"), float("-inf"), 1e308]),)),
    (complex, lambda shop: (1, 2)),
    (Exception, _some),
    (BaseException, lambda shop: shop.values(3)),
    (KeyError, lambda shop: (shop.value(),)),
    (OSError, lambda shop: (2, shop.value(), shop.value())),
    (ImportError, lambda shop: (shop.value(),)),
    (SyntaxError, lambda shop: ("bad", ("f.py", 1, 2, "text"))),
    (UnicodeDecodeError, lambda shop: ("utf-8", b"\xff", 0, 1, "bad")),
    (StopIteration, lambda shop: (shop.value(),)),
    (SystemExit, lambda shop: (shop.value(),)),
    (ExceptionGroup, lambda shop: ("group", [ValueError(shop.value())])),
    (datetime.datetime, lambda shop: (2024, 1, 15, 10, 30)),
    (datetime.date, lambda shop: (2024, 1, 15)),
    (datetime.time, lambda shop: (10, 30)),
    (datetime.timedelta, lambda shop: (1, 2)),
    (datetime.tzinfo, _nothing),
    (decimal.Decimal, lambda shop: ("1.50",)),
    (fractions.Fraction, lambda shop: (1, 3)),
    (uuid.UUID, lambda shop: ("0" * 32,)),
    (pathlib.PurePosixPath, lambda shop: ("a", "b")),
    (ipaddress.IPv4Address, lambda shop: ("10.0.0.1",)),
    (ipaddress.IPv6Network, lambda shop: ("2001:db8::/32",)),
    (types.ModuleType, lambda shop: ("a.module",)),
    (types.SimpleNamespace, _nothing),
    (property, lambda shop: (shop.function(),)),
    (staticmethod, lambda shop: (shop.function(),)),
    (classmethod, lambda shop: (shop.function(),)),
    (functools.partial, lambda shop: (shop.function(), shop.value())),
    (threading.local, _nothing),
    (io.StringIO, lambda shop: ("text",)),
    (io.BytesIO, lambda shop: (b"text",)),
    (array.array, lambda shop: ("i", [1, 2])),
    (random.Random, lambda shop: (1,)),
    (itertools.count, _nothing),
    (weakref.WeakValueDictionary, _nothing),
    (asyncio.Queue, _nothing),
]

# Names that something which shows values looks for on a class, so that the answers can be lies
_TOLD = (
    "_fields", "__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__", "__pydantic_complete__",
    "__struct_fields__", "__match_args__", "_member_map_", "model_fields", "_name_", "_value_",
)  # fmt: skip
_SLOTS = ("name", "value", "_hidden", "password", "__mangled", "unset", "ünï")
_TEXTS = (
    "", "text", "a longer text, with a = sign: and more", "\ud800 lone", "\x00\x1b[0m\r\n\u2028\x85 \u202e", "é" * 300,
    "x" * 10_000, "Bearer abcdef1234567890abcd", "token=abcdef123456", "4111 1111 1111 1111", '{"password": "x"}',
    "name", "name #1", "@type", "…", "__dict__",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2**31, 10**15 + 7, 4111111111111111, 2**63, -(2**64), 1 << 20_000, -(1 << 600))


class Workshop:
    """Makes hostile classes, and objects of them.

    Args:
        choose: Decides.
        kinds: How many classes are made at first; making one is what takes the time.

    Attributes:
        kinds: The classes, and what their instances are made of.
        made: All containers and objects made since it was emptied last.
    """

    def __init__(self, choose: random.Random, *, kinds: int = 40) -> None:
        self.choose = choose
        self.made: list[Any] = []
        self._depth = 0
        self._metaclasses = [hostile_metaclass(choose) for _ in range(2)]
        self.kinds: list[tuple[Any, Make]] = []
        self._singles: list[Any] = [object()]
        self._singles += [self._enum_member(number) for number in range(4)]
        for _ in range(kinds):
            self.kinds.append(self._kind())
        self.made.clear()

    # Scalars

    def text(self) -> str:
        """A text, harmless or not."""
        return self.choose.choice(_TEXTS)

    def number(self) -> int:
        """A whole number."""
        return self.choose.choice(_NUMBERS)

    def scalar(self) -> Any:
        """What JSON has, or Python's own kind of it."""
        scalars = (None, True, 1.5, float("nan"), float("inf"), b"bytes\xff", 1 + 2j, ..., NotImplemented)
        return self.choose.choice((self.text, self.number, lambda: self.choose.choice(scalars)))()

    # Containers

    def values(self, most: int) -> list[Any]:
        """Some values."""
        return [self.value() for _ in range(self.choose.randint(0, most))]

    def keys(self, most: int) -> list[Any]:
        """Some values that can be hashed."""
        return [key for key in self.values(most) if _is_hashable(key)]

    def mapping(self) -> dict[Any, Any]:
        """A dict, whose keys may be anything that can be hashed; perhaps with holes where others were removed."""
        found = {f"field{number}": value for number, value in enumerate(self.values(3))}
        for key in self.keys(3):
            found[key] = self.value()
        if self.choose.random() < 0.3:
            name = self.choose.choice(("field0", "__name__", "password"))
            found[Impostor(name)] = found[Impostor(name)] = 1
            for number in range(self.choose.choice((0, 20))):
                found[number] = found.pop(number, None)
                del found[number]
        if self.choose.random() < 0.2:
            found[Name("password")] = "hunter2"
        return found

    # Objects

    def value(self) -> Any:
        """Anything: the deeper, the simpler."""
        if self._depth > 4 or self.choose.random() < 0.25:
            return self.scalar()
        self._depth += 1
        try:
            made = self.choose.choice((self.instance, self.instance, self.container, self.holder))()
        finally:
            self._depth -= 1
        self.made.append(made)
        return made

    def instance(self) -> Any:
        """An instance of a hostile class, or the class."""
        if not self.kinds or self.choose.random() < 0.1:
            return self.choose.choice(self._singles)
        kind, arguments = self.choose.choice(self.kinds)
        if self.choose.random() < 0.1:
            return kind
        return self._fill(build(kind, arguments(self)))

    def container(self) -> Any:
        """A container of Python's own; now and then one that is part of itself."""
        items = self.values(6)
        made = self.choose.choice((
            lambda: items, lambda: tuple(items), self.mapping, lambda: set(self.keys(4)),
            lambda: frozenset(self.keys(4)), lambda: collections.deque(items),
            lambda: collections.OrderedDict(self.mapping()),
            lambda: collections.defaultdict(None, self.mapping()), lambda: types.MappingProxyType(self.mapping()),
            lambda: Pair(items, self.value()), lambda: Declared(items, self.value()),
            lambda: [("authorization", self.value()), [b"cookie", self.value()]],
        ))()  # fmt: skip
        if made is items and self.choose.random() < 0.2:
            items.append(items)
        return made

    def function(self) -> Any:
        """A function whose names are not what they seem."""

        def function(value: Any = None) -> Any:
            return value

        function.__defaults__ = (self.scalar(),)
        if self.choose.random() < 0.5:
            function.__module__ = self.choose.choice((Name("a.module"), None, 7, self.text()))  # type: ignore[assignment]
            function.__qualname__ = Name("Class.function")
        return function

    def holder(self) -> Any:
        """Something of Python's own that holds a hostile object."""
        inner = self.value()
        maker = self.choose.choice(HOLDERS)
        try:
            return maker(self, inner)
        except (TypeError, ValueError, AttributeError, OverflowError, ReferenceError):  # not with this one
            return [inner]

    # Classes

    def _kind(self) -> tuple[Any, Make]:
        base, arguments = self.choose.choice(BASES)
        if self.kinds and self.choose.random() < 0.15:
            parent, inherited = self.choose.choice(self.kinds)
            if not type.__subclasscheck__(type, type(parent)) and type(parent) is type:
                base, arguments = parent, inherited
        namespace = traps(self.choose, base)
        self._mislead(namespace)
        slots = [name for name in _SLOTS if self.choose.random() < 0.5]
        if self.choose.random() < 0.3:
            namespace["__slots__"] = self.choose.choice((slots, tuple(slots), dict.fromkeys(slots), map(str, slots)))
        meta = self.choose.choice((type, *self._metaclasses))
        if type(base) is not type:
            meta = type(base)
        with warnings.catch_warnings(action="ignore"):
            try:
                kind = type.__new__(meta, "Hostile", (base,), namespace)
            except (TypeError, ValueError):  # slots or a metaclass that this base does not allow
                namespace.pop("__slots__", None)
                kind = type.__new__(type(base), "Hostile", (base,), namespace)
        if self.choose.random() < 0.3:
            type.__setattr__(kind, "__qualname__", self.choose.choice((Name("A.Hostile"), "x" * 1000, "\ud800")))
        return kind, arguments

    def _mislead(self, namespace: dict[Any, Any]) -> None:
        """Lies about fields, hostile names, keys that are no names, a ``__dict__`` that is a method."""
        chance = self.choose.random
        for name in _TOLD:
            if chance() < 0.1:
                namespace[name] = self.choose.choice((self.fields, self.mapping, self.value, lambda: None))()
        if chance() < 0.3:
            namespace["__module__"] = self.choose.choice((Name("a.module"), self.value(), "pydantic.types", "numpy"))
        if chance() < 0.2:
            impostor = self.choose.choice((Name, Impostor))
            for name in ("__module__", "__slots__", "__dict__", "_fields", "__pydantic_fields__", "name", "__name__"):
                namespace[impostor(name)] = 1
        if chance() < 0.2:
            misdeed = self.choose.choice(MISDEEDS)
            namespace["__dict__"] = property(trap("__dict__", misdeed, lambda self: {"shown": 1}))
        if chance() < 0.2:
            namespace["name"] = property(trap("name", self.choose.choice(MISDEEDS)))

    def fields(self) -> Any:
        """What might be the declaration of fields."""
        names = [self.choose.choice(("name", "value", Name("name"), Impostor("name"), 7)) for _ in range(3)]
        field = types.SimpleNamespace(name=self.value(), alias=Name("alias"), repr=self.value())
        declared = dataclasses.fields(Declared)[0]
        return self.choose.choice((
            names, tuple(names), dict.fromkeys(names, field), dict.fromkeys(names, declared), Pair(field, self.value()),
            Name("name"), {"name": self.value()},
        ))  # fmt: skip

    def _fill(self, value: Any) -> Any:
        """Put fields where the object has room: into slots and into its dict, which may be of a hostile class."""
        for name in ("name", "value", "password", "_hidden"):
            for owner in type.__dict__["__mro__"].__get__(type(value)):
                member = type.__dict__["__dict__"].__get__(owner).get(name)
                if type(member) is types.MemberDescriptorType and self.choose.random() < 0.5:
                    member.__set__(value, self.value())
        try:
            stored = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return value
        if type(stored) is dict:
            dict.update(stored, {f"field{number}": item for number, item in enumerate(self.values(3))})
            if self.choose.random() < 0.2:
                stored[Name("named")] = stored[Impostor("value")] = self.scalar()
        return value

    def _enum_member(self, number: int) -> Any:
        """A member of an enum, with traps in the class where the enum's own machinery leaves room for them."""
        bases: tuple[tuple[type, ...], ...] = ((enum.Enum,), (enum.IntEnum,), (enum.StrEnum,), (enum.Flag,))
        names = ("__repr__", "__str__", "__format__", "__bool__", "__len__", "__iter__", "__eq__", "__dir__")
        left_out = ("__eq__",) if number == 3 else ()
        namespace = {
            name: trap(name, self.choose.choice(MISDEEDS), getattr(bases[number][0], name, None) or (lambda self: 1))
            for name in names
            if name not in left_out
        }
        class_body = enum.EnumMeta.__prepare__("Colour", bases[number])
        for name, method in namespace.items():
            class_body[name] = method
        class_body["__hash__"] = object.__hash__
        class_body["RED"] = "red" if number == 2 else 1
        member = enum.EnumMeta("Colour", bases[number], class_body)["RED"]
        if number == 0:
            member.__dict__["_name_"] = self.choose.choice((Name("RED"), "R" * 10_000, None))
            member.__dict__["_value_"] = self.choose.choice((Name("red"), "token=abcdef123456", self.mapping()))
        return member


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except (ArithmeticError, AttributeError, LookupError, ReferenceError, TypeError, ValueError):
        return False
    return True


def build(kind: Any, arguments: tuple[Any, ...]) -> Any:
    """An instance, made by the first class that is not hostile."""
    mro = type.__dict__["__mro__"].__get__(kind)
    base = next(owner for owner in mro if type.__dict__["__qualname__"].__get__(owner) in _BASE_NAMES)
    fresh = base.__new__ is not object.__new__
    value = base.__new__(kind, *(arguments if fresh else ()))
    if base.__init__ is not object.__init__:
        with contextlib.suppress(AttributeError, TypeError, ValueError):  # then it is one that was never finished
            base.__init__(value, *arguments)
    return value


_BASE_NAMES = frozenset(base.__qualname__ for base, _ in BASES)


# What holds a hostile object


def _generator(shop: Workshop, inner: Any) -> Any:
    def generator(held: Any) -> Any:
        yield held

    made = generator(inner)
    if shop.choose.random() < 0.5:
        next(made)
    made.__qualname__ = Name("generator")
    return made


def _coroutine(shop: Workshop, inner: Any) -> Any:
    @types.coroutine
    def pause(held: Any) -> Any:
        yield held

    async def coroutine(held: Any) -> Any:
        await pause(held)

    made = coroutine(inner)
    made.send(None)
    return made


def _async_generator(shop: Workshop, inner: Any) -> Any:
    async def generator(held: Any) -> Any:
        yield held

    return generator(inner)


class _Exporter:
    __buffer__ = trap("__buffer__", MISDEEDS[0], lambda self, flags: memoryview(b"exported"))
    __release_buffer__ = trap("__release_buffer__", MISDEEDS[0], lambda self, view: None)


def _buffer(shop: Workshop, inner: Any) -> Any:
    return memoryview(_Exporter())  # type: ignore[arg-type]  # from 3.12 on


def _error(shop: Workshop, inner: Any) -> Any:
    error = shop.choose.choice((ValueError, KeyError, OSError, StopIteration, SystemExit))(inner, *shop.values(2))
    error.__dict__["status"] = inner
    error.__notes__ = [inner]
    return error


def _weak(kind: Callable[[Any], Any]) -> Callable[[Workshop, Any], Any]:
    def make(shop: Workshop, inner: Any) -> Any:
        made = kind(inner)
        if shop.choose.random() < 0.3:
            return kind(Plain())  # dead at once
        return made

    return make


def _object(shop: Workshop, inner: Any) -> Any:
    class Odd(dict):  # type: ignore[type-arg]
        pass

    made = Plain(field=inner, password=inner, token=inner)
    if shop.choose.random() < 0.3:
        object.__setattr__(made, "__dict__", Odd(field=inner))
    return made


def _uuid(shop: Workshop, inner: Any) -> Any:
    made = uuid.UUID(int=10)
    object.__setattr__(made, "int", inner)
    return made


def _address(shop: Workshop, inner: Any) -> Any:
    made = ipaddress.IPv6Address("2001:db8::1")
    made._scope_id = inner
    return made


def _network(shop: Workshop, inner: Any) -> Any:
    made = ipaddress.IPv4Network("10.0.0.0/8")
    made.network_address = inner
    return made


def _fraction(shop: Workshop, inner: Any) -> Any:
    made = fractions.Fraction(1, 3)
    made._numerator = inner  # type: ignore[attr-defined]
    return made


def _attrs(shop: Workshop, inner: Any) -> Any:
    if attrs is None:
        return inner
    kind = attrs.make_class("Order", ["total", "password"], slots=shop.choose.random() < 0.5, eq=False)
    return kind(inner, inner)


def _slotted(shop: Workshop, inner: Any) -> Any:
    kind = dataclasses.make_dataclass("Slotted", ["total", "password"], slots=True, eq=False)
    return kind(inner, inner)


class _Zone(datetime.tzinfo):
    utcoffset = tzname = dst = fromutc = trap("tzinfo", MISDEEDS[0])  # type: ignore[assignment]


class _Offset(datetime.timedelta):
    __slots__ = ()
    __str__ = __repr__ = __neg__ = __abs__ = __eq__ = __hash__ = __bool__ = trap("offset", MISDEEDS[0])  # type: ignore[assignment]
    __floordiv__ = __mod__ = __sub__ = __add__ = __divmod__ = trap("offset", MISDEEDS[0])  # type: ignore[assignment]


HOLDERS: list[Callable[[Workshop, Any], Any]] = [
    _generator,
    _coroutine,
    _async_generator,
    _error,
    _object,
    _uuid,
    _address,
    _network,
    _fraction,
    _attrs,
    _slotted,
    _weak(weakref.ref),
    _weak(weakref.proxy),
    *([_buffer] if sys.version_info >= (3, 12) else []),
    lambda shop, inner: shop.function(),
    lambda shop, inner: functools.partial(shop.function(), inner),
    lambda shop, inner: functools.lru_cache(shop.function()),
    lambda shop, inner: types.MethodType(shop.function(), inner),
    lambda shop, inner: types.MethodType(len, inner),
    lambda shop, inner: [].append,
    lambda shop, inner: inner.__class__,
    lambda shop, inner: slice(inner, inner),
    lambda shop, inner: range(shop.number()),
    lambda shop, inner: types.SimpleNamespace(field=inner, password=inner),
    lambda shop, inner: types.GenericAlias(list, (inner,)),
    lambda shop, inner: types.CellType(inner),
    lambda shop, inner: property(inner),
    lambda shop, inner: iter([inner]),
    lambda shop, inner: map(inner, [inner]),
    lambda shop, inner: itertools.chain([inner]),
    lambda shop, inner: {1: inner}.values(),
    lambda shop, inner: {1: inner}.items(),
    lambda shop, inner: contextvars.ContextVar("name", default=inner),
    lambda shop, inner: re.compile(Name("a+")),
    lambda shop, inner: pathlib.PurePosixPath(Name("a"), "b"),
    lambda shop, inner: pathlib.PurePosixPath("a", "b") / "c",
    lambda shop, inner: datetime.datetime(2024, 1, 1, tzinfo=_Zone()),
    lambda shop, inner: datetime.time(10, tzinfo=_Zone()),
    lambda shop, inner: datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(_Offset(hours=-1), Name("here"))),
    lambda shop, inner: ExceptionGroup(Name("group"), [ValueError(inner)]),
    lambda shop, inner: collections.UserDict({"field": inner}),
    lambda shop, inner: collections.ChainMap({"field": inner}),
    lambda shop, inner: types.MappingProxyType(inner),
    lambda shop, inner: Pair._make([inner, inner]),
]


# What must not change


def state(value: Any) -> Any:
    """What an object refers to and holds, by identity: equal before and after means that nothing was touched.

    Its ``__dict__``, which Python lays out when it is first asked for, is asked for here.
    """
    for owner in type.__dict__["__mro__"].__get__(type(value)):
        getter = type.__dict__["__dict__"].__get__(owner).get("__dict__")
        if type(getter) is types.GetSetDescriptorType:
            getter.__get__(value)
    referents = gc.get_referents(value)
    inside = [[id(part) for part in gc.get_referents(held)] for held in referents if type(held) is dict]
    return [id(part) for part in referents], inside, bytes(value) if type(value) is bytearray else None
