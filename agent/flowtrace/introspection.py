"""Introspection: what a class or an object stores, read without running the program's code.

No metaclass, property or ``__getattribute__`` is asked: everything goes through the descriptors of ``type``,
``object`` and ``dict`` themselves, and what they give is trusted only where its type is exact.
"""

from __future__ import annotations

import sys
import types
from itertools import islice
from typing import Any

# The descriptors of the interpreter: C code that no class and no metaclass can replace.
mro_of = type.__dict__["__mro__"].__get__
namespace_of = type.__dict__["__dict__"].__get__
qualname_of = type.__dict__["__qualname__"].__get__
_stored_module_of = type.__dict__["__module__"].__get__
flags_of = type.__dict__["__flags__"].__get__
module_dict_of = vars(types.ModuleType)["__dict__"].__get__
args_of = BaseException.__dict__["args"].__get__
_traceback_of = BaseException.__dict__["__traceback__"].__get__
exception_dict_of = BaseException.__dict__["__dict__"].__get__
filename_of = OSError.__dict__["filename"].__get__

_MAX_FRAMES = 256  # of a traceback; a bound for recursion that failed deep down and is recorded at every level


def slot_of(value: object, name: str) -> Any:
    """What a slot of an object holds, or None."""
    for owner in mro_of(type(value)):
        try:
            return member_of(owner, name).__get__(value)
        except AttributeError:
            continue
    return None


def member_of(owner: type | None, name: str) -> Any:
    """The descriptor of a slot that this very class defines, or None."""
    member = namespace_of(owner).get(name)
    return member if type(member) is types.MemberDescriptorType else None


def first_items(mapping: Any, most: int) -> list[tuple[Any, Any]] | None:
    """The first items of a dict or subclass, read by the methods of dict; None if it changed size meanwhile.

    A small dict is copied first, which no other thread can interrupt.
    """
    try:
        if type(mapping) is dict and len(mapping) <= most:
            mapping = mapping.copy()
        return list(islice(dict.items(mapping), most))
    except RuntimeError:
        return None


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
    source = sys.modules.get(module)
    return type(source) is types.ModuleType and module_dict_of(source).get(name) is kind


def raised_at(error: BaseException) -> str | None:
    """File name and line of the innermost frame, or None where there is none or it is very far down."""
    trace = _traceback_of(error)
    for _ in range(_MAX_FRAMES):
        if trace is None:
            break
        if trace.tb_next is None:
            path = exact_text(trace.tb_frame.f_code.co_filename).replace("\\", "/")
            return f"{path.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return None
