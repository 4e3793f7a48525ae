"""The configuration as frozen structs: every key with its type, default, bounds and meaning.

The launcher reads YAML and hands the result on as JSON (`handed_on`). The traced process reads that by
`flowtrace.settings`, and imports this module only for a plugin's sinks. There is no
``from __future__ import annotations`` here: msgspec would have to evaluate every annotation again.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from flowtrace.errors import ConfigError
from flowtrace.explanations import OptionError, explain, joined, nearest, shown
from flowtrace.quantities import Duration, Quantity, Size, check_range

__all__ = [  # with what plugins need for the options of their sinks, wherever it is defined
    "PROJECT_MODULES", "Capture", "CaptureOverride", "Config", "Duration", "Flush",
    "OptionError", "Options", "Quantity", "Queue", "Ready", "Redact", "Resolved", "Rule", "Sampling", "Size", "Started",
    "check_range", "decode", "from_json", "handed_on", "joined", "nearest", "plain", "shown", "to_json",
]  # fmt: skip

PROJECT_MODULES = "@project"

T = TypeVar("T")


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """What the config's structs derive from, and what a plugin should derive the options of its sink from."""


Args = Annotated[bool, Meta(description="Record the arguments of each call.")]
Result = Annotated[bool, Meta(description="Record what each call returns.")]
MaxDepth = Annotated[int, Meta(ge=0, le=32, description="How many levels of nested containers and objects to show.")]
MaxItems = Annotated[int, Meta(ge=0, le=100_000, description="How many items of one container or object to show.")]
MaxString = Annotated[int, Meta(ge=0, le=1_000_000, description="How many characters of one text to show.")]
MaxBytes = Annotated[Size, Meta(description="How large the arguments or the result of one call may become as JSON.")]
MarkDefaults = Annotated[bool, Meta(description="Name the arguments that have their default value, as '@defaults'.")]
Glob = Annotated[str, Meta(min_length=1, max_length=1000)]


class Capture(Options, frozen=True, kw_only=True):
    """What is recorded of the values of a call, and how much of it at most."""

    args: Args = True
    result: Result = True
    max_depth: MaxDepth = 3
    max_items: MaxItems = 32
    max_string: MaxString = 256
    max_bytes: MaxBytes = Size("8KiB")
    mark_defaults: MarkDefaults = False

    def __post_init__(self) -> None:
        check_range(self, max_bytes=("64B", "16MiB"))


class CaptureOverride(Options, frozen=True, kw_only=True, omit_defaults=True):
    """What a rule changes of `capture` for its functions; what is absent stays."""

    args: Args | UnsetType = UNSET
    result: Result | UnsetType = UNSET
    max_depth: MaxDepth | UnsetType = UNSET
    max_items: MaxItems | UnsetType = UNSET
    max_string: MaxString | UnsetType = UNSET
    max_bytes: MaxBytes | UnsetType = UNSET
    mark_defaults: MarkDefaults | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_range(self, max_bytes=("64B", "16MiB"))


Rate = Annotated[float, Meta(ge=0, le=1, description="The share of traces that is recorded, from 0.0 to 1.0.")]


class Sampling(Options, frozen=True, kw_only=True):
    """Which traces are recorded; a trace is recorded with all its calls or not at all."""

    rate: Rate = 1.0


class RuleSampling(Options, frozen=True, kw_only=True):
    """What a rule changes of `sampling` for its functions, and how often each of them is recorded at most."""

    rate: Annotated[
        Rate | None, Meta(description="The share that is recorded of the traces that begin with such a function.")
    ] = None
    max_per_second: Annotated[
        Annotated[int, Meta(ge=1, le=2**31)] | None,
        Meta(description="How many calls of each function are recorded in a second; those beyond are counted only."),
    ] = None


class Rule(Options, frozen=True, kw_only=True):
    """Which functions are traced; the first rule that matches a function decides."""

    modules: Annotated[
        tuple[Glob, ...],
        Meta(
            min_length=1,
            description="Globs on dotted module names, or '@project': every module whose file is below the working"
            " directory, environments excepted.",
        ),
    ]
    include: Annotated[
        tuple[Glob, ...], Meta(description="Globs on qualified names of functions, such as 'ChatService.*'.")
    ] = ("*",)
    exclude: Annotated[
        tuple[Glob, ...], Meta(description="Globs on qualified names of functions that are left alone after all.")
    ] = ()
    capture: Annotated[
        CaptureOverride, Meta(description="What differs from the general `capture` for these functions.")
    ] = CaptureOverride()
    sampling: Annotated[
        RuleSampling, Meta(description="What differs from the general `sampling` for these functions.")
    ] = RuleSampling()

    def __post_init__(self) -> None:
        for name in ("modules", "include", "exclude"):
            for index, glob in enumerate(getattr(self, name)):
                if problem := _glob_problem(glob, project_allowed=name == "modules"):
                    raise OptionError(f"{name}[{index}]", f"{shown(glob)} {problem}")


