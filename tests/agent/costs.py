"""What recording a call costs, counted and not timed: the same on any machine, however busy.

Counted are, for each way that a call can go:

- ``instructions``: of bytecode, in the traced function and in what flowtrace runs for it;
- ``calls`` of functions in Python, and ``c_calls`` of those in C;
- ``blocks``: of memory that single instructions have taken and left taken, whatever became of them. What a function in
  C takes and gives back by itself is not seen, nor is what comes from a free list or is larger than 512 bytes;
- ``kept_blocks`` and ``kept_bytes``: what is still taken when the call is over, because its events wait on the queue.

All is less what the same call takes untraced, and counted twice: in pure Python, and with the code in C, of which only
memory and calls are seen. Instructions and calls are counted for the way of the events to a file
too, per event and per batch; and of the start of a process, what is imported beyond what bare Python imports.

Usage: ``python -m tests.agent.costs [--write] [PYTHON ...]``. Prints the figures of this Python, or of those that are
named and have flowtrace installed, with what its tests need; with ``--write`` puts them into ``costs.json``, to which
``test_costs.py`` holds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import tracemalloc
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from flowtrace.dispatcher import Dispatcher
from flowtrace.events import Described, Ids, Lines
from flowtrace.lane import Lane
from flowtrace.native import native
from flowtrace.recorder import LOST, SKIPPED, Recorder
from flowtrace.testing import make_context
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.options import FileOptions
from tests.agent.engine import plain
from tests.agent.program import Program, program

Figures: TypeAlias = dict[str, dict[str, float]]

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("costs.json")
PURE = "FLOWTRACE_PURE_PYTHON"
VERSION = "{}.{}".format(*sys.version_info)
SETTLED, MOST_TRIES = 3, 100  # so many counts in a row have to be the same
KEPT_CALLS = 3_200  # of a hundred pieces of the queue
SMALL, LARGE = 64, 256  # events in a batch

SOURCE = """
class Thing:
    def scalars(self, number, text):
        pass

    def one(self, value):
        return value

    def fail(self):
        raise ValueError("no")

    async def coroutine(self, number):
        return number

    def generator(self):
        while True:
            yield

thing = Thing()

def scalars(call=thing.scalars):
    call(1, "text")

def text(call=thing.one, value="x" * 25):
    call(value)

def ten(call=thing.one, value={f"key{number}": number for number in range(10)}):
    call(value)

def exception(call=thing.fail):
    try:
        call()
    except ValueError:
        pass

def coroutine(call=thing.coroutine):
    try:
        call(1).send(None)
    except StopIteration:
        pass

def step(generator=thing.generator()):
    next(generator)
"""


# -- counting --------------------------------------------------------------------------------------------------------


class Count(NamedTuple):
    """What was counted while something ran."""

    instructions: int
    blocks: int
    calls: int
    c_calls: int


def count(function: Callable[[], object], *, before: Callable[[], object] = lambda: None) -> Count:
    """Of one call of ``function``, once all counts are the same: caches are full then, and free lists as they stay.

    Args:
        function: What is called, again and again.
        before: Is called before each, and not counted.

    Raises:
        RuntimeError: the counts are never the same.
    """
    gc.collect()  # which empties the free lists
    counts: list[Count] = []
    while len(counts) < MOST_TRIES:
        before()
        of_instructions = _instructions(function)
        before()
        counts.append(Count(*of_instructions, *_calls(function)))
        if len(counts) >= SETTLED and len(set(counts[-SETTLED:])) == 1:
            return counts[-1]
    raise RuntimeError(f"{function} never takes the same twice: {counts[-SETTLED:]}")


def _instructions(function: Callable[[], object]) -> tuple[int, int]:
    """Instructions, and blocks of memory that they took."""
    instructions, blocks, taken = 0, 0, sys.getallocatedblocks
    last = taken()

    def note() -> None:
        nonlocal instructions, blocks, last
        instructions += 1
        now = taken()
        blocks += max(0, now - last)
        last = now

    _with_each_instruction(note, function)
    return instructions, blocks


def _with_each_instruction(note: Callable[[], None], function: Callable[[], object]) -> None:
    """Call ``function``, and ``note`` before each of its instructions."""
    if sys.version_info >= (3, 12):  # where opcodes are traced by `settrace` in 3.13, some are missed
        monitoring, own = sys.monitoring, sys._getframe().f_code
        tool, event = monitoring.DEBUGGER_ID, monitoring.events.INSTRUCTION
        monitoring.use_tool_id(tool, "costs")
        monitoring.register_callback(tool, event, lambda code, offset: None if code is own else note())
        monitoring.set_events(tool, event)
        try:
            function()
        finally:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)
        return

    def each(frame: types.FrameType, event: str, argument: object) -> Callable[..., Any]:
        frame.f_trace_opcodes = True
        if event == "opcode":
            note()
        return each

    sys.settrace(each)
    try:
        function()
    finally:
        sys.settrace(None)


def _calls(function: Callable[[], object]) -> tuple[int, int]:
    """Calls of functions in Python and in C; one of each is ours."""
    calls = c_calls = 0

    def each(frame: types.FrameType, event: str, argument: object) -> None:
        nonlocal calls, c_calls
        calls += event == "call"
        c_calls += event == "c_call"

    sys.setprofile(each)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls, c_calls


# -- calls -----------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A way that a call can go: the function of `SOURCE` that makes it, a rule, and what to do to the agent first."""

    name: str
    driver: str = "scalars"
    rule: Mapping[str, Any] = types.MappingProxyType({})
    prepare: Callable[[Program], object] = lambda running: None


