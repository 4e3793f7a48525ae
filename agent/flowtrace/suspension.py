"""Spans of bodies that are suspended: generators, coroutines and async generators.

While a body is suspended, its span is handed back: the ContextVar holds what the consumer had. When it goes on, it is
taken up again, by setting the value and never by `ContextVar.reset`: a generator may go on, or be closed, in another
context. The time in between is not active time.

Bodies that await or delegate to each other are suspended together. They share a `Chain`; only the innermost, the one
whose `yield` or foreign awaitable really suspends, hands back and takes up. That two of them belong together is known
because the inner body starts at once after the outer one's `<delegate>` has seen it.

What is awaited or delegated to runs on under a `Driven`, a subclass of the built-in ``map``: its ``__next__`` is C
code, so no frame of ours stands between the two, neither in tracebacks nor for ``sys._getframe``.
"""

from __future__ import annotations

import opcode
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flowtrace.constants import SUSPENDABLE, Raised, named
from flowtrace.recorder import Current, Flow, Functions, Recorder


class Suspendable(NamedTuple):
    """What the traced body of a generator or coroutine calls; constants of its code."""

    enter: Callable[[dict[str, object]], Any]
    leave: Callable[[Any, object], None]


class Awaiter(NamedTuple):
    """Who waits for the body that starts next in a thread: told by the outer body, taken by the inner one's enter."""

    enter: object
    chain: Chain


class Chain:
    """Bodies that are suspended together."""

    __slots__ = ("idle_ns", "outer", "paused_at")

    def __init__(self, outer: Current | None) -> None:
        self.outer = outer  # what the consumer has as its current span
        self.paused_at: int | None = None
        self.idle_ns = 0


class Suspended:
    """The flow of a body that can be suspended."""

    __slots__ = ("chain", "clock", "current", "flow", "here", "idle_before_ns", "linked", "thread")

    def __init__(self, recorder: Recorder, flow: Flow, chain: Chain | None) -> None:
        self.clock, self.current, self.thread = recorder.clock, recorder.current, recorder.thread
        self.flow, self.here = flow, recorder.current.get()
        self.linked = chain is not None
        self.chain = chain or Chain(flow[0])
        self.idle_before_ns = self.chain.idle_ns

    def pause(self, _: object = None, item: object = None) -> object:
        """The chain is about to be suspended with ``item``."""
        self.chain.paused_at = self.clock()
        self.current.set(self.chain.outer)
        return item

    def go_on(self) -> None:
        """The chain goes on, possibly in another context than before; more than once is once."""
        chain = self.chain
        if chain.paused_at is not None:
            chain.idle_ns += self.clock() - chain.paused_at
            chain.paused_at = None
            chain.outer = self.current.get()
            self.current.set(self.here)


def suspendable(recorder: Recorder, functions: Functions) -> Suspendable:
    """The enter and leave functions for bodies that can be suspended, on top of those for any."""
    enter_any, leave_any = functions
    get_thread, clock = recorder.thread, recorder.clock

    def enter(values: dict[str, object]) -> Suspended | None:
        me = get_thread()
        awaiter, me.awaiter = me.awaiter, None
        flow = enter_any(values)
        if flow is None:
            return None
        try:
            return Suspended(recorder, flow, awaiter.chain if awaiter and awaiter.enter is enter else None)
        except BaseException:
            leave_any(flow, None, None, "abandoned")
            raise

    def leave(suspended: Suspended | None, result: object) -> None:
        if suspended is None:
            return
        flow, active_ns, ended = suspended.flow, None, None
        try:
            chain = suspended.chain
            suspended.go_on()
            if not suspended.linked:
                flow = (chain.outer, *flow[1:])
            active_ns = clock() - flow[4] - (chain.idle_ns - suspended.idle_before_ns)
            ended = _ended(sys._getframe(1)) if result is Raised and type(sys.exception()) is GeneratorExit else None
        finally:
            leave_any(flow, result, active_ns, ended)

    named(enter, SUSPENDABLE + enter_any.__qualname__)
    named(leave, SUSPENDABLE + leave_any.__qualname__)
    return Suspendable(enter, leave)


