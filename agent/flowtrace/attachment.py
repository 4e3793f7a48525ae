"""Attaching: which functions of which modules are traced in this process, and how.

Gives the importer the code to run for a module, completes modules after their import, and changes all of it while the
program runs: switched off and on, or to other rules. Any failure leaves a module as it was.
"""

from __future__ import annotations

import collections
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from flowtrace import constants, late
from flowtrace.descriptions import Descriptions
from flowtrace.importer import is_main_program
from flowtrace.instrument import IS_FUNCTION, Function, instrument, pairs
from flowtrace.patcher import WILDCARDS, Place, Traced, Wrapper, assign, functions, outermost, places, wrap
from flowtrace.recorder import Encodes, Functions, HidesResult, Recorder, Target
from flowtrace.redaction import InformedRedactor, Redactor
from flowtrace.secretnames import gives_secret
from flowtrace.selection import ModuleRules, Selection
from flowtrace.suspension import Suspendable, suspendable
from flowtrace.typed import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar
from flowtrace.values import Encoder, Limits

if TYPE_CHECKING:
    from flowtrace.config import Capture, CaptureOverride, Config, Rule

_IN_C = "is written in C"
_Codes: TypeAlias = tuple[types.CodeType, types.CodeType]
_Parts = TypeVar("_Parts", Functions, Suspendable)


