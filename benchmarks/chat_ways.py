"""The ways to serve the chat that are compared: how each is started, and what it has recorded when it is over.

All serve the same program with the same options. What goes by HTTP goes to `chat_receiver`, which takes it and forgets.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, cast

import chat_client
import msgspec

if TYPE_CHECKING:
    import chat_load

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/e2e"))

import ledger  # noqa: E402  # audits traces: tests/e2e/ledger.py

BIN = Path(sys.executable).parent
WHOLE_FILE = {"max_size": "100GiB"}  # nothing is rotated away before it is audited


class Failure(Exception):
    """What was to be measured did not happen; the message says what."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a way has recorded while the server ran.

    Attributes:
        records: Calls or spans that arrived.
        window_records: Of these, those that began while the chat was loaded as fast as it goes; None: unknown.
        size: Bytes; of events before they are compressed.
        lost: Calls that are not there and are counted; None: this way does not count them.
    """

    records: int = 0
    window_records: int | None = 0
    size: int = 0
    lost: int | None = 0


class Way:
    """Nothing is traced.

    Args:
        folder: For configuration and traces.
        receiver: Where to post, ``http://127.0.0.1:4711``.
    """

    title: ClassVar[str] = "untraced"
    launcher: ClassVar[tuple[str, ...]] = ()  # program and options
    modules: ClassVar[tuple[str, ...]] = ()  # which have to be installed

    def __init__(self, folder: Path, receiver: str) -> None:
        self.folder, self.receiver = folder, receiver

    @classmethod
    def missing(cls) -> list[str]:
        """What is not installed."""
        programs = [name for name in cls.launcher[:1] if not os.access(BIN / name, os.X_OK)]
        return programs + [name for name in cls.modules if importlib.util.find_spec(name) is None]

    def command(self) -> list[str]:
        """What to put in front of the command."""
        return [str(BIN / self.launcher[0]), *self.launcher[1:]] if self.launcher else []

    def variables(self) -> dict[str, str]:
        """Environment variables."""
        return {}

    def check(self, plan: chat_load.Plan, outcome: chat_load.Outcome) -> Recorded:
        """Look at what was recorded, after the end of the server.

        Raises:
            Failure: it is not what happened.
        """
        return Recorded()


class FlowtraceFile(Way):
    """flowtrace, with its defaults and a file sink."""

    title = "flowtrace to a file"
    launcher = ("flowtrace-run", "--quiet")
    target: ClassVar[dict[str, Any]] = {"modules": ["sample_app", "sample_app.*"]}
    sink = "file"

    def command(self) -> list[str]:
        """With a configuration."""
        path = self.folder / "flowtrace.yaml"
        path.write_text(json.dumps({"service": "chat", "targets": [self.target], "sinks": [self.sink_options()]}))
        return [*super().command(), "--config", str(path)]

    def sink_options(self) -> dict[str, Any]:
        """Where events go."""
        return {"type": "file", "path": f"{self.folder}/{{pid}}.jsonl", "rotate": WHOLE_FILE}

    def trace(self) -> IO[bytes]:
        """The events of the one process, line by line."""
        (path,) = self.folder.glob("*.jsonl")
        return path.open("rb")

    def check(self, plan: chat_load.Plan, outcome: chat_load.Outcome) -> Recorded:
        """Each number is on a line or counted as lost, each message was seen, with what it said."""
        calls = in_window = messages = texts = lost = size = 0
        begin, end = outcome.window
        with self.trace() as lines:
            for line in lines:
                size += len(line)
                if b'"event":"ENTER"' in line[:64]:
                    calls += 1
                    in_window += begin <= int(line[13:26]) <= end  # {"timestamp":1795396500357,
                    messages += b'"function":"find_problem"' in line
                    texts += b'"function":"broadcast_to_room"' in line and chat_client.FILLING in line
                elif b'"event":"LOSS"' in line[:64]:
                    lost += json.loads(line)["calls"]
        found = ledger.audit(self.folder, sink=self.sink, carried=True)
        if not found.accounts or found.found or found.torn:
            raise Failure(f"the trace is not what happened: {[*found.problems, *found.torn][:3]}")
        if not outcome.said - lost <= messages <= outcome.said:
            raise Failure(f"{outcome.said:,} messages were sent, {messages:,} are in the trace, {lost:,} calls lost")
        if plan.connections > plan.rooms and not outcome.said - lost <= texts <= outcome.said:
            raise Failure(f"{outcome.said:,} messages were sent, what {texts:,} said was recorded")
        return Recorded(records=calls, window_records=in_window, size=size, lost=lost)


class FlowtraceFileByMessage(FlowtraceFile):
    """The same without the one function that is called for each recipient."""

    title = "flowtrace to a file, no call per recipient"
    target: ClassVar[dict[str, Any]] = {**FlowtraceFile.target, "exclude": ["ChatService.send_message_to_client"]}


class FlowtraceHttp(FlowtraceFile):
    """flowtrace, with its defaults and an http sink."""

    title = "flowtrace to HTTP"
    sink = "http"

    def sink_options(self) -> dict[str, Any]:
        """Where events go."""
        return {"type": "http", "url": f"{self.receiver}/v1/events"}

    def trace(self) -> IO[bytes]:
        """What was received. Bodies that are compressed one by one are, one behind the other, a file (RFC 1952)."""
        path = self.folder / "received.jsonl.gz"
        path.write_bytes(b"".join(body.read_bytes() for body in sorted(self.folder.glob("*_v1_events"))))
        return cast(IO[bytes], gzip.open(path))


class Spans(Way):
    """A tracer that posts spans: at least one must have come."""

    pattern: ClassVar[str]

    def count(self, body: bytes) -> int:
        """The spans in a body."""
        raise NotImplementedError

    def check(self, plan: chat_load.Plan, outcome: chat_load.Outcome) -> Recorded:
        """Count what was received; what was not, these ways do not tell."""
        bodies = [path.read_bytes() for path in self.folder.glob(self.pattern)]
        spans = sum(map(self.count, bodies))
        if not spans:
            raise Failure(f"{self.title} has sent no spans")
        return Recorded(records=spans, window_records=None, size=sum(map(len, bodies)), lost=None)


class OpenTelemetry(Spans):
    """Its automatic instrumentation of FastAPI, with its defaults, to a collector by OTLP."""

    title = "opentelemetry-instrument"
    launcher = ("opentelemetry-instrument",)
    modules = ("opentelemetry.instrumentation.fastapi", "opentelemetry.exporter.otlp.proto.http")
    pattern = "*_v1_traces"

    def variables(self) -> dict[str, str]:
        """Traces only."""
        return {
            "OTEL_SERVICE_NAME": "chat",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver,
        }

    def count(self, body: bytes) -> int:
        """OTLP, as protobuf (https://opentelemetry.io/docs/specs/otlp/)."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(body)
        return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


class Ddtrace(Spans):
    """Its automatic instrumentation of FastAPI, with its defaults, to an agent."""

    title = "ddtrace-run"
    launcher = ("ddtrace-run",)
    modules = ("ddtrace",)
    pattern = "*_traces"

    def variables(self) -> dict[str, str]:
        """Traces only, in the format that is counted below."""
        return {
            "DD_SERVICE": "chat",
            "DD_TRACE_AGENT_URL": self.receiver,
            "DD_TRACE_API_VERSION": "v0.4",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        }

    def count(self, body: bytes) -> int:
        """Traces as lists of spans, as MessagePack."""
        return sum(map(len, msgspec.msgpack.decode(body)))


WAYS: dict[str, type[Way]] = {
    "untraced": Way,
    "file": FlowtraceFile,
    "file-by-message": FlowtraceFileByMessage,
    "http": FlowtraceHttp,
    "opentelemetry": OpenTelemetry,
    "ddtrace": Ddtrace,
}
