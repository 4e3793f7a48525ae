"""Uses each feature of the samples and writes down all that can be seen of it, as JSON.

Run as ``python probe.py FEATURES REPORT [off]``: FEATURES is a JSON file that says which module has which feature,
REPORT is written: by feature and aspect, what was observed. With ``off`` it has itself switched off first. It knows
nothing of how tracing is done: run with and without flowtrace, it must write the same.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import traceback
import types
import typing
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

See = Callable[[object], object]
PLAIN = (type(None), bool, int, float, str, bytes)
EVENTS = ("call", "return")  # of a profiler, beside those of functions written in C
LIMITS = range(120, 124)  # of the recursion: four in a row, so that the end falls on different frames of a feature


class Token:
    """A value whose end is written down.

    Args:
        name: What it is called in reports.
        log: Where its end is noted.
    """

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __del__(self) -> None:
        self.log.append(f"end of {self.name}")


def shown(value: object) -> Any:
    """A value as reports have it: the same in each process."""
    if isinstance(value, PLAIN):
        return value.hex() if isinstance(value, bytes) else value
    if type(value) in (list, tuple, set, frozenset):
        return [type(value).__name__, *map(shown, value)]  # type: ignore[call-overload]
    if type(value) is dict:
        return {str(name): shown(each) for name, each in value.items()}
    name = getattr(value, "name", None) if type(value) is Token else getattr(value, "__qualname__", None)
    return f"{type(value).__name__} {name}" if isinstance(name, str) else f"<{type(value).__qualname__}>"


def attempt(action: Callable[[], object]) -> Any:
    """What an action gives, or which exception it ends with."""
    try:
        return shown(action())
    except Exception as error:  # noqa: BLE001  # compared with what the untraced program raises
        return f"{type(error).__name__}: {error}"


def outcome(module: Any, see: See, log: list[str]) -> Any:
    """What one use of a feature comes to."""
    return attempt(lambda: module.use(see, Token("value", log)))


def raising(module: Any, observe: Callable[[BaseException], object]) -> list[Any]:
    """Use a feature again and again, ``see`` raising at its first call, its second, and so on; what is observed."""
    found = []
    for turn in range(sys.maxsize):
        calls = 0

        def see(value: object) -> object:
            nonlocal calls
            calls += 1
            if calls == turn + 1:  # noqa: B023  # of this turn
                raise KeyError(calls)
            return Token("kept", [])

        try:
            raise RuntimeError("being handled")
        except RuntimeError:
            try:
                module.use(see, Token("value", []))
            except Exception as error:  # noqa: BLE001
                found.append(observe(error))
        if calls <= turn:
            return found
    return found


def position(code: types.CodeType, instruction: int) -> list[int | None]:
    """The lines and columns of an instruction of code, which tracebacks underline."""
    return list(list(code.co_positions())[instruction // 2])


def is_ours(frame: types.FrameType) -> bool:
    """Whether a frame is of this program, not of a feature."""
    return frame.f_code.co_filename == __file__


def frames(start: types.FrameType | None) -> Iterator[types.FrameType]:
    """A frame and its callers, as far as they do not belong to this program."""
    while start is not None and not is_ours(start):
        yield start
        start = start.f_back


def chain(error: BaseException) -> Iterator[types.TracebackType]:
    """The links of an exception's traceback, those of this program left out."""
    link = error.__traceback__
    while link is not None:
        if not is_ours(link.tb_frame):
            yield link
        link = link.tb_next


# -- what a feature has: every function, and where it is found --------------------------------------------------------