class Attachment:
    """What is attached in a process.

    Args:
        recorder: Makes the functions that traced code calls.
        config: Which functions are targets, and what is captured of them.
        project: The directory that ``@project`` means.
        describe: How plugins want types to be shown.
        say: Queues one of the agent's own events: its name, and its fields as keywords.
        warn: Says one line to the person at the terminal.
        secrets: Texts that are hidden wherever they are found.

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
        secrets: Sequence[str] = (),
    ) -> None:
        self._recorder, self._say, self._warn, self._secrets = recorder, say, warn, secrets
        self._problems: collections.deque[str] = collections.deque()  # of plugins, met in the program's threads
        self._descriptions = Descriptions(describe, warn=self._problems.append)
        self._all_encoders: list[Encoder] = []
        self._parts: dict[str, Callable[..., Any]] = {}  # by the names they are pickled by
        self.modules: dict[str, Traced] = {}
        self._unsaid: dict[str, Traced] = {}
        self.is_on = Wrapper.is_on = True
        self._configure(config, project)

    def _configure(self, config: Config, project: str) -> None:
        redact = config.redact
        kind = partial(InformedRedactor, self._secrets) if self._secrets else Redactor
        redactor = kind(names=redact.names, patterns=redact.patterns, defaults=redact.defaults)
        selection = Selection(config, project=project)
        self._capture, self.redactor, self.selection = config.capture, redactor, selection  # nothing has failed
        self._encoders: dict[Limits, Encoder] = {}

    # -- as modules are imported ---------------------------------------------------------------------------------

    def instrument(self, names: Sequence[str], path: str, plain: types.CodeType) -> types.CodeType:
        """The code to run for a module, in place of its plain code."""
        with self._recorder.blind():
            return self._instrument(names, path, plain)

    def _instrument(self, names: Sequence[str], path: str, plain: types.CodeType) -> types.CodeType:
        rules = self.selection.module(names, path)
        if rules is None:
            return plain
        old = self.modules.get(names[0])  # where it is imported anew, functions of its old code may be in use still
        roots, codes = (old.roots, old.codes) if old else ([], [])
        traced = Traced(names[0], path, [], roots, codes, tuple(names[1:]))
        instrumented = self._add(traced, plain, rules)
        self.modules[names[0]] = self._unsaid[names[0]] = traced
        if names[0] == "__main__" or is_main_program(names[0]):
            self.say_attach(traced)  # no post-import hook for these
        return instrumented if self.is_on else plain

    def complete(self, module: types.ModuleType) -> None:
        """After a module's import: trace what did not come as code of the module, and say what is traced."""
        with self._recorder.blind():
            self._complete(module)

    def _complete(self, module: types.ModuleType) -> None:
        name, file = module.__name__, getattr(module, "__file__", None)
        try:
            rules = self.selection.module(name, file)
            if rules is None:
                return
            traced = self.modules.get(name)
            count = len(traced.codes) if traced else 0
            if traced is None:  # a loader of another tool ran code that we have not seen
                traced = self._of_living(name, module, _Living(), rules)
            kept = list(places(module))
            self._add_generated(kept, traced, rules, traced.codes)
            self._wrap(kept, traced, rules)
            self.modules[name] = traced
            # what was defined while it is switched off has instrumented code all the same
            assign(traced.codes[count:] if self.is_on else [pair[::-1] for pair in traced.codes])
            self.say_attach(traced)
        except Exception as error:  # noqa: BLE001  # the gate decides
            self._failed(f"module {name}: not completely traced", error)

    def resolve(self, name: str) -> Callable[..., Any]:
        """What a constant of pickled code stands for in this process (see `flowtrace.constants`)."""
        if name not in self._parts:
            part, module, qualname, line = constants.parse(name)
            functions = self._functions(module, qualname, line, None)
            if part.startswith(constants.SUSPENDABLE):
                self._suspendable(functions)
        return self._parts[name]

    def say_attach(self, traced: Traced) -> None:
        """Queue the ATTACH event of a module."""
        self._unsaid.pop(traced.name, None)
        functions = [
            {"name": function.qualname, "line": function.line, "how": function.how}
            | ({"reason": function.reason} if function.reason else {})
            for function in traced.functions
        ]
        self._say("ATTACH", module=traced.name, file=traced.file, functions=functions)

    def say_rest(self) -> None:
        """The same for modules whose import never came to its end, or ended as another object."""
        for traced in list(self._unsaid.values()):
            self.say_attach(traced)

    def say_problems(self) -> None:
        """Say what went wrong in the program's threads, which have no time for it."""
        while self._problems:
            self._warn(self._problems.popleft())

    @property
    def uncaptured(self) -> int:
        """How many values defeated the encoders."""
        return sum(encoder.failures for encoder in self._all_encoders)

    # -- while the program runs ----------------------------------------------------------------------------------

    def switch(self, *, on: bool) -> int:
        """Give all target functions their instrumented code, or the very code that Python compiled.

        Returns:
            How many functions were switched.
        """
        self.is_on = on
        Wrapper.is_on = on
        modules = list(self.modules.values())
        return assign([pair if on else pair[::-1] for traced in modules for pair in traced.codes])

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
            living = _Living()
            modules = [(name, module) for name, module in list(sys.modules.items()) if module is not None]
            return assign([pair for name, module in modules for pair in self._reloaded(name, module, living)])

    def _reloaded(self, name: str, module: types.ModuleType, living: _Living) -> list[_Codes]:
        """What gives way to what."""
        old = self.modules.get(name)
        file = old.file if old else getattr(module, "__file__", None)
        rules = self.selection.module([name, *(old.names if old else ())], file) if isinstance(file, str) else None
        if rules is None:
            return self._detached(old) if old else []
        if old is None:
            new = self._of_living(name, module, living, rules)
        else:
            new = old._replace(functions=[], codes=[])
            for root, known_as in old.roots:
                self._add(new, root, rules, known_as=known_as)
            self._rewrap(new, rules)
        kept = list(places(module))
        self._add_generated(kept, new, rules, [*new.codes, *(old.codes if old else ())])
        self._wrap(kept, new, rules)
        self.modules[name] = new
        self.say_attach(new)
        return _replacements(old, new, on=self.is_on)

    def _detached(self, old: Traced) -> list[_Codes]:
        del self.modules[old.name]
        self._rewrap(old, None)
        self.say_attach(old._replace(functions=[]))
        return [pair[::-1] for pair in old.codes]

    # -- one module, one function --------------------------------------------------------------------------------

    def _of_living(self, name: str, module: types.ModuleType, living: _Living, rules: ModuleRules) -> Traced:
        """A module whose code ran before we saw it: what exists of its functions."""
        traced = Traced(name, getattr(module, "__file__", None), [], [], [])
        for code in outermost(living.of(module)):
            self._add(traced, code, rules)
        return traced

    def _add(self, traced: Traced, plain: types.CodeType, rules: ModuleRules, *, known_as: str = "") -> types.CodeType:
        """Instrument the targets in ``plain``, the code of a module or function; it is itself where that fails."""

        def named(function: Function) -> Function:
            is_outermost = known_as and function.qualname == plain.co_qualname
            return function._replace(qualname=known_as) if is_outermost else function

        def parts(function: Function) -> Functions | Suspendable | None:
            function = named(function)
            rule = rules.rule(function.qualname)
            if rule is None:
                return None
            functions = self._functions(traced.name, function.qualname, function.line, rule)
            return functions if function.kind == "function" else self._suspendable(functions)

        try:
            code, functions = instrument(plain, parts)
        except Exception as error:  # noqa: BLE001
            self._failed(f"{traced.file}: not traced", error)
            return plain
        traced.functions.extend(map(named, functions))
        if all(root is not plain for root, _ in traced.roots):
            traced.roots.append((plain, known_as))
        traced.codes.extend(pair for pair in pairs(plain, code) if pair[0].co_flags & IS_FUNCTION)
        return code

    def _add_generated(
        self, kept: Iterable[Place], traced: Traced, rules: ModuleRules, codes: Iterable[_Codes]
    ) -> None:
        """Functions made of text at run time, not of ``codes``, where a rule names them without a wildcard."""
        known = {id(code) for pair in codes for code in pair}
        found = [
            place
            for place in kept
            if type(place.function) is types.FunctionType
            and id(place.function.__code__) not in known
            and _is_named(place.qualname, rules.rule(place.qualname))
        ]
        for place in found:
            self._add(traced, place.function.__code__, rules, known_as=place.qualname)

    def _functions(self, module: str, qualname: str, line: int, rule: Rule | None) -> Functions:
        late.load()
        capture = _Captured.of(self._capture, rule.capture if rule else None)
        encoder: Encodes = self.encoder(capture.limits)
        if capture.mark_defaults:
            from flowtrace.defaults import MarksDefaults  # seldom asked for

            encoder = MarksDefaults(encoder, capture.max_bytes)
        name = qualname.rpartition(".")[2]
        if self.redactor.is_secret_name(name) and gives_secret(name):
            encoder = HidesResult(encoder, self.encoder(capture.limits).hidden_result)
        target = Target(
            module,
            qualname,
            line,
            encoder,
            args=capture.args,
            result=capture.result,
            rate=rule.sampling.rate if rule else None,
            max_per_second=rule.sampling.max_per_second if rule else None,
        )
        return self._known(self._recorder.functions(target))

    def _suspendable(self, functions: Functions) -> Suspendable:
        return self._known(suspendable(self._recorder, functions))

    def _known(self, parts: _Parts) -> _Parts:
        self._parts |= constants.in_both_forms(parts.enter) | {parts.leave.__qualname__: parts.leave}
        return parts

    def encoder(self, limits: Limits | None = None) -> Encoder:
        """The encoder for these limits, or for the general ones."""
        limits = limits or _Captured.of(self._capture, None).limits
        if limits not in self._encoders:
            self._encoders[limits] = Encoder(limits=limits, redactor=self.redactor, describe=self._descriptions)
            self._all_encoders.append(self._encoders[limits])
        return self._encoders[limits]

    def _wrap(self, kept: Iterable[Place], traced: Traced, rules: ModuleRules) -> None:
        """Functions that are written in C."""
        for place in kept:
            rule = rules.rule(place.qualname)
            if rule is None or type(place.function) is types.FunctionType:
                continue
            found = Function(place.qualname, 0, "function", "wrapper", _IN_C)
            try:
                wrap(place, self._functions(place.module, place.qualname, 0, rule))
            except (TypeError, AttributeError) as error:
                found = found._replace(how="not traced", reason=str(error))
            traced.functions.append(found)

    def _rewrap(self, traced: Traced, rules: ModuleRules | None) -> None:
        """Tell the wrappers in a module what they are to do now."""
        for wrapper in Wrapper.all:
            place: Place = wrapper._self_place
            if place.module == traced.name:
                rule = rules.rule(place.qualname) if rules else None
                wrapper._self_parts = rule and self._functions(traced.name, place.qualname, 0, rule)
                if rule:
                    traced.functions.append(Function(place.qualname, 0, "function", "wrapper", _IN_C))

    def _failed(self, what: str, error: Exception) -> None:
        """The gate for what goes wrong in here: counted and said once; raised in our own tests."""
        self._recorder.state.failures += 1
        if self._recorder.state.strict:
            raise error
        self._warn(f"{what}: {type(error).__name__}: {error}")


