"""OpenTelemetry, ddtrace and Logfire: a span for each call, handed to an exporter that throws it away."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import orjson
from ways import FLUSH_SECONDS, QUEUE, Function, Recorded, Way, fields, for_its_kind

RESULT = "result"  # the name that results get


class Spans(Way):
    """Ways that make a span for each call and hand it to an exporter that throws it away."""

    arguments, result = True, RESULT

    def attach(self, owner: type, names: Iterable[str]) -> None:
        """Put each method into a span that gets its values."""
        for name in names:
            setattr(owner, name, self._traced(getattr(owner, name)))

    def span(self, name: str, values: dict[str, Any]) -> AbstractContextManager[Any]:
        """A span with values, which are scalars or JSON, since attributes of spans are no objects."""
        raise NotImplementedError

    def set_result(self, span: Any, value: object) -> None:
        """Give the span its last value."""
        raise NotImplementedError

    def _traced(self, function: Function) -> Function:
        name, parameters = function.__name__, list(inspect.signature(function).parameters)[1:]
        open_span, set_result = self.span, self.set_result

        def shown(args: tuple[Any, ...]) -> dict[str, Any]:
            return {parameter: _scalar(value) for parameter, value in zip(parameters, args, strict=True)}

        @functools.wraps(function)
        def call(self: object, *args: Any) -> Any:
            with open_span(name, shown(args)) as span:
                result = function(self, *args)
                set_result(span, _scalar(result))
                return result

        @functools.wraps(function)
        async def coroutine(self: object, *args: Any) -> Any:
            with open_span(name, shown(args)) as span:
                result = await function(self, *args)
                set_result(span, _scalar(result))
                return result

        @functools.wraps(function)
        def generator(self: object, *args: Any) -> Any:
            with open_span(name, shown(args)) as span:
                result = yield from function(self, *args)
                set_result(span, _scalar(result))
                return result

        return for_its_kind(function, call, coroutine, generator)


class OpenTelemetry(Spans):
    """``start_as_current_span``, the values as attributes; BatchSpanProcessor, its exporter does nothing."""

    background = True

    def prepare(self) -> None:
        """Set up the SDK."""
        self.recorded = Recorded(_as_json)
        from opentelemetry.sdk.trace import TracerProvider

        self.provider = TracerProvider()
        self.provider.add_span_processor(_batched(self.recorded))
        self.tracer: Any = self.provider.get_tracer(__name__)

    def span(self, name: str, values: dict[str, Any]) -> AbstractContextManager[Any]:
        """A span that is the current one."""
        opened: AbstractContextManager[Any] = self.tracer.start_as_current_span(name, attributes=values)
        return opened

    def set_result(self, span: Any, value: object) -> None:
        """One more attribute."""
        span.set_attribute(RESULT, value)

    def off(self) -> None:
        """A sampler that takes nothing, since the SDK cannot be switched off in a running program."""
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        self.tracer.sampler = ALWAYS_OFF


class Ddtrace(Spans):
    """``tracer.wrap`` with the values as tags; a trace filter throws away what an agent would be sent."""

    def prepare(self) -> None:
        """Nothing but traces, nothing to send to."""
        for feature in ("INSTRUMENTATION_TELEMETRY", "REMOTE_CONFIGURATION"):
            os.environ[f"DD_{feature}_ENABLED"] = "false"
        from ddtrace.trace import TraceFilter, tracer

        recorded = self.recorded = Recorded(lambda span: f"{span.get_tags()} {span.get_metrics()}")

        class Nowhere(TraceFilter):
            def process_trace(self, trace: list[Any]) -> None:
                for span in trace:
                    recorded.add(span.name, "span", span)

        tracer.configure(trace_processors=[Nowhere()])
        self.tracer = tracer

    def attach(self, owner: type, names: Iterable[str]) -> None:
        """Wrap what sets the tags."""
        super().attach(owner, names)
        for name in names:
            setattr(owner, name, self.tracer.wrap(name)(getattr(owner, name)))

    def span(self, name: str, values: dict[str, Any]) -> AbstractContextManager[Any]:
        """The span that ``wrap`` has opened."""
        span = self.tracer.current_span()
        if span is not None:
            span.set_tags(values)
        return contextlib.nullcontext(span)

    def set_result(self, span: Any, value: object) -> None:
        """One more tag."""
        if span is not None:
            span.set_tag(RESULT, value)

    def off(self) -> None:
        """``tracer.enabled = False``."""
        self.tracer.enabled = False


class LogfireInstrument(Way):
    """``logfire.instrument(extract_args=True, record_return=True)``; it hides secrets, as flowtrace does."""

    arguments, result, background = True, '"return"', True
    no_result = ("generator",)

    def prepare(self) -> None:
        """No service, no console, no metrics."""
        import logfire

        self.logfire, self.recorded = logfire, Recorded(_as_json)
        self._configure(sampling=None)

    def attach(self, owner: type, names: Iterable[str]) -> None:
        """Decorate the methods."""
        for name in names:
            decorate = self.logfire.instrument(
                span_name=name, extract_args=True, record_return=True, allow_generator=True
            )
            setattr(owner, name, decorate(getattr(owner, name)))

    def off(self) -> None:
        """Configured anew to sample nothing."""
        self._configure(sampling=self.logfire.SamplingOptions(head=0.0))

    def _configure(self, *, sampling: Any) -> None:
        self.logfire.configure(
            send_to_logfire=False, console=False, metrics=False, sampling=sampling, inspect_arguments=False,
            additional_span_processors=[_batched(self.recorded)],
        )  # fmt: skip


class LogfireAuto(LogfireInstrument):
    """``logfire.install_auto_tracing(min_duration=0)``, which records no values, and no generators."""

    arguments, result = False, ""
    leaves_out = ("generator",)

    def prepare(self) -> None:
        """Before the import of what it traces."""
        super().prepare()
        self.logfire.install_auto_tracing(modules=["workload"], min_duration=0)

    def attach(self, owner: type, names: Iterable[str]) -> None:
        """It has done that."""


def _scalar(value: object) -> str | int | float:
    """What can be an attribute of a span; JSON of what cannot."""
    if isinstance(value, str | int | float):
        return value
    return "void" if value is None else orjson.dumps(value, default=fields).decode()


def _as_json(span: Any) -> str:
    text: str = span.to_json()
    return text


def _batched(recorded: Recorded) -> Any:
    """A BatchSpanProcessor whose exporter counts spans."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            for span in spans:
                recorded.add(span.name.rpartition(".")[2], "span", span)
            return SpanExportResult.SUCCESS

    return BatchSpanProcessor(Nowhere(), max_queue_size=QUEUE, schedule_delay_millis=FLUSH_SECONDS * 1e3)
