"""Loads instrumented source in this process, with a recorder and nothing else of the agent; and its plain twin."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from flowtrace.events import ENTER, EXCEPTION, Record
from flowtrace.instrument import Function, instrument
from flowtrace.recorder import Encodes, Recorder, Target
from flowtrace.suspension import suspendable

SAMPLES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "samples")


class Shown:
    """An encoder that writes plain values as Python does, others by their type: it runs no code of the samples."""

    scalar_arguments = scalar_results = None

    def arguments(self, values: dict[str, object]) -> bytes:
        return json.dumps({name: shown(value) for name, value in values.items()}).encode()

    def result(self, value: object) -> bytes:
        return json.dumps(shown(value)).encode()

    def exception(self, error: BaseException) -> bytes:
        return json.dumps(f"{type(error).__name__}{shown(error.args)}").encode()


def shown(value: object) -> str:
    """Plain values as Python writes them, others by their type."""
    if type(value) in (int, float, str, bool, bytes, type(None)):
        return repr(value)
    if type(value) in (tuple, list):
        return f"{type(value).__name__}({', '.join(map(shown, value))})"  # type: ignore[call-overload]
    return f"<{type(value).__name__}>"


class Span(NamedTuple):
    """A call as the queue tells of it."""

    name: str
    seq: int
    parent: int | str | None
    trace: int | str
    args: dict[str, str]
    ends: list[Record]  # exactly one, once the call is over

    @property
    def end(self) -> Record:
        (end,) = self.ends
        return end

    @property
    def outcome(self) -> str:
        """How it ended and with what: ``returned 1``, ``raised ValueError()``, ``closed``, ``abandoned``."""
        payload = json.loads(self.end[8])
        return str(self.end[12] or f"{'raised' if self.end[0] == EXCEPTION else 'returned'} {payload}")


class Engine:
    """A recorder and the modules that are traced with it."""

    def __init__(self, *, encoder: Encodes | None = None, **recorder: Any) -> None:
        self.recorder = Recorder(**recorder)
        self.recorder.state.strict = True
        self._encoder = encoder or Shown()

    def instrument(
        self, code: types.CodeType, *, select: Callable[[str], bool] = lambda qualname: True, module: str = "m"
    ) -> types.CodeType:
        """Code that calls the functions of this recorder."""
        return instrument(
            code, lambda function: self.parts(function, module=module) if select(function.qualname) else None
        ).code

    def parts(self, function: Function, *, module: str = "m") -> Any:
        """The enter and leave functions for one function, as the agent makes them."""
        functions = self.recorder.functions(Target(module, function.qualname, function.line, self._encoder))
        return functions if function.kind == "function" else suspendable(self.recorder, functions)

    def load(
        self, source: str, *, select: Callable[[str], bool] = lambda qualname: True, filename: str = "m.py"
    ) -> Any:
        """A module of this source, instrumented and run."""
        return run(self.instrument(compile(source, filename, "exec", dont_inherit=True), select=select))

    def spans(self) -> list[Span]:
        """The calls on the queue, in order of their beginning."""
        found: dict[int, Span] = {}
        for record in self.recorder.queue:
            kind, target, seq, _, _, _, trace, parent, payload = record[:9]
            if kind == ENTER:
                name = self.recorder.targets[target].qualname
                found[seq] = Span(name, seq, parent, trace, json.loads(payload), [])
            elif record[9] in found:  # else from before the queue was cleared
                found[record[9]].ends.append(record)
        return list(found.values())

    def outcomes(self) -> list[tuple[str, str]]:
        """The names of the calls, and how they ended."""
        return [(span.name, span.outcome) for span in self.spans()]

    def here(self) -> str | None:
        """The name of the function whose span is the current one; "lost" or "skipped" for those not recorded."""
        current = self.recorder.current.get()
        if current is None or isinstance(current[0], str):
            return None if current is None else str(current[0])
        return next((span.name for span in self.spans() if span.seq == current[1]), "gone")


def run(code: types.CodeType) -> Any:
    """A module whose code this is."""
    module = types.ModuleType("m")
    sys.modules["m"] = module  # dataclasses look there
    exec(code, vars(module))
    return module


def plain(source: str, *, filename: str = "m.py") -> Any:
    """The same module, untraced."""
    return run(compile(source, filename, "exec", dont_inherit=True))


def codes(code: types.CodeType) -> list[types.CodeType]:
    """A code object and all those inside it."""
    return [code, *(inner for c in code.co_consts if isinstance(c, types.CodeType) for inner in codes(c))]


def sample(name: str) -> tuple[str, str]:
    """The source of a sample module, and its path."""
    path = os.path.join(SAMPLES, name + ".py")
    with open(path, encoding="utf-8") as file:
        return file.read(), path
