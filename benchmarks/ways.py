"""The ways to see calls that are compared: what each of them does in a process of its own, flowtrace's first.

Each says in one line how it is set up, for the same end: each call of the targets, with its values and times. And each
tells what it has recorded, so that nothing is measured that did not happen.
"""

from __future__ import annotations

import collections
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

if TYPE_CHECKING:
    from bursts import Workload

FLUSH_SECONDS = 0.1  # how often background threads look for work: flowtrace's default
QUEUE = 1 << 16  # how many records may wait: flowtrace's default
TARGETS = {"targets": [{"modules": ["workload"]}]}

Function = Callable[..., Any]


class Recorded:
    """What was recorded, by function: calls, events, bytes, and the text of the last call.

    Args:
        show: gives the text of the content of an event.
    """

    def __init__(self, show: Callable[[Any], str] = str) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.events: collections.Counter[str] = collections.Counter()
        self.bytes: collections.Counter[str] = collections.Counter()
        self._last: dict[str, dict[str, object]] = collections.defaultdict(dict)
        self._show = show

    def add(self, function: str, event: str, content: object, size: int = 0) -> None:
        """Count one event, of so many bytes; all but ENTER end a call."""
        self.calls[function] += event != "ENTER"
        self.events[function] += 1
        self.bytes[function] += size
        self._last[function][event] = content

    def text(self, function: str) -> str:
        """What the last events of the function say."""
        return " ".join(map(self._show, self._last[function].values()))


class Way:
    """Nothing is traced."""

    config: ClassVar[dict[str, Any] | None] = None  # of flowtrace-run, where that starts the process
    env: ClassVar[dict[str, str]] = {}  # that its process has beside ours
    since: ClassVar[tuple[int, int]] = (3, 11)  # the Python that it needs
    arguments: ClassVar[bool] = False  # whether arguments are recorded
    result: ClassVar[str] = ""  # what stands before results, where they are recorded
    leaves_out: ClassVar[tuple[str, ...]] = ()  # functions that it cannot record
    no_result: ClassVar[tuple[str, ...]] = ()  # functions whose results are not recorded even so
    calls: ClassVar[bool] = True  # whether calls are recorded at all
    selects: ClassVar[bool] = True  # whether only targets are recorded
    splits: ClassVar[bool] = False  # whether a call that is suspended is another one when it goes on
    background: ClassVar[bool] = False  # whether threads go on when the calls are over

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorded = Recorded()

    def prepare(self) -> None:
        """Before the targets are imported."""

    def attach(self, owner: type, names: Iterable[str]) -> None:
        """Trace these methods of the class."""

    def begin(self) -> None:
        """A workload begins."""

    def end(self) -> None:
        """A workload is over: what was recorded goes where it goes."""

    def off(self) -> None:
        """Switched off in a running program."""

    def records(self, workload: Workload) -> int:
        """How many calls are recorded of each that is made."""
        if not self.calls or workload.function in self.leaves_out or (self.selects and not workload.target):
            return 0
        return 1 + self.splits * workload.pauses

    def count(self) -> Recorded:
        """What has been recorded."""
        return self.recorded


class Untraced(Way):
    """Nothing is traced."""

    calls = False


class Flowtrace(Way):
    """Started by flowtrace-run, with its defaults and a file sink."""

    config: ClassVar[dict[str, Any] | None] = TARGETS
    arguments, result, background = True, '"result":"', True
    is_native: ClassVar[bool] = True  # the code in C records

    def prepare(self) -> None:
        """It is what it is called."""
        from flowtrace.native import native

        assert (native is not None) == self.is_native, "flowtrace was installed without a C compiler"

    def off(self) -> None:
        """As ``flowtrace ctl PID off`` does it."""
        from flowtrace import agent

        assert agent._agent is not None
        assert agent._agent.switch(on=False) > 0, "nothing was switched off"

    def count(self) -> Recorded:
        """What is in the file now."""
        (path,) = self.folder.glob("*.jsonl")
        return count_lines(path)


class FlowtraceWithoutValues(Flowtrace):
    """The same with ``capture: {args: false, result: false}``."""

    config: ClassVar[dict[str, Any] | None] = {**TARGETS, "capture": {"args": False, "result": False}}
    arguments, result = False, ""


class FlowtraceInPython(Flowtrace):
    """The same without the code in C."""

    env: ClassVar[dict[str, str]] = {"FLOWTRACE_PURE_PYTHON": "1"}
    is_native = False


def for_its_kind(function: Function, call: Function, coroutine: Function, generator: Function) -> Function:
    """The one of three wrappers that fits the function."""
    if inspect.iscoroutinefunction(function):
        return coroutine
    return generator if inspect.isgeneratorfunction(function) else call


def fields(value: object) -> object:
    """What orjson asks for where it knows no type: the fields of an object."""
    return vars(value)


def count_lines(path: Path) -> Recorded:
    """What is in a file of events, one JSON object a line."""
    recorded = Recorded()
    with path.open("rb") as file:
        for line in file:
            event = orjson.loads(line)
            if "function" in event:
                recorded.add(event["function"], event["event"], line.decode(), len(line))
    return recorded