def suspend(suspended: Suspended | None, item: object) -> object:
    """Before a ``yield``: hand the span back."""
    return item if suspended is None else suspended.pause(None, item)


def resume(suspended: Suspended | None, sent: object) -> object:
    """After a ``yield``: take the span up."""
    if suspended is not None:
        suspended.go_on()
    return sent


def resumed(suspended: Suspended | None) -> None:
    """After something was thrown in: take the span up, and leave no frame of ours in the traceback."""
    if suspended is not None:
        suspended.go_on()
    error = sys.exception()
    traceback = error.__traceback__ if error else None
    while traceback is not None and traceback.tb_next is not None and _is_comprehension(traceback.tb_next):
        traceback = traceback.tb_next
    while traceback is not None and traceback.tb_next is not None and _is_ours(traceback.tb_next):
        traceback.tb_next = traceback.tb_next.tb_next


class Driven(map):  # type: ignore[type-arg]  # an iterator of whatever the driven one gives
    """Runs an iterator so that each of its suspensions is seen: an awaitable and an iterator for ``yield from``."""

    __slots__ = ("awaited", "inner", "suspended")
    awaited: Any
    inner: Any
    suspended: Suspended

    def __new__(cls, suspended: Suspended, inner: Any, awaited: Any = None) -> Driven:
        """``map`` asks its first iterable first: that one takes the span up, then ``inner`` runs, then `pause`."""
        self = super().__new__(cls, suspended.pause, iter(suspended.go_on, Driven), inner)
        self.suspended, self.inner, self.awaited = suspended, inner, inner if awaited is None else awaited
        return self

    def __getattr__(self, name: str) -> Any:
        """What tools that walk from one coroutine to the next ask for: ``cr_await``, ``gi_frame`` and their like."""
        if name.startswith(("cr_", "gi_", "ag_")):
            return getattr(self.awaited, name)
        raise AttributeError(f"{type(self.inner).__name__!r} object has no attribute {name!r}")

    def __await__(self) -> Iterator[Any]:
        return self

    def send(self, value: object) -> object:
        """As for a generator."""
        self.suspended.go_on()
        return self.suspended.pause(None, self.inner.send(value))

    # Python looks for these two only when something is thrown in, and copes with an iterator that has none: so the
    # inner iterator's AttributeError has to come out of the look-up.

    @property
    def throw(self) -> Callable[..., object]:
        """As for a generator.

        Raises:
            AttributeError: the inner iterator has no ``throw``.
        """
        throw = self.inner.throw
        self.suspended.go_on()

        def throw_in(*error: Any) -> object:
            try:
                return self.suspended.pause(None, throw(*error))
            finally:
                del error  # it refers to a traceback that, from 3.12 on, leads back to this frame

        return throw_in

    @property
    def close(self) -> Callable[[], object]:
        """As for a generator.

        Raises:
            AttributeError: the inner iterator has no ``close``.
        """
        close: Callable[[], object] = self.inner.close
        self.suspended.go_on()
        return close


def delegate(suspended: Suspended | None, iterable: Any) -> Any:
    """What ``yield from iterable`` delegates to."""
    if suspended is None or type(iterable) is types.CoroutineType:
        return iterable
    if type(iterable) is types.GeneratorType and _link(suspended, iterable.gi_code, iterable.gi_suspended):
        return iterable
    return Driven(suspended, iter(iterable))


def delegate_await(suspended: Suspended | None, awaitable: Any) -> Any:
    """What ``await awaitable`` awaits; what is not awaitable is given back, for Python to say so."""
    if suspended is None:
        return awaitable
    if type(awaitable) is types.CoroutineType:
        if awaitable.cr_await is not None or _link(suspended, awaitable.cr_code, awaitable.cr_suspended):
            return awaitable
        return Driven(suspended, awaitable.__await__(), awaitable)
    if type(awaitable) is types.GeneratorType:
        return Driven(suspended, awaitable) if awaitable.gi_code.co_flags & _ITERABLE_COROUTINE else awaitable
    method = _special(awaitable, "__await__")
    if method is None:
        return awaitable
    iterator = method()
    return Driven(suspended, iterator, awaitable) if hasattr(type(iterator), "__next__") else awaitable


