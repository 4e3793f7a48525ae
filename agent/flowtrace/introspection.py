"""Introspection: what a class or an object stores, read without running the program's code.

No metaclass, property or ``__getattribute__`` is asked: everything goes through the descriptors of ``type``,
``object`` and ``dict`` themselves, and what they give is trusted only where its type is exact.
"""

from __future__ import annotations

import sys
import types
from itertools import islice

from flowtrace.typed import Any

# The descriptors of the interpreter: C code that no class and no metaclass can replace.
mro_of = type.__dict__["__mro__"].__get__
namespace_of = type.__dict__["__dict__"].__get__
qualname_of = type.__dict__["__qualname__"].__get__
_stored_module_of = type.__dict__["__module__"].__get__
flags_of = type.__dict__["__flags__"].__get__
module_dict_of = vars(types.ModuleType)["__dict__"].__get__
args_of = BaseException.__dict__["args"].__get__
traceback_of = BaseException.__dict__["__traceback__"].__get__
exception_dict_of = BaseException.__dict__["__dict__"].__get__
group_of = BaseExceptionGroup.__dict__["exceptions"].__get__
filename_of = OSError.__dict__["filename"].__get__

_LOOSE = 64 << 10  # bytes of a table that is read from its beginning however few entries are left in it
_MAX_FRAMES = 256  # of a traceback; a bound for recursion that failed deep down and is recorded at every level


def names_are_texts(kind: type) -> bool:
    """Whether all names in a class are Python's own texts: looking one up asks no key of the program's for equality."""
    return all(type(name) is str for name in namespace_of(kind))


def slot_of(value: object, name: str) -> Any:
    """What a slot of an object holds, or None. Only where `names_are_texts` in its class and all bases."""
    for owner in mro_of(type(value)):
        member = member_of(owner, name)
        if member is not None:
            try:
                return member.__get__(value)
            except AttributeError:  # not set
                continue
    return None


def member_of(owner: type | None, name: str) -> Any:
    """The descriptor of a slot that this very class defines, or None."""
    member = namespace_of(owner).get(name)
    return member if type(member) is types.MemberDescriptorType else None


def first_items(mapping: Any, most: int) -> list[tuple[Any, Any]] | None:
    """The first items of a dict or subclass, read by the methods of dict; None if it changed size meanwhile.

    Not even a copy is made: where entries were removed, it compares the keys with each other.
    """
    try:
        return list(islice(dict.items(mapping), most))
    except RuntimeError:
        return None


def stored_under(name: str, mapping: Any) -> Any:
    """What is stored near the beginning of a dict under a name, or None; the other keys may be anything."""
    pairs = first_items(mapping, 16) or ()
    return next((item for key, item in pairs if type(key) is str and key == name), None)


def is_hollow(table_bytes: int, count: int) -> bool:
    """Whether nearly all that a dict or set once held was removed, so that finding what is left takes long.

    Tables of neither take more than 110 bytes an entry as they grow; they do not shrink until something is added.
    """
    return table_bytes > _LOOSE + 200 * count


def exact_text(text: object) -> str:
    """The start of what should be a name and may be anything; ``?`` for what is no text."""
    return text[:200] if type(text) is str else "?"


def title_of(kind: type) -> str:
    """The qualified name of a class."""
    return exact_text(qualname_of(kind))


def module_of(kind: type) -> object:
    """What a class says is its module, a text as a rule; None where that was deleted."""
    try:
        return _stored_module_of(kind)
    except AttributeError:
        return None


def class_name(kind: type) -> str:
    """``module.Type``, or ``Type`` of a built-in one."""
    return dotted_name(module_of(kind), qualname_of(kind))


def dotted_name(module: object, name: object) -> str:
    """A name behind that of its module, where it has one that is not ``builtins``."""
    prefix = f"{exact_text(module)}." if type(module) is str and module != "builtins" else ""
    return prefix + exact_text(name)


def is_from(module: str, name: str, kind: type) -> bool:
    """Whether a class is the very one that a library defines, if that is imported."""
    source = dict.get(sys.modules, module)
    return type(source) is types.ModuleType and module_dict_of(source).get(name) is kind


def raised_at(error: BaseException) -> str | None:
    """File name and line of the innermost frame, or None where there is none or it is very far down."""
    trace = traceback_of(error)
    for _ in range(_MAX_FRAMES):
        if trace is None:
            break
        if trace.tb_next is None:
            path = exact_text(trace.tb_frame.f_code.co_filename).replace("\\", "/")
            return f"{path.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return None
