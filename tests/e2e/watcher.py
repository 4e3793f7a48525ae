"""Runs the cases of modules while one of Python's tracing interfaces watches them; prints what it was told, as JSON.

``python watcher.py INTERFACE MODULE...``: the importing of a module is a case, and so is each function ``case_...``.
The interface "nothing" only runs them.
What is written down of an event says nothing that differs from run to run: names, lines, columns, types, no values.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

Events = list[Any]
SHOWN = ("return", "exception", "c_call", "c_return", "c_exception")


def callers(frame: types.FrameType | None) -> Iterator[str]:
    """The functions on the stack, from the innermost to the one below ours; those of importlib left out."""
    while frame and frame.f_code.co_filename not in (__file__, threading.__file__):
        if not frame.f_code.co_filename.startswith("<frozen importlib."):
            yield frame.f_code.co_qualname
        frame = frame.f_back


def shown(event: str, argument: Any) -> str | None:
    """What a tracing function was told beside the frame: the type of a result or an error, or which C function."""
    if event.startswith("c_"):
        return str(getattr(argument, "__qualname__", argument))
    if event == "exception":
        argument = argument[1]
    return type(argument).__name__ if event in SHOWN else None


def told(seen: Events, path: str, frame: types.FrameType, event: str, argument: Any) -> Any:
    """A tracing or profiling function that looks at all that a debugger looks at."""
    if frame.f_code.co_filename != path:
        return None
    names = sorted(frame.f_locals) if frame.f_code.co_name != "<module>" else None
    seen.append((event, frame.f_code.co_qualname, frame.f_lineno, shown(event, argument), names, [*callers(frame)]))
    return functools.partial(told, seen, path)


@contextlib.contextmanager
def by_settrace(seen: Events, path: str) -> Iterator[None]:
    """`sys.settrace`: calls, lines, returns and exceptions."""
    sys.settrace(functools.partial(told, seen, path))
    try:
        yield
    finally:
        sys.settrace(None)


@contextlib.contextmanager
def by_setprofile(seen: Events, path: str) -> Iterator[None]:
    """`sys.setprofile`: calls and returns, of C functions as well."""
    sys.setprofile(functools.partial(told, seen, path))
    try:
        yield
    finally:
        sys.setprofile(None)


def position(code: types.CodeType, offset: int) -> Any:
    """Where in the source an instruction is from: line, last line, first and last column."""
    return [*code.co_positions()][offset // 2]


NAMES = {  # of sys.monitoring's events, what their callbacks are given beside the code
    "PY_START": ["offset"],
    "PY_RESUME": ["offset"],
    "PY_THROW": ["offset", "value"],
    "PY_YIELD": ["offset", "value"],
    "PY_RETURN": ["offset", "value"],
    "PY_UNWIND": ["offset", "value"],
    "RAISE": ["offset", "value"],
    "RERAISE": ["offset", "value"],
    "EXCEPTION_HANDLED": ["offset", "value"],
    "STOP_ITERATION": ["offset", "value"],
    "LINE": ["line"],
    "BRANCH": ["offset", "offset"],
}
CALLS = {
    "CALL": ["offset", "callable", "argument"],
    "C_RETURN": ["offset", "callable", "argument"],
    "C_RAISE": ["offset", "callable", "argument"],
}
LOCAL = ("PY_START", "PY_RESUME", "PY_YIELD", "PY_RETURN", "STOP_ITERATION", "LINE", "BRANCH")  # for single functions


def monitored(seen: Events, path: str, event: str, kinds: list[str], answer: Any, code: Any, *arguments: Any) -> Any:
    """A callback for one event of `sys.monitoring`."""
    if code.co_filename != path:
        return answer
    looks: dict[str, Callable[[Any], Any]] = {
        "offset": lambda offset: position(code, offset),
        "callable": lambda called: getattr(called, "__qualname__", type(called).__name__),
        "argument": lambda argument: type(argument).__name__,
        "value": lambda value: type(value).__name__,
        "line": lambda line: line,
    }
    seen.append((event, code.co_qualname, *(looks[kind](value) for kind, value in zip(kinds, arguments, strict=True))))
    return answer


@contextlib.contextmanager
def by_monitoring(
    seen: Events,
    path: str,
    *,
    names: dict[str, list[str]] = NAMES,
    codes: Callable[[str], list[types.CodeType]] | None = None,
    once: bool = False,
) -> Iterator[None]:
    """`sys.monitoring`: the events of all code, or of these functions; each at each place, or only the first time."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    tool, events = monitoring.DEBUGGER_ID, monitoring.events
    monitoring.use_tool_id(tool, "watcher")
    for name, kinds in names.items():
        answer = monitoring.DISABLE if once and name in LOCAL else None
        callback = functools.partial(monitored, seen, path, name, kinds, answer)
        monitoring.register_callback(tool, getattr(events, name), callback)
    wanted = sum(getattr(events, name) for name in names if not codes or name in LOCAL)
    monitoring.restart_events()
    if codes:
        for code in codes(path):
            monitoring.set_local_events(tool, code, wanted)
    else:
        monitoring.set_events(tool, wanted)
    try:
        yield
    finally:
        for code in codes(path) if codes else []:
            monitoring.set_local_events(tool, code, 0)
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)