CASES = [
    Case("two scalars"),
    Case("two scalars, no values", rule={"capture": {"args": False, "result": False}}),
    Case("a text of 25 characters", "text"),
    Case("a dict of ten", "ten"),
    Case("an exception", "exception"),
    Case("a coroutine", "coroutine"),
    Case("a step of a generator", "step"),
    Case("lost, as the queue is full", prepare=lambda running: setattr(running.recorder.state, "max_events", 0)),
    Case("lost, below one that is", prepare=lambda running: running.recorder.current.set(LOST)),
    Case("not sampled", rule={"sampling": {"rate": 0.0}}),
    Case("below one that is not sampled", prepare=lambda running: running.recorder.current.set(SKIPPED)),
    Case("beyond its calls a second", rule={"sampling": {"max_per_second": 1}}),
    Case("made by the agent", prepare=lambda running: setattr(running.recorder.thread(), "busy", True)),
    Case("switched off", prepare=lambda running: running.attachment.switch(on=False)),
    Case("not a target", rule={"include": ["Other.*"]}),
]


def of_call(case: Case) -> dict[str, float]:
    """What a call takes that goes this way, more than untraced."""
    with _program({"include": ["Thing.*"], **case.rule}) as running:
        module = running.load("costed", SOURCE)
        case.prepare(running)
        traced, untraced = getattr(module, case.driver), getattr(plain(SOURCE), case.driver)
        added = {name: a - b for name, a, b in zip(Count._fields, count(traced), count(untraced), strict=True)}
        return added | _kept(traced, running.recorder)


def _kept(function: Callable[[], object], recorder: Recorder) -> dict[str, float]:
    """What stays allocated for each call, and how many events wait for it."""
    empty(recorder)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in itertools.repeat(None, KEPT_CALLS):
        function()
    blocks = sys.getallocatedblocks() - before
    events = len(recorder.queue)
    empty(recorder)
    gc.collect()
    tracemalloc.start()
    for _ in itertools.repeat(None, KEPT_CALLS):
        function()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = {"events": events, "kept_blocks": blocks, "kept_bytes": size}
    return {name: round(value / KEPT_CALLS) for name, value in kept.items()}


@contextlib.contextmanager
def _program(rule: dict[str, Any]) -> Iterator[Program]:
    """A program to be traced by this rule, with a clock that always goes on by a microsecond."""
    with tempfile.TemporaryDirectory() as folder, program(Path(folder), {"modules": ["costed"], **rule}) as running:
        running.recorder.clock = itertools.count(10**18, 1_000).__next__
        yield running


def empty(recorder: Recorder) -> None:
    """Take all off the queue, as the dispatcher does."""
    recorder.queue.clear()
    recorder.state.drained_bytes = recorder.state.queued_bytes


# -- delivery --------------------------------------------------------------------------------------------------------


