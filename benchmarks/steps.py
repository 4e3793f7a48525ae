"""Where the time of a recorded call goes, step by step, and the least that it could take in Python.

*The caller's part* is measured by a ladder: `enter` and `leave` of the recorder are cut off behind each of their
statements, from none to all. What a rung takes beyond the one below is what its statement takes, so that the steps of a
round sum to the whole, and the last rung is the code that runs in traced programs where there is no C compiler. All
rungs take turns. The code in C cannot be cut: of it, the whole is measured, and what of that is setting a ContextVar.

*The floor* is a pair that does only what cannot be left out: two calls, the time twice, a parent and two numbers, two
records on the queue; no guard, no bounds, no redaction, no check of values. Beside it stand the parts it is made of.

*The delivery's part* is what the other threads do for each call: the same batch goes through the dispatcher and a file
sink as a whole, and then through their parts, one after the other.

Of many rounds the median counts, with the median absolute deviation, in nanoseconds of CPU time per call.

Usage: ``python benchmarks/steps.py [--rounds 200]``
"""

from __future__ import annotations

import argparse
import ast
import asyncio  # noqa: F401  # as most programs do: then each call asks for the current task
import copy
import itertools
import os
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import plots
import report
from report import Spread

from flowtrace import late
from flowtrace import recorder as original
from flowtrace.agent import _name_tasks
from flowtrace.dispatcher import Dispatcher
from flowtrace.events import ENTER, Batch, Described, Ids, Lines, size_of
from flowtrace.instrument import instrument
from flowtrace.lane import Lane
from flowtrace.redaction import Redactor
from flowtrace.testing import make_context
from flowtrace.values import Encoder, Limits
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.options import FileOptions

CALLS = 1_000  # of a burst; two events each
MOST_TEXT = 50  # of a statement, in characters
SHOWN = 0.01  # of the whole: steps that take less are in the table, and not in the picture
WHOLE = "the whole"
_SET = "ContextVar.set"
SETTING = f"2 × {_SET}"
TITLES = {
    "caller": "The caller's part in Python: steps of the recorder, beyond an untraced call",
    "C": "The caller's part in C",
    "floor": "The floor: what no recorder in Python can leave out",
    "delivery": "The delivery's part: from the queue to the file",
}
SOURCE = "def method(number, text):\n    return None\n"
DRIVE = "def drive(repeat=repeat):\n    for _ in repeat(None, {calls}):\n        {statement}\n"


class Rung(NamedTuple):
    """Code that does a part of what a traced call does, a burst of it, and what is to be emptied afterwards."""

    label: str
    burst: Callable[[], None]
    recorder: Any = None

    def run(self) -> float:
        """Nanoseconds per call."""
        began = time.thread_time_ns()
        self.burst()
        took = time.thread_time_ns() - began
        if self.recorder is not None:
            _empty(self.recorder)
        return took / CALLS


class Cut(NamedTuple):
    """How many statements are left of each part of `enter` and `leave`.

    `enter` cut off gives no flow, and then `leave` has nothing to do. The first statement at the end of `leave` is
    always there: it lifts the guard, without which no further call would be recorded.
    """

    enter: int
    leave: int
    at_last: int


def burst_of(statement: str, **names: Any) -> Callable[[], None]:
    """A loop around the statement, whose code is shared with no other: what CPython specializes is its own."""
    namespace = {"repeat": itertools.repeat, **names}
    exec(DRIVE.format(calls=CALLS, statement=statement), namespace)
    made: Callable[[], None] = namespace["drive"]
    return made


# -- the ladder ------------------------------------------------------------------------------------------------------


