"""Completing a module after its import, and switching what is traced off and on.

What could not be instrumented gets a wrapt wrapper, where the module or one of its classes holds it. Switching
assigns code objects: a function that is switched off has the very code that Python compiled, and costs nothing.
"""

from __future__ import annotations

import copy
import gc
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flowtrace.constants import Raised
from flowtrace.instrument import Function
from flowtrace.suspension import delegate, delegate_await

if TYPE_CHECKING:
    from flowtrace.recorder import Functions
    from flowtrace.suspension import Suspendable

WILDCARDS = frozenset("*?[")


class Traced(NamedTuple):
    """A module that is traced.

    Attributes:
        name: What it is called in events.
        file: Its source, or binary, file.
        functions: What became of each of its target functions.
        codes: Pairs of a plain code object and its instrumented twin, those of the module itself first.
        names: What else rules may call it: a script's file name beside ``__main__``.
    """

    name: str
    file: str | None
    functions: list[Function]
    codes: Sequence[tuple[types.CodeType, types.CodeType]]
    names: tuple[str, ...] = ()


def assign(codes: Iterable[tuple[types.CodeType, types.CodeType]]) -> int:
    """Give each living function whose code is the first of a pair the second instead.

    A call that is under way goes on with the code it began with.

    Returns:
        How many functions were changed.
    """
    successors = {id(old): (old, new) for old, new in codes if old is not new}
    changed = 0
    for holder in gc.get_referrers(*(old for old, _ in successors.values())) if successors else []:
        if type(holder) is types.FunctionType and id(holder.__code__) in successors:
            holder.__code__ = successors[id(holder.__code__)][1]
            changed += 1
    return changed


class Place(NamedTuple):
    """Where a function is kept: an attribute of a module or class, and how it is kept there."""

    owner: Any
    name: str
    qualname: str
    function: Any
    rebuild: Callable[[Any], Any]  # makes what goes into the attribute


def places(module: types.ModuleType) -> Iterator[Place]:
    """The functions that ``module`` itself defines, in its namespace and in its classes."""
    yield from _places(module, vars(module), module.__name__, "")


def _places(owner: Any, namespace: Any, module: str, prefix: str) -> Iterator[Place]:
    for name, value in list(namespace.items()):
        kind = type(value)
        if kind in (types.FunctionType, types.BuiltinFunctionType) and value.__module__ == module:
            if value.__name__ == name:
                yield Place(owner, name, prefix + name, value, lambda function: function)
        elif kind in (staticmethod, classmethod) and type(value.__func__) is types.FunctionType:
            yield Place(owner, name, prefix + name, value.__func__, kind)
        elif kind is property and type(value.fget) is types.FunctionType:
            yield Place(owner, name, prefix + name, value.fget, value.getter)
        elif isinstance(value, type) and value.__module__ == module and value.__qualname__ == prefix + name:
            yield from _places(value, vars(value), module, f"{prefix}{name}.")


def first_line(function: Any) -> int:
    """The line where a function's definition begins; 0 for one that is written in C."""
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if type(code) is types.CodeType else 0


def wrap(place: Place, kind: str, parts: Functions | Suspendable) -> None:
    """Put a wrapper where the function is kept.

    Raises:
        TypeError, AttributeError: the owner does not let its attribute be set.
    """
    wrapper = _wrapper_class()(place.function, _call(place.function, kind, parts))
    wrapper._self_place = place.owner, place.name
    setattr(place.owner, place.name, place.rebuild(wrapper))
    Wrapper.all.append(wrapper)


class Wrapper:
    """What our wrappers have beside what wrapt gives them; `_wrapper_class` joins the two."""

    all: list[Any] = []  # noqa: RUF012  # the one list of all wrappers, for `switch`
    _self_is_on = True
    _self_place: tuple[Any, str]

    def __reduce_ex__(self, protocol: object) -> Any:
        """Pickled and copied by name, as functions are."""
        owner, name = self._self_place
        return getattr, (_by_name(owner), name)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self


def _by_name(owner: Any) -> Any:
    return _Module(owner.__name__) if type(owner) is types.ModuleType else owner


class _Module:
    """A module in a pickle; pickle does not take modules themselves."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        import importlib

        return importlib.import_module, (self.name,)


_made: list[Any] = []


def _wrapper_class() -> Any:
    if not _made:
        import wrapt  # not before the first wrapper is needed: it takes 50 ms

        class BoundFunctionWrapper(wrapt.BoundFunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
            """What a wrapped method is when it is looked up; pickled as bound methods are."""

            def __reduce_ex__(self, protocol: object) -> Any:
                owner, name = self._self_parent._self_place
                instance = self._self_instance
                return getattr, (owner if instance is None else instance, name)

            def __copy__(self) -> Any:
                return self

            def __deepcopy__(self, memo: Any) -> Any:
                get, (owner, name) = self.__reduce_ex__(4)
                return get(owner if isinstance(owner, type) else copy.deepcopy(owner, memo), name)

        class FunctionWrapper(Wrapper, wrapt.FunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
            """A wrapt wrapper that pickles by name and can be switched off."""

            __bound_function_wrapper__ = BoundFunctionWrapper

            def __init__(self, wrapped: Any, wrapper: Any) -> None:
                super().__init__(wrapped, wrapper, enabled=lambda: self._self_is_on)

        _made.append(FunctionWrapper)
    return _made[0]


def _call(function: Any, kind: str, parts: Functions | Suspendable) -> Callable[..., Any]:
    enter, leave = parts
    bind = _binder(function)

    def call(wrapped: Any, instance: object, args: Any, kwargs: Any) -> Any:
        flow = enter(bind(args, kwargs))
        try:
            result = wrapped(*args, **kwargs)
        except BaseException:
            leave(flow, Raised)
            raise
        leave(flow, result)
        return result

    def call_coroutine(wrapped: Any, instance: object, args: Any, kwargs: Any) -> Any:
        coroutine = wrapped(*args, **kwargs)

        async def run() -> Any:
            flow: Any = enter(bind(args, kwargs))
            result: object = Raised
            try:
                result = await delegate_await(flow, coroutine)
                return result
            finally:
                leave(flow, result)

        return run()

    def call_generator(wrapped: Any, instance: object, args: Any, kwargs: Any) -> Any:
        generator = wrapped(*args, **kwargs)

        def run() -> Any:
            flow: Any = enter(bind(args, kwargs))
            result: object = Raised
            try:
                result = yield from delegate(flow, generator)
                return result
            finally:
                leave(flow, result)

        return run()

    return {"coroutine": call_coroutine, "generator": call_generator}.get(kind, call)


def _binder(function: Any) -> Callable[[tuple[object, ...], dict[str, object]], dict[str, object]]:
    """Names for the values of a call; `inspect.signature` would take ten times as long as the call."""
    code = getattr(function, "__code__", None)
    if type(code) is not types.CodeType:
        return lambda args, kwargs: {"args": args, **kwargs}
    names = code.co_varnames[: code.co_argcount]
    skipped = 1 if names[:1] in (("self",), ("cls",)) else 0
    names = names[skipped:]

    def bind(args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
        values: dict[str, object] = dict(zip(names, args, strict=False))
        if len(args) > len(names):
            values["args"] = args[len(names) :]
        return {**values, **kwargs}

    return bind
