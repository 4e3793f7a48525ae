"""The names by which constants of instrumented code are pickled.

cloudpickle, and so Ray, Dask and joblib, pickles functions by value, their constants included. Ours go by reference
to this module. Where the agent runs, a name gives the running agent's function; elsewhere one that does nothing, so
that the function that was pickled runs untraced.
"""

from __future__ import annotations

import opcode
import types
from collections.abc import Callable

from flowtrace.typed import Any

resolve: Callable[[str], Any] | None = None  # set by a running agent
arrive: Callable[[str | None], None] | None = None  # likewise


SUSPENDABLE = "suspendable_"  # begins the parts of bodies that can be suspended
ENTRY = "entry"  # the part that is called as a subscript, ``entry[names, values]``; as a function, it is "enter"


FOLDER = __file__.rpartition("constants.py")[0]  # the beginning of the file names of our frames


_TRACEBACK: Any = BaseException.__dict__["__traceback__"]  # asking the exception would ask its class


class Raised:
    """Stands for the result of a body that an exception leaves."""


def arrived(value: Any, span: str | None) -> Any:
    """What `flowtrace.carriers` has sent from another process, ``span`` with it, which is where this thread goes on."""
    if arrive is not None:
        arrive(span)
    return value


def without_our_frames(error: BaseException) -> None:
    """What was raised in a call of ours by a signal handler shows the program's frames only.

    The first is that of the traced body; calls that have no line there were made at the line of its ``def``.
    """
    first = _TRACEBACK.__get__(error)
    if first is None:
        return
    last, after = first, first.tb_next
    while after is not None and after.tb_frame.f_code.co_filename.startswith(FOLDER):
        caller, last, after = last, after, after.tb_next
        if after is None or not after.tb_frame.f_code.co_filename.startswith(FOLDER):
            _leave_after_all(caller, last)
    line: int | None = first.tb_lineno
    if line is None:
        line = first.tb_frame.f_code.co_firstlineno
    _TRACEBACK.__set__(error, types.TracebackType(after, first.tb_frame, first.tb_lasti, line))


def _leave_after_all(caller: types.TracebackType, struck: types.TracebackType) -> None:
    """Call the leave function that was struck before its first instruction, or the call would be open for ever."""
    code = struck.tb_frame.f_code
    if code.co_name == "leave" and opcode.opname[code.co_code[struck.tb_lasti]] == "RESUME":
        arguments = struck.tb_frame.f_locals
        known = (*caller.tb_frame.f_code.co_consts, *caller.tb_frame.f_locals.values())
        for leave in known:
            if type(leave) is types.FunctionType and leave.__code__ is code:
                leave(*(arguments[name] for name in code.co_varnames[: code.co_argcount]))
                return


def name_of(part: str, module: str, qualname: str, line: int) -> str:
    """The attribute of this module that stands for ``part`` of a function; without dots, which pickle would split."""
    return f"{part}:{module}:{qualname}:{line}".replace(".", "/")


def parse(name: str) -> tuple[str, str, str, int]:
    """The part, module, qualified name and line in a name that `name_of` made.

    Raises:
        ValueError: it is no such name.
    """
    part, module, qualname, line = name.replace("/", ".").split(":")
    return part, module, qualname, int(line)


def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``function``, to be found in this module as ``name``."""
    function.__module__, function.__qualname__ = __name__, name
    return function


def __getattr__(name: str) -> Any:
    try:
        part = parse(name)[0]
    except ValueError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return resolve(name) if resolve else _UNTRACED[part]


def is_entry(enter: Callable[..., Any]) -> bool:
    """Whether a part is called as a subscript."""
    return hasattr(type(enter), "__getitem__")


def in_both_forms(enter: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """A part by its name, and by that which code has for it that was pickled where it is called the other way."""
    name = enter.__qualname__
    if is_entry(enter):
        return {name: enter, name.replace(ENTRY, "enter", 1): enter}
    entry: Any = Entry(enter)
    return {name: enter, name.replace("enter", ENTRY, 1): named(entry, name.replace("enter", ENTRY, 1))}


class Entry:
    """A function to be called as a subscript."""

    def __init__(self, enter: Callable[..., Any]) -> None:
        self._enter, self.__qualname__ = enter, ""

    def __getitem__(self, key: tuple[Any, Any]) -> Any:
        return self._enter(*key)

    def __reduce__(self) -> str:
        return self.__qualname__


def _nothing(*_: object) -> None: ...


_UNTRACED: dict[str, Any] = {prefix + part: _nothing for prefix in ("", SUSPENDABLE) for part in ("enter", "leave")} | {
    prefix + ENTRY: Entry(_nothing) for prefix in ("", SUSPENDABLE)
}