def places(module: types.ModuleType) -> dict[str, Any]:
    """Everything that can be reached from a module's names, by the way to it: attributes, wrapped functions, cells."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if not name.startswith("__") and not isinstance(value, types.ModuleType):
            _reach(name, value, module.__name__, found, ())
    return found


def _reach(path: str, value: Any, module: str, found: dict[str, Any], above: tuple[Any, ...]) -> None:
    if len(above) > 8 or any(value is each for each in above):
        return
    found[path] = value
    for name, inner in _inside(value, module):
        _reach(f"{path}.{name}", inner, module, found, (*above, value))


def _inside(value: Any, module: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, type):
        if value.__module__ == module:
            yield from ((name, each) for name, each in vars(value).items() if name not in ("__dict__", "__weakref__"))
        return
    if type(value) in (list, tuple):
        yield from ((str(index), each) for index, each in enumerate(value))
    elif type(value) is dict:
        yield from ((str(name), each) for name, each in value.items())
    for name in ("__func__", "__wrapped__", "fget", "fset", "fdel", "func", "dispatcher", "__self__"):
        with contextlib.suppress(Exception):
            yield name, inspect.getattr_static(value, name) if name == "__wrapped__" else getattr(value, name)
    if type(value) is types.FunctionType:
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        yield from ((f"<{name}>", cell.cell_contents) for name, cell in cells if cell != types.CellType())
        yield from ((f"({name})", each) for name, each in (value.__kwdefaults__ or {}).items())


def functions(module: types.ModuleType) -> dict[str, Any]:
    """Those of the places that hold functions, of Python or of C."""
    kinds = (types.FunctionType, types.BuiltinFunctionType)
    return {path: value for path, value in places(module).items() if issubclass(type(value), kinds)}


def file_of(module: Any) -> str:
    """The file that the code of a module says it is from, which is not there where there is only bytecode."""
    return str(module.use.__code__.co_filename)


def own_functions(module: types.ModuleType) -> dict[str, types.FunctionType]:
    """Those that were compiled from the module's file."""
    found = {path: each for path, each in functions(module).items() if type(each) is types.FunctionType}
    return {path: each for path, each in found.items() if each.__code__.co_filename == file_of(module)}


# -- aspects: each says what is seen of one feature -------------------------------------------------------------------


def results(module: Any) -> Any:
    """What it gives, twice, and what ``see`` is given."""
    seen: list[Any] = []

    def see(value: object) -> None:
        seen.append(shown(value))

    return [outcome(module, see, []), outcome(module, see, []), seen]


def identity(module: Any) -> Any:
    """Which places hold the same object, of which type, equal and hashable, with which attributes."""
    by_id: dict[int, list[str]] = {}
    reached = places(module)
    for path, value in reached.items():
        if not isinstance(value, PLAIN):
            by_id.setdefault(id(value), []).append(path)
    looks = {
        path: [type(value).__qualname__, callable(value), attempt(lambda: value == value), shown(vars(value))]  # noqa: B023
        for path, value in functions(module).items()
        if hasattr(value, "__dict__")
    }
    return [list(by_id.values()), looks, sorted(vars(module))]


def inspected(module: Any) -> Any:
    """What `inspect` says of each function."""
    questions: list[Callable[[Any], object]] = [
        lambda f: str(inspect.signature(f)),
        inspect.getsource,
        lambda f: inspect.getsourcelines(f)[1],
        lambda f: os.path.basename(inspect.getfile(f)),
        inspect.getdoc,
        inspect.getcomments,
        lambda f: inspect.getmodule(f).__name__,  # type: ignore[union-attr]
        lambda f: inspect.getfullargspec(f).args,
        lambda f: [shown(names) for names in inspect.getclosurevars(f)[1:3]],
        lambda f: sorted(inspect.getclosurevars(f).unbound),
    ]
    flags = "isfunction", "isbuiltin", "isroutine", "iscoroutinefunction", "isgeneratorfunction", "isasyncgenfunction"
    questions += [getattr(inspect, flag) for flag in flags]
    looks = "__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__"
    questions += [functools.partial(lambda look, f: getattr(f, look), look) for look in looks]
    return {
        path: [attempt(functools.partial(question, function)) for question in questions]
        for path, function in functions(module).items()
    }


def type_hints(module: Any) -> Any:
    """What `typing.get_type_hints` says of each function and class."""
    things = {path: each for path, each in places(module).items() if isinstance(each, types.FunctionType | type)}
    return {path: attempt(lambda: repr(typing.get_type_hints(thing))) for path, thing in things.items()}  # noqa: B023


def code(module: Any) -> Any:
    """Names, flags and counts of the code of each function, by which other tools know it."""
    looks = "co_name", "co_qualname", "co_filename", "co_firstlineno", "co_flags", "co_argcount", "co_posonlyargcount"
    looks += "co_kwonlyargcount", "co_nlocals", "co_varnames", "co_cellvars", "co_freevars", "co_names"
    codes = {path: each.__code__ for path, each in functions(module).items() if hasattr(each, "__code__")}
    lines = {path: sorted({line for *_, line in each.co_lines() if line}) for path, each in codes.items()}
    return [lines, {path: [shown(getattr(each, look)) for look in looks] for path, each in codes.items()}]


def tracebacks(module: Any) -> Any:
    """Frames, lines and columns of what is raised inside, and the text that people see."""

    def observe(error: BaseException) -> Any:
        links = [[link.tb_frame.f_code.co_name, link.tb_lineno, _underlined(link)] for link in chain(error)]
        return [links, "".join(traceback.format_exception(error))]

    return raising(module, observe)


