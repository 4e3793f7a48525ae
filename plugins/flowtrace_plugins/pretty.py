"""The call tree that people read: events in, text out.

Each asyncio task and each thread has a lane of its own: a colour, a label in the gutter where the lane changes, and
its own indentation. A call is one line where its end is in the same batch and nothing was called in between;
otherwise it opens with ┌ and closes with └. Nothing waits for a later batch, so that what runs for hours is seen when
it begins.

    10:30:05.120 Task-7     ┌ ChatService.join(room_id='general')
                            │ · ChatRoomManager.increment_user_count(room_id='general') → 1  4 µs
                            └ join  88 µs
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

from flowtrace_plugins import notices
from flowtrace_plugins.line import Line, Piece, clip_start, duration, lane_style, painted
from flowtrace_plugins.literal import ELLIPSIS, cells, clip, escaped, literal

Event: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[int, str]  # process id and span id

MAX_OPEN_CALLS = 10_000  # remembered to indent what lies below them and to close them
SLOW_MICROS, VERY_SLOW_MICROS = 100_000, 1_000_000
_TIME_CELLS, _LABEL_CELLS = 12, 10
_MAX_GUIDES = 16
_FAR_LINES, _REMINDER_CELLS = 30, 60  # a call that closes this far below its opening shows its arguments again
_CANCELLED = {"CancelledError", "GeneratorExit"}


class Open(NamedTuple):
    """A call that has been shown opening."""

    lane: str
    depth: int
    name: str
    arguments: str
    line: int


class Tree:
    """Renders events as a call tree.

    Args:
        width: The columns of the terminal; may be set anew at any time.
        colour: Whether to write ANSI colours.
        show_pid: Whether to show the process id beside each label.
        utc: Show times in UTC instead of local time.
    """

    def __init__(self, *, width: int = 120, colour: bool = False, show_pid: bool = False, utc: bool = False) -> None:
        self.width = width
        self._colour, self._show_pid = colour, show_pid
        self._split_time = time.gmtime if utc else time.localtime
        self._open: dict[Key, Open] = {}
        self._raised: dict[str, tuple[str, str]] = {}  # by lane, what its last call raised
        self._last_time = (-1, -1)
        self._last_lane: str | None = None
        self._lines = 0
        self._values_are_text = True

    def render(self, events: Sequence[Event]) -> str:
        """The lines for the events of one batch, each ended by a newline; in the order of the events."""
        ends = _ends_of_leaves(events)
        attached: list[Event] = []
        lines: list[str] = []
        for event in events:
            kind = event.get("event")
            if kind == "ATTACH":
                attached.append(event)
                continue
            lines += self._notice(attached)
            attached.clear()
            if kind == "ENTER":
                lines.append(self._enter(event, ends.get(_key(event))))
            elif kind in ("EXIT", "EXCEPTION"):
                if _key(event) not in ends:
                    lines.append(self._leave(event))
            else:
                lines += self._notice([event])
        lines += self._notice(attached)
        self._forget()
        return "".join(lines)

    def _enter(self, event: Event, end: Event | None) -> str:
        """One line for a call: all of it where its end is known, else its beginning."""
        lane = _lane(event)
        self._values_are_text = not isinstance(event.get("args"), dict)
        parent = self._open.get((event.get("pid", 0), event.get("parentId") or ""))
        depth = parent.depth + 1 if parent and parent.lane == lane else 0
        call = Line()
        if parent and parent.lane != lane:
            call.put("quiet", f"{parent.name} ▸ ")
        if request := _request(event.get("request")):
            call.put("quiet", f"{request} ▸ ")
        owner, name = _names(event)
        call.put("plain", f"{owner}." if owner else "")
        call.put("name", name)
        self._put_arguments(call, event.get("args"))
        if end is None:
            arguments = clip(call.text_from(f"{name}(").removeprefix(name), _REMINDER_CELLS)
            self._open[_key(event)] = Open(lane, depth, name, arguments, self._lines)
            return self._line(event, lane, depth, "┌ ", call)
        self._put_outcome(call, end, lane)
        return self._line(event, lane, depth, "· ", call)

    def _leave(self, event: Event) -> str:
        """The line that closes a call; the name again, as other lines may stand in between."""
        lane = _lane(event)
        opened = self._open.pop(_key(event), None)
        call = Line()
        call.put("quiet", opened.name if opened else ".".join(filter(None, _names(event))))
        if opened and self._lines - opened.line > _FAR_LINES:
            call.put("quiet", opened.arguments, flexible=True)
        self._put_outcome(call, event, lane)
        return self._line(event, lane, opened.depth if opened else 0, "└ ", call)

    def _put_arguments(self, call: Line, args: object) -> None:
        if args is None:  # not captured
            call.put("plain", f"({ELLIPSIS})")
            return
        call.put("plain", "(")
        values = self._decoded(args)
        named = values.items() if isinstance(values, dict) else [("", values)]
        for number, (name, value) in enumerate(named):
            call.put("quiet", ", " * (number > 0) + (f"{escaped(name)}=" if name else ""))
            call.put("plain", literal(value), flexible=True)
        call.put("plain", ")")

    def _put_outcome(self, call: Line, event: Event, lane: str) -> None:
        """The result or the exception, and how long it took."""
        if event["event"] == "EXCEPTION":
            self._put_exception(call, event.get("exception") or {}, lane)
        else:
            self._raised.pop(lane, None)
            result = event.get("result")
            if result is not None and not (self._values_are_text and result == "void"):
                call.put("quiet", " → ")
                call.put("plain", literal(self._decoded(result)), flexible=True)
        if ended := event.get("ended"):
            call.put("quiet", f" {escaped(str(ended))}" if ended != "returned" else "")
        micros, active = event.get("durationMicros"), event.get("activeMicros")
        if micros is not None:
            busy = micros if active is None else active
            call.tail.append((_slowness(busy), f"  {duration(micros)}"))
            if active is not None and micros >= 1000 and active * 2 < micros:
                call.tail.append(("quiet", f" ({duration(active)} active)"))

    def _put_exception(self, call: Line, exception: Event, lane: str) -> None:
        """Type, message and place; on its way up through the callers, only the type."""
        name = escaped(str(exception.get("type") or "?")).rpartition(".")[2]
        message = escaped(str(exception.get("message") or ""))
        passed_on = self._raised.get(lane) == (name, message)
        self._raised[lane] = (name, message)
        if name in _CANCELLED:
            call.put("quiet", f" ✗ {name}")
            return
        call.put("error", " ✗ ")
        call.put("error name", name)
        if passed_on:
            return
        if message:
            call.put("error", ": ")
            call.put("error", message, flexible=True)
        if at := exception.get("at"):
            call.put("quiet", f" at {escaped(str(at))}")

    def _decoded(self, value: object) -> object:
        if not (self._values_are_text and isinstance(value, str)):
            return value
        try:
            return orjson.loads(value)
        except ValueError:
            return value

    def _line(self, event: Event, lane: str, depth: int, bracket: str, call: Line) -> str:
        gutter = self._gutter(event, lane)
        hidden = max(0, depth - _MAX_GUIDES)
        guides = (f"{ELLIPSIS}{hidden} " if hidden else "") + "│ " * (depth - hidden)
        lead = [*gutter, (lane_style(lane), guides + bracket)]
        room = self.width - sum(cells(text) for _, text in lead)
        return self._paint([*lead, *call.fitted(room)])

    def _notice(self, events: list[Event]) -> list[str]:
        """Lines for the agent's own events."""
        if not events:
            return []
        lines = []
        for style, text in notices.describe(events):
            lead = self._gutter(events[0], None)
            room = self.width - sum(cells(text) for _, text in lead)
            lines.append(self._paint([*lead, (style, clip(escaped(text), room))]))
        return lines

    def _gutter(self, event: Event, lane: str | None) -> list[Piece]:
        """Time and label, each only where it differs from the line above."""
        label, width = "", _LABEL_CELLS
        if self._show_pid:
            label = f"{event.get('pid', '')} "
            width += len(label)
        label += _label(event) if lane else ""
        changed = lane is None or lane != self._last_lane
        self._last_lane = lane
        shown = clip_start(label, width) if changed else ""
        return [
            ("quiet", f"{self._time(event.get('timestamp') or 0):>{_TIME_CELLS}} "),
            (lane_style(lane) if lane else "quiet", shown + " " * (width - cells(shown)) + " "),
        ]

    def _time(self, millis: int) -> str:
        """The time of day where the second changed, the milliseconds where they changed, or nothing."""
        second, millisecond = divmod(int(millis), 1000)
        last, self._last_time = self._last_time, (second, millisecond)
        if last == self._last_time:
            return ""
        if second == last[0]:
            return f".{millisecond:03}"
        return time.strftime("%H:%M:%S", self._split_time(second)) + f".{millisecond:03}"

    def _paint(self, pieces: Iterable[Piece]) -> str:
        self._lines += 1
        return painted(pieces, colour=self._colour)

    def _forget(self) -> None:
        while len(self._open) > MAX_OPEN_CALLS:
            del self._open[next(iter(self._open))]
        while len(self._raised) > MAX_OPEN_CALLS:
            del self._raised[next(iter(self._raised))]