class Source:
    """The recorder's source, and where the statements of its `enter` and `leave` are.

    Raises:
        SystemExit: they are not what this program knows how to cut: a ``try`` at the end, with a ``finally``.
    """

    def __init__(self) -> None:
        self.tree = ast.parse(Path(original.__file__).read_text())
        enter, leave = self._tries(self.tree)
        self.enter = [one for one in enter.body if not isinstance(one, ast.Return)]
        self.leave, self.at_last = leave.body, leave.finalbody

    def module(self, cut: Cut) -> types.ModuleType:
        """The recorder with its functions cut off behind so many statements; what is beyond the last is all there."""
        tree = copy.deepcopy(self.tree)
        enter, leave = self._tries(tree)
        if cut.enter < len(self.enter):
            enter.body = enter.body[: cut.enter] or [ast.Pass()]
        leave.body, leave.finalbody = leave.body[: cut.leave] or [ast.Pass()], leave.finalbody[: cut.at_last]
        module = types.ModuleType(original.__name__)
        exec(compile(ast.fix_missing_locations(tree), original.__file__, "exec"), vars(module))
        return module

    @staticmethod
    def label(function: str, statement: ast.stmt) -> str:
        """Where a statement is, and how it begins."""
        first, *others = ast.unparse(statement).splitlines()
        text = f"{first} {others[0].strip()}" if first == "try:" else first
        return f"{function}, line {statement.lineno}: {text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + '…'}"

    @staticmethod
    def _tries(tree: ast.Module) -> list[ast.Try]:
        found = {
            one.name: one.body[-1]
            for one in ast.walk(tree)
            if isinstance(one, ast.FunctionDef) and one.name in {"enter", "leave"}
        }
        tries = [one for name in ("enter", "leave") if isinstance(one := found.get(name), ast.Try) and one.finalbody]
        if len(tries) != 2:
            raise SystemExit(f"{original.__file__} has changed: enter and leave do not end with try and finally")
        return tries


def ladder(source: Source) -> list[Rung]:
    """Untraced; with calls of functions that do nothing; and from then on with one statement more each time."""
    namespace: dict[str, Any] = {}
    exec(SOURCE, namespace)
    nothing = original.Functions(lambda names, values: None, lambda flow, result: None)
    enters, leaves, at_last = len(source.enter), len(source.leave), len(source.at_last)
    rungs = [
        Rung("", burst_of("call(7, 'seven')", call=namespace["method"])),
        Rung("the body: a tuple of its arguments, two calls", burst_of("call(7, 'seven')", call=_traced(nothing))),
        _rung(source, "enter and leave: their frames, try and finally", Cut(0, 0, 1)),
    ]
    for count in range(1, enters):
        if isinstance(statement := source.enter[count - 1], ast.AnnAssign) and statement.value is None:
            continue  # for the type checker only
        label = source.label("enter", statement)
        rungs.append(_rung(source, label, Cut(count, 0, 1)))
    label = f"{source.label('enter', source.enter[-1])} (and leave: back)"
    rungs.append(_rung(source, label, Cut(enters, 1, 1)))
    for count in range(2, leaves + 1):
        rungs.append(_rung(source, source.label("leave", source.leave[count - 1]), Cut(enters, count, 1)))
    for count in range(2, at_last + 1):
        rungs.append(_rung(source, source.label("leave", source.at_last[count - 1]), Cut(enters, leaves, count)))
    return rungs


def _rung(source: Source, label: str, cut: Cut) -> Rung:
    recorder = source.module(cut).Recorder(is_native=False)
    return Rung(label, burst_of("call(7, 'seven')", call=_recorded(recorder)), recorder)


def _recorded(recorder: Any) -> Callable[..., None]:
    """The function, traced by this recorder as the agent has it."""
    late.load()
    _name_tasks(recorder.state)
    target = original.Target("steps", "method", 1, Encoder(limits=Limits(), redactor=Redactor()))
    return _traced(recorder.functions(target))


def _traced(functions: Any) -> Callable[..., None]:
    namespace: dict[str, Any] = {}
    exec(instrument(compile(SOURCE, "steps", "exec"), lambda function: functions).code, namespace)
    method: Callable[..., None] = namespace["method"]
    return method


def _empty(recorder: Any) -> None:
    recorder.queue.clear()
    recorder.state.drained_bytes = recorder.state.queued_bytes
    if recorder.state.failures or recorder.state.lost_calls or recorder.state.suppressed_calls:
        raise SystemExit("a call was not recorded as it should be")


def in_c() -> Rung:
    """The whole, in C."""
    recorder = original.Recorder()
    return Rung(WHOLE, burst_of("call(7, 'seven')", call=_recorded(recorder)), recorder)


