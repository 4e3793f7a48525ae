"""The configuration as frozen structs: every key with its type, default, bounds and meaning.

The launcher reads YAML and hands the result on as JSON (`Resolved`); the traced process only ever decodes that
JSON. This module is imported there, so it imports msgspec and what msgspec has imported anyway, and it does
without ``from __future__ import annotations``: msgspec would have to evaluate every annotation again.
"""

import re
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from flowtrace.errors import ConfigError

ENVIRONMENT_VARIABLE = "FLOWTRACE_RESOLVED"  # holds a `Resolved` as JSON, from the launcher to the traced process
PROJECT_MODULES = "@project"

T = TypeVar("T")
_MAX = 2**63 - 1
_QUANTITY = re.compile(r"([0-9]{1,19})(\.[0-9]{1,9})?\s*([a-zA-Zµμ]+)")


class OptionError(ValueError):
    """One option of a struct cannot be used; raise it in ``__post_init__`` to name the key that is at fault.

    Attributes:
        key: The key, relative to the struct, such as ``max_size`` or ``headers.Authorization``.
    """

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(problem)


class Quantity(int):
    """An int that is written with a unit; `Size` and `Duration` are its kinds."""

    noun: ClassVar[str]
    example: ClassVar[str]
    units: ClassVar[dict[str, int]]

    def __new__(cls, value: str | int) -> Self:
        """Take a text with a unit, or a count of the smallest unit.

        Raises:
            ValueError: it is not such a text, negative or beyond 63 bits.
        """
        count = cls._parse(value) if isinstance(value, str) else value
        if not 0 <= count <= _MAX:
            raise ValueError(f"{value!r} is out of range; write a {cls.noun} such as {cls.example}")
        return super().__new__(cls, count)

    @classmethod
    def decode(cls, value: object) -> Self:
        """Read what stands in a config file: a text with a unit, or 0."""
        if isinstance(value, str) or (value == 0 and type(value) is int):
            return cls(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f"{value!r} has no unit; write a {cls.noun} such as {cls.example}")
        raise ValueError(f"expected a {cls.noun} such as {cls.example}, got {shown(value)}")

    @classmethod
    def _parse(cls, text: str) -> int:
        if text.strip() == "0":
            return 0
        match = _QUANTITY.fullmatch(text.strip())
        scale = cls.units.get(match[3]) if match else None
        if match is None or scale is None:
            units = ", ".join(cls.units)
            raise ValueError(
                f"{shown(text)} is not a {cls.noun}; write a number with a unit such as {cls.example} (units: {units})"
            )
        return int(match[1]) * scale + round(float(match[2] or 0) * scale)

    def __str__(self) -> str:
        """The shortest text that gives this quantity again."""
        texts = (f"{int(self) // scale}{unit}" for unit, scale in self.units.items() if int(self) % scale == 0)
        return min(texts, key=len)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class Size(Quantity):
    """A number of bytes, written as ``64MiB``."""

    noun = "size"
    example = "32MiB"
    units: ClassVar = {
        "B": 1,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "kB": 10**3,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
    }


class Duration(Quantity):
    """A number of nanoseconds, written as ``100ms``."""

    noun = "duration"
    example = "250ms"
    units: ClassVar = {
        "ns": 1,
        "us": 10**3,
        "µs": 10**3,  # U+00B5 MICRO SIGN
        "μs": 10**3,  # U+03BC GREEK SMALL LETTER MU
        "ms": 10**6,
        "s": 10**9,
        "m": 60 * 10**9,
        "h": 3600 * 10**9,
        "d": 86400 * 10**9,
    }

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self / 1e9


def check_range(options: Struct, **bounds: tuple[str, str]) -> None:
    """Hold quantities to bounds, in ``__post_init__``: ``check_range(self, timeout=("1ms", "1h"))``.

    Raises:
        OptionError: a field is below or above its two bounds, which are both allowed values.
    """
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if value is not UNSET and not type(value)(low) <= value <= type(value)(high):
            raise OptionError(name, f"{value} is out of range; write a {value.noun} from {low} to {high}")


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """What the config's structs derive from, and what a plugin should derive the options of its sink from."""


