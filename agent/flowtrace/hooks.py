"""What a plugin sees of flowtrace: the hook specifications, the Sink protocol and what a sink is given.

pluggy calls these hooks once, at start-up. Events never pass through pluggy: they go to the plain
objects that the factories built, each on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from flowtrace.events import Batch
from flowtrace.typed import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import msgspec  # noqa: F401  # which bounds the options

PROJECT = "flowtrace"

Function = TypeVar("Function", bound=Callable[..., Any])
Options = TypeVar("Options", bound="msgspec.Struct")
OptionsIn = TypeVar("OptionsIn", bound="msgspec.Struct", contravariant=True)


def hookspec(function: Function) -> Function:
    """Mark a hook that plugins may implement, as ``pluggy.HookspecMarker`` does; to import pluggy takes 20 ms."""
    setattr(function, f"{PROJECT}_spec", {})
    return function


def hookimpl(function: Function) -> Function:
    """Mark a function or method of a plugin as its implementation of the hook of that name, as pluggy's marker does."""
    setattr(function, f"{PROJECT}_impl", {})
    return function


class Batching(NamedTuple):
    """How large the batches of a sink should grow; a sink that wants them sets it as its attribute ``batching``.

    It is read once, on the sink's thread, before ``open``.

    Attributes:
        max_bytes: A batch is handed over before its lines exceed this, unless one line alone does.
        max_wait_s: Or when its first event has waited this long, in seconds.
    """

    max_bytes: int
    max_wait_s: float


class Sink(Protocol):
    """Where batches of events go.

    All four methods are called on one thread that belongs to this sink alone, one call at a time, so a sink
    needs no locks and may block: it delays nobody but itself. A method that raises is counted and retried;
    after repeated failures the sink is left out for a while and its events are counted as lost.

    A sink that may be in the midst of a long ``write`` when the process ends, and has somewhere to put what it cannot
    deliver in time, may have a fifth method, ``ending(deadline)``. It is called once, on another thread, when the end
    begins: ``write`` should be over by ``deadline``, in seconds of ``time.monotonic()``. It must return at once:
    ``close`` waits for it.
    """

    def open(self) -> None:
        """Acquire what the sink needs. Called before the first batch, and again until it succeeds."""

    def write(self, batch: Batch) -> None:
        """Deliver one batch. Returning means delivered.

        Raises:
            SinkError: not delivered; with ``retry=False`` the batch is given up at once.
        """

    def flush(self) -> None:
        """Hand on what is buffered. Called when there is nothing to write for now, and each second while that lasts."""

    def close(self, deadline: float) -> None:
        """Release everything by ``deadline``, in seconds of ``time.monotonic()``. Called once, last."""


class SinkContext(NamedTuple):
    """What a sink may know of the process it serves.

    Attributes:
        service: The configured name of the service.
        run: The id of this run, 16 hex digits, shared by all processes of one ``flowtrace-run``.
        pid: The process id.
        directory: The absolute directory that relative paths in the config are relative to.
        warn: Tells the person at the terminal one line; said once per text and process.
        start_thread: Runs a function on a thread of the agent's own: its calls are not recorded, warnings of forks do
            not count it, and the process does not wait for it. Raises RuntimeError where none can be started.
        lost: Counts events that ``write`` had accepted and that are lost after all, such as those of a spool
            that had to make room; called as ``lost(reason, events)``, it leads to a LOSS event.
    """

    service: str
    run: str
    pid: int
    directory: str
    warn: Callable[[str], None]
    lost: Callable[[str, int], None]
    start_thread: Callable[[Callable[[], None]], None]


class SinkFactory(Protocol[OptionsIn]):
    """Builds one sink from its options; must not touch files or the network (``open`` does)."""

    def __call__(self, options: OptionsIn, context: SinkContext, /) -> Sink:
        """The sink that ``options`` describe, for the process of ``context``."""


class RegisterSink(Protocol):
    """What ``flowtrace_register_sinks`` is given."""

    def __call__(self, name: str, factory: SinkFactory[Options], options: type[Options]) -> None:
        """Make ``type: name`` usable under ``sinks`` in the config.

        Args:
            name: The sink's type, lower case.
            factory: Called with the decoded options and a SinkContext each time a process starts or forks.
            options: A struct derived from ``flowtrace.config.Options``; its fields, types and defaults are the sink's
                config keys.
        """


class RegisterValues(Protocol):
    """What ``flowtrace_register_values`` is given."""

    def __call__(self, type: type, describe: Callable[[Any], object]) -> None:
        """Show instances of exactly ``type`` as what ``describe`` returns.

        Args:
            type: The class; subclasses are not included.
            describe: Returns plain data (dict, list, str, int, float, bool, None); redaction and limits still apply.
        """


class Specifications:
    """The hooks a plugin may implement."""

    @hookspec
    def flowtrace_register_sinks(self, register: RegisterSink) -> None:
        """Called once at start-up, before the sinks of the config are built."""

    @hookspec
    def flowtrace_register_values(self, register: RegisterValues) -> None:
        """Called once at start-up, before the first function is traced."""
