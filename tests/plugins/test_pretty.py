"""The call tree: what people see of the events."""

from __future__ import annotations

import itertools
import re
from typing import Any

import orjson
import pytest

from flowtrace_plugins import pretty
from flowtrace_plugins.literal import cells
from flowtrace_plugins.pretty import Tree

T0 = 1705314600000  # 10:30:00 UTC
GUTTER = 24


class Program:
    """Makes the events of a program that calls functions in some tasks of process 4242."""

    def __init__(self) -> None:
        self.millis = 0
        self._ids = itertools.count(1)
        self._stacks: dict[str, list[dict[str, Any]]] = {}

    def enter(self, task: str, name: str, parent: str | None = None, /, **args: object) -> dict[str, Any]:
        """A call begins; below the one that the task is in, unless a parent is named."""
        owner, _, function = name.rpartition(".")
        stack = self._stacks.setdefault(task, [])
        call: dict[str, Any] = {"class": owner, "function": function, "module": "app.chat"}
        call |= {"pid": 4242, "thread": "4242", "task": task, "spanId": f"{next(self._ids):016x}"}
        call["parentId"] = parent or (stack[-1]["spanId"] if stack else None)
        stack.append(call)
        return {"timestamp": T0 + self.millis, "event": "ENTER", "args": orjson.dumps(args).decode()} | call

    def leave(self, task: str, result: str = "void", micros: int = 5, **fields: object) -> dict[str, Any]:
        """The innermost call of a task returns."""
        times = {"durationMicros": micros, "durationMillis": micros // 1000}
        end = {"timestamp": T0 + self.millis, "event": "EXIT", "result": result} | times
        return end | self._stacks[task].pop() | fields

    def fail(self, task: str, type: str, message: str, micros: int = 5) -> dict[str, Any]:
        """The innermost call of a task raises."""
        event = self.leave(task, micros=micros)
        del event["result"]
        exception = {"type": type, "message": message, "at": "store.py:31"}
        return event | {"event": "EXCEPTION", "exception": exception}


@pytest.fixture
def program() -> Program:
    """A program that has called nothing yet."""
    return Program()


def tree(**options: Any) -> Tree:
    """A tree that shows times in UTC."""
    return Tree(utc=True, **options)


def trimmed(text: str) -> list[str]:
    """The lines without their gutters."""
    return [line[GUTTER:] for line in text.splitlines()]


def test_sample(program: Program) -> None:
    """A chat with two tasks, a long-lived call, a failure and a value too long for its line."""
    p = program
    first = [
        p.enter("Task-7", "ChatService.handle", room_id="general", username="Alice"),
        p.enter("Task-7", "ChatService.join", room_id="general"),
        p.enter("Task-7", "ChatRoomManager.increment", room_id="general"),
        p.leave("Task-7", "1", 4),
        p.leave("Task-7", orjson.dumps({"@type": "app.Connection", "user": "Alice"}).decode(), 88),
    ]
    p.millis = 1204
    second = [
        p.enter("Task-12", "app.chat.broadcast", text="x" * 200),
        p.enter("Task-7", "Store.get", key="nope"),
        p.fail("Task-7", "KeyError", "'nope'", 6),
    ]
    p.millis = 1356
    second += [p.leave("Task-12", micros=152_000, activeMicros=300)]
    p.millis = 7_384_000
    third = [p.fail("Task-7", "KeyError", "'nope'", 7_384_000_000)]
    shown = tree(width=100)

    text = "".join(map(shown.render, (first, second, third)))

    assert text == (
        """\
10:30:00.000 Task-7     ┌ ChatService.handle(room_id='general', username='Alice')
                        │ ┌ ChatService.join(room_id='general')
                        │ │ · ChatRoomManager.increment(room_id='general') → 1  4 µs
                        │ └ join → Connection(user='Alice')  88 µs
10:30:01.204 Task-12    · chat.broadcast(text='xxxxxxxxxxxxxxxxxxxxxxxxxx…')  152 ms (300 µs active)
             Task-7     │ · Store.get(key='nope') ✗ KeyError: 'nope' at store.py:31  6 µs
12:33:04.000            └ handle ✗ KeyError  2 h 03 m
"""
    )


def test_leaf_is_one_line(program: Program) -> None:
    """A call that calls nothing takes one line with arguments, result and time."""
    events = [program.enter("T", "Chat.validate", name="Tech Talk"), program.leave("T", "[]", 12)]

    assert trimmed(tree().render(events)) == ["· Chat.validate(name='Tech Talk') → []  12 µs"]


def test_long_call_is_seen_when_it_begins(program: Program) -> None:
    """A call that has not ended by the end of its batch is shown open, and closed when it ends."""
    shown = tree()

    begun = shown.render([program.enter("T", "Chat.handle")])
    ended = shown.render([program.leave("T", "1", 2_000_000)])

    assert trimmed(begun + ended) == ["┌ Chat.handle()", "└ handle → 1  2.0 s"]


def test_far_from_its_beginning_a_call_repeats_its_arguments(program: Program) -> None:
    """Many lines below, the closing line says again which call it was."""
    shown = tree()
    shown.render([program.enter("T", "Chat.handle", user="Bob")])
    for _ in range(40):
        shown.render([program.enter("other", "f"), program.leave("other")])

    assert "└ handle(user='Bob')  5 µs" in shown.render([program.leave("T")])


def test_task_spawned_by_a_call_names_it(program: Program) -> None:
    """What a call starts in another task begins at the margin, with the name of the call that started it."""
    parent = program.enter("T", "Chat.fan_out")
    events = [parent, program.enter("U", "Chat.deliver", parent["spanId"]), program.leave("U"), program.leave("T")]

    lines = trimmed(tree().render(events))

    assert lines == ["┌ Chat.fan_out()", "· fan_out ▸ Chat.deliver()  5 µs", "└ fan_out  5 µs"]


@pytest.mark.parametrize(
    ("request_of_it", "shown"),
    [
        ({"protocol": "http", "method": "GET", "route": "/rooms/{room}"}, "GET /rooms/{room} ▸ chat.join(room='a')"),
        ({"protocol": "websocket", "route": "/ws/(a)"}, "websocket /ws/(a) ▸ chat.join(room='a')"),
        ({"protocol": "http", "method": "POST"}, "POST ▸ chat.join(room='a')"),
        ({"route": "/\x1b" + "x" * 80}, f"/\\x1b{'x' * 54}… ▸ chat.join(room='a')"),
        (["odd"], "chat.join(room='a')"),
    ],
)  # fmt: skip
def test_request_of_itthat_a_call_is_part_of(program: Program, request_of_it: object, shown: str) -> None:
    """The first call of a request names method and route; the line that closes it repeats the arguments only."""
    begin = program.enter("Task-1", "chat.join", room="a") | {"request": request_of_it}
    lines = trimmed(tree(width=160).render([begin, *calls_in_between(program), program.leave("Task-1")]))

    assert lines[0] == f"┌ {shown}"
    assert lines[-1].startswith("└ join(room='a')")


def calls_in_between(program: Program) -> list[dict[str, Any]]:
    """So many that who reads the end has forgotten the beginning."""
    return [event for _ in range(40) for event in (program.enter("Task-1", "chat.get"), program.leave("Task-1"))]


def test_exception_on_its_way_up_is_told_once(program: Program) -> None:
    """Message and place stand where the exception was raised; its type in each call it passes."""
    events = [program.enter("T", "a.f"), program.enter("T", "a.g")]
    events += [program.fail("T", "app.errors.Denied", "no\nway"), program.fail("T", "app.errors.Denied", "no\nway")]

    lines = trimmed(tree().render(events))

    assert lines[1:] == ["│ · a.g() ✗ Denied: no\\nway at store.py:31  5 µs", "└ f ✗ Denied  5 µs"]


@pytest.mark.parametrize("kind", ["CancelledError", "asyncio.exceptions.CancelledError", "GeneratorExit"])
def test_cancellation_is_no_alarm(program: Program, kind: str) -> None:
    """A task that was cancelled is shown quietly, not in red."""
    text = tree(colour=True).render([program.enter("T", "a.f"), program.fail("T", kind, "")])

    assert "\x1b[31m" not in text
    assert f"\x1b[2m ✗ {kind.rpartition('.')[2]}\x1b[0m" in text


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "a.f()  5 µs"),
        ({"result": "null"}, "a.f() → None  5 µs"),
        ({"result": None}, "a.f()  5 µs"),
        ({"result": '"void"'}, "a.f() → 'void'  5 µs"),
        ({"result": "not json"}, "a.f() → 'not json'  5 µs"),
        ({"ended": "abandoned"}, "a.f() abandoned  5 µs"),
        ({"activeMicros": 4}, "a.f()  5 µs"),
        ({"durationMicros": 9000, "activeMicros": 40}, "a.f()  9.0 ms (40 µs active)"),
    ],
)
def test_outcomes(program: Program, fields: dict[str, Any], outcome: str) -> None:
    """A result is shown unless it is void or not captured; time spent waiting is told from time spent working."""
    events = [program.enter("T", "a.f"), program.leave("T", **fields)]

    assert trimmed(tree().render(events)) == [f"· {outcome}"]


