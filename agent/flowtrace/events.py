"""Events: the flat records that the recorder queues, and the JSON lines that the sinks receive.

The hot path builds a *record*: a tuple of ints, str, bytes and None, which the garbage collector stops
tracking. The dispatcher joins a record with the static data of its function and makes one JSON line of it.
Field names, order and types of the line are those of the trace format this project started from; what was
added since comes after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

SCHEMA_VERSION = 1

ENTER = 0
EXIT = 1
EXCEPTION = 2
STATEMENT = 3  # START, ATTACH, LIMIT, LOSS and STOP: the fields come ready-made

NO_RESULT = b"null"  # the payload of an EXIT that returns None
NOT_CAPTURED = b""  # the payload where the config says not to capture


class Enter(NamedTuple):
    """The shape of an ENTER record. The span's number is ``seq``. Times are monotonic nanoseconds.

    ``request`` is what a call below no other is about, as a JSON object.
    """

    kind: int
    target: int
    seq: int
    time_ns: int
    thread: int
    task: str | None
    trace: int | str
    parent: int | str | None
    args: bytes
    request: bytes | None = None


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
    """Some events of one process, in the order they were queued; all sinks get the same one, and none can change it.

    It is kept as one piece of memory: batches are what waits where a sink is slow.
    """

    __slots__ = ("_body", "_count", "_id")

    def __init__(self, id: str, lines: Sequence[bytes]) -> None:
        self._id, self._body, self._count = id, b"\n".join([*lines, b""]), len(lines)

    @classmethod
    def joined(cls, id: str, batches: Sequence[Batch]) -> Batch:
        """One batch with the events of several."""
        made = cls(id, ())
        made._body, made._count = b"".join([batch.body for batch in batches]), sum(map(len, batches))
        return made

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Batch {self.id} of {self._count} events>"

    @property
    def id(self) -> str:
        """``<run>-<pid>-<number>``, the same on every try, so that a receiver can drop what it already has."""
        return self._id

    @property
    def body(self) -> bytes:
        """All lines, each ended by a newline."""
        return self._body

    @property
    def lines(self) -> tuple[bytes, ...]:
        """One JSON object each, UTF-8, without the newline."""
        return tuple(self._body.split(b"\n")[:-1])

    def events(self) -> list[dict[str, Any]]:
        """The events as dictionaries, decoded anew on each call: a sink may change them."""
        return [orjson.loads(line) for line in self.lines]


Describe: TypeAlias = Callable[[Any], object]


_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: multiplying by it permutes the 64-bit numbers


class Ids:
    """Span and trace ids as W3C trace context writes them, from the numbers that the recorder counts.

    A span's id is its number, mixed with a random key of its process: unique within it and all but surely across
    processes. A forked child keeps its parent's key for the spans that began before the fork.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._epochs: list[tuple[int, int, str]] = []
        self.begin(0)

    def begin(self, first: int) -> None:
        """From the number ``first`` on, use a new key."""
        key = int.from_bytes(self._random_bytes(16), "big")
        self._epochs.insert(0, (first, key & _MASK, f"{key >> 64 or 1:016x}"))

    def span(self, number: int | str) -> str:
        """16 hex digits; an id that came from elsewhere is given back."""
        if type(number) is str:
            return number
        _, key, _ = self._epoch(int(number))
        return f"{(int(number) * _ODD + key) & _MASK or 1:016x}"

    def trace(self, number: int | str) -> str:
        """32 hex digits; an id that came from elsewhere is given back."""
        return number if type(number) is str else self._epoch(int(number))[2] + self.span(number)

    def _epoch(self, number: int) -> tuple[int, int, str]:
        return next(epoch for epoch in self._epochs if number >= epoch[0])


class Described(NamedTuple):
    """The static data of a target, as the lines show it."""

    module: str
    qualname: str

    @property
    def class_and_function(self) -> tuple[str, str]:
        """The qualified name of the class and the method's name; for a plain function, the module and its name."""
        owner, _, name = self.qualname.rpartition(".")
        if not owner or owner.endswith("<locals>"):
            return self.module, self.qualname
        return owner, name