def _underlined(link: types.TracebackType) -> list[int | None]:
    return position(link.tb_frame.f_code, link.tb_lasti)


def dead_frames(module: Any) -> Any:
    """Where the frames stand that an exception has left, and what it is chained to."""

    def observe(error: BaseException) -> Any:
        lines = [[link.tb_frame.f_code.co_name, link.tb_frame.f_lineno] for link in chain(error)]
        return [lines, repr(error.__context__), repr(error.__cause__), error.__suppress_context__]

    return raising(module, observe)


def callers(module: Any) -> Any:
    """What `sys._getframe` gives inside: the names, lines and columns of all callers, and the exception at hand."""
    seen: list[Any] = []

    def see(value: object) -> object:
        stack = [
            [frame.f_code.co_name, frame.f_lineno, position(frame.f_code, frame.f_lasti)]
            for frame in frames(sys._getframe(1))
        ]
        seen.append([stack, repr(sys.exception())])
        return Token("kept", [])

    return [seen, outcome(module, see, [])]


def stacklevels(module: Any) -> Any:
    """Which file and line a warning is given for, by its stacklevel."""

    def see(value: object) -> None:
        for level in range(1, 6):
            warnings.warn(f"level {level}", stacklevel=level)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome(module, see, [])
    return [[str(each.message), os.path.basename(each.filename), each.lineno] for each in caught]


def stack_needed(module: Any) -> Any:
    """The least recursion limit that a use can do with, where ``see`` is written in C; and each call of ``ALONE``."""
    alone: list[Callable[[], object]] = getattr(module, "ALONE", [])
    return [_needed(call) for call in (lambda: module.use(id, "value"), *alone)]


def _needed(call: Callable[[], object]) -> int:
    usual = sys.getrecursionlimit()
    for limit in range(10, usual):
        with contextlib.suppress(RecursionError):
            try:
                sys.setrecursionlimit(limit)  # raises where the stack is deeper already
                call()
                return limit
            finally:
                sys.setrecursionlimit(usual)
    return usual


def depths(module: Any) -> Any:
    """How often the feature may be used inside itself before the recursion limit ends it."""
    return [_depth(module, limit) for limit in LIMITS]


def _depth(module: Any, limit: int) -> list[Any]:
    depth, is_over = 0, False

    def see(value: object) -> object:
        nonlocal depth, is_over
        if is_over:  # what is called while the stack is unwound does not begin anew
            return None
        depth += 1
        try:
            return module.use(see, value)
        except RecursionError:
            is_over = True
            raise

    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        found = outcome(module, see, [])
    finally:
        sys.setrecursionlimit(usual)
    return [depth, is_over, str(found).partition(":")[0]]  # "exceeded in comparison", or elsewhere


def local_variables(module: Any) -> Any:
    """The locals of all callers while they run, and of the frames that an exception has left."""
    seen: list[Any] = []

    def see(value: object) -> object:
        seen.append([_locals(frame) for frame in frames(sys._getframe(1))])
        return Token("kept", [])

    outcome(module, see, [])
    return [seen, raising(module, lambda error: [_locals(link.tb_frame) for link in chain(error)])]


def _locals(frame: types.FrameType) -> list[Any]:
    is_module = frame.f_locals is frame.f_globals
    return [frame.f_code.co_name, sorted(frame.f_locals) if is_module else shown(dict(frame.f_locals))]


def references(module: Any) -> Any:
    """Reference counts of an argument: inside, afterwards, after an exception; and of the functions."""
    inside: list[int] = []

    def see(value: object) -> None:
        if type(value) is Token:
            inside.append(sys.getrefcount(value))

    value = Token("value", [])
    attempt(lambda: module.use(see, value))
    after = sys.getrefcount(value)
    left = raising(module, lambda error: [sys.getrefcount(link.tb_frame) for link in chain(error)])
    gc.collect()
    return [inside, after, left, {path: sys.getrefcount(each) for path, each in own_functions(module).items()}]


def finalizers(module: Any) -> Any:
    """When and in which order values end, on return and on exceptions, and what the garbage collector has to end."""
    log: list[str] = []

    def use(at: int) -> None:
        calls = 0

        def see(value: object) -> object:
            nonlocal calls
            calls += 1
            log.append(f"see {calls}")
            watches.append(weakref.ref(value, lambda _: log.append("weak")) if type(value) is Token else None)
            if calls == at:
                raise KeyError(at)
            return Token(f"kept {calls}", log)

        try:
            result = module.use(see, Token("value", log))
            log.append("returned")
            del result
            log.append("dropped")
        except Exception:  # noqa: BLE001
            log.append("caught")
        log.append("handled")

    for at in range(4):
        watches: list[object] = []
        use(at)
        gc.collect()
        log.append("collected")
    return log