Args = Annotated[bool, Meta(description="Record the arguments of each call.")]
Result = Annotated[bool, Meta(description="Record what each call returns.")]
MaxDepth = Annotated[int, Meta(ge=0, le=32, description="How many levels of nested containers and objects to show.")]
MaxItems = Annotated[int, Meta(ge=0, le=100_000, description="How many items of one container or object to show.")]
MaxString = Annotated[int, Meta(ge=0, le=1_000_000, description="How many characters of one text to show.")]
MaxBytes = Annotated[Size, Meta(description="How large the arguments or the result of one call may become as JSON.")]
Glob = Annotated[str, Meta(min_length=1, max_length=1000)]


class Capture(Options, frozen=True, kw_only=True):
    """What is recorded of the values of a call, and how much of it at most."""

    args: Args = True
    result: Result = True
    max_depth: MaxDepth = 3
    max_items: MaxItems = 32
    max_string: MaxString = 256
    max_bytes: MaxBytes = Size("8KiB")

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

    def __post_init__(self) -> None:
        check_range(self, max_bytes=("64B", "16MiB"))


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

    def __post_init__(self) -> None:
        for name in ("modules", "include", "exclude"):
            for index, glob in enumerate(getattr(self, name)):
                if problem := _glob_problem(glob, project_allowed=name == "modules"):
                    raise OptionError(f"{name}[{index}]", f"{shown(glob)} {problem}")

    def capture_over(self, base: Capture) -> Capture:
        """``base`` with what this rule changes of it."""
        override = {name: value for name, value in msgspec.structs.asdict(self.capture).items() if value is not UNSET}
        return msgspec.structs.replace(base, **override) if override else base


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


class Sampling(Options, frozen=True, kw_only=True):
    """Which traces are recorded; a trace is recorded with all its calls or not at all."""

    rate: Annotated[float, Meta(ge=0, le=1, description="The share of traces that is recorded, from 0.0 to 1.0.")] = 1.0


class Queue(Options, frozen=True, kw_only=True):
    """The queue between the program's threads and the sinks."""

    max_events: Annotated[int, Meta(ge=1, le=2**24, description="How many events may wait.")] = 65536
    max_bytes: Annotated[Size, Meta(description="How large the waiting events may become.")] = Size("32MiB")
    overflow: Annotated[
        Literal["drop", "block"],
        Meta(description="What a call does when the queue is full: be left out and counted, or wait."),
    ] = "drop"
    block_timeout: Annotated[
        Duration, Meta(description="With `overflow: block`, how long a call waits before it is left out after all.")
    ] = Duration("1s")

    def __post_init__(self) -> None:
        check_range(self, max_bytes=("64KiB", "64GiB"), block_timeout=("1ms", "1h"))


class Flush(Options, frozen=True, kw_only=True):
    """When waiting events are handed to the sinks."""

    interval: Annotated[Duration, Meta(description="How long an event waits at most.")] = Duration("100ms")
    shutdown_timeout: Annotated[
        Duration, Meta(description="How long the end of the program is delayed at most, for all sinks together.")
    ] = Duration("2s")

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


