"""Spans of bodies that are suspended: generators, coroutines and async generators.

While a body is suspended, its span is handed back: the ContextVar holds what the consumer had. When it goes on, it is
taken up again, by setting the value and never by `ContextVar.reset`: a generator may go on, or be closed, in another
context. The time in between is not active time.

Bodies that await each other are suspended one after the other, from the inside out, and go on in the reverse order:
each hands back to the one that awaits it.
"""

from __future__ import annotations

import opcode
import sys
import types
from collections.abc import Callable

from flowtrace.constants import SUSPENDABLE, Raised, named
from flowtrace.native import native
from flowtrace.recorder import Flow, Functions, Recorder
from flowtrace.typed import Any, NamedTuple

COUNTS_C_CALLS = sys.version_info < (3, 12)  # against the recursion limit


class Suspended:
    """The flow of a body that can be suspended."""

    __slots__ = ("clock", "current", "flow", "here", "idle_ns", "outer", "paused_at")

    def __init__(self, recorder: Recorder, flow: Flow) -> None:
        self.clock, self.current = recorder.clock, recorder.current
        self.flow, self.here = flow, recorder.current.get()
        self.outer = flow[0]  # what the consumer has as its current span
        self.paused_at: int | None = None
        self.idle_ns = 0
        if COUNTS_C_CALLS:
            _descend(recorder)


def _descend(recorder: Recorder) -> None:
    """Take as much of the stack as `leave` needs below `close`, which counts as a level where `next` does not.

    Near the recursion limit a call is thus left out here, rather than entered and never left.
    """
    recorder.thread()


def suspend(suspended: Suspended | None) -> None:
    """Before the body is suspended: hand the span back."""
    if native and type(suspended) is native.Suspended:  # its code was pickled in a process that had no functions in C
        native_suspend(suspended)
    elif suspended is not None:
        suspended.paused_at = suspended.clock()
        suspended.current.set(suspended.outer)


def resumed(suspended: Suspended | None) -> None:
    """When the body goes on, possibly in another context than before: take the span up. More than once is once."""
    if native and type(suspended) is native.Suspended:
        native_resumed(suspended)
    elif suspended is not None and suspended.paused_at is not None:
        suspended.idle_ns += suspended.clock() - suspended.paused_at
        suspended.paused_at = None
        suspended.outer = suspended.current.get()
        suspended.current.set(suspended.here)


native_suspend, native_resumed = suspend, resumed  # those in C are pickled by these names
if native:
    native_suspend, native_resumed = native.native_suspend, native.native_resumed
    for each in (native_suspend, native_resumed):
        each.__module__ = __name__
    native.stand_in(suspend, resumed)


class Suspendable(NamedTuple):
    """What the traced body of a generator or coroutine calls; constants of its code."""

    enter: Callable[[tuple[str, ...], tuple[object, ...]], Any]
    leave: Callable[[Any, object], None]
    suspend: Callable[[Suspended | None], None] = suspend
    resumed: Callable[[Suspended | None], None] = resumed


def suspendable(recorder: Recorder, functions: Functions) -> Suspendable:
    """What bodies that can be suspended call, on top of what any call."""
    enter_any, leave_any = functions
    if native and type(enter_any) is native.Enter:
        first, last = native.SuspendableEnter(enter_any), native.SuspendableLeave(leave_any, _ended)
        return _named(Suspendable(first, last, native_suspend, native_resumed), functions)
    clock, thread = recorder.clock, recorder.thread

    def enter(names: tuple[str, ...], values: tuple[object, ...]) -> Suspended | None:
        flow = enter_any(names, values)
        if flow is None:
            return None
        try:
            return Suspended(recorder, flow)
        except BaseException:
            leave_any(flow, None, None, "abandoned")
            raise

    def leave(suspended: Suspended | None, result: object) -> None:
        if suspended is None:
            return
        flow, active_ns, ended = suspended.flow, None, None
        try:
            resumed(suspended)
            flow = (suspended.outer, *flow[1:6], thread())
            active_ns = clock() - flow[4] - suspended.idle_ns
            ended = _ended(sys._getframe(1)) if result is Raised and type(sys.exception()) is GeneratorExit else None
        finally:
            leave_any(flow, result, active_ns, ended)

    return _named(Suspendable(enter, leave), functions)


def _named(parts: Suspendable, functions: Functions) -> Suspendable:
    named(parts.enter, SUSPENDABLE + functions.enter.__qualname__)
    named(parts.leave, SUSPENDABLE + functions.leave.__qualname__)
    return parts


def _ended(body: types.FrameType) -> str:
    """How a body that got a GeneratorExit ended: ``closed`` by a call of `close`, else ``abandoned`` to the collector.

    Python has one exception for both. The frame below tells: it stands at a call of a method ``close``, at an
    ``await`` (of `aclose`), or anywhere else, where the last reference went.
    """
    caller = body.f_back
    if caller is None:
        return "abandoned"
    code, at = caller.f_code.co_code, caller.f_lasti
    if opcode.opname[code[at]] == "SEND":
        return "closed"
    at -= 2
    while at > 0 and opcode.opname[code[at]] in ("CACHE", "PRECALL"):
        at -= 2
    name = opcode.opname[code[at]]
    if name not in ("LOAD_METHOD", "LOAD_ATTR"):
        return "abandoned"
    index = code[at + 1] + (code[at - 1] << 8 if at >= 2 and opcode.opname[code[at - 2]] == "EXTENDED_ARG" else 0)
    index >>= name == "LOAD_ATTR" and sys.version_info >= (3, 12)
    names = caller.f_code.co_names
    return "closed" if index < len(names) and names[index] in ("close", "aclose", "throw") else "abandoned"