def test_values_as_objects(program: Program) -> None:
    """Arguments and results may stand in the event as JSON instead of as text."""
    events = [program.enter("T", "a.f") | {"args": {"n": [1]}}, program.leave("T", "void")]

    assert trimmed(tree().render(events)) == ["· a.f(n=[1]) → 'void'  5 µs"]


def test_arguments_not_captured(program: Program) -> None:
    """A call without recorded arguments does not look like one without arguments."""
    assert "a.f(…)" in tree().render([program.enter("T", "a.f") | {"args": None}])


def test_gutter(program: Program) -> None:
    """Time and label are repeated only where they change; the main thread is called so, others by number."""
    events = []
    for task, millis in [("Task-1", 0), ("Task-1", 0), ("Task-1", 7), ("a-very-long-name-99", 7), ("", 1000)]:
        program.millis = millis
        events += [program.enter(task, "a.f"), program.leave(task)]
    events[-1]["thread"] = events[-2]["thread"] = "99"

    gutters = [line[: GUTTER - 1] for line in tree().render(events).splitlines()]

    assert gutters == [
        "10:30:00.000 Task-1    ",
        "                       ",
        "        .007            "[:23],
        "             …g-name-99"[:13] + "…g-name-99",
        "10:30:01.000 th-99     ",
    ]


