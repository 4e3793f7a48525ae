"""Instrumenting: the code of a module in, the code of the same program with its target functions traced out.

A traced body keeps a *flow*, what `enter` gave it, at the bottom of its value stack: no local variable, no name, no
frame is added, and nothing to the module's globals. What is called are constants of the code object. In other words::

    flow = enter(("a", ...), (a, ...))     # behind RESUME; where even that call is too deep: flow = None
    <the body, in which RETURN_VALUE is>
        leave(flow, value)
        return value
    <a handler around it all>
        leave(flow, Raised)
        reraise                             # as `with` does it: the frame still stands where it raised

A body that can be suspended says so where it yields, be it for itself or for what it awaits::

        suspend(flow)
        YIELD_VALUE
        resumed(flow)                       # also when something was thrown in

Instructions that are added to a line belong to it, those before the first line and those that only pass an exception
on to none: debuggers, coverage and tracebacks see the lines they always saw.

This module knows neither config nor recorder; it is a function of its arguments.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator

from flowtrace.assembly import NO_POSITION, Handler, Instruction, assemble, depths, disassemble
from flowtrace.constants import Raised, is_entry, without_our_frames
from flowtrace.errors import InstrumentError
from flowtrace.typed import Any, Literal, NamedTuple, Protocol, TypeAlias

Kind: TypeAlias = Literal["function", "coroutine", "generator", "async generator"]
How: TypeAlias = Literal["instrumented", "wrapper", "not traced"]

# flags of code objects
IS_FUNCTION = 0x01  # CO_OPTIMIZED: not a module's, nor a class's
_VARARGS, _VARKEYWORDS = 0x04, 0x08
_KINDS: dict[int, Kind] = {0x20: "generator", 0x80: "coroutine", 0x200: "async generator"}
_PRECALLS = _SEND_IS_LOOKED_FOR = sys.version_info < (3, 12)
_LINES_BEGIN_AT_TARGETS = sys.version_info >= (3, 12)
_JUMP_BACK = "JUMP_BACKWARD_NO_INTERRUPT"
_LINES_BEGIN_AT_JUMPS = _DEPTH_IS_NOTED = sys.version_info[:2] == (3, 12)
_TYPE_PARAMETERS = "<generic parameters of "  # names of scopes that PEP 695 puts around a function


class Function(NamedTuple):
    """One function of a module and what becomes of it.

    Attributes:
        qualname: As in ``__qualname__``.
        line: Its first line, decorators included; with the qualname, what tells it from others.
        kind: What calling it gives.
        how: ``instrumented``, or what else becomes of it.
        reason: Why it is not instrumented; empty where it is.
    """

    qualname: str
    line: int
    kind: Kind
    how: How = "instrumented"
    reason: str = ""


class Parts(Protocol):
    """What a traced body calls; of bodies that can be suspended also ``suspend(flow)`` and ``resumed(flow)``.

    ``self`` and ``cls`` are left out of the arguments, unless there is an attribute ``wants_self`` that is true.
    """

    @property
    def enter(self) -> Callable[..., Any]:
        """Called with the names of the arguments, always the same tuple, and their values; gives the flow."""

    @property
    def leave(self) -> Callable[..., None]:
        """Called with the flow and the result, or `Raised`."""


class Instrumented(NamedTuple):
    """The outcome of `instrument`: the code, and what became of each target function."""

    code: types.CodeType
    functions: tuple[Function, ...]


def instrument(code: types.CodeType, parts: Callable[[Function], Parts | None]) -> Instrumented:
    """``code`` with target functions instrumented, those inside others included.

    Args:
        code: Of a module, or of a function.
        parts: What a function's body is to call; None where it is no target.

    Returns:
        Code in which whatever holds no target is the very object that it was.
    """
    functions: list[Function] = []
    place = _Place(within_class=False, is_static=False)
    return Instrumented(_Scope(parts, functions).instrumented(code, place), tuple(functions))


def pairs(one: types.CodeType, other: types.CodeType) -> Iterator[tuple[types.CodeType, types.CodeType]]:
    """Where two versions of a program differ: (code of ``one``, code of ``other``), from the outside inwards."""
    if one is not other:
        yield one, other
        for first, second in zip(_inner(one), _inner(other), strict=True):
            yield from pairs(first, second)


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code objects inside another one, at any depth."""
    for inner in _inner(code):
        yield inner
        yield from nested(inner)


