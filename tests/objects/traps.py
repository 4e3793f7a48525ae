"""Traps: every special method that Python knows, counting itself and then doing the worst; and classes full of them.

While the ledger is armed, whatever runs is written down there, which is the failure that the tests look for; what the
method then does (raise, leave the program, wait for a lock that is held, recurse, lie) is for code that would swallow a
mere exception. Disarmed, a trap does what the class it derives from does, so that objects can be built and compared.
"""

from __future__ import annotations

import array
import asyncio
import builtins
import collections
import collections.abc
import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import gc
import io
import ipaddress
import numbers
import os
import pathlib
import random
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any


class Ledger:
    """What has run while it was armed."""

    def __init__(self) -> None:
        self.armed = False
        self.calls: list[str] = []

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Armed in here; the garbage collector, which may run finalizers of others, waits."""
        self.calls.clear()
        gc.disable()
        self.armed = True
        try:
            yield
        finally:
            self.armed = False
            gc.enable()


LEDGER = Ledger()
HELD = threading.Lock()
HELD.acquire()


class WouldWait(BaseException):
    """A trap was to wait for a lock that is never released."""


class WouldEnd(BaseException):
    """A trap was to end the process by ``os._exit``."""


def _leave(failure: type[BaseException]) -> Callable[..., Any]:
    def leave(again: Callable[[], Any]) -> Any:
        raise failure("hostile")

    return leave


def _wait(again: Callable[[], Any]) -> Any:
    if not HELD.acquire(blocking=False):
        raise WouldWait


MISDEEDS: list[Callable[[Callable[[], Any]], Any]] = [
    *map(_leave, (ValueError, AttributeError, TypeError, StopIteration, SystemExit, KeyboardInterrupt, WouldEnd)),
    _wait,
    lambda again: again(),
    lambda again: 2**40,
    lambda again: -1,
    lambda again: "__lie__",
    lambda again: NotImplemented,
]


def trap(name: str, misdeed: Callable[..., Any], harmless: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A method that counts itself and misbehaves while the ledger is armed, and else is harmless."""

    def method(*args: Any, **kwargs: Any) -> Any:
        if LEDGER.armed:
            LEDGER.calls.append(name)
            return misdeed(lambda: method(*args, **kwargs))
        if harmless is None:
            raise AttributeError(name)
        return harmless(*args, **kwargs)

    return method


def _special_names() -> frozenset[str]:
    """Each ``__name__`` of the types in the interpreter and the libraries that flowtrace knows, and of the manuals."""
    modules = (
        builtins, types, collections, collections.abc, contextlib, numbers, io, enum, datetime, decimal, fractions,
        functools, ipaddress, pathlib, uuid, weakref, array, random, asyncio, os,
    )  # fmt: skip
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    names = {name for kind in {*kinds, type, *map(type, kinds)} for name in dir(kind)}
    return frozenset(name for name in names | set(_LOOKED_UP.split()) if name[:2] == name[-2:] == "__")


# what Python looks up on a type and no built-in type has, or only in some versions; and protocols of libraries
_LOOKED_UP = """
    __missing__ __length_hint__ __await__ __aiter__ __anext__ __aenter__ __aexit__ __enter__ __exit__ __get__ __set__
    __delete__ __set_name__ __del__ __fspath__ __index__ __buffer__ __release_buffer__ __bytes__ __format__ __complex__
    __round__ __trunc__ __floor__ __ceil__ __copy__ __deepcopy__ __replace__ __getinitargs__ __getnewargs__
    __getnewargs_ex__ __getstate__ __setstate__ __reduce__ __reduce_ex__ __instancecheck__ __subclasscheck__
    __subclasshook__ __init_subclass__ __class_getitem__ __mro_entries__ __prepare__ __matmul__ __rmatmul__ __imatmul__
    __divmod__ __rdivmod__ __coerce__ __nonzero__ __unicode__ __array__ __array_interface__ __array_struct__
    __array_function__ __array_ufunc__ __array_finalize__ __array_priority__ __cuda_array_interface__ __dlpack__
    __dataframe__ __arrow_array__ __json__ __html__ __rich_repr__ __rich__ __pretty__ __attrs_init__ __tracebackhide__
    __wrapped__ __signature__ __text_signature__ __name__ __qualname__ __mro__ __bases__ __base__ __flags__ __dict__
    __module__ __doc__ __annotations__ __type_params__ __self__ __func__ __code__ __closure__ __cause__ __context__
    __traceback__ __notes__ __suppress_context__
"""