_NAME_GLOB = re.compile(r"[^\s/\\.@]+(\.[^\s/\\.@]+)*")


def _glob_problem(glob: str, *, project_allowed: bool) -> str | None:
    if glob == PROJECT_MODULES and project_allowed:
        return None
    if glob.startswith("@"):
        return f"is no module; did you mean '{PROJECT_MODULES}'?" if project_allowed else "is no name of a function"
    if not _NAME_GLOB.fullmatch(glob):
        return "is not a dotted name; write one such as 'package.module' or 'package.*'"
    return None


class Redact(Options, frozen=True, kw_only=True):
    """Which values are replaced by a marker before they leave the calling thread."""

    names: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=1000)], ...],
        Meta(
            description="Names of arguments, attributes and keys whose values are redacted, beside the usual ones;"
            " case, - and _ do not count, * stands for anything."
        ),
    ] = ()
    patterns: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=1000)], ...],
        Meta(description="Regular expressions; the part of a text that matches is redacted."),
    ] = ()
    defaults: Annotated[
        bool, Meta(description="Redact also the usual names (password, token, ...) and kinds of secrets.")
    ] = True


class Keep(Options, frozen=True, kw_only=True):
    """Which recorded traces are delivered, decided when they have ended. They wait in memory until then."""

    slower_than: Annotated[
        Duration | None, Meta(description="Deliver a trace that took longer. Without it, time is no reason.")
    ] = None
    errors: Annotated[bool, Meta(description="Deliver a trace in which a call has raised an exception.")] = True
    max_wait: Annotated[Duration, Meta(description="What has not ended after this time is decided part by part.")] = (
        Duration("10s")
    )
    max_bytes: Annotated[Size, Meta(description="How much may wait; beyond, the oldest is decided part by part.")] = (
        Size("16MiB")
    )

    def __post_init__(self) -> None:
        ranges = {"max_wait": ("10ms", "1h"), "max_bytes": ("64KiB", "64GiB")}
        if self.slower_than is not None:
            ranges["slower_than"] = ("0", "1d")
        check_range(self, **ranges)


class Propagation(Options, frozen=True, kw_only=True):
    """How traces are connected with those of other processes: W3C trace context."""

    accept: Annotated[
        bool, Meta(description="Continue the trace of a request's `traceparent`, and of the variable TRACEPARENT.")
    ] = True
    send: Annotated[
        bool, Meta(description="Give `traceparent` to outgoing HTTP requests, and TRACEPARENT to other programs.")
    ] = True


class Queue(Options, frozen=True, kw_only=True):
    """The queue between the program's threads and the sinks."""

    max_events: Annotated[int, Meta(ge=1, le=2**24, description="How many events may wait.")] = 65536
    max_bytes: Annotated[Size, Meta(description="How large the waiting events may become.")] = Size("32MiB")
    overflow: Annotated[
        Literal["drop", "block"],
        Meta(description="What a call does when the queue is full: be left out and counted, or wait."),
    ] = "drop"
    block_timeout: Annotated[
        Duration,
        Meta(description="With `overflow: block`, how long no sink may take anything before calls are left out."),
    ] = Duration("10s")

    def __post_init__(self) -> None:
        check_range(self, max_bytes=("64KiB", "64GiB"), block_timeout=("1ms", "1h"))


class Flush(Options, frozen=True, kw_only=True):
    """When waiting events are handed to the sinks."""

    interval: Annotated[Duration, Meta(description="How long an event waits at most.")] = Duration("100ms")
    shutdown_timeout: Annotated[
        Duration, Meta(description="How long the end of the program is delayed at most, for all sinks together.")
    ] = Duration("2s")

    hard_exits: Annotated[
        bool, Meta(description="Deliver before `os._exit` and `os.exec*` as well; these functions are replaced for it.")
    ] = False

    def __post_init__(self) -> None:
        check_range(self, interval=("1ms", "1h"), shutdown_timeout=("0", "1h"))


