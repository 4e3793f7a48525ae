"""Renderings: values of the interpreter's and well-known libraries' own types as one short text or number.

Types are told by identity. Each attribute that is read is a C member of an exact type, so no code of the program runs.
"""

from __future__ import annotations

import collections
import datetime
import operator
import types
from collections.abc import Callable
from typing import Any

from flowtrace.introspection import (
    class_name,
    dotted_name,
    exact_text,
    is_from,
    module_dict_of,
    module_of,
    namespace_of,
    qualname_of,
    slot_of,
    title_of,
)

SCALARS = frozenset(map(id, (str, bytes, int, float, bool, type(None))))  # by id: a metaclass may define __hash__


def int_text(value: int) -> str:
    """Decimal digits, or of a very large number its size: writing it out takes quadratic time, or raises."""
    bits = value.bit_length()
    if bits <= 512:
        return str(value)
    return f"{'-' if value < 0 else ''}0x{abs(value) >> (bits - 64):x}… ({bits} bits)"


def inline(value: Any) -> str:
    """A value inside a text: scalars as Python writes them, everything else by its type."""
    kind = type(value)
    if kind is int:
        return int_text(value)
    if kind is str or kind is bytes:
        return repr(value[:512])
    return repr(value) if id(kind) in SCALARS else f"<{class_name(kind)}>"


def _moment(value: Any) -> str:
    zone = value.tzinfo
    if zone is None or type(zone) is datetime.timezone or is_from("zoneinfo", "ZoneInfo", type(zone)):
        return value.isoformat()  # type: ignore[no-any-return]
    return f"{value.replace(tzinfo=None).isoformat()}[tz]"  # its utcoffset is the program's code


def _function(value: Any) -> str:
    return f"<function {dotted_name(value.__module__, value.__qualname__)}>"


def _method(value: Any) -> str:
    function = value.__func__
    if type(function) is not types.FunctionType:
        return "<method>"
    return f"<method {dotted_name(function.__module__, function.__qualname__)}>"


def _suspended(value: Any) -> str:
    return f"<{qualname_of(type(value))} {exact_text(value.__qualname__)}>"


# By the id of their type: values that are one text
RENDERED: dict[int, Callable[[Any], str]] = {
    id(kind): render
    for kind, render in (
        (complex, repr),
        (datetime.datetime, _moment),
        (datetime.time, _moment),
        (datetime.date, datetime.date.isoformat),
        (datetime.timedelta, str),
        (range, lambda value: f"range({inline(value.start)}, {inline(value.stop)}, {inline(value.step)})"),
        (slice, lambda value: f"slice({inline(value.start)}, {inline(value.stop)}, {inline(value.step)})"),
        (types.FunctionType, _function),
        # A built-in method's __qualname__ would ask the metaclass of what it is bound to.
        (types.BuiltinFunctionType, lambda value: f"<function {dotted_name(value.__module__, value.__name__)}>"),
        (types.MethodType, _method),
        (types.ModuleType, lambda value: f"<module {exact_text(dict.get(module_dict_of(value), '__name__'))}>"),
        (types.CoroutineType, _suspended),
        (types.GeneratorType, _suspended),
        (types.AsyncGeneratorType, _suspended),
    )
}


def _uuid(value: Any) -> str:
    number = slot_of(value, "int")
    digits = f"{number:032x}" if type(number) is int else "?"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _decimal(value: Any) -> str:
    return str(value) if value.__sizeof__() <= 1024 else f"<decimal.Decimal of magnitude {value.adjusted()}>"


def _fraction(value: Any) -> str:
    return f"{inline(slot_of(value, '_numerator'))}/{inline(slot_of(value, '_denominator'))}"


def _path(value: Any) -> str:
    parts = slot_of(value, "_raw_paths")  # from 3.12 on these may be texts of the program's own kind
    plain = parts is None or all(type(part) is str for part in parts)
    return str(value) if plain else f"<{class_name(type(value))}>"


def _ndarray(value: Any) -> str:
    namespace = namespace_of(type(value))
    element, shape = namespace["dtype"].__get__(value), namespace["shape"].__get__(value)
    name = _NUMPY_KINDS.get(element.kind)
    return f"<numpy.ndarray {f'{name}{element.itemsize * 8}' if name else element.str} {shape}>"


_NUMPY_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
_NUMPY_NUMBERS: dict[str, Callable[[Any], object]] = {
    "integer": operator.index, "floating": float, "bool": operator.truth, "bool_": operator.truth,
}  # fmt: skip

# By name, so that only the program imports them
_LIBRARY_TYPES: dict[tuple[str, str], Callable[[Any], object]] = {
    ("uuid", "UUID"): _uuid,
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): _fraction,
    ("numpy", "ndarray"): _ndarray,
    **{("pathlib", flavour): _path for flavour in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
}


def library_rendering(kind: type, names: set[tuple[str, str]]) -> Callable[[Any], object] | None:
    """The function that renders instances of a library's class; None where the class is none that is known.

    Args:
        kind: The class.
        names: Module and qualified name of the class and all its bases.
    """
    package, title = exact_text(module_of(kind)).partition(".")[0], title_of(kind)
    if not is_from(package, title, kind):
        return None
    render = _LIBRARY_TYPES.get((package, title))
    if render is None and package == "numpy":
        render = next((number for name, number in _NUMPY_NUMBERS.items() if ("numpy", name) in names), None)
    return render


_DATETIME_FIELDS = ("year", "month", "day", "hour", "minute", "second", "microsecond")


def _naive(value: Any) -> str:
    """A datetime of a subclass, field by field: its own methods, and those that copy it, are the program's."""
    fields = [getattr(datetime.datetime, name).__get__(value) for name in _DATETIME_FIELDS]
    return datetime.datetime(*fields).isoformat()


# By id, built-in types whose subclasses are shown by what their built-in part holds; with their form and rendering
BASES: dict[int, tuple[type, str, Callable[[Any], object]]] = {
    id(base): (base, form, render)
    for form, base, render in (
        ("text", str, str),
        ("text", bytes, str),
        ("text", bytearray, str),
        ("number", int, int.__index__),
        ("number", float, float.__pos__),
        ("number", datetime.datetime, _naive),
        ("number", datetime.date, datetime.date.isoformat),
        ("collection", list, str),
        ("collection", tuple, str),
        ("collection", set, str),
        ("collection", frozenset, str),
        ("collection", collections.deque, str),
    )
}
