"""Events: the flat records that the recorder queues, and the JSON lines that the sinks receive.

The hot path builds a *record*: a tuple of ints, str, bytes and None, which the garbage collector stops
tracking. The dispatcher joins a record with the static data of its function and makes one JSON line of it.
Field names, order and types of the line are those of the trace format this project started from; what was
added since comes after them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

SCHEMA_VERSION = 1

ENTER = 0
EXIT = 1
EXCEPTION = 2
STATEMENT = 3  # START, ATTACH, LOSS and STOP: the fields come ready-made

NO_RESULT = b"null"  # the payload of an EXIT that returns None
NOT_CAPTURED = b""  # the payload where the config says not to capture


class Enter(NamedTuple):
    """The shape of an ENTER record. The span's number is ``seq``. Times are monotonic nanoseconds."""

    kind: int
    target: int
    seq: int
    time_ns: int
    thread: int
    task: str | None
    trace: int | str
    parent: int | str | None
    args: bytes


class Leave(NamedTuple):
    """The shape of an EXIT and of an EXCEPTION record; ``payload`` is the result or the exception as JSON."""

    kind: int
    target: int
    seq: int
    time_ns: int
    thread: int
    task: str | None
    trace: int | str
    parent: int | str | None
    payload: bytes
    span: int
    duration_ns: int
    active_ns: int | None
    ended: str | None


class Statement(NamedTuple):
    """The shape of the agent's own events: ``fields`` is the JSON between ``timestamp, event, thread`` and ``seq``."""

    kind: int
    name: str
    seq: int
    time_ns: int
    thread: int
    fields: bytes


Record: TypeAlias = tuple[Any, ...]


class Batch:
    """Some events of one process, in the order they were queued.

    Attributes:
        id: ``<run>-<pid>-<number>``, the same on every try, so that a receiver can drop what it already has.
        lines: One JSON object each, UTF-8, without the newline.
    """

    __slots__ = ("__dict__", "id", "lines")

    def __init__(self, id: str, lines: Sequence[bytes]) -> None:
        self.id = id
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return f"<Batch {self.id} of {len(self.lines)} events>"

    @functools.cached_property
    def body(self) -> bytes:
        """All lines, each ended by a newline; joined once, however many sinks ask."""
        return b"\n".join([*self.lines, b""])

    def events(self) -> list[dict[str, Any]]:
        """The events as dictionaries, decoded anew on each call: a sink may change them."""
        return [orjson.loads(line) for line in self.lines]


Describe: TypeAlias = Callable[[Any], object]