class Pipeline:
    """A dispatcher and a lane to a file, without their threads."""

    def __init__(self, recorder: Recorder, call: Callable[[], object], folder: str) -> None:
        self.recorder, self._call = recorder, call
        lines = Lines(
            describe=lambda index: Described(recorder.targets[index].module, recorder.targets[index].qualname),
            ids=Ids(os.urandom),
            pid=os.getpid(),
            wall_offset_ns=0,
            values_as_text=True,
        )
        self.dispatcher = Dispatcher(recorder, lines, run="00000000000000aa", interval_ns=10**9)
        sink = FileSink(FileOptions(path="costed.jsonl"), make_context(directory=folder))
        self.lane = Lane(
            "file", sink, max_bytes=1 << 24, new_id=self.dispatcher.new_id, warn=_fail, on_thread=lambda: None
        )
        self.dispatcher.lanes = [self.lane]

    def fill(self, events: int) -> None:
        """Deliver what there is, and record so many."""
        while self.lane.waiting:
            self.deliver()
        for _ in range(events // 2):
            self._call()
        assert len(self.recorder.queue) == events

    def drain(self) -> None:
        """What the dispatcher's thread does for what is on the queue."""
        self.dispatcher._drain()

    def deliver(self) -> None:
        """What the lane's thread does for a batch."""
        self.lane._deliver(self.lane._gather())


def of_delivery() -> Figures:
    """What the way of an event to a file takes, and that of a batch, on each of the two threads."""
    with _program({"include": ["Thing.*"]}) as running, tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(running.recorder, running.load("costed", SOURCE).scalars, folder)

        def drained(events: int) -> Count:
            return count(pipeline.drain, before=lambda: pipeline.fill(events))

        def delivered(events: int) -> Count:
            return count(pipeline.deliver, before=lambda: (pipeline.fill(events), pipeline.drain()))

        return _per_event("dispatcher", drained) | _per_event("file sink", delivered)


def _per_event(thread: str, of_batch: Callable[[int], Count]) -> Figures:
    small, large = of_batch(SMALL), of_batch(LARGE)
    counted = set(Count._fields) - {"blocks"}  # which come in pieces of many events
    event = {name: (getattr(large, name) - getattr(small, name)) / (LARGE - SMALL) for name in counted}
    batch = {name: getattr(small, name) - SMALL * event[name] for name in counted}
    return {f"{thread}, {what}": {name: round(value, 1) for name, value in each.items()}
            for what, each in {"an event": event, "a batch": batch}.items()}  # fmt: skip


def _fail(text: str) -> None:
    raise AssertionError(text)


# -- start -----------------------------------------------------------------------------------------------------------

_IMPORTED = re.compile(r"import time: +\d+ \| +\d+ \| *(\S+)")


def environment() -> dict[str, str]:
    """The environment without what changes how Python or flowtrace works."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FLOWTRACE", "COV"))}
    return others | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


def of_start() -> dict[str, list[str]]:
    """What bare Python imports, and what ``flowtrace-run --quiet python -c pass`` imports beside to trace to a file.

    The former depends on what is installed: `.pth` files import modules too. The launcher has a line of its own for the
    first start, after which it knows what the configuration comes to.
    Modules of libraries count as one with these, as they are others in each version.
    """
    launch = [sys.executable, "-Pc", "from flowtrace.cli.run import main; main()", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "flowtrace.yaml").write_text("sinks: [{type: file, path: calls.jsonl}]")
        (bare,), (first, _), (launcher, process) = (_imports(way, folder) for way in ([], launch, launch))
    found = {"launcher, first start": first - bare, "launcher": launcher - bare, "process": process - bare}
    return {name: sorted(imported) for name, imported in (found | {"bare Python": bare}).items()}


def _imports(launch: list[str], folder: str) -> list[set[str]]:
    """The imports of each of the programs that a process is one after the other."""
    command = [*launch, sys.executable, "-c", "pass"]
    env = environment() | {"PYTHONPROFILEIMPORTTIME": "1", "XDG_CACHE_HOME": folder}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    _, *parts = done.stderr.split("import time: self [us]")  # the heading
    return [{_library(name) for name in _IMPORTED.findall(part)} for part in parts]


def _library(module: str) -> str:
    """The module, where it is Python's or ours, else what it is part of."""
    first, _, _ = module.partition(".")
    return module if first in sys.stdlib_module_names or first.startswith("flowtrace") else first


# -- all -------------------------------------------------------------------------------------------------------------


def figures() -> dict[str, Any]:
    """All of them, of this Python, and of the code in C unless `PURE` is set."""
    gc.disable()
    way = "" if native is None else " in C"
    return {f"calls{way}": {case.name: of_call(case) for case in CASES}, f"delivery{way}": of_delivery()}


def of_python(python: str) -> dict[str, Any]:
    """All of them by version, of this Python in a process of its own.

    Raises:
        subprocess.CalledProcessError: it cannot count them; it has said why on stderr.
    """
    found: dict[str, Any] = {}
    for what, env in (("figures()", {PURE: "1"}), ("figures()", {}), ("{'imports': of_start()}", {})):
        code = f"from tests.agent.costs import *; print(json.dumps({{VERSION: {what}}}))"
        command = [python, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment() | env, stdout=subprocess.PIPE, check=True)
        for version, more in json.loads(done.stdout).items():
            found[version] = found.get(version, {}) | more
    return found


def main() -> None:
    """Print or write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {FILE.name}")
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="that has flowtrace; by default this one")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for python in options.pythons or [sys.executable]:
        found |= of_python(python)
    if options.write:
        committed = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps(committed | found, indent=1, sort_keys=True) + "\n")
        print(f"{FILE.name}: written for Python {', '.join(found)}", file=sys.stderr)
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