class Resolved(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a traced process is told by the launcher.

    Attributes:
        config: The configuration, complete and checked.
        plugins: The plugins to load, as the values of their entry points: ``module`` or ``module:attribute``.
        run: The id of this run, 16 hex digits.
        directory: The absolute directory that relative paths in the config are relative to.
        project: The absolute directory whose modules ``@project`` means.
        quiet: Say nothing on stderr but warnings.
        root_pid: The process id of the launcher, which is that of the program it becomes.
    """

    config: Config
    plugins: tuple[str, ...]
    run: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    directory: str
    project: str
    quiet: bool
    root_pid: int


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


def shown(value: object) -> str:
    """``value`` as it may stand in an error message: short, one line, and no containers."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:56] + "..." + text[:1] * isinstance(value, str)


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
        inner, problem = _explain(error, data, type)
    raise ConfigError(problem, place=place, key=joined(key, inner))


def joined(*keys: str) -> str:
    """Dotted paths put behind each other: ``sinks[0]`` and ``rotate.keep`` are ``sinks[0].rotate.keep``."""
    path = "".join(k if k.startswith("[") else f".{k}" for k in keys if k).removeprefix(".")
    return path if path.isprintable() else repr(path)[1:-1]  # a key may hold anything; errors stay one line


def nearest(word: str, known: "list[str]") -> str:
    """The remedy for an unknown word: the known one it resembles, or all of them."""
    from difflib import get_close_matches  # only ever needed on the way to an error

    match = get_close_matches(word.casefold(), known, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(sorted(known)) or 'none'}"


_NOUNS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def _explain(error: msgspec.ValidationError, data: Any, kind: Any) -> tuple[str, str]:
    """msgspec's one sentence as the key it is about and the problem with it."""
    message, _, where = str(error).rpartition(" - at `") if " - at `" in str(error) else (str(error), "", "")
    key, kinds = "", [kind]
    for name, index in re.findall(r"\.([^.\[`]+)|\[(\d+|\.\.\.)\]", where):
        step: Any = name or (_culprit(data, kinds) if index == "..." else int(index))
        if step is None:
            break  # within a type that only msgspec knows; the key so far must do
        kinds = [inner for outer in kinds for inner in _within(outer, step)]
        data = data[step]
        key = joined(key, f"[{index}]" if isinstance(step, int) else step)
    if isinstance(error.__cause__, OptionError):
        return joined(key, error.__cause__.key), message
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", message, re.DOTALL):
        known = [field.encode_name for outer in kinds for field in _fields(outer)]
        return joined(key, unknown[1]), f"unknown key; {nearest(unknown[1], known)}"
    if missing := re.fullmatch("Object missing required field `(.*)`", message):
        return joined(key, missing[1]), "missing; this key has no default"
    if message.startswith("Invalid enum value"):
        known = [choice for outer in kinds for choice in _choices(outer)]
        return key, f"{shown(data)} is not one of {', '.join(known)}; {nearest(str(data), known)}"
    if wrong := re.fullmatch("Expected `([^`]+)`( .*?)?(, got `.*)?", message):
        nouns = " or ".join(_NOUNS.get(noun, noun) for noun in wrong[1].split(" | "))
        if where.startswith("key`"):
            return key, f"has a key that is not {nouns}{wrong[2] or ''}"
        remedy = "; put it in quotes" if wrong[1] == "str" and isinstance(data, int | float) else ""
        return key, f"expected {nouns}{wrong[2] or ''}, got {shown(data)}{remedy}"
    return key, message


def _culprit(mapping: dict[str, Any], kinds: list[Any]) -> str | None:
    """The key that msgspec calls ``[...]``: the first whose value does not decode."""
    for key, value in mapping.items():
        for kind in [inner for outer in kinds for inner in _within(outer, key)]:
            try:
                msgspec.convert(value, kind, dec_hook=_decode_hook)
            except msgspec.ValidationError:
                return key
    return None


def _flat(kind: Any) -> list[Any]:
    """A type without its annotations; of a union, each of its types."""
    if get_origin(kind) is Annotated:
        return _flat(kind.__origin__)
    if get_origin(kind) in (Union, UnionType):
        return [flat for part in get_args(kind) for flat in _flat(part)]
    return [kind]


def _within(kind: Any, step: str | int) -> list[Any]:
    """The types that may stand at ``step`` inside a value of type ``kind``."""
    fields = [field.type for field in _fields(kind) if field.encode_name == step]
    items = [[part for part in get_args(flat) if part is not ...][-1:] for flat in _flat(kind)]
    return fields or [item for found in items for item in found]


def _fields(kind: Any) -> list[msgspec.structs.FieldInfo]:
    structs = [flat for flat in _flat(kind) if isinstance(flat, type) and issubclass(flat, Struct)]
    return [field for struct in structs for field in msgspec.structs.fields(struct)]


def _choices(kind: Any) -> list[str]:
    return [str(choice) for flat in _flat(kind) if get_origin(flat) is Literal for choice in get_args(flat)]