class Config(Options, frozen=True, kw_only=True):
    """What to trace in a program and where to send it.

    The options of ``sinks`` stay as they are written: the plugin that registers a sink type knows them.
    """

    service: Annotated[
        str, Meta(description="The name of the program in the events. Without it, that of the working directory.")
    ] = "python"
    targets: Annotated[
        tuple[Rule, ...], Meta(min_length=1, description="Which functions are traced; the first rule that fits counts.")
    ] = (Rule(modules=(PROJECT_MODULES,)),)
    capture: Annotated[Capture, Meta(description="What is recorded of arguments and results.")] = Capture()
    redact: Annotated[Redact, Meta(description="What is hidden of them.")] = Redact()
    sampling: Annotated[Sampling, Meta(description="Which traces are recorded.")] = Sampling()
    keep: Annotated[
        Keep | None, Meta(description="Which of them are delivered, by how they went; without it, all are.")
    ] = None
    propagation: Annotated[Propagation, Meta(description="How traces go on in other processes.")] = Propagation()
    queue: Annotated[Queue, Meta(description="How much may wait, and what happens beyond.")] = Queue()
    flush: Annotated[Flush, Meta(description="When waiting events are sent on.")] = Flush()
    sinks: Annotated[
        tuple[dict[str, Any], ...], Meta(description="Where events go: a `type` and the options of that type each.")
    ] = ({"type": "stdout", "format": "pretty", "stream": "stderr"},)
    values: Annotated[
        Literal["text", "object"], Meta(description="Write `args` and `result` as JSON text in a string or as JSON.")
    ] = "text"

    def __post_init__(self) -> None:
        if not self.service.isprintable() or not 0 < len(self.service) <= 255 or {*self.service} & {"/", "\\"}:
            raise OptionError("service", f"{shown(self.service)} is no name; write a printable one without slashes")


class Ready(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sink that a process can build without its plugin being loaded there, as the launcher has checked all of it.

    Attributes:
        factory: What builds it, as ``module:name``.
        options: Its options as `plain` data, complete.
    """

    factory: str
    options: dict[str, Any]


class Resolved(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that the launcher finds out for a traced process.

    Attributes:
        config: The configuration, complete and checked.
        plugins: The plugins to load, as the values of their entry points: ``module`` or ``module:attribute``.
        ready: For each sink of the configuration how to build it, or None where one of the plugins does.
        directory: The absolute directory that relative paths in the config are relative to.
        project: The absolute directory whose modules ``@project`` means.
        file: The configuration file that was named, absolute; None where it was looked for.
        sets: What ``--set`` has set, for a reload.
    """

    config: Config
    plugins: tuple[str, ...]
    ready: tuple[Ready | None, ...]
    directory: str
    project: str
    file: str | None = None
    sets: tuple[str, ...] = ()


class Started(Resolved, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a traced process is told: the same, and what differs from run to run.

    Attributes:
        run: The id of this run, 16 hex digits.
        quiet: Say nothing on stderr but warnings.
        root_pid: The process id of the launcher, which is that of the program it becomes.
    """

    run: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    quiet: bool
    root_pid: int


def plain(value: object) -> Any:
    """A struct as `flowtrace.settings` reads it from JSON: quantities become numbers, of the smallest unit.

    What a struct's user may name as he likes, such as headers, becomes pairs: the names of objects are attributes.
    """
    if isinstance(value, Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: plain(inner) for name, inner in fields.items() if inner is not UNSET}
    if isinstance(value, dict):
        return [[name, plain(inner)] for name, inner in value.items()]
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    return int(value) if isinstance(value, Quantity) else value


def handed_on(resolved: Resolved) -> str:
    """The JSON for the traced process."""
    ready = [{"factory": each.factory, "options": each.options} if each else None for each in resolved.ready]
    sinks = [{"type": spec["type"]} if each else spec for spec, each in zip(resolved.config.sinks, ready, strict=True)]
    config = plain(resolved.config) | {"sinks": sinks}
    return msgspec.json.encode(plain(resolved) | {"config": config, "ready": ready}).decode()


def to_json(value: Struct) -> bytes:
    """Encode a `Config`, a `Resolved` or any other options; quantities become text with a unit."""
    return msgspec.json.encode(value, enc_hook=str)


def from_json(data: bytes | str, type: type[T] = Config) -> T:  # type: ignore[assignment]  # a default for T: PEP 696
    """Decode what `to_json` wrote.

    Raises:
        msgspec.MsgspecError: it is not JSON, or not of this type.
    """
    return msgspec.json.decode(data, type=type, dec_hook=_decode_hook)


def _decode_hook(kind: type, value: object) -> object:
    if issubclass(kind, Quantity):
        return kind.decode(value)
    raise NotImplementedError(f"flowtrace cannot read options of type {kind.__name__}")


def decode(data: object, type: type[T], *, place: str = "", key: str = "") -> T:
    """Turn plain data into a struct.

    Args:
        data: What YAML or JSON gave.
        type: The struct.
        place: The file it comes from, for the error.
        key: The path of the key it stands under, for the error.

    Raises:
        ConfigError: it does not fit; names the exact key and what to write there.
    """
    try:
        return msgspec.convert(data, type, dec_hook=_decode_hook)
    except msgspec.ValidationError as error:
        inner, problem = explain(error, data, type, dec_hook=_decode_hook)
    raise ConfigError(problem, place=place, key=joined(key, inner))
