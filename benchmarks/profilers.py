"""VizTracer, and what Python itself offers to profilers, with callbacks that do nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from ways import Recorded, Way


class Viztracer(Way):
    """``VizTracer(ignore_c_function=True)``, saved as JSON after each burst; it traces all functions."""

    selects, splits = False, True
    options: ClassVar[dict[str, Any]] = {}

    def prepare(self) -> None:
        """Room for all that is called in a workload."""
        from viztracer import VizTracer

        self.tracer = VizTracer(tracer_entries=1 << 20, ignore_c_function=True, verbose=0, **self.options)
        self.paths: list[Path] = []

    def begin(self) -> None:
        """It empties its buffer and starts."""
        self.tracer.start()

    def end(self) -> None:
        """Write the file."""
        self.tracer.stop()
        self.paths.append(self.folder / f"viztracer-{len(self.paths)}.json")
        self.tracer.save(str(self.paths[-1]))

    def off(self) -> None:
        """``tracer.stop()``."""
        self.tracer.stop()

    def count(self) -> Recorded:
        """What is in the files, each of which has an event for each call."""
        for path in self.paths:
            for event in json.loads(path.read_bytes())["traceEvents"]:
                if event["ph"] == "X":
                    function = event["name"].split(" ")[0].rpartition(".")[2]
                    self.recorded.add(function, "X", event, len(json.dumps(event, separators=(",", ":"))) + 1)
        return self.recorded


class ViztracerWithValues(Viztracer):
    """The same with ``log_func_args`` and ``log_func_retval``: the ``repr`` of each value."""

    arguments, result = True, "'return_value'"
    no_result = ("failing",)
    options: ClassVar[dict[str, Any]] = {"log_func_args": True, "log_func_retval": True}


class SetProfile(Way):
    """``sys.setprofile`` with a callback that does nothing: the least that a tracer of this kind costs."""

    calls = selects = False

    def begin(self) -> None:
        """Set the callback, once it is known to be called."""
        seen: list[str] = []
        sys.setprofile(lambda frame, event, arg: seen.append(event))
        _nothing()
        sys.setprofile(None)
        assert seen[:2] == ["call", "return"], seen
        sys.setprofile(lambda frame, event, arg: None)

    def end(self) -> None:
        """Take it back."""
        sys.setprofile(None)

    off = end


class Monitoring(Way):
    """``sys.monitoring`` (3.12) with a callback that does nothing, for the code of the targets, and all unwinding."""

    calls, since = False, (3, 12)
    LOCAL = ("PY_START", "PY_RETURN", "PY_YIELD", "PY_RESUME")

    def attach(self, owner: type, names: Iterable[str]) -> None:
        """Set the callback, once it is known to be called."""
        from sys import monitoring

        events, tool = monitoring.events, monitoring.PROFILER_ID
        local = sum(getattr(events, name) for name in self.LOCAL)
        seen: list[object] = []
        monitoring.use_tool_id(tool, "nothing")
        for callback in (lambda *what: seen.append(what), lambda *what: None):
            for name in (*self.LOCAL, "PY_UNWIND"):
                monitoring.register_callback(tool, getattr(events, name), callback)
            for code in (_nothing.__code__, *(getattr(owner, name).__code__ for name in names)):
                monitoring.set_local_events(tool, code, local)
            monitoring.set_events(tool, events.PY_UNWIND)
            _nothing()
        assert len(seen) == 2, seen
        self.codes = [getattr(owner, name).__code__ for name in names]

    def off(self) -> None:
        """No events."""
        from sys import monitoring

        monitoring.set_events(monitoring.PROFILER_ID, 0)
        for code in self.codes:
            monitoring.set_local_events(monitoring.PROFILER_ID, code, 0)


def _nothing() -> None:
    """Is called to see whether calls are noticed."""