# What a class statement itself reads, and what is put into a class on purpose by those who make one
_LEFT_ALONE = frozenset({
    "__slots__", "__weakref__", "__classcell__", "__classdictcell__", "__module__", "__qualname__",
    "__abstractmethods__", "__static_attributes__", "__firstlineno__", "__dataclass_fields__", "__dict__",
    "__annotate__", "__annotate_func__", "__classdict__", "__conditional_annotations__",
})  # fmt: skip
_BY_PROPERTY = frozenset({
    "__class__", "__name__", "__mro__", "__bases__", "__base__", "__flags__", "__doc__", "__annotations__",
    "__type_params__", "__self__", "__func__", "__code__", "__closure__", "__wrapped__", "__signature__",
    "__text_signature__", "__cause__", "__context__", "__traceback__", "__notes__", "__suppress_context__",
    "__array_interface__", "__array_struct__", "__cuda_array_interface__", "__array_priority__", "__members__",
    "__basicsize__", "__itemsize__", "__dictoffset__", "__weakrefoffset__", "__objclass__", "__isabstractmethod__",
    "__thisclass__", "__self_class__", "__origin__", "__args__", "__parameters__", "__unpacked__", "__match_args__",
    "__kwdefaults__", "__defaults__", "__globals__", "__builtins__", "__hash_info__", "__vectorcalloffset__",
})  # fmt: skip
_OF_THE_CLASS = frozenset({"__init_subclass__", "__class_getitem__", "__subclasshook__", "__prepare__"})
_SILENT = frozenset(
    {"__del__", "__set_name__", "__init_subclass__", "__release_buffer__"}
)  # called while a class or object comes or goes
_UNDECIDED = frozenset({"__subclasshook__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"})

SPECIAL = sorted(_special_names() - _LEFT_ALONE)
# Ordinary methods that something which shows values might be tempted to call
_ORDINARY = """
    keys values items get isoformat utcoffset tzname dst replace copy as_tuple adjusted model_dump dict json to_dict
    _asdict mro timestamp total_seconds hex tolist item tobytes numpy cpu resolve _meta with_traceback add_note derive
    split read getvalue popitem bit_length conjugate
"""
ORDINARY = _ORDINARY.split()


def traps(choose: random.Random, *bases: type) -> dict[str, Any]:
    """The namespace of a hostile class: every special method is a trap, and some ordinary ones are."""
    namespace: dict[str, Any] = {"__module__": "hostile"}
    inherited = collections.ChainMap(*({**vars(kind)} for base in bases for kind in base.__mro__), vars(object))
    first = choose.randrange(len(MISDEEDS))  # one draw for all, so that hypothesis has few to shrink
    for number, name in enumerate((*SPECIAL, *ORDINARY), first):
        misdeed = MISDEEDS[number % len(MISDEEDS)]
        if name == "__subclasses__" and type not in bases:
            continue  # ABCMeta asks every class in the process for it
        if name in _BY_PROPERTY:
            get = trap(name, misdeed, (lambda self: object) if name == "__class__" else None)
            namespace[name] = property(get, trap(f"{name} set", misdeed, lambda self, value: None))
        elif name == "__new__":
            namespace[name] = staticmethod(trap(name, misdeed, (bases or (object,))[0].__new__))
        elif name in _OF_THE_CLASS:
            namespace[name] = classmethod(trap(name, misdeed, lambda *args: NotImplemented))
        else:
            namespace[name] = trap(name, misdeed, _harmless(name, inherited.get(name)))
    return namespace


def _harmless(name: str, inherited: Any) -> Callable[..., Any] | None:
    if name in _SILENT:
        return lambda *args: None
    if name == "__hash__" and inherited is None:
        return object.__hash__
    if callable(inherited):
        return inherited  # type: ignore[no-any-return]
    return (lambda *args: NotImplemented) if name in _UNDECIDED else None


def hostile_metaclass(choose: random.Random, base: type = type) -> Any:
    """A metaclass that answers nothing: not even the names, the bases and the attributes of its classes."""
    namespace = traps(choose, base)
    for name in ("__mro__", "__bases__", "__base__", "__flags__", "__name__", "__dict__", "__module__"):
        namespace[name] = property(trap(f"{name} of a class", choose.choice(MISDEEDS), _stored(name)))
    return type("HostileMeta", (base,), namespace)


def _stored(name: str) -> Callable[[Any], Any] | None:
    member = vars(type).get(name)
    return None if member is None else member.__get__  # type: ignore[no-any-return]


class Name(str):
    """A text that looks like a name and is none of Python's own."""

    __slots__ = ()
    __hash__ = trap("Name.__hash__", MISDEEDS[0], str.__hash__)
    __eq__ = trap("Name.__eq__", MISDEEDS[0], str.__eq__)
    __str__ = trap("Name.__str__", MISDEEDS[0], str.__str__)
    __len__ = trap("Name.__len__", MISDEEDS[0], str.__len__)
    __getitem__ = trap("Name.__getitem__", MISDEEDS[0], str.__getitem__)


class Impostor:
    """A key with the hash of a text that it does not equal, and a comparison that would tell."""

    __slots__ = ("_number",)

    def __init__(self, text: str) -> None:
        self._number = hash(text)

    def __hash__(self) -> int:
        if LEDGER.armed:
            LEDGER.calls.append("Impostor.__hash__")
        return self._number

    def __eq__(self, other: object) -> bool:
        if LEDGER.armed:
            LEDGER.calls.append("Impostor.__eq__")
            raise KeyboardInterrupt
        return self is other
