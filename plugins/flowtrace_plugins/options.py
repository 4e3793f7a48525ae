"""The options of the built-in sinks: every key with its type, default, bounds and meaning.

As in ``flowtrace.config``, there is no ``from __future__ import annotations``: msgspec would evaluate each again.
"""

import re
from typing import Annotated, Literal

from msgspec import Meta, field

from flowtrace.config import Duration, OptionError, Options, Size, check_range, nearest, shown
from flowtrace_plugins.archive import MAX_KEPT

PLACEHOLDERS = ("service", "pid", "run")
_BRACES = re.compile(r"\{([^{}]*)\}|[{}]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.1: token
_CREDENTIALS = re.compile(r"authorization|cookie|token|secret|password|passwd|api-?key|credential", re.IGNORECASE)


class StdoutOptions(Options, frozen=True, kw_only=True):
    """Writes events to the standard output or the standard error of the program."""

    format: Annotated[
        Literal["json", "pretty"], Meta(description="One JSON object a line, or a call tree for people.")
    ] = "json"
    stream: Annotated[Literal["stdout", "stderr"], Meta(description="Which of the program's streams.")] = "stdout"
    colour: Annotated[
        Literal["auto", "always", "never"],
        Meta(description="Colours in `format: pretty`; auto: on a terminal, unless NO_COLOR says otherwise."),
    ] = "auto"


class Rotate(Options, frozen=True, kw_only=True):
    """When a new file is begun, and what becomes of the old ones."""

    max_size: Annotated[Size, Meta(description="A file that would exceed this is put aside first.")] = Size("64MiB")
    every: Annotated[
        Duration | None,
        Meta(description="So is one last written to before the hour (`1h`), the day (`1d`) and so on began, in UTC."),
    ] = None
    keep: Annotated[int, Meta(ge=1, le=MAX_KEPT, description="How many old files are kept, as `path.1` and so on.")] = 5
    max_age: Annotated[
        Duration | None, Meta(description="Old files that were last written to so long ago are deleted.")
    ] = None
    compress: Annotated[
        Literal["none", "gzip"], Meta(description="How old files are compressed; gzip: to `path.1.gz` and so on.")
    ] = "none"

    def __post_init__(self) -> None:
        check_range(self, max_size=("1KiB", "1024GiB"))
        for name in ("every", "max_age"):
            if getattr(self, name) is not None:
                check_range(self, **{name: ("1s", "3650d")})


class FileOptions(Options, frozen=True, kw_only=True):
    """Appends events to a file, one JSON object a line."""

    path: Annotated[
        str,
        Meta(
            min_length=1,
            description="The file; {service}, {pid} and {run} are filled in, missing directories are made.",
        ),
    ]
    rotate: Annotated[Rotate, Meta(description="When a new file is begun.")] = Rotate()
    fsync: Annotated[
        str,
        Meta(
            description="When written events are forced to the disk: `off`, `always` (after each batch) or a duration"
            " such as `1s` (at most that often). Only a crash of the machine, not of the program, needs more than off."
        ),
    ] = "off"

    def __post_init__(self) -> None:
        for match in _BRACES.finditer(self.path):
            if match[1] not in PLACEHOLDERS:
                hint = nearest(match[1], list(PLACEHOLDERS)) if match[1] else f"known: {', '.join(PLACEHOLDERS)}"
                raise OptionError("path", f"{shown(match[0])} is no placeholder; {hint}")
        if "\0" in self.path:
            raise OptionError("path", "a path cannot hold a NUL character; remove it")
        try:
            self.fsync in ("off", "always") or Duration(self.fsync)
        except ValueError:
            raise OptionError("fsync", f"{shown(self.fsync)} is none of off, always or a duration such as 1s") from None


class HttpBatch(Options, frozen=True, kw_only=True):
    """How many events one request carries."""

    max_size: Annotated[Size, Meta(description="How large a body may become, before compression.")] = Size("1MiB")
    max_wait: Annotated[Duration, Meta(description="How long an event waits for others at most.")] = Duration("1s")

    def __post_init__(self) -> None:
        check_range(self, max_size=("1KiB", "64MiB"), max_wait=("0", "1h"))


class Spool(Options, frozen=True, kw_only=True):
    """Where events wait on disk while the server is away."""

    dir: Annotated[str, Meta(min_length=1, description="The directory; made if missing.")] = ".flowtrace/spool"
    max_size: Annotated[Size, Meta(description="How much may wait; beyond, the oldest is dropped.")] = Size("256MiB")
    max_age: Annotated[Duration, Meta(description="What has waited longer is dropped.")] = Duration("24h")

    def __post_init__(self) -> None:
        check_range(self, max_size=("64KiB", "1024GiB"), max_age=("1s", "365d"))


class HttpOptions(Options, frozen=True, kw_only=True):
    """Posts events to a server as newline-delimited JSON."""

    url: Annotated[str, Meta(min_length=1, description="Where to post to: http:// or https://.")]
    headers: Annotated[dict[str, str], Meta(description="Sent with every request.")] = field(default_factory=dict)
    batch: Annotated[HttpBatch, Meta(description="How many events one request carries.")] = HttpBatch()
    timeout: Annotated[Duration, Meta(description="How long one request may take in all.")] = Duration("5s")
    compression: Annotated[Literal["gzip", "none"], Meta(description="How bodies are compressed.")] = "gzip"
    spool: Annotated[
        Spool | None, Meta(description="Keep events on disk while the server is away; without it they wait in memory.")
    ] = None
    allow_link_local: Annotated[
        bool, Meta(description="Allow addresses such as 169.254.169.254, which clouds serve credentials on.")
    ] = False

    def __post_init__(self) -> None:
        from flowtrace_plugins.endpoint import Endpoint  # only a process with an http sink needs it

        check_range(self, timeout=("1ms", "10m"))
        endpoint = Endpoint.parse(self.url)
        if endpoint.link_local and not self.allow_link_local:
            raise OptionError("url", f"{endpoint.host} is link-local; set allow_link_local: true if that is meant")
        if endpoint.exposes_secrets and endpoint.user_info:
            raise OptionError("url", f"would send a password unencrypted to {endpoint.host}; use https://")
        for name, value in self.headers.items():
            self._check_header(name, value, exposed_to=endpoint.host if endpoint.exposes_secrets else None)

    def _check_header(self, name: str, value: str, *, exposed_to: str | None) -> None:
        if not _HEADER_NAME.fullmatch(name):
            raise OptionError("headers", f"{shown(name)} is no header name; write letters, digits and hyphens")
        if not (value.isascii() and value.isprintable()):
            raise OptionError(f"headers.{name}", "holds a character that no header may hold; write printable ASCII")
        if exposed_to and _CREDENTIALS.search(name):
            raise OptionError(f"headers.{name}", f"would be sent unencrypted to {exposed_to}; use https://")
