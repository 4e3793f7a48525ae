"""Attaching: which functions of which modules are traced in this process, and how.

Gives the importer the code to run for a module, completes modules after their import, and changes all of it while the
program runs: switched off and on, or to other rules. Any failure leaves a module as it was.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flowtrace import constants, suspension
from flowtrace.config import Capture, Config, Rule
from flowtrace.importer import is_main_program
from flowtrace.instrument import Function, Kind, Mark, graft, link, pairs, rewrite
from flowtrace.patcher import WILDCARDS, Place, Traced, Wrapper, assign, first_line, places, wrap
from flowtrace.recorder import Functions, Recorder, Target
from flowtrace.redaction import Redactor
from flowtrace.selection import ModuleRules, Selection
from flowtrace.suspension import Suspendable, suspendable
from flowtrace.values import Encoder, Limits

COMMON_CONSTANTS: dict[str, object] = {
    "raised": constants.Raised,
    "base exception": BaseException,
    "recursion error": RecursionError,
    "suspend": suspension.suspend,
    "resume": suspension.resume,
    "resumed": suspension.resumed,
    "delegate": suspension.delegate,
    "delegate_await": suspension.delegate_await,
    "delegate_iterable": suspension.delegate_iterable,
    "delegate_context": suspension.delegate_context,
}


class Attachment:
    """What is attached in a process.

    Args:
        recorder: Makes the functions that traced code calls.
        config: Which functions are targets, and what is captured of them.
        project: The directory that ``@project`` means.
        describe: How plugins want types to be shown.
        say: Queues one of the agent's own events: its name, and its fields as keywords.
        warn: Says one line to the person at the terminal.

    Attributes:
        modules: By name, what is attached.
        selection: The rules that are in force.
        is_on: Whether target functions have their instrumented code.
    """

    def __init__(
        self,
        recorder: Recorder,
        config: Config,
        *,
        project: str,
        describe: Mapping[type, Callable[[Any], object]],
        say: Callable[..., None],
        warn: Callable[[str], None],
    ) -> None:
        self._recorder, self._describe, self._say, self._warn = recorder, describe, say, warn
        self._parts: dict[str, Callable[..., Any]] = {}  # by the names they are pickled by
        self.modules: dict[str, Traced] = {}
        self.is_on = True
        self._configure(config, project)

    def _configure(self, config: Config, project: str) -> None:
        redact = config.redact
        redactor = Redactor(names=redact.names, patterns=redact.patterns, defaults=redact.defaults)
        selection = Selection(config, project=project)
        self._capture, self.redactor, self.selection = config.capture, redactor, selection  # nothing has failed
        self._encoders: dict[Capture, Encoder] = {}

    # -- as modules are imported ---------------------------------------------------------------------------------

    def instrument(self, names: Sequence[str], path: str, source: bytes, plain: types.CodeType) -> types.CodeType:
        """The code to run for a module, in place of its plain code."""
        with self._recorder.blind():
            return self._instrument(names, path, source, plain)

    def _instrument(self, names: Sequence[str], path: str, source: bytes, plain: types.CodeType) -> types.CodeType:
        rules = self.selection.module(names, path)
        if rules is None:
            return plain
        traced = self._attached(names[0], path, source, plain, rules)
        if traced is None:
            return plain
        self.modules[names[0]] = traced._replace(names=tuple(names[1:]))
        if names[0] == "__main__" or is_main_program(names[0]):
            self.say_attach(traced)  # no post-import hook for these
        return traced.codes[0][1] if self.is_on else plain

    def complete(self, module: types.ModuleType) -> None:
        """After a module's import: wrap what could not be instrumented, and say what is traced."""
        with self._recorder.blind():
            self._complete(module)

    def _complete(self, module: types.ModuleType) -> None:
        name, file = module.__name__, getattr(module, "__file__", None)
        try:
            rules = self.selection.module(name, file)
            if rules is None:
                return
            known = self.modules.get(name)
            traced = self.modules[name] = known or Traced(name, file, [], [])
            self._wrap(module, traced, rules, is_instrumented=known is not None)
            self.say_attach(traced)
        except Exception as error:  # noqa: BLE001  # the gate decides
            self._failed(f"module {name}: not completely traced", error)

    def resolve(self, name: str) -> Callable[..., Any]:
        """What a constant of pickled code stands for in this process (see `flowtrace.constants`)."""
        if name not in self._parts:
            part, module, qualname, line = constants.parse(name)
            kind: Kind = "generator" if part.startswith(constants.SUSPENDABLE) else "function"
            self._make_parts(module, qualname, line, kind, None)
        return self._parts[name]

    def say_attach(self, traced: Traced) -> None:
        """Queue the ATTACH event of a module."""
        functions = [
            {"name": function.qualname, "line": function.line, "how": function.how}
            | ({"reason": function.reason} if function.reason else {})
            for function in traced.functions
        ]
        self._say("ATTACH", module=traced.name, file=traced.file, functions=functions)

    # -- while the program runs ----------------------------------------------------------------------------------

    def switch(self, *, on: bool) -> int:
        """Give all target functions their instrumented code, or the very code that Python compiled.

        Returns:
            How many functions were switched.
        """
        self.is_on = on
        for wrapper in Wrapper.all:
            wrapper._self_is_on = on
        codes = [pair if on else pair[::-1] for traced in list(self.modules.values()) for pair in traced.codes]
        return assign(codes)

    def reload(self, config: Config, *, project: str) -> int:
        """Put other rules, limits and redaction in force, for modules that are imported already too.

        Returns:
            How many functions got other code.

        Raises:
            ConfigError: the configuration cannot be used; nothing was changed.
        """
        self._configure(config, project)
        return self.attach_imported()

    def attach_imported(self) -> int:
        """Apply the rules to what is imported already; returns how many functions got other code."""
        with self._recorder.blind():
            return sum(self._reloaded(name, module) for name, module in list(sys.modules.items()) if module is not None)

    def _reloaded(self, name: str, module: types.ModuleType) -> int:
        old = self.modules.get(name)
        file = old.file if old else getattr(module, "__file__", None)
        names = [name, *(old.names if old else ())]
        rules = self.selection.module(names, file) if isinstance(file, str) else None
        if rules is None:
            return self._detach(old) if old else 0
        plain, source = self._source(name, file, old)
        if plain is None or source is None:
            return 0
        new = self._attached(names[0], str(file), source, plain, rules)
        if new is None:
            return 0
        codes = _replacements(module, old, new, on=self.is_on)
        self.modules[name] = new
        self.say_attach(new)
        return assign(codes)

    def _detach(self, old: Traced) -> int:
        del self.modules[old.name]
        self.say_attach(old._replace(functions=[]))
        return assign([pair[::-1] for pair in old.codes])

    def _source(self, name: str, file: str | None, old: Traced | None) -> tuple[types.CodeType | None, bytes | None]:
        """The plain code of a module that runs, and its source, if that is the same program still."""
        if file is None or not file.endswith(".py"):
            return None, None
        try:
            with open(file, "rb") as stream:
                source = stream.read()
            filename = old.codes[0][0].co_filename if old and old.codes else file
            compiled = compile(source, filename, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError) as error:
            self._warn(f"{file}: stays as it is: {error}")
            return None, None
        if old is None or not old.codes:
            return compiled, source
        if old.codes[0][0] != compiled:
            self._warn(f"{file}: stays as it is: the file was changed after {name} was imported")
            return None, None
        return old.codes[0][0], source

    # -- one module, one function --------------------------------------------------------------------------------

    def _attached(
        self, name: str, path: str, source: bytes, plain: types.CodeType, rules: ModuleRules
    ) -> Traced | None:
        try:
            rewritten = rewrite(source, plain.co_filename, lambda qualname: rules.rule(qualname) is not None)
            made = [
                self._make_parts(name, each.qualname, each.line, each.kind, rules.rule(each.qualname))
                if each.how == "instrumented"
                else None
                for each in rewritten.functions
            ]

            def constant(mark: Mark) -> object:
                return COMMON_CONSTANTS.get(mark.part) or getattr(made[mark.function], mark.part)

            codes = list(pairs(plain, graft(plain, link(rewritten.code, constant))))
        except Exception as error:  # noqa: BLE001
            self._failed(f"{path}: not traced", error)
            return None
        return Traced(name, path, list(rewritten.functions), codes)

    def _make_parts(
        self, module: str, qualname: str, line: int, kind: Kind, rule: Rule | None
    ) -> Functions | Suspendable:
        capture = rule.capture_over(self._capture) if rule else self._capture
        target = Target(module, qualname, line, self.encoder(capture), args=capture.args, result=capture.result)
        functions = self._recorder.functions(target)
        parts = functions if kind == "function" else suspendable(self._recorder, functions)
        for part in parts:
            self._parts[part.__qualname__] = part
        return parts

    def encoder(self, capture: Capture | None = None) -> Encoder:
        """The encoder for these limits, or for the general ones."""
        capture = capture or self._capture
        if capture not in self._encoders:
            limits = Limits(capture.max_depth, capture.max_items, capture.max_string, capture.max_bytes)
            self._encoders[capture] = Encoder(limits=limits, redactor=self.redactor, describe=self._describe)
        return self._encoders[capture]

    def _wrap(self, module: types.ModuleType, traced: Traced, rules: ModuleRules, *, is_instrumented: bool) -> None:
        # by line too: a property's accessors have one name, and so may functions that are defined anew
        known = {(function.qualname, function.line): index for index, function in enumerate(traced.functions)}
        for place in places(module):
            rule = rules.rule(place.qualname)
            index = known.get((place.qualname, first_line(place.function)))
            if index is not None and traced.functions[index].how != "wrapper":
                continue
            if rule is None or (index is None and is_instrumented and not _is_named(place.qualname, rule)):
                continue
            function = self._wrapped(place, module, rule, traced.functions[index] if index is not None else None)
            if index is None:
                traced.functions.append(function)
            else:
                traced.functions[index] = function

    def _wrapped(self, place: Place, module: types.ModuleType, rule: Rule, known: Function | None) -> Function:
        code = getattr(place.function, "__code__", None)
        kind = _kind(code) if code else "function"
        line = first_line(place.function)
        reason = known.reason if known else "has no source that Python runs as it is"
        found = Function(place.qualname, line, kind, "wrapper", reason)
        if kind == "async generator" or (place.name.startswith("__") and place.name not in ("__init__", "__call__")):
            return found._replace(how="not traced")
        try:
            wrap(place, kind, self._make_parts(module.__name__, place.qualname, line, kind, rule))
        except (TypeError, AttributeError) as error:
            return found._replace(how="not traced", reason=str(error))
        return found

    def _failed(self, what: str, error: Exception) -> None:
        """The gate for what goes wrong in here: counted and said once; raised in our own tests."""
        self._recorder.state.failures += 1
        if self._recorder.state.strict:
            raise error
        self._warn(f"{what}: {type(error).__name__}: {error}")