# -- the floor -------------------------------------------------------------------------------------------------------


def floor() -> Rung:
    """The least that a recorded call takes."""
    recorder: Any = original.Recorder()
    push, clock, next_seq = recorder.queue.append, recorder.clock, recorder.seq.__next__
    get_current, set_current = recorder.current.get, recorder.current.set

    def enter(names: Any, values: Any) -> Any:
        above = get_current()
        trace, parent = (None, None) if above is None else above
        span, now = next_seq(), clock()
        push((0, 0, span, now, 0, None, trace, parent, values, None, names, 0))
        set_current((trace, span))
        return above, span, trace, parent, now

    def leave(flow: Any, result: Any) -> None:
        above, span, trace, parent, began = flow
        set_current(above)
        now = clock()
        push((1, 0, next_seq(), now, 0, None, trace, parent, result, span, now - began, None, None, 0))

    return Rung("the floor", burst_of("call(7, 'seven')", call=_traced(original.Functions(enter, leave))), recorder)


def primitives() -> list[tuple[int, Rung]]:
    """What the floor is made of: how often in a call, and what it takes."""
    recorder = original.Recorder()
    names = {
        "function": lambda one, other: None, "a": 1_000_001, "b": "seven", "clock": recorder.clock,
        "get": recorder.current.get, "set": recorder.current.set, "number": recorder.seq.__next__,
        "push": recorder.queue.append,
    }  # fmt: skip
    parts = [
        (2, "a call of a function in Python", "function(a, b)"),
        (2, "a tuple of two", "(a, b)"),
        (1, "a tuple of five, taken apart", "c, d, e, f, g = (a, b, a, b, a)[:]"),
        (2, "a record of twelve on the queue, which stays", "push((a, b, a, b, a, b, a, b, a, b, a, b))"),
        (2, "the time", "clock()"),
        (1, "ContextVar.get", "get()"),
        (2, _SET, "set(b)"),
        (2, "a number", "number()"),
    ]
    return [(count, Rung(label, burst_of(statement, **names), recorder)) for count, label, statement in parts]


# -- delivery --------------------------------------------------------------------------------------------------------


class Delivery:
    """A dispatcher and a file sink without their threads, and a burst of calls for them."""

    def __init__(self, folder: str) -> None:
        self.recorder = recorder = original.Recorder()
        self._call = burst_of("call(7, 'seven')", call=_recorded(recorder))
        self._lines = Lines(
            describe=lambda index: Described(recorder.targets[index].module, recorder.targets[index].qualname),
            ids=Ids(os.urandom),
            pid=os.getpid(),
            wall_offset_ns=time.time_ns() - recorder.clock(),
            values_as_text=True,
        )
        self._dispatcher = Dispatcher(recorder, self._lines, run="0" * 16, interval_ns=10**9)
        self._path = Path(folder) / "steps.jsonl"
        self._sink = FileSink(FileOptions(path=str(self._path)), make_context(directory=folder))
        self._lane = Lane(
            "file", self._sink, max_bytes=1 << 26, new_id=self._dispatcher.new_id, warn=_fail, on_thread=_go
        )
        self._dispatcher.lanes = [self._lane]

    def measure(self) -> dict[str, float]:
        """Nanoseconds per call of the whole and of its parts."""
        self._call()
        events = len(self.recorder.queue)
        took = {WHOLE: self._timed(self._deliver)}
        written = self._path.read_bytes().count(b"\n")
        if not written == events == 2 * CALLS or self.recorder.state.failures:
            raise SystemExit(f"{written} of {events} events are in the file, not {2 * CALLS}")
        self._call()
        records: list[Any] = []
        took["take records off the queue"] = self._timed(lambda: records.extend(self._taken()))
        enters = [record for record in records if record[0] == ENTER]
        leaves = [record for record in records if record[0] != ENTER]
        made: list[bytes] = []
        took["lines of ENTER"] = self._timed(lambda: made.append(self._lines.body(enters)[0]))
        took["lines of EXIT"] = self._timed(lambda: made.append(self._lines.body(leaves)[0]))
        batch = Batch.of("0", b"".join(made), len(records))
        took["count what was taken"] = self._timed(lambda: size_of(records))
        enters.clear()
        leaves.clear()
        took["free the records"] = self._timed(records.clear)
        took["write to the file"] = self._timed(lambda: self._sink.write(batch))
        _empty(self.recorder)
        self._path.write_bytes(b"")
        return took

    def _taken(self) -> Any:
        queue = self.recorder.queue
        return itertools.islice(iter(queue.popleft, None), len(queue))

    def _deliver(self) -> None:
        self._dispatcher._drain()
        while self._lane.waiting:
            self._lane._deliver(self._lane._gather())

    @staticmethod
    def _timed(function: Callable[[], object]) -> float:
        began = time.thread_time_ns()
        function()
        return (time.thread_time_ns() - began) / CALLS


