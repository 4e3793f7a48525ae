"""The agent: starts, stops, survives forks. The only place where the parts are wired, and the only module state.

`start` runs once per process, from ``boot/sitecustomize``, before any code of the program. From then on nothing that
goes wrong here stops the program: it is said in one line on stderr, and less is traced.
"""

from __future__ import annotations

import atexit
import os
import platform
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from flowtrace import constants, suspension
from flowtrace.announcement import Announcement, Warnings
from flowtrace.config import Capture, Resolved, Rule
from flowtrace.dispatcher import Dispatcher
from flowtrace.events import SCHEMA_VERSION, Described, Ids, Lines
from flowtrace.hooks import SinkContext
from flowtrace.importer import Importer, is_main_program
from flowtrace.instrument import Function, Kind, Mark, link, pairs, rewrite
from flowtrace.lane import Lane
from flowtrace.patcher import WILDCARDS, Place, Traced, places, switch, wrap
from flowtrace.plugins import Registry, load
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

_agent: Agent | None = None


def start(resolved: Resolved) -> Agent:
    """Trace this process from now on."""
    global _agent
    _agent = Agent(resolved)
    _agent.start()
    return _agent


class Agent:
    """Everything that traces one process; a forked child goes on with the same object and new threads and sinks."""

    def __init__(self, resolved: Resolved) -> None:
        config = resolved.config
        self._resolved, self._config = resolved, config
        self._redactor = Redactor(
            names=config.redact.names, patterns=config.redact.patterns, defaults=config.redact.defaults
        )
        self.warnings = Warnings(scrub=self._redactor.scrub)
        self._registry: Registry = load(resolved.plugins)
        for problem in self._registry.problems:
            self.warnings.warn(str(problem))
        self.recorder = Recorder()
        self.recorder.state.strict = "FLOWTRACE_STRICT" in os.environ  # our own tests
        self._ids = Ids(os.urandom)
        self._encoders: dict[Capture, Encoder] = {}
        self._parts: dict[str, Callable[..., Any]] = {}  # by the names they are pickled by
        self.modules: dict[str, Traced] = {}
        self.selection = Selection(config, project=resolved.project)
        self._importer = Importer(self.selection, instrument=self._instrument, complete=self._complete)

    # -- start, stop, fork ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the doors to the program and the sinks."""
        self._limit()
        self._open()
        constants.resolve = self._resolve
        self._importer.install()
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self._after_fork)
        self._stop_before_default_actions(signal.SIGTERM, signal.SIGHUP)

    def stop(self) -> None:
        """Deliver what there is; at most ``flush.shutdown_timeout``. A second call does nothing."""
        self._announcement.at_exit()
        self._dispatcher.stop(self._config.flush.shutdown_timeout.seconds)

    def switch(self, *, on: bool) -> int:
        """Give all target functions their instrumented code, or the code they had; returns how many."""
        return switch(list(self.modules.values()), on=on)

    def _limit(self) -> None:
        state, queue = self.recorder.state, self._config.queue
        state.max_events, state.max_bytes = queue.max_events, queue.max_bytes // 2  # the lanes have the other half
        state.wake_at = queue.max_events // 2
        state.rate = self._config.sampling.rate
        state.block_ns = queue.block_timeout if queue.overflow == "block" else 0
        state.task_name = _task_name(state)

    def _open(self) -> None:
        """Threads and sinks of this process."""
        recorder, config = self.recorder, self._config
        lines = Lines(
            describe=lambda index: Described(recorder.targets[index].module, recorder.targets[index].qualname),
            ids=self._ids,
            pid=os.getpid(),
            wall_offset_ns=time.time_ns() - recorder.clock(),
            values_as_text=config.values == "text",
        )
        self._dispatcher = Dispatcher(recorder, lines, run=self._resolved.run, interval_ns=config.flush.interval)
        lanes = self._lanes()
        names = [lane.name for lane in lanes]
        self._announcement = Announcement(
            self._resolved,
            sinks=names,
            modules=self.modules,
            warnings=self.warnings,
            is_importing=lambda: self._importer.is_importing,
        )
        self._dispatcher.after_turn = self._announcement.when_settled
        self._say_start(names)
        try:
            self._dispatcher.start(lanes)
        except RuntimeError as error:
            recorder.state.max_events = -1
            self.warnings.warn(f"pid {os.getpid()} is not traced: {error}")

    def _lanes(self) -> list[Lane]:
        config, dispatcher = self._config, self._dispatcher
        lanes: list[Lane] = []

        def context(name: str) -> SinkContext:
            def lost(reason: str, events: int) -> None:
                next(lane for lane in lanes if lane.name == name).lose(reason, events)

            return SinkContext(
                service=config.service,
                run=self._resolved.run,
                pid=os.getpid(),
                directory=self._resolved.directory,
                warn=lambda text: self.warnings.warn(f"sink {name}: {text}"),
                lost=lost,
            )

        sinks = self._registry.build(config.sinks, context)
        lanes += [
            Lane(
                name,
                sink,
                max_bytes=config.queue.max_bytes // 2 // len(sinks),
                blocks=config.queue.overflow == "block",
                new_batch=dispatcher.new_batch,
                on_thread=dispatcher.guard_thread,
                warn=self.warnings.warn,
            )
            for name, sink in sinks
        ]
        return lanes

    def _say_start(self, sinks: Sequence[str]) -> None:
        now = self.recorder.clock()
        self._dispatcher.state(
            "START",
            schema=SCHEMA_VERSION,
            service=self._config.service,
            run=self._resolved.run,
            parentPid=os.getppid(),
            argv=orjson.loads(self._encoder(self._config.capture).result(list(sys.orig_argv))),
            python=platform.python_version(),
            host=platform.node(),
            wallNanos=time.time_ns(),
            monotonicNanos=now,
            sinks=sinks,
        )

    def _after_fork(self) -> None:
        """In the child: everything queued, every thread and every open sink is the parent's."""
        self._parents = (self._dispatcher, getattr(self, "_parents", None))  # never finalized here: not ours to close
        self.recorder.reset()
        self._ids.begin(self.recorder.state.first)
        self._limit()
        self._open()
        for traced in self.modules.values():
            self._say_attach(traced)
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:  # its children leave by os._exit, past atexit
            multiprocessing.register_after_fork(self, _finalize_last)

    def _stop_before_default_actions(self, *signals: signal.Signals) -> None:
        """The default action ends the process past `atexit`; where a handler is in place, the program decides."""

        def stop_and_die(number: int, frame: types.FrameType | None) -> None:
            self.stop()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        for each in signals:
            if signal.getsignal(each) is signal.SIG_DFL:
                signal.signal(each, stop_and_die)

    # -- modules and functions -----------------------------------------------------------------------------------

    def _instrument(self, names: Sequence[str], path: str, source: bytes, plain: types.CodeType) -> types.CodeType:
        """What the importer runs in place of a target module's code; its plain code where anything fails."""
        rules = self.selection.module(names, path)
        if rules is None:
            return plain
        try:
            rewritten = rewrite(source, plain.co_filename, lambda qualname: rules.rule(qualname) is not None)
            made = [
                self._parts_of(names[0], function, rules) if function.how == "instrumented" else None
                for function in rewritten.functions
            ]

            def constant(mark: Mark) -> object:
                return COMMON_CONSTANTS.get(mark.part) or getattr(made[mark.function], mark.part)

            code = link(rewritten.code, constant)
            codes = [(old, new) for old, new in pairs(plain, code) if old is not plain]
        except Exception as error:
            self.recorder.state.failures += 1
            if self.recorder.state.strict:
                raise
            self.warnings.warn(f"{path}: not traced: {type(error).__name__}: {error}")
            return plain
        traced = self.modules[names[0]] = Traced(names[0], path, list(rewritten.functions), codes)
        if names[0] == "__main__" or is_main_program(names[0]):
            self._say_attach(traced)  # no post-import hook for these
        return code

    def _parts_of(self, module: str, function: Function, rules: ModuleRules) -> Functions | Suspendable:
        rule = rules.rule(function.qualname)
        return self._make_parts(module, function.qualname, function.line, function.kind, rule)

    def _make_parts(
        self, module: str, qualname: str, line: int, kind: Kind, rule: Rule | None
    ) -> Functions | Suspendable:
        base = self._config.capture
        capture = rule.capture_over(base) if rule else base
        target = Target(module, qualname, line, self._encoder(capture), args=capture.args, result=capture.result)
        functions = self.recorder.functions(target)
        parts = functions if kind == "function" else suspendable(self.recorder, functions)
        for part in parts:
            self._parts[part.__qualname__] = part
        return parts

    def _encoder(self, capture: Capture) -> Encoder:
        if capture not in self._encoders:
            limits = Limits(capture.max_depth, capture.max_items, capture.max_string, capture.max_bytes)
            self._encoders[capture] = Encoder(limits=limits, redactor=self._redactor, describe=self._registry.values)
        return self._encoders[capture]

    def _resolve(self, name: str) -> Callable[..., Any]:
        """What a constant of pickled code stands for in this process."""
        if name not in self._parts:
            part, module, qualname, line = constants.parse(name)
            self._make_parts(module, qualname, line, "coroutine" if "suspendable" in part else "function", None)
        return self._parts[name]

    def _complete(self, module: types.ModuleType) -> None:
        """Called after a module's import: wrap what could not be instrumented, and say what is traced."""
        try:
            rules = self.selection.module(module.__name__, getattr(module, "__file__", None))
            if rules is None:
                return
            known = self.modules.get(module.__name__)
            traced = known or Traced(module.__name__, getattr(module, "__file__", None), [], [])
            self._wrap(module, traced, rules, is_instrumented=known is not None)
            self.modules[module.__name__] = traced
            self._say_attach(traced)
        except Exception as error:
            self.recorder.state.failures += 1
            if self.recorder.state.strict:
                raise
            self.warnings.warn(f"module {module.__name__}: not completely traced: {type(error).__name__}: {error}")

    def _wrap(self, module: types.ModuleType, traced: Traced, rules: ModuleRules, *, is_instrumented: bool) -> None:
        known = {function.qualname: index for index, function in enumerate(traced.functions)}
        for place in places(module):
            rule = rules.rule(place.qualname)
            index = known.get(place.qualname)
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
        line = code.co_firstlineno if code else 0
        reason = known.reason if known else "has no source that Python runs as it is"
        found = Function(place.qualname, line, kind, "wrapper", reason)
        if kind == "async generator" or (place.name.startswith("__") and place.name not in ("__init__", "__call__")):
            return found._replace(how="not traced")
        try:
            wrap(place, kind, self._make_parts(module.__name__, place.qualname, line, kind, rule))
        except (TypeError, AttributeError) as error:
            return found._replace(how="not traced", reason=str(error))
        return found

    def _say_attach(self, traced: Traced) -> None:
        functions = [
            {"name": function.qualname, "line": function.line, "how": function.how}
            | ({"reason": function.reason} if function.reason else {})
            for function in traced.functions
        ]
        self._dispatcher.state("ATTACH", module=traced.name, file=traced.file, functions=functions)