def functions(path: str) -> list[types.CodeType]:
    """The code of all functions of the module with this file, as a program finds it that looks into the module."""
    module = next((m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == path), None)
    found: list[types.CodeType] = []
    for value in list(vars(module).values()) if module else []:
        members = vars(value).values() if isinstance(value, type) else [value]
        found += [member.__code__ for member in members if isinstance(member, types.FunctionType)]
    return [code for code in dict.fromkeys(with_inner(found)) if code.co_filename == path]


def with_inner(codes: list[types.CodeType]) -> list[types.CodeType]:
    """Code objects, and those inside them."""
    inner = [const for code in codes for const in code.co_consts if isinstance(const, types.CodeType)]
    return codes + with_inner(inner) if inner else codes


@contextlib.contextmanager
def in_threads(seen: Events, path: str) -> Iterator[None]:
    """`threading.settrace`: calls, lines, returns and exceptions in threads that are started from now on."""
    threading.settrace(functools.partial(told, seen, path))
    try:
        yield
    finally:
        threading.settrace(None)  # type: ignore[arg-type]


@contextlib.contextmanager
def by_nothing(seen: Events, path: str) -> Iterator[None]:
    """Nobody watches, or another tool does."""
    yield


INTERFACES: dict[str, Callable[[Events, str], contextlib.AbstractContextManager[None]]] = {
    "nothing": by_nothing,
    "settrace": by_settrace,
    "threading.settrace": in_threads,
    "setprofile": by_setprofile,
    "monitoring": by_monitoring,
    "monitoring once": functools.partial(by_monitoring, once=True),
    "monitoring of functions": functools.partial(by_monitoring, codes=functions),
    "monitoring of calls": functools.partial(by_monitoring, names=CALLS),
}


def run(case: Callable[[], object]) -> None:
    """Run a case, whatever it raises."""
    with contextlib.suppress(BaseException):
        case()


def run_in_thread(case: Callable[[], object]) -> None:
    """Run a case in a thread of its own."""
    thread = threading.Thread(target=run, args=(case,))
    thread.start()
    thread.join()


def main(interface: str, modules: list[str]) -> None:
    """Print the events of each case by its name."""
    report: dict[str, Events] = {}

    def watch(name: str, path: str, case: Callable[[], object]) -> None:
        seen = report[name] = []
        with INTERFACES[interface](seen, path):
            (run_in_thread if interface.startswith("threading") else run)(case)

    for module in modules:
        path = importlib.util.find_spec(module).origin  # type: ignore[union-attr]
        assert path
        watch(f"import {module}", path, functools.partial(importlib.import_module, module))
        for name, value in list(vars(sys.modules[module]).items()):
            if name.startswith("case_"):
                watch(f"{module}.{name}", path, value)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2:])
