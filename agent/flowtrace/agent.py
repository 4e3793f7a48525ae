"""The agent: starts, stops, survives forks. The only place where the parts are wired, and the only module state.

`start` runs once per process, from ``boot/sitecustomize``, before any code of the program. From then on nothing that
goes wrong here stops the program: it is said in one line on stderr, and less is traced.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Sequence

from flowtrace import constants, contexts
from flowtrace.announcement import Announcement, ForkSilence, Warnings, plural
from flowtrace.attachment import Attachment
from flowtrace.carriers import Carriers
from flowtrace.control import Control, Origin, Request, to_text
from flowtrace.dispatcher import Dispatcher
from flowtrace.elsewhere import Elsewhere
from flowtrace.endings import Endings
from flowtrace.errors import ConfigError, FlowtraceError
from flowtrace.events import SCHEMA_VERSION, Described, Ids, Lines
from flowtrace.hooks import SinkContext
from flowtrace.importer import Importer
from flowtrace.incoming import Incoming
from flowtrace.lane import Lane
from flowtrace.late import orjson
from flowtrace.outgoing import Outgoing
from flowtrace.plugins import Registry, load
from flowtrace.recorder import Recorder
from flowtrace.redaction import secrets_of
from flowtrace.settings import read
from flowtrace.splices import Splices
from flowtrace.tracecontext import VARIABLE
from flowtrace.typed import TYPE_CHECKING, Any
from flowtrace.unpatched import time

if TYPE_CHECKING:
    from flowtrace.config import Queue, Ready, Resolved, Started

MAX_TURN_NS = 1_000_000_000  # however long `flush.interval` is, whoever asks by `flowtrace ctl` waits no longer

_agent: Agent | None = None


def start(resolved: Started) -> Agent:
    """Trace this process from now on."""
    global _agent
    _agent = Agent(resolved)
    _agent.start()
    return _agent


class Agent:
    """Everything that traces one process; a forked child goes on with the same object and new threads and sinks."""

    def __init__(self, resolved: Started) -> None:
        config = resolved.config
        self._resolved, self._config = resolved, config
        self._is_stopped = self._is_open = False
        self._pid = os.getpid()
        self.warnings = Warnings(scrub=lambda text: self.attachment.redactor.scrub(text))
        self._registry: Registry = load(resolved.plugins)
        self.recorder = Recorder()
        self.recorder.state.strict = "FLOWTRACE_STRICT" in os.environ  # our own tests
        self._ids = Ids(os.urandom)
        self._fork_silence = ForkSilence(own_threads=lambda: self._dispatcher.threads)
        self.attachment = Attachment(
            self.recorder,
            config,
            project=resolved.project,
            describe=self._registry.values,
            say=lambda name, **fields: self._dispatcher.state(name, **fields),
            warn=self.warnings.warn,
            secrets=secrets_of((config.sinks, resolved.ready)),  # of all sinks: they stay the same until the end
        )
        self.splices = Splices(self.recorder)
        self._carriers = Carriers(self.recorder.current, self._ids, sends=lambda: self._config.propagation.send)
        incoming = Incoming(self.recorder.current, accepts=lambda: self._config.propagation.accept)
        outgoing = Outgoing(
            self.recorder.current, incoming.request, self._ids, sends=lambda: self._config.propagation.send
        )
        for spliced in (self._carriers, incoming, outgoing, Elsewhere(self.recorder.state)):
            spliced.install(self.splices)
        self._importer = Importer(self.attachment, self.splices)
        self._contexts = contexts.HeldContexts()
        self._endings = Endings(self.stop, self.deliver)
        self.recorder.forked = self._after_fork
        for problem in self._registry.problems:
            self.warnings.warn(str(problem))

    # -- start, stop, fork ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the doors to the program and the sinks."""
        self._endings.watch_signals(self.splices)  # first of all: what has said START is to say STOP
        if self._config.flush.hard_exits:
            self._endings.watch_hard_exits()
        self._limit()
        self._open()
        constants.resolve, constants.arrive = self.attachment.resolve, self._carriers.arrive
        if self._config.propagation.accept:
            self._carriers.arrive(os.environ.get(VARIABLE))
        self._importer.install()
        self._importer.expect("asyncio.tasks", self._name_tasks)
        self.splices.imported()
        self.attachment.attach_imported()  # what Python and the agent have imported
        if contexts.IS_NEEDED:
            self._contexts.install()
        atexit.register(self._at_exit)
        silence = self._fork_silence
        os.register_at_fork(before=silence.begin, after_in_parent=silence.end_in_parent, after_in_child=silence.end)
        os.register_at_fork(after_in_child=self._after_fork)
        endings = self._endings
        os.register_at_fork(
            before=endings.before_fork,
            after_in_parent=endings.after_fork_in_parent,
            after_in_child=endings.after_fork_in_child,
        )

    def stop(self) -> None:
        """Deliver what there is; at most ``flush.shutdown_timeout``. A second call waits for the end of the first."""
        if not self._is_open or not self.recorder.is_here:
            return
        self._is_stopped = True  # before the dispatcher: it may be in the midst of a request
        self._announcement.at_exit()
        self.attachment.say_rest()
        self._dispatcher.stop(self._config.flush.shutdown_timeout / 1e9)
        self._control.close()
        self._say_what_is_lost()

    def deliver(self) -> None:
        """Deliver what there is, in the same time; the process may go on."""
        if self._is_open and self.recorder.is_here:
            self._dispatcher.deliver(self._config.flush.shutdown_timeout / 1e9)

    def _at_exit(self) -> None:
        try:
            self.stop()
        except KeyboardInterrupt:  # whoever presses Ctrl-C now does not want to wait
            self._say_what_is_lost()
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            # Python is to die of SIGINT after this, and knows so by a flag that code run from text sets and clears:
            # a sink that ran some (a namedtuple is enough) has cleared it
            with contextlib.suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")

    def _say_what_is_lost(self) -> None:
        timeout = f"{self._config.flush.shutdown_timeout / 1e9:g}s"
        is_queue_small = self._dispatcher.was_full and self._config.queue.overflow == "drop"
        remedy = "; the queue was full: queue.overflow: block waits instead, a larger queue holds more"
        for lane in self._dispatcher.lanes:
            if lost := self._dispatcher.lost(lane):
                late = f", {lane.waiting} of them not in time ({timeout})" if lane.waiting else ""
                lost_text = f"{plural(lost, 'event')} did not reach {lane.name}{late}"
                self.warnings.warn(f"pid {os.getpid()}: {lost_text}{remedy if is_queue_small else ''}")
            elif lane.is_running and not self._dispatcher.threads:
                self.warnings.warn(f"pid {os.getpid()}: sink {lane.name} did not close in time ({timeout})")

    def switch(self, *, on: bool) -> int:
        """Record calls or not, from now on; returns how many functions were switched."""
        if on:  # attached code stands around spliced code
            self.splices.switch(on=True)
        switched = self.attachment.switch(on=on)
        if not on:
            self.splices.switch(on=False)
        self._limit()
        return switched

    def reload(self, resolved: Resolved) -> int:
        """Put another configuration in force; returns how many functions got other code.

        Raises:
            ConfigError: it cannot be used, or changes what only a start can; nothing was changed.
        """
        new = _fixed(resolved)
        for key, value in _fixed(self._resolved).items():
            if value != new[key]:
                raise ConfigError("cannot be changed without a restart; the old configuration stays", key=key)
        with self.splices.in_place():
            changed = self.attachment.reload(resolved.config, project=resolved.project)
        self._config = resolved.config
        self._limit()
        self._dispatcher.keep(resolved.config.keep)
        lanes, queue = self._dispatcher.lanes, resolved.config.queue
        for lane in lanes:
            lane.limit(max_bytes=queue.max_bytes // 2 // len(lanes), block_s=_block_s(queue))
        return changed

    def _execute(self, request: Request) -> str:
        """Carry out a request of ``flowtrace ctl``."""
        pid = os.getpid()
        match request.command:
            case "origin":
                resolved = self._resolved
                return to_text(Origin(file=resolved.file, sets=resolved.sets, project=resolved.project))
            case "status":
                return f"pid {pid}: {self._status()}"
            case "reload":
                return f"pid {pid}: reloaded, {plural(self._reload(request), 'function')} changed"
            case command:
                switched = self.switch(on=command == "on")
                return f"pid {pid}: {command}, {plural(switched, 'function')} switched"

    def _reload(self, request: Request) -> int:
        try:
            if request.resolved is None:
                raise ConfigError("no configuration came with the request")
            return self.reload(read(request.resolved))
        except FlowtraceError as error:
            self.warnings.say(f"pid {os.getpid()}: reload: {error}")
            raise

    def _status(self) -> str:
        modules = self.attachment.modules.values()
        functions = sum(len(traced.functions) for traced in modules)
        lanes = (
            f"{lane.name} {lane.delivered} delivered, {lane.losses.events} lost, {lane.waiting} waiting"
            for lane in self._dispatcher.lanes
        )
        counts = {"events not kept": self._dispatcher.discarded[1], "calls skipped": self.recorder.state.skipped_calls}
        left_out = [f"{count} {what}" for what, count in counts.items() if count]
        state = "on" if self.attachment.is_on else "off"
        traced = f"{plural(functions, 'function')} in {plural(len(modules), 'module')}"
        return "; ".join([f"{state}, {traced}", *lanes, *left_out])

    def _limit(self) -> None:
        state, queue = self.recorder.state, self._config.queue
        state.max_events, state.max_bytes = queue.max_events, queue.max_bytes // 2  # the lanes have the other half
        # switched off, bodies under way may still make functions that have instrumented code: these are silent
        state.wake_at = queue.max_events // 2 if self.attachment.is_on else 0
        state.rate = self._config.sampling.rate if self.attachment.is_on else -1.0
        state.block_ns = round(_block_s(queue) * 1e9)
        if self._is_stopped:  # meanwhile: what is recorded now would come after STOP
            state.max_events, state.rate = -1, -1.0

    def _name_tasks(self) -> None:
        if self.recorder.state.in_loop is None:
            _name_tasks(self.recorder.state)

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
        interval_ns = min(config.flush.interval, MAX_TURN_NS)
        self._dispatcher = Dispatcher(
            recorder, lines, run=self._resolved.run, interval_ns=interval_ns, keep=config.keep
        )
        lanes = self._lanes()
        names = [lane.name for lane in lanes]
        self._announcement = Announcement(
            self._resolved,
            sinks=list(map(_place, names, self._resolved.ready)),
            modules=self.attachment.modules,
            warnings=self.warnings,
            is_importing=lambda: self._importer.is_importing,
        )
        self._control = Control(self._execute)
        self._dispatcher.after_turn = self._after_turn
        self._dispatcher.while_full = self._control.look  # a sink that hangs: then most of all
        self._dispatcher.uncaptured = lambda: self.attachment.uncaptured
        with self._endings.held_back():
            self._say_start(names)
            self._is_open = True
            try:
                self._dispatcher.start(lanes)
            except RuntimeError as error:
                recorder.state.max_events = -1
                self.warnings.warn(f"pid {os.getpid()} is not traced: {error}")

    def _after_turn(self) -> None:
        self._announcement.when_settled()
        self._control.look()
        self._fork_silence.end_when_due()
        self._endings.look()
        self._contexts.release()
        if "asyncio.tasks" in sys.modules:  # found by a finder that was asked before ours
            self._name_tasks()
        self.attachment.say_problems()

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
                start_thread=dispatcher.start_thread,
            )

        sinks = self._registry.build(config.sinks, context, self._resolved.ready)
        lanes += [
            Lane(
                name,
                sink,
                max_bytes=config.queue.max_bytes // 2 // len(sinks),
                block_s=_block_s(config.queue),
                new_id=dispatcher.new_id,
                on_thread=dispatcher.guard_thread,
                on_failure=dispatcher.count_failure,
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
            argv=orjson.loads(
                self.attachment.encoder().result(self.attachment.redactor.scrub_arguments(sys.orig_argv))
            ),
            python=sys.version.partition(" ")[0],
            host=os.uname().nodename,
            wallNanos=time.time_ns(),
            monotonicNanos=now,
            sinks=sinks,
        )

    def _after_fork(self) -> None:
        """In the child: everything queued, every thread and every open sink is the parent's."""
        pid = os.getpid()
        if pid == self._pid:
            return  # a call came before this hook, from a finalizer that another hook has run
        self._pid = pid
        self._parents = (self._dispatcher, getattr(self, "_parents", None))  # never finalized here: not ours to close
        self._is_stopped = self._is_open = False
        with self.recorder.blind():  # or what finalizers call would come before START
            self.recorder.reset()
            self._ids.begin(self.recorder.state.first)
            self._limit()
            self._open()
            for traced in self.attachment.modules.values():
                self.attachment.say_attach(traced)
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:  # its children leave by os._exit, past atexit
            multiprocessing.register_after_fork(self, _finalize_last)


def _fixed(resolved: Resolved) -> dict[str, object]:
    """What only a start can change, by its key in the configuration."""
    config = resolved.config
    return {
        "service": config.service,
        "sinks": (config.sinks, resolved.ready),
        "flush": config.flush,
        "values": config.values,
    }


def _place(name: str, ready: Ready | None) -> str:
    """What the announcement calls a sink: the stream that it writes to, if it writes to one."""
    return str(getattr(ready.options, "stream", name)) if ready else name


def _block_s(queue: Queue) -> float:
    return queue.block_timeout / 1e9 if queue.overflow == "block" else 0.0


def _finalize_last(agent: Agent) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, agent.stop, exitpriority=-100)


def _name_tasks(state: Any) -> None:
    """Have calls ask for the name of the current asyncio task, as soon as all of asyncio is imported."""
    modules = sys.modules

    def not_yet() -> object:
        current_task = getattr(modules.get("asyncio.tasks"), "current_task", None)
        if current_task is None:
            return None
        in_loop = modules["asyncio.events"]._get_running_loop
        name_of = modules["asyncio.tasks"].Task.get_name

        def name() -> str | None:
            task = current_task(in_loop())
            if task is None:
                return None
            try:
                text: str = name_of(task)
            except TypeError:
                return None  # a task class of another event loop
            return text

        state.current_task, state.name_of = current_task, name_of  # the same in C
        state.task_name, state.in_loop = name, in_loop
        return in_loop()

    state.in_loop = not_yet