def _inner(code: types.CodeType) -> list[types.CodeType]:
    # those that instrumenting adds are functions, not code
    return [value for value in code.co_consts if type(value) is types.CodeType]


def _kind(code: types.CodeType) -> Kind:
    """What calling a function with this code gives."""
    return next((kind for flag, kind in _KINDS.items() if code.co_flags & flag), "function")


class _Place(NamedTuple):
    """Where a function is defined, which says whether its first argument is an instance or a class."""

    within_class: bool
    is_static: bool

    @property
    def is_method(self) -> bool:
        return self.within_class and not self.is_static


class _Scope:
    """Walks through the scopes of a program."""

    def __init__(self, parts: Callable[[Function], Parts | None], functions: list[Function]) -> None:
        self._parts, self._functions = parts, functions

    def instrumented(self, code: types.CodeType, place: _Place) -> types.CodeType:
        function, parts = None, None
        if code.co_flags & IS_FUNCTION and not code.co_name.startswith("<"):
            function = Function(code.co_qualname, code.co_firstlineno, _kind(code))
            parts = self._parts(function)
        number = len(self._functions)
        if function and parts:
            self._functions.append(function)
        code = self._with_inner(code, place)
        if function and parts:
            try:
                return _Body(code, function.kind, parts, is_method=place.is_method).assembled()
            except InstrumentError as error:
                self._functions[number] = function._replace(how="not traced", reason=str(error))
        return code

    def _with_inner(self, code: types.CodeType, place: _Place) -> types.CodeType:
        places = _places(code, place)
        consts = tuple(
            self.instrumented(value, next(places)) if type(value) is types.CodeType else value
            for value in code.co_consts
        )
        is_same = all(new is old for new, old in zip(consts, code.co_consts, strict=True))
        return code if is_same else code.replace(co_consts=consts)


def _places(code: types.CodeType, place: _Place) -> Iterator[_Place]:
    """For each code object among the constants of ``code``, where it is."""
    inner = _inner(code)
    if code.co_name.startswith(_TYPE_PARAMETERS):
        return iter([place] * len(inner))
    if code.co_flags & IS_FUNCTION or code.co_name == "<module>":
        return iter([_Place(within_class=False, is_static=False)] * len(inner))
    static = _static_methods(code)
    return iter([_Place(within_class=True, is_static=id(value) in static) for value in inner])


def _static_methods(body: types.CodeType) -> set[int]:
    """Ids of the code objects that the body of a class decorates with ``staticmethod``."""
    if "staticmethod" not in body.co_names:
        return set()
    found: set[int] = set()
    is_static = False
    for each in disassemble(body):
        if each.name == "LOAD_NAME":
            is_static |= body.co_names[each.arg] == "staticmethod"
        elif each.name == "LOAD_CONST" and is_static:
            found.add(id(body.co_consts[each.arg]))
        elif each.name in ("STORE_NAME", "POP_TOP"):
            is_static = False
    return found


