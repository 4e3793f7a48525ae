"""Elsewhere: where other tracers of this process are, so that traces that begin here are part of theirs.

They are asked at calls that are below no other, and not before they have begun a span of their own: a program that
merely has one of them installed, or imported, pays nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from flowtrace.recorder import State
from flowtrace.splices import Splice, Splices
from flowtrace.tracecontext import Remote
from flowtrace.typed import Any


class Elsewhere:
    """The splices for other tracers.

    Args:
        state: Is told whom to ask.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._tracers: list[Callable[[], Remote | None]] = []

    def install(self, splices: Splices) -> None:
        """Have the functions spliced in which they begin."""
        splices.add("opentelemetry.context", "attach", Splice(self._met(_of_opentelemetry)))
        splices.add("ddtrace._trace.tracer", "Tracer.start_span", Splice(self._met(_of_ddtrace)))

    def _met(self, tracer: Callable[[], Remote | None]) -> Callable[[dict[str, Any]], None]:
        def enter(values: dict[str, Any]) -> None:
            if tracer not in self._tracers:
                self._tracers.append(tracer)
                self._state.elsewhere = self.where

        return enter

    def where(self) -> Remote | None:
        """The current span of the first tracer that has one."""
        for tracer in self._tracers:
            try:
                place = tracer()
            except Exception:  # noqa: BLE001  # theirs, whatever it is
                continue
            if place is not None:
                return place
        return None


def _of_opentelemetry() -> Remote | None:
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return Remote(f"{context.trace_id:032x}", f"{context.span_id:016x}", bool(context.trace_flags & 1))


def _of_ddtrace() -> Remote | None:
    """Its traces are sampled unless it has decided otherwise, by a priority of 0 or less."""
    context = sys.modules["ddtrace.trace"].tracer.current_trace_context()
    if context is None or not context.trace_id or not context.span_id:
        return None
    priority = context.sampling_priority
    return Remote(f"{context.trace_id:032x}", f"{context.span_id:016x}", priority is None or priority > 0)