def _replacements(
    module: types.ModuleType, old: Traced | None, new: Traced, *, on: bool
) -> Iterable[tuple[types.CodeType, types.CodeType]]:
    """Which code gives way to which, so that a running module gets what ``new`` says."""
    wanted = {id(plain): instrumented if on else plain for plain, instrumented in new.codes}
    if old is not None and old.codes:
        for plain, instrumented in old.codes:
            yield plain, wanted[id(plain)]
            yield instrumented, wanted[id(plain)]
        return
    twins = {(plain.co_qualname, plain.co_firstlineno): plain for plain, _ in new.codes}
    for function in gc.get_objects():
        if type(function) is types.FunctionType and function.__module__ == module.__name__:
            code = function.__code__
            twin = twins.get((code.co_qualname, code.co_firstlineno))
            if twin == code:  # it is the same program: only then its code may be replaced
                yield code, wanted[id(twin)]


def _is_named(qualname: str, rule: Rule) -> bool:
    """Whether a rule names a function without a wildcard: only then generated code is a target."""
    return any(pattern == qualname for pattern in rule.include if WILDCARDS.isdisjoint(pattern))


def _kind(code: types.CodeType) -> Kind:
    flags = code.co_flags
    kinds: dict[int, Kind] = {0x20: "generator", 0x80: "coroutine", 0x200: "async generator"}  # CO_GENERATOR, ...
    return next((kind for flag, kind in kinds.items() if flags & flag), "function")