def test_process_ids(program: Program) -> None:
    """In a process that others started, each label says which process it is."""
    text = tree(show_pid=True).render([program.enter("Task-1", "a.f"), program.leave("Task-1")])

    assert text.startswith("10:30:00.000 4242 Task-1     · a.f()")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("value", ["x" * 500, {"@type": "T", "a": ["名前" * 40]}, {"k" * 90: [1] * 99}])
def test_lines_keep_to_the_width(program: Program, width: int, value: object) -> None:
    """No line is longer than the terminal is wide, whatever the values; the time stays in sight."""
    events = [program.enter("T", "Class.function", a=value, b=value), program.leave("T", orjson.dumps(value).decode())]

    (line,) = tree(width=width).render(events).splitlines()

    assert cells(line) <= max(width, GUTTER + 10)
    assert line.endswith("5 µs")


def test_deep_recursion(program: Program) -> None:
    """Beyond some depth the guides are counted instead of drawn."""
    events = [program.enter("T", "a.f") for _ in range(500)]

    last = tree().render(events).splitlines()[-1]

    assert "…483 │ │" in last
    assert "a.f()" in last


def test_escapes(program: Program) -> None:
    """Names, labels, keys and messages cannot send escape sequences to the terminal."""  # fault X5, U19
    evil = "\x1b]0;evil\x07\u202e\n"
    events = [program.enter(evil, f"{evil}.{evil}", **{evil: evil}), program.fail(evil, evil, evil)]
    events += [{"event": "LOSS", "reason": evil}, {"event": "START", "argv": [evil]}]

    lines = tree(width=1000).render(events).splitlines()

    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_colours_are_only_decoration(program: Program) -> None:
    """Without its colours a line is the plain line."""
    events = [program.enter("T", "a.f", x="y"), program.enter("T", "a.g"), program.leave("T", micros=2_000_000)]
    events += [program.fail("T", "E", "m")]

    plain, coloured = tree().render(events), tree(colour=True).render(events)

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert "\x1b[1;33m  2.0 s\x1b[0m" in coloured
    assert "\x1b[1;31mE\x1b[0m" in coloured


def test_attach_events_are_summarised() -> None:
    """Thirty modules that attach in a row are one line, at the place where they attached."""
    attach = {"event": "ATTACH", "timestamp": T0, "functions": [{"name": "f", "how": "source"}]}
    events: list[dict[str, Any]] = [{"event": "START", "timestamp": T0, "service": "chat", "pid": 1}]
    events += [attach | {"module": f"m{n}"} for n in range(30)]

    lines = trimmed(tree().render([*events, {"event": "STOP", "timestamp": T0, "recorded": 2, "lost": {}}]))

    assert lines == [
        "▶ chat · pid 1",
        "+ tracing 30 functions in m0, m1, m2 and 27 more",
        "■ stopped · 2 events, none lost",
    ]


def test_open_calls_are_bounded(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that never end are forgotten, oldest first; one that ends after all shows its whole name."""
    monkeypatch.setattr(pretty, "MAX_OPEN_CALLS", 10)
    shown = tree()
    shown.render([program.enter(f"T{n}", "Chat.handle") for n in range(50)])

    text = shown.render([program.leave("T0"), program.leave("T49")])

    assert trimmed(text) == ["└ Chat.handle  5 µs", "└ handle  5 µs"]
    assert len(shown._open) <= 10


@pytest.mark.parametrize("event", [{}, {"event": "ENTER"}, {"event": "EXIT"}, {"event": "EXCEPTION"}, {"event": "X"}])
def test_events_with_missing_fields(event: dict[str, Any]) -> None:
    """Lines of another version or another tool do no harm."""
    assert len(tree().render([event]).splitlines()) <= 1