class Lines:
    """Makes one JSON line of each record.

    Args:
        describe: The static data of the target with this index.
        ids: Turns numbers into ids.
        pid: The process id.
        wall_offset_ns: What to add to a record's monotonic time to get nanoseconds since the epoch.
        values_as_text: Arguments and results as JSON text in a string, as in the original format; else as JSON.
    """

    def __init__(
        self, *, describe: Callable[[int], Described], ids: Ids, pid: int, wall_offset_ns: int, values_as_text: bool
    ) -> None:
        self._describe, self._ids, self._pid = describe, ids, pid
        self._wall_offset_ns = wall_offset_ns
        self._value = _as_text if values_as_text else _as_json
        self._void = b'"void"' if values_as_text else b"null"
        self._static: dict[int, tuple[bytes, bytes]] = {}

    def line(self, record: Record) -> bytes:
        """The JSON object of ``record``, without a newline."""
        kind, target = record[0], record[1]
        millis = self.millis(record[3])
        if kind == STATEMENT:
            fields = b"," + record[5] if record[5] else b""
            head = b'{"timestamp":%d,"event":"%b","thread":"%d"%b' % (millis, target.encode(), record[4], fields)
            return b'%b,"seq":%d,"pid":%d}' % (head, record[2], self._pid)
        head, tail = self._static.get(target) or self._add_static(target)
        _, _, seq, _, thread, task, trace, parent, payload = record[:9]
        if kind == ENTER:
            span = seq
            event, value = b"ENTER", b'"args":' + (self._value(payload) if payload else b"null")
            if record[9]:
                tail = b'%b,"request":%b' % (tail, record[9])
        else:
            _, _, _, _, _, _, _, _, _, span, duration_ns, active_ns, ended = record
            micros = duration_ns // 1000
            event, value = b"EXIT", b'"result":' + self._result(payload)
            if kind == EXCEPTION:
                event, value = b"EXCEPTION", b'"exception":' + payload
            value = b'%b,"durationMicros":%d,"durationMillis":%d' % (value, micros, micros // 1000)
            if active_ns is not None:
                tail = b'%b,"activeMicros":%d' % (tail, active_ns // 1000)
            if ended:
                tail = b'%b,"ended":"%b"' % (tail, ended.encode())
        return b'{"timestamp":%d,"event":"%b","thread":"%d"%b%b%b%b}' % (
            millis, event, thread, head, value, tail, self._place(trace, span, parent, seq, task),
        )  # fmt: skip

    def millis(self, time_ns: int) -> int:
        """A record's monotonic time as milliseconds since the epoch."""
        return (time_ns + self._wall_offset_ns) // 1_000_000

    def _place(self, trace: int | str, span: int, parent: int | str | None, seq: int, task: str | None) -> bytes:
        ids = self._ids
        parent_id = "null" if parent is None else f'"{ids.span(parent)}"'
        place = f',"traceId":"{ids.trace(trace)}","spanId":"{ids.span(span)}","parentId":{parent_id}'
        ending = f',"seq":{seq},"pid":{self._pid}'
        named = b"" if task is None else b',"task":' + json_text(task)
        return place.encode() + ending.encode() + named

    def _result(self, payload: bytes) -> bytes:
        if payload == NO_RESULT:
            return self._void
        return self._value(payload) if payload else b"null"

    def _add_static(self, target: int) -> tuple[bytes, bytes]:
        described = self._describe(target)
        owner, function = described.class_and_function
        head = b',"class":%b,"function":%b,' % (json_text(owner), json_text(function))
        self._static[target] = head, b',"module":' + json_text(described.module)
        return self._static[target]


def json_text(text: str) -> bytes:
    """``text`` as a JSON string; lone surrogates, which UTF-8 cannot hold, are written as escapes in the text."""
    try:
        return orjson.dumps(text)
    except TypeError:
        return orjson.dumps(text.encode("utf-8", "backslashreplace").decode())


def _as_text(payload: bytes) -> bytes:
    return orjson.dumps(payload.decode())


def _as_json(payload: bytes) -> bytes:
    return payload