class _Captured(NamedTuple):
    """What is captured of a function: `flowtrace.config.Capture` with what a rule changes of it."""

    args: bool
    result: bool
    max_depth: int
    max_items: int
    max_string: int
    max_bytes: int
    mark_defaults: bool

    @classmethod
    def of(cls, general: Capture, override: CaptureOverride | None) -> _Captured:
        """All are numbers; what a rule does not say is absent there, or a marker."""
        said = ((name, getattr(override, name, None)) for name in cls._fields)
        return cls._make(value if isinstance(value, int) else getattr(general, name) for name, value in said)

    @property
    def limits(self) -> Limits:
        """How much of a value is recorded."""
        return Limits(self.max_depth, self.max_items, self.max_string, self.max_bytes)


class _Living:
    """The functions that exist, by the module that defined them; one look for all modules."""

    def __init__(self) -> None:
        self._functions: dict[int, list[types.FunctionType]] = {}

    def of(self, module: types.ModuleType) -> list[types.FunctionType]:
        if not self._functions:
            for each in functions():
                self._functions.setdefault(id(each.__globals__), []).append(each)
        return self._functions.get(id(vars(module)), [])


def _replacements(old: Traced | None, new: Traced, *, on: bool) -> list[_Codes]:
    """Which code gives way to which, so that a running module gets what ``new`` says."""
    wanted = {id(plain): instrumented for plain, instrumented in new.codes if on}
    outdated = [(instrumented, wanted.get(id(plain), plain)) for plain, instrumented in (old.codes if old else ())]
    return outdated + (new.codes if on else [])


def _is_named(qualname: str, rule: Rule | None) -> bool:
    """Whether a rule names a function without a wildcard: only then generated code is a target."""
    return rule is not None and any(pattern == qualname and WILDCARDS.isdisjoint(pattern) for pattern in rule.include)