class _Body:
    """One function's body, on its way to being traced.

    The flow lies at the bottom of the stack, so all depths are one more than they were.
    """

    def __init__(self, code: types.CodeType, kind: Kind, parts: Any, *, is_method: bool) -> None:
        self._code, self._parts, self._is_method = code, parts, is_method
        self._consts: list[object] = list(code.co_consts)
        self._numbers: dict[int, int] = {}  # of constants that were added, by their ids
        self._plain = disassemble(code)
        start = next((i for i, each in enumerate(self._plain) if each.name == "RESUME"), -1)
        if start < 0 or self._plain[start].arg & 3:
            raise InstrumentError("its code does not begin as that of a function")
        self._depths = depths(self._plain, start + 1) if kind != "function" else {}
        self._before, self._body = self._plain[: start + 1], self._plain[start + 1 :]
        self._targets = {each.target for each in self._body}
        self._cold: list[Instruction] = []  # what only exceptions lead to: behind all else
        self._thrown: Handler | None = None  # of the last place where the body is suspended
        self._sent: Instruction | None = None  # there, what sends to what is awaited

    def assembled(self) -> types.CodeType:
        """The code of the traced function."""
        self._separate_handlers()
        enter = self._enter()
        outermost = self._leave_by_exception()
        self._returning = self._guard(1, [Instruction("RETURN_VALUE")])
        for each in self._body:
            each.handler = each.handler._replace(depth=each.handler.depth + 1) if each.handler else outermost
        body = list(self._traced())
        return assemble(
            self._code,
            [*self._before, *enter, *body, *self._cold],
            consts=self._consts,
            stacksize=max(self._code.co_stacksize + 6, len(enter) + 2, 12),
        )

    def _separate_handlers(self) -> None:
        """Give what comes before the flow is there a handler of its own, a copy of that for the whole body."""
        for each in self._before:
            if each.handler is None:
                continue
            copied: list[Instruction] = []
            for original in self._plain[self._plain.index(each.handler.target) :]:
                if original.target or original.handler:
                    raise InstrumentError("its code begins under a handler of a form that is not known")
                copied.append(Instruction(original.name, original.arg, original.position))
                if original.name == "RERAISE":
                    break
            self._cold += copied
            each.handler = each.handler._replace(target=copied[0])

    # -- in and out -------------------------------------------------------------------------------------------------

    def _enter(self) -> list[Instruction]:
        arguments, cells = list(self._arguments()), self._code.co_cellvars
        places = self._code.co_varnames
        values = [Instruction("LOAD_DEREF" if places[n] in cells else "LOAD_FAST", n) for n, _ in arguments]
        names = self._load(tuple(name for _, name in arguments))
        call = _subscript() if is_entry(self._parts.enter) else _call(1)
        enter = [self._load(self._parts.enter), names, *values, Instruction("BUILD_TUPLE", len(values)), *call]
        untraced = [self._load(None), Instruction(_JUMP_BACK, target=self._body[0])]
        handler = self._guard(0, untraced)
        # they have no line: none may begin before the flow is there, or a debugger could not jump back to it
        return [_handled(each, handler) for each in enter]

    def _arguments(self) -> Iterator[tuple[int, str]]:
        """Numbers and names of the arguments to record."""
        code = self._code
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & _VARARGS) + bool(code.co_flags & _VARKEYWORDS)
        names = code.co_varnames[:count]
        has_self = code.co_argcount > 0 and (names[0] in ("self", "cls") or self._is_method)
        first = has_self and not getattr(self._parts, "wants_self", False)
        return ((number, self._unmangled(name)) for number, name in enumerate(names) if number >= first)

    def _unmangled(self, name: str) -> str:
        """The name as it is in the source, where a class has made its own of it."""
        for scope in self._code.co_qualname.split(".") if name.startswith("_") else ():
            name = name.removeprefix("_" + scope.lstrip("_")) if name.startswith(f"_{scope.lstrip('_')}__") else name
        return name

    def _leave(self, place: Instruction) -> Iterator[Instruction]:
        """From a value and the flow below it, changed over, to the return of the value."""
        for each in (self._load(self._parts.leave), Instruction("SWAP", 2), Instruction("COPY", 3), *_call(1)):
            yield _at(place, each, self._returning)
        yield _at(place, Instruction("POP_TOP"), self._returning)
        yield _at(place, Instruction("RETURN_VALUE"), None)

    def _leave_by_exception(self) -> Handler:
        """What an exception meets last: the flow, the number of the raising instruction and the exception are there."""
        restore = _restoring(None, depth=3)
        leave = [self._load(self._parts.leave), Instruction("COPY", 5), self._load(Raised), *_call(1)]
        guard = self._guard(4, [Instruction("RERAISE", 2)], outer=restore.handler)
        start = Instruction("PUSH_EXC_INFO")
        self._cold.append(start)
        self._cold += [_handled(each, guard) for each in (*leave, Instruction("POP_TOP"))]
        self._cold += [_handled(Instruction("RERAISE", 2), restore.handler), *restore.code]
        return Handler(start, 1, lasti=True)

    def _guard(self, depth: int, then: list[Instruction], outer: Handler | None = None) -> Handler:
        """At the recursion limit even calling the recorder raises; the function itself would still have run.

        What a signal handler raises in there, as Ctrl-C does, goes on to the program.
        """
        restore = _restoring(outer, depth=depth + 2)
        start = Instruction("PUSH_EXC_INFO")
        reraise = [self._load(without_our_frames), Instruction("COPY", 2), *_call(0), Instruction("POP_TOP")]
        reraise.append(Instruction("RERAISE", 2))
        match = [
            self._load(RecursionError),
            Instruction("CHECK_EXC_MATCH"),
            Instruction("POP_JUMP_IF_FALSE", target=reraise[0]),
            Instruction("POP_TOP"),
        ]
        self._cold.append(start)
        self._cold += [_handled(each, restore.handler) for each in match]
        self._cold += [_handled(each, outer) for each in (Instruction("POP_EXCEPT"), Instruction("POP_TOP"), *then)]
        self._cold += [*(_handled(each, restore.handler) for each in reraise), *restore.code]
        return Handler(start, depth, lasti=True)

    # -- in between -------------------------------------------------------------------------------------------------

    def _traced(self) -> Iterator[Instruction]:
        for number, (each, following) in enumerate(zip(self._body, [*self._body[1:], None], strict=True)):
            previous = self._body[number - 1].name if number else ""
            if each.name == "RETURN_VALUE":
                each.becomes("SWAP", 2)
                yield from (each, *self._leave(each))
            elif each.name == "RETURN_CONST":
                each.becomes("LOAD_CONST", each.arg)
                yield from (each, _at(each, Instruction("SWAP", 2)), *self._leave(each))
            elif each.name == "YIELD_VALUE" and each in self._depths:
                yield from self._suspended(each, self._body[number - 1] if previous == "SEND" else None)
            elif each.name == "YIELD_VALUE":  # nothing leads here
                self._thrown = None
                yield each
            elif each.name == "RESUME" and self._thrown:
                yield from self._resumed(each, self._thrown, self._body[number + 1])
            elif self._thrown and self._sent and following is self._sent.target:
                yield from self._sent_again(each, self._sent, self._thrown)
            else:
                yield each

    def _suspended(self, place: Instruction, sent: Instruction | None) -> Iterator[Instruction]:
        """From the value to be given out to the moment when the body goes on."""
        depth = self._depths[place] + 1
        self._thrown = self._thrown_in(place, depth)
        suspends = [_at(place, Instruction("YIELD_VALUE", place.arg + _DEPTH_IS_NOTED), self._thrown)]
        self._sent = None
        if sent and _SEND_IS_LOOKED_FOR:
            self._sent = _at(place, Instruction("SEND", target=sent.target))
            suspends = [_at(place, Instruction("JUMP_FORWARD", target=suspends[0])), self._sent, *suspends]
        told = self._guarded(self._parts.suspend, place, self._thrown, suspends[0])
        place.becomes("LOAD_CONST", told[0].arg)  # jumps lead here
        place.handler = told[0].handler
        yield from (place, *told[1:], *suspends)

    def _resumed(self, place: Instruction, thrown: Handler, following: Instruction) -> Iterator[Instruction]:
        place.arg &= 3  # 3.13 notes in a further bit where only Python's own handler has to see a generator closed
        # 3.13 looks for the handler of a call that raises one instruction before it: that must be the body's own
        then = _at(place, Instruction("NOP"), place.handler)
        if _LINES_BEGIN_AT_TARGETS and following in self._targets:
            then.position = NO_POSITION  # else no line would begin there: behind RESUME one does
        place.handler = thrown
        yield from (place, *self._guarded(self._parts.resumed, place, thrown, then), then)

    def _sent_again(self, place: Instruction, sent: Instruction, thrown: Handler) -> Iterator[Instruction]:
        """What comes before that to which a SEND leads: the end of a loop that sends to what is awaited.

        When that takes a throw and ends, 3.11 looks for the SEND before the YIELD_VALUE and goes on where it leads:
        from there if it returned, and as if it came from the instruction before if it raised.
        """
        depth, handler = thrown.depth - 1, place.handler
        returned = self._tell(self._parts.resumed, place, depth, handler)
        sent.target = returned[0]
        place.handler = self._thrown_in(place, depth - 1)
        yield from (place, *returned)

    def _thrown_in(self, place: Instruction, depth: int) -> Handler:
        """What is thrown in goes on to where it would have gone."""
        code = self._tell(self._parts.resumed, place, depth + 2, place.handler)
        for each in code:
            each.position = NO_POSITION
        self._cold += [*code, _handled(Instruction("RERAISE", 1), place.handler)]
        return Handler(code[0], depth, lasti=True)

    def _guarded(self, part: object, place: Instruction, thrown: Handler, then: Instruction) -> list[Instruction]:
        """The call of a part with the flow, done without at the recursion limit."""
        if _LINES_BEGIN_AT_JUMPS:
            return self._tell(part, place, thrown.depth, thrown)
        guard = self._guard(thrown.depth, [Instruction(_JUMP_BACK, target=then)], outer=thrown)
        return self._tell(part, place, thrown.depth, guard)

    def _tell(self, part: object, place: Instruction, depth: int, handler: Handler | None) -> list[Instruction]:
        """The call of a part with the flow, which is ``depth`` values deep."""
        call = [self._load(part), Instruction("COPY", depth + 1), *_call(0), Instruction("POP_TOP")]
        return [_at(place, each, handler) for each in call]

    def _load(self, value: object) -> Instruction:
        number = self._numbers.setdefault(id(value), len(self._consts))
        if number == len(self._consts):
            self._consts.append(value)
        return Instruction("LOAD_CONST", number)


class _Restoring(NamedTuple):
    """Code that makes the exception before the one that is handled the current one again, as Python's own does it."""

    handler: Handler
    code: list[Instruction]


def _restoring(outer: Handler | None, *, depth: int) -> _Restoring:
    code = [
        _handled(each, outer) for each in (Instruction("COPY", 3), Instruction("POP_EXCEPT"), Instruction("RERAISE", 1))
    ]
    return _Restoring(Handler(code[0], depth, lasti=True), code)


def _call(count: int) -> list[Instruction]:
    """The call of a function that lies below its arguments, ``count`` of them beside the first."""
    return [*([Instruction("PRECALL", count)] if _PRECALLS else []), Instruction("CALL", count)]


def _subscript() -> list[Instruction]:
    """The same as a subscript, behind which no signal handler is run."""
    return [Instruction("BUILD_TUPLE", 2), Instruction("BINARY_SUBSCR")]


def _handled(instruction: Instruction, handler: Handler | None) -> Instruction:
    instruction.handler = handler
    return instruction


def _at(place: Instruction, instruction: Instruction, handler: Handler | None = None) -> Instruction:
    instruction.position, instruction.handler = place.position, handler
    return instruction
