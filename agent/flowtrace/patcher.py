"""Completing a module after its import, and switching what is traced off and on.

What has no code to instrument gets a wrapt wrapper, where the module or one of its classes holds it. Switching
assigns code objects: a function that is switched off has the very code that Python compiled, and costs nothing.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable, Iterator

from flowtrace.constants import Raised, is_entry
from flowtrace.instrument import Function, nested
from flowtrace.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flowtrace.recorder import Functions

WILDCARDS = frozenset("*?[")


class Traced(NamedTuple):
    """A module that is traced.

    Attributes:
        name: What it is called in events.
        file: Its source, or binary, file.
        functions: What became of each of its target functions.
        roots: The plain code that it was made of: that of the module, and of functions that came to it otherwise;
            each with the name that it goes by where it has another.
        codes: Pairs of a plain code object and its instrumented twin: the roots and all code inside them.
        names: What else rules may call it: a script's file name beside ``__main__``.
    """

    name: str
    file: str | None
    functions: list[Function]
    roots: list[tuple[types.CodeType, str]]
    codes: list[tuple[types.CodeType, types.CodeType]]
    names: tuple[str, ...] = ()


def assign(codes: Iterable[tuple[types.CodeType, types.CodeType]]) -> int:
    """Give each living function whose code is the first of a pair the second instead.

    A call that is under way goes on with the code it began with.

    Returns:
        How many functions were changed.
    """
    successors = {id(old): (old, new) for old, new in codes if old is not new}
    changed = 0
    for function in functions() if successors else ():
        if id(function.__code__) in successors:
            function.__code__ = successors[id(function.__code__)][1]
            changed += 1
    return changed


def functions() -> list[types.FunctionType]:
    """All Python functions that exist; 30 ms in a heap of 600,000 objects."""
    found = [each for each in gc.get_objects() if type(each) is types.FunctionType]
    if gc.get_freeze_count() > _FROZEN_BY_PYTHON:
        known = {*map(id, found)}
        found += [each for each in _reachable_functions() if id(each) not in known]
    return found


def _reachable_functions() -> list[types.FunctionType]:
    """Functions to be reached from modules: no list has what `gc.freeze` has put aside.

    What runs is left out: this search itself would be found there, with all that it makes on its way.
    """
    seen: dict[int, object] = {}
    waiting: list[object] = list(sys.modules.values())
    while waiting:
        seen.update((id(each), each) for each in waiting)
        following = {id(each): each for each in gc.get_referents(*waiting) if gc.is_tracked(each)}
        waiting = [each for key, each in following.items() if key not in seen and type(each) not in _RUNNING]
    return [each for each in seen.values() if type(each) is types.FunctionType]


_FROZEN_BY_PYTHON = gc.get_freeze_count()  # 3.12 does so when it starts
_RUNNING = {types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.TracebackType}


class Place(NamedTuple):
    """Where a function is kept: an attribute of a module or class."""

    owner: Any
    name: str
    module: str
    qualname: str
    function: Any


def places(module: types.ModuleType) -> Iterator[Place]:
    """The functions that ``module`` itself defines, in its namespace and in its classes."""
    yield from _places(module, vars(module), module.__name__, "")


def _places(owner: Any, namespace: Any, module: str, prefix: str) -> Iterator[Place]:
    for name, value in list(namespace.items()):
        function = getattr(value, _HELD_AS[type(value)]) if type(value) in _HELD_AS else value
        if type(function) in (types.FunctionType, types.BuiltinFunctionType) and function.__module__ == module:
            if function.__name__ == name:
                yield Place(owner, name, module, prefix + name, function)
        elif isinstance(value, type) and value.__module__ == module and value.__qualname__ == prefix + name:
            yield from _places(value, vars(value), module, f"{prefix}{name}.")


_HELD_AS: dict[type, str] = {staticmethod: "__func__", classmethod: "__func__", property: "fget"}


def outermost(functions: Iterable[types.FunctionType]) -> list[types.CodeType]:
    """The code of these functions, but for that which lies inside other code among it."""
    found = {id(function.__code__): function.__code__ for function in functions}
    inside = {id(inner) for code in found.values() for inner in nested(code)}
    return [code for key, code in found.items() if key not in inside]


def wrap(place: Place, parts: Functions) -> None:
    """Put a wrapper where a function that is written in C is kept.

    Raises:
        TypeError, AttributeError: the owner does not let its attribute be set.
    """
    wrapper = _wrapper_class()(place.function)
    wrapper._self_place, wrapper._self_parts = place, parts
    setattr(place.owner, place.name, wrapper)
    Wrapper.all.append(wrapper)


class Wrapper:
    """What our wrappers have beside what wrapt gives them; `_wrapper_class` joins the two.

    Attributes:
        all: All wrappers there are: they stay where they are, and are told what to do.
        is_on: Whether any of them records.
    """

    all: list[Any] = []  # noqa: RUF012
    is_on = True
    _self_place: Place
    _self_parts: Functions | None  # None: not a target

    def __reduce_ex__(self, protocol: object) -> Any:
        """Pickled and copied by name, as functions are."""
        owner, name, *_ = self._self_place
        return getattr, (_Module(owner.__name__) if type(owner) is types.ModuleType else owner, name)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self


class _Module:
    """A module in a pickle; pickle does not take modules themselves."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        import importlib

        return importlib.import_module, (self.name,)


CALLS_WRAPPED = "_call"  # the method of wrappers that calls what they wrap
_made: list[Any] = []


def _wrapper_class() -> Any:
    if not _made:
        import wrapt  # not before the first wrapper is needed: it takes 50 ms

        class FunctionWrapper(Wrapper, wrapt.FunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
            """A wrapt wrapper that pickles by name and can be switched off."""

            def __init__(self, wrapped: Any) -> None:
                super().__init__(wrapped, self._call, enabled=lambda: Wrapper.is_on and self._self_parts is not None)

            def _call(self, wrapped: Any, instance: object, args: Any, kwargs: Any) -> Any:
                parts = self._self_parts
                if parts is None:  # since a moment ago
                    return wrapped(*args, **kwargs)
                enter, leave = parts
                names, values = ("args", *kwargs), (args, *kwargs.values())
                flow = enter[names, values] if is_entry(enter) else enter(names, values)  # type: ignore[index]
                try:
                    result = wrapped(*args, **kwargs)
                except BaseException:
                    leave(flow, Raised)
                    raise
                leave(flow, result)
                return result

        _made.append(FunctionWrapper)
    return _made[0]