def _is_named(qualname: str, rule: Rule) -> bool:
    """Whether a rule names a function without a wildcard: only then generated code is a target."""
    return any(pattern == qualname for pattern in rule.include if WILDCARDS.isdisjoint(pattern))


def _kind(code: types.CodeType) -> Kind:
    flags = code.co_flags
    return (
        "generator"
        if flags & 0x20
        else "coroutine"
        if flags & 0x80
        else "async generator"
        if flags & 0x200
        else "function"
    )


def _finalize_last(agent: Agent) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, agent.stop, exitpriority=-100)


def _task_name(state: Any) -> Callable[[], str | None]:
    """The name of the current asyncio task, as soon as the program has imported asyncio; 90 ns inside a task."""
    modules = sys.modules

    def before() -> str | None:
        tasks = modules.get("asyncio.tasks")
        current_task = getattr(tasks, "current_task", None)
        if current_task is None:
            return None
        get_loop = modules["asyncio.events"]._get_running_loop
        name_of = tasks.Task.get_name  # type: ignore[union-attr]

        def name() -> str | None:
            loop = get_loop()
            if loop is None:
                return None
            task = current_task(loop)
            if task is None:
                return None
            try:
                text: str = name_of(task)
            except TypeError:
                return None  # a task class of another event loop
            return text

        state.task_name = name
        return name()

    return before
