"""Other tracers in the process: traces that begin here are part of theirs."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest

from flowtrace.elsewhere import Elsewhere
from flowtrace.events import ENTER
from flowtrace.recorder import Recorder, Target
from flowtrace.splices import Splices
from flowtrace.tracecontext import Remote
from tests.agent.engine import Shown

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Process:
    """A process in which the other tracers are spliced."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.recorder.state.strict = True
        self.elsewhere = Elsewhere(self.recorder.state)
        self.splices = Splices(self.recorder)
        self.elsewhere.install(self.splices)
        self.splices.imported()

    def call(self) -> tuple[object, object] | None:
        """Trace and parent of a traced call; None where it is not recorded."""
        enter, leave = self.recorder.functions(Target("shop", "work", 1, Shown()))
        self.recorder.queue.clear()
        leave(enter((), ()), None)
        return next(((record[6], record[7]) for record in self.recorder.queue if record[0] == ENTER), None)


@pytest.fixture
def process() -> Iterator[Process]:
    """One that is gone without a trace afterwards."""
    process = Process()
    yield process
    process.splices.switch(on=False)


def test_spans_of_opentelemetry_are_joined(process: Process) -> None:
    """The current one is the parent; before it there is nothing to ask, after it nothing to join."""
    trace = pytest.importorskip("opentelemetry.trace")
    process.splices.imported()
    assert process.recorder.state.elsewhere is None
    context = trace.SpanContext(int(TRACE, 16), int(SPAN, 16), False, trace.TraceFlags(1))

    with trace.use_span(trace.NonRecordingSpan(context)):
        assert process.call() == (TRACE, SPAN)

    assert process.call() not in (None, (TRACE, SPAN))


def test_what_opentelemetry_does_not_sample_is_not_recorded(process: Process) -> None:
    """A trace is recorded by all or by none."""
    trace = pytest.importorskip("opentelemetry.trace")
    process.splices.imported()
    context = trace.SpanContext(int(TRACE, 16), int(SPAN, 16), False, trace.TraceFlags(0))

    with trace.use_span(trace.NonRecordingSpan(context)):
        assert process.call() is None


def test_a_context_without_a_span_is_none(process: Process) -> None:
    """OpenTelemetry attaches contexts for other things too, such as baggage."""
    context = pytest.importorskip("opentelemetry.context")
    process.splices.imported()

    token = context.attach(context.Context({"x": 1}))
    try:
        assert process.recorder.state.elsewhere is not None
        assert process.elsewhere.where() is None
    finally:
        context.detach(token)


TRACER = """
class Tracer:
    def start_span(self): return self
    def current_trace_context(self): return self.context
tracer = Tracer()
"""


@pytest.mark.parametrize(("priority", "is_sampled"), [(None, True), (1, True), (2, True), (0, False), (-1, False)])
def test_spans_of_ddtrace_are_joined(monkeypatch: pytest.MonkeyPatch, priority: int | None, is_sampled: bool) -> None:
    """The same with what ddtrace has in their place; the real one is tried in tests/e2e/test_other_propagation.py."""
    module = types.ModuleType("ddtrace._trace.tracer")
    exec(TRACER, vars(module))
    monkeypatch.setitem(sys.modules, "ddtrace._trace.tracer", module)
    monkeypatch.setitem(sys.modules, "ddtrace.trace", module)
    process = Process()
    module.tracer.start_span()

    for context, expected in (
        (types.SimpleNamespace(trace_id=int(TRACE, 16), span_id=int(SPAN, 16), sampling_priority=priority), TRACE),
        (types.SimpleNamespace(trace_id=0, span_id=0, sampling_priority=priority), None),
        (None, None),
    ):
        module.tracer.context = context
        assert process.elsewhere.where() == (Remote(TRACE, SPAN, is_sampled) if expected else None)


def test_a_tracer_that_fails_is_not_asked_for_more(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is recorded as if there were none."""
    broken = types.SimpleNamespace(get_current_span=None)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", broken)
    process.recorder.state.elsewhere = process.elsewhere.where
    context = pytest.importorskip("opentelemetry.context")
    process.splices.imported()
    context.detach(context.attach(context.Context()))

    assert process.call() is not None