def _ends_of_leaves(events: Sequence[Event]) -> dict[Key, Event]:
    """The ends, by span, of the calls that begin and end in this batch and call nothing in it."""
    begun: set[Key] = set()
    parents: set[Key] = set()
    ends: dict[Key, Event] = {}
    for event in events:
        kind = event.get("event")
        if kind == "ENTER":
            begun.add(_key(event))
            parents.add((event.get("pid", 0), event.get("parentId") or ""))
        elif kind in ("EXIT", "EXCEPTION") and _key(event) in begun:
            ends[_key(event)] = event
    return {key: end for key, end in ends.items() if key not in parents}


def _key(event: Event) -> Key:
    return event.get("pid", 0), event.get("spanId") or ""


def _lane(event: Event) -> str:
    return f"{event.get('pid')}/{event.get('task') or event.get('thread')}"


def _label(event: Event) -> str:
    task, thread = event.get("task"), str(event.get("thread") or "")
    if task:
        return escaped(str(task))
    return "main" if thread == str(event.get("pid")) else f"th-{escaped(thread)}"


def _names(event: Event) -> tuple[str, str]:
    """The class, or for a plain function the last part of its module's name; and the function."""
    owner, name = str(event.get("class") or ""), str(event.get("function") or "?")
    if owner == event.get("module"):
        owner = owner.rpartition(".")[2]
    return escaped(owner), escaped(name)


def _request(request: object) -> str:
    """The method, or the protocol where there is none, and the route: ``GET /rooms/{room_id}``."""
    if not isinstance(request, dict):
        return ""
    parts = [request.get("method") or request.get("protocol"), request.get("route")]
    return clip(escaped(" ".join(str(part) for part in parts if part)), _REMINDER_CELLS)


def _slowness(micros: int) -> str:
    if micros >= VERY_SLOW_MICROS:
        return "very slow"
    return "slow" if micros >= SLOW_MICROS else "quiet"