def _go() -> None:
    """The lane's thread would be made blind; here is none."""


def _fail(text: str) -> None:
    raise SystemExit(text)


# -- all -------------------------------------------------------------------------------------------------------------


def measure(rounds: int) -> dict[str, dict[str, Spread]]:
    """All in turns.

    Returns:
        For the caller's part, the floor and the delivery, their steps and, last of all, the whole: ns per call.
    """
    rungs, fast, least, parts = ladder(Source()), in_c(), floor(), primitives()
    empty = Rung("", burst_of("pass"))
    turns: list[list[float]] = []
    floors: list[dict[str, float]] = []
    natives: list[dict[str, float]] = []
    deliveries: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        delivery = Delivery(folder)
        for rung in (*rungs, fast, least, empty, *(part for _, part in parts)):
            rung.run()  # CPython specializes what has run
        delivery.measure()
        for number in range(rounds):
            report.progress(f"round {number + 1} of {rounds}")
            turns.append([rung.run() for rung in rungs])
            loop = empty.run()
            floors.append({f"{count} × {part.label}": count * (part.run() - loop) for count, part in parts})
            whole = least.run() - turns[-1][0]
            floors[-1] |= {"the bytecode between these": whole - sum(floors[-1].values()), WHOLE: whole}
            in_all, setting = fast.run() - turns[-1][0], floors[-1][SETTING]
            natives.append({SETTING: setting, "all else": in_all - setting, WHOLE: in_all})
            deliveries.append(delivery.measure())
        report.progress("")
    ladders = [
        {rung.label: after - before for rung, before, after in zip(rungs[1:], turn[:-1], turn[1:], strict=True)}
        | {WHOLE: turn[-1] - turn[0]}
        for turn in turns
    ]
    for one in deliveries:
        whole = one.pop(WHOLE)
        one["what is between these"] = whole - sum(one.values())
        one[WHOLE] = whole
    measured = {"caller": ladders, "C": natives, "floor": floors, "delivery": deliveries}
    return {
        part: {label: Spread.of([turn[label] for turn in turns]) for label in turns[0]}
        for part, turns in measured.items()
    }


def main() -> None:
    """Measure, print three tables, write ``results/steps.json``, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="how many bursts of each step, at least two (200)")
    measured = measure(max(2, parser.parse_args().rounds))
    for part, rows in measured.items():
        cells = [[label, f"{took.median:,.0f}", f"±{took.spread:,.0f}"] for label, took in rows.items()]
        print(f"{TITLES[part]}, ns per call:\n\n{report.table(['', 'ns', ''], cells)}\n")
    result = {part: {label: took._asdict() for label, took in rows.items()} for part, rows in measured.items()}
    path = report.save("steps", {"unit": "ns per call", **result})
    whole = result["caller"].pop(WHOLE)["median"]
    drawn = plots.bars(
        "steps",
        [
            plots.Bar(label, *report.bar(took), own=True)
            for label, took in result["caller"].items()
            if took["median"] > SHOWN * whole
        ],
        title=f"Steps of a recorded call of {whole:,.0f} ns, Python {report.machine()['python']}",
        axis="CPU time per call (ns), median and quartiles",
    )
    print(f"written: {', '.join(map(report.relative, [path, *drawn]))}")


if __name__ == "__main__":
    report.run(main)