def leftovers(module: Any) -> Any:
    """Frames, generators and the like that are alive after a use, and were not before."""

    def alive() -> int:
        gc.collect()
        codes = [_code_of(each) for each in gc.get_objects()]
        return sum(code is not None and code.co_filename == file_of(module) for code in codes)

    before = alive()
    outcome(module, lambda value: None, [])
    return alive() - before


def _code_of(thing: Any) -> types.CodeType | None:
    names = {types.FrameType: "f_code", types.GeneratorType: "gi_code", types.CoroutineType: "cr_code"}
    names[types.AsyncGeneratorType] = "ag_code"
    return getattr(thing, names[type(thing)]) if type(thing) in names else None


def calls(module: Any) -> Any:
    """Which functions a profiler sees called and left, in order."""
    seen: list[Any] = []

    def profile(frame: types.FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if code.co_filename == file_of(module) and code.co_flags & inspect.CO_OPTIMIZED and event in EVENTS:
            seen.append([event, code.co_qualname])

    sys.setprofile(profile)
    try:
        outcome(module, lambda value: None, [])
    finally:
        sys.setprofile(None)
    return seen


def pickles(module: Any) -> Any:
    """The pickles and copies of each function."""
    questions: list[Callable[[Any], object]] = [
        pickle.dumps,
        lambda f: pickle.loads(pickle.dumps(f)) is f,
        lambda f: copy.copy(f) is f,
        lambda f: copy.deepcopy([f])[0] is f,
    ]
    return {
        path: [attempt(functools.partial(question, function)) for question in questions]
        for path, function in functions(module).items()
    }


def code_digests(module: Any) -> Any:
    """The whole of each function's code, inner code included; differs where it is instrumented."""
    return {path: _digest(each.__code__) for path, each in functions(module).items() if hasattr(each, "__code__")}


def _digest(code: types.CodeType) -> str:
    return hashlib.sha256(repr(_parts(code)).encode()).hexdigest()


def _parts(value: Any) -> Any:
    if type(value) is types.CodeType:
        names = [name for name in dir(value) if name.startswith("co_") and name != "co_lnotab"]
        return [(name, _parts(getattr(value, name))) for name in names if not callable(getattr(value, name))]
    if type(value) in (tuple, frozenset):
        return [type(value), *map(_parts, value)]
    return type(value), value


ASPECTS = {
    aspect.__name__: aspect
    for aspect in (
        results, identity, inspected, type_hints, code, tracebacks, dead_frames, callers, stacklevels, stack_needed,
        depths, local_variables, references, finalizers, leftovers, calls, pickles, code_digests,
    )
}  # fmt: skip


# -- the program ------------------------------------------------------------------------------------------------------


def observe(name: str, use: object = None) -> str:
    """All aspects of the feature that the module ``name`` has, as JSON: nothing that the garbage collector looks at.

    Args:
        name: Is imported.
        use: Its function, where it came from another process: must be the very one.
    """
    module = importlib.import_module(name)
    assert use is None or use is module.use
    gc.freeze()  # collecting takes no time then
    found = []
    for aspect, look in ASPECTS.items():
        gc.collect()
        found.append(f'"{aspect}": {json.dumps(look(module))}')
    return re.sub("0x[0-9a-f]{6,}", "0x", "{" + ", ".join(found) + "}")


def report(features: dict[str, str]) -> str:
    """All aspects of all features, as JSON; one of them is observed in a process of its own."""
    found = {feature: observe(name) for feature, name in features.items() if feature != "spawned"}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found["spawned"] = pool.apply(observe, (features["spawned"], sys.modules[features["spawned"]].use))
        pool.close()
        pool.join()
    return "{" + ", ".join(f'"{feature}": {text}' for feature, text in found.items()) + "}"


def switch_off() -> None:
    """Have this process switched off from outside."""
    command = [sys.executable, "-c", "from flowtrace.cli.main import main; raise SystemExit(main())", "ctl"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLOWTRACE", "PYTHON"))}
    subprocess.run([*command, str(os.getpid()), "off"], env=environment, stdout=subprocess.DEVNULL, check=True)


def main(features: str, output: str, mode: str = "on") -> None:
    """Write the report."""
    warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines that the recursion limit keeps from being awaited
    gc.disable()  # it collects where aspects say so, not after as many allocations as tracing may make
    names = json.loads(Path(features).read_text())
    for name in names.values():
        importlib.import_module(name)
    if mode == "off":
        switch_off()
    Path(output).write_text(report(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
