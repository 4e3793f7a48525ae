"""Renderings: values of the interpreter's and well-known libraries' own types as one short text or number.

Types are told by identity. Each attribute that is read is a C member of an exact type, so no code of the program runs.
"""

from __future__ import annotations

import collections
import datetime
import functools
import operator
import types
from collections.abc import Callable

from flowtrace.introspection import (
    class_name,
    dotted_name,
    exact_text,
    is_from,
    module_dict_of,
    module_of,
    mro_of,
    namespace_of,
    qualname_of,
    slot_of,
    stored_under,
    title_of,
)
from flowtrace.late import orjson
from flowtrace.patterns import late
from flowtrace.typed import Any

SCALARS = frozenset(map(id, (str, bytes, int, float, bool, type(None))))  # by id: a metaclass may define __hash__


def int_text(value: int) -> str:
    """Decimal digits, or of a very large number its size: writing it out takes quadratic time, or raises."""
    bits = int.bit_length(value)
    if bits <= 512:
        return str(value)
    return f"{'-' if int.__lt__(value, 0) else ''}0x{abs(int.__rshift__(value, bits - 64)):x}… ({bits} bits)"


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
    if zone is datetime.UTC and type(value) is datetime.datetime:
        try:
            return orjson.dumps(value)[1:-1].decode()  # the same in a third of the time
        except TypeError:  # orjson is not there yet
            pass
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
        (types.ModuleType, lambda value: f"<module {exact_text(stored_under('__name__', module_dict_of(value)))}>"),
        (types.CoroutineType, _suspended),
        (types.GeneratorType, _suspended),
        (types.AsyncGeneratorType, _suspended),
    )
}


# Of libraries: how an instance of a class, or of one derived from it, is written; given the library's class first


def _uuid(kind: Any, value: Any) -> str:
    number = slot_of(value, "int")
    digits = f"{number:032x}" if type(number) is int and 0 <= number < 1 << 128 else "?"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _decimal(kind: Any, value: Any) -> str:
    if kind.__sizeof__(value) <= 1024:
        return kind.__str__(value)  # type: ignore[no-any-return]
    return f"<decimal.Decimal of magnitude {kind.adjusted(value)}>"


def _fraction(kind: Any, value: Any) -> str:
    return f"{inline(slot_of(value, '_numerator'))}/{inline(slot_of(value, '_denominator'))}"


def _path(kind: Any, value: Any) -> str:
    """What ``str`` gives, of a copy: it would leave its result in the path itself, and call methods of subclasses."""
    text, parts = slot_of(value, "_str"), slot_of(value, "_raw_paths")
    if parts is None:
        parts = slot_of(value, "_parts")  # up to 3.11
    if type(text) is str:
        return text
    if type(parts) is not list or len(parts) > 64 or not all(type(part) is str for part in parts):
        return f"<{class_name(kind)}>"
    if (size := sum(map(len, parts))) > 4096:
        return f"<{class_name(kind)} of {size} chars>"
    joined = "/".join(parts)
    is_normal = "Posix" in title_of(kind) and _NORMAL_PATH.fullmatch(joined)
    return joined if is_normal else str(kind(*parts))


_NORMAL_PATH = late(r"/?(?:[^/.][^/]*+/)*+[^/.][^/]*+")  # most are, and a copy takes 10 µs


def _address(kind: Any, value: Any) -> str:
    number, scope = slot_of(value, "_ip"), slot_of(value, "_scope_id")
    if type(number) is not int or not 0 <= number < 1 << 128:
        return f"<{class_name(kind)}>"
    return f"{kind(number)}%{scope}" if type(scope) is str else str(kind(number))


def _prefixed(kind: Any, value: Any) -> str:
    """A network or an interface: an address and the length of its prefix."""
    fields = object.__getattribute__(value, "__dict__") if type(value) is kind else {}
    length, address = stored_under("_prefixlen", fields), stored_under("network_address", fields)
    if "Interface" in title_of(kind):
        text = _address(mro_of(kind)[1], value)
    elif is_from("ipaddress", "IPv4Address", type(address)) or is_from("ipaddress", "IPv6Address", type(address)):
        text = _address(type(address), address)
    else:
        text = ""
    return f"{text}/{length}" if text and type(length) is int else f"<{class_name(kind)}>"


def _ndarray(kind: Any, value: Any) -> str:
    namespace = namespace_of(kind)
    element, shape = namespace["dtype"].__get__(value), namespace["shape"].__get__(value)
    name = _NUMPY_KINDS.get(element.kind)
    return f"<numpy.ndarray {f'{name}{element.itemsize * 8}' if name else element.str} {shape}>"


_NUMPY_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
_NUMPY_NUMBERS: dict[str, Callable[[Any], object]] = {
    "integer": operator.index, "floating": float, "bool": operator.truth, "bool_": operator.truth,
}  # fmt: skip

# By name, so that only the program imports them
_LIBRARY_TYPES: dict[tuple[str, str], Callable[[Any, Any], object]] = {
    ("uuid", "UUID"): _uuid,
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): _fraction,
    **{("ipaddress", name): _address for name in ("IPv4Address", "IPv6Address")},
    **{("ipaddress", f"IPv{version}{what}"): _prefixed for version in (4, 6) for what in ("Network", "Interface")},
    ("numpy", "ndarray"): _ndarray,
    **{("pathlib", flavour): _path for flavour in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
}


def library_rendering(
    mro: tuple[type, ...], names: set[tuple[str, str]]
) -> tuple[type | None, Callable[[Any], object] | None]:
    """The library's class that a class is or derives from, and the function that renders instances of it, or None.

    Args:
        mro: The class and its bases, in order.
        names: Their modules and qualified names.
    """
    for kind in mro:
        package, title = exact_text(module_of(kind)).partition(".")[0], title_of(kind)
        render = _LIBRARY_TYPES.get((package, title))
        if render is not None and is_from(package, title, kind):
            return kind, functools.partial(render, kind)
        if kind is mro[0] and package == "numpy" and is_from(package, title, kind):
            number = next((number for name, number in _NUMPY_NUMBERS.items() if ("numpy", name) in names), None)
            if number is not None:
                return kind, number
    return None, None


_DAY, _HOUR = ("year", "month", "day"), ("hour", "minute", "second", "microsecond")


def _naive(kind: Any, *names: str) -> Callable[[Any], str]:
    """Writes a time of a subclass, field by field: its own methods, and those that copy it, are the program's."""
    fields = [getattr(kind, name).__get__ for name in names]
    return lambda value: kind(*(field(value) for field in fields)).isoformat()


# By id, built-in types whose subclasses are shown by what their built-in part holds; with their form and rendering
BASES: dict[int, tuple[type, str, Callable[[Any], object]]] = {
    id(base): (base, form, render)
    for form, base, render in (
        ("text", str, str),
        ("text", bytes, str),
        ("text", bytearray, str),
        ("number", int, lambda value: int_text(value) if int.bit_length(value) > 512 else int.__index__(value)),
        ("number", float, float.__pos__),
        ("number", complex, complex.__pos__),
        ("number", datetime.datetime, _naive(datetime.datetime, *_DAY, *_HOUR)),
        ("number", datetime.date, datetime.date.isoformat),
        ("number", datetime.time, _naive(datetime.time, *_HOUR)),
        ("number", datetime.timedelta, datetime.timedelta.__pos__),
        ("collection", list, str),
        ("collection", tuple, str),
        ("collection", set, str),
        ("collection", frozenset, str),
        ("collection", collections.deque, str),
    )
}