def _link(suspended: Suspended, code: types.CodeType, is_under_way: bool) -> bool:
    """Tell the body that starts next that it belongs to this chain, if it is one of ours and about to start."""
    enter = code.co_consts[-1] if code.co_consts else None
    if is_under_way or type(enter) is not types.FunctionType or enter.__code__ is not _ENTER_CODE:
        return False
    suspended.thread().awaiter = Awaiter(enter, suspended.chain)
    return True


class _AsyncIterable:
    """What ``async for`` iterates, so that the suspensions of each step are seen."""

    __slots__ = ("iterable", "suspended")

    def __init__(self, suspended: Suspended, iterable: Any) -> None:
        self.suspended, self.iterable = suspended, iterable

    def __aiter__(self) -> Any:
        method = _special(self.iterable, "__aiter__")
        assert method is not None  # `delegate_iterable` looked
        iterator = method()
        step = _special(iterator, "__anext__")
        return iterator if step is None else _AsyncIterator(self.suspended, step)


class _AsyncIterator:
    __slots__ = ("step", "suspended")

    def __init__(self, suspended: Suspended, step: Callable[[], Any]) -> None:
        self.suspended, self.step = suspended, step

    def __anext__(self) -> Any:
        return delegate_await(self.suspended, self.step())


class _AsyncContext:
    """What ``async with`` enters and exits, so that the suspensions of both are seen."""

    __slots__ = ("enter", "exit", "suspended")

    def __init__(self, suspended: Suspended, enter: Callable[[], Any], exit: Callable[..., Any]) -> None:
        self.suspended, self.enter, self.exit = suspended, enter, exit

    def __aenter__(self) -> Any:
        return delegate_await(self.suspended, self.enter())

    def __aexit__(self, *error: object) -> Any:
        return delegate_await(self.suspended, self.exit(*error))


def delegate_iterable(suspended: Suspended | None, iterable: Any) -> Any:
    """What ``async for`` iterates; what it cannot iterate is given back, for Python to say so."""
    if suspended is None or _special(iterable, "__aiter__") is None:
        return iterable
    return _AsyncIterable(suspended, iterable)


def delegate_context(suspended: Suspended | None, context: Any) -> Any:
    """What ``async with`` enters; what it cannot enter is given back, for Python to say so."""
    enter, exit = _special(context, "__aenter__"), _special(context, "__aexit__")
    return context if suspended is None or enter is None or exit is None else _AsyncContext(suspended, enter, exit)


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


def _special(value: object, name: str) -> Callable[..., Any] | None:
    """The special method as Python itself finds it: on the type, never on the instance."""
    for cls in type(value).__mro__:
        attribute = cls.__dict__.get(name)
        if attribute is not None:
            get = getattr(type(attribute), "__get__", None)
            method: Callable[..., Any] = attribute if get is None else get(attribute, value, type(value))
            return method
    return None


def _is_comprehension(traceback: types.TracebackType) -> bool:
    """Before 3.12 a comprehension has a frame of its own, between the body's and ours."""
    return traceback.tb_frame.f_code.co_name in ("<listcomp>", "<setcomp>", "<dictcomp>")


def _is_ours(traceback: types.TracebackType) -> bool:
    return traceback.tb_frame.f_code.co_filename == _ENTER_CODE.co_filename


_ITERABLE_COROUTINE = 0x100  # CO_ITERABLE_COROUTINE, set by types.coroutine
_ENTER_CODE = next(
    code for code in suspendable.__code__.co_consts if type(code) is types.CodeType and code.co_name == "enter"
)
