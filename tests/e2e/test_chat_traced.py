"""The trace of the documented session: what is in it, in which form, and that every sink gets the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from chat_server import entered, serving
from harness import ROOT, Event, Tracer, check_conservation, free_port
from seed_session import Session, play

from tests.faults.chaos_server import running

CONNECTED = ["Alice", "Bob", "Charlie", "Alice"]  # in the session, and once more for the clean-up
SEED_FIELDS: dict[str, dict[str, Any]] = {
    "ENTER": {"timestamp": int, "event": str, "thread": str, "class": str, "function": str, "args": str},
    "EXIT": {
        "timestamp": int, "event": str, "thread": str, "class": str, "function": str,
        "result": str, "durationMicros": int, "durationMillis": int,
    },
    "EXCEPTION": {
        "timestamp": int, "event": str, "thread": str, "class": str, "function": str,
        "exception": dict, "durationMicros": int, "durationMillis": int,
    },
}  # fmt: skip
OUR_FIELDS: dict[str, Any] = {
    "module": str,
    "traceId": str,
    "spanId": str,
    "parentId": (str, type(None)),
    "seq": int,
    "pid": int,
}


class Trace(NamedTuple):
    """The session, and the lines that each sink got."""

    session: Session
    file: list[bytes]
    stdout: list[bytes]
    http: list[bytes]

    @property
    def events(self) -> list[Event]:
        """What the file sink got."""
        return [orjson.loads(line) for line in self.file]

    @property
    def calls(self) -> Iterator[tuple[Event, Event]]:
        """Each ENTER with its EXIT or EXCEPTION."""
        ends = {event["spanId"]: event for event in self.events if event["event"] in ("EXIT", "EXCEPTION")}
        return ((event, ends[event["spanId"]]) for event in self.events if event["event"] == "ENTER")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The documented session, traced to a file, to the standard output and to a server."""
    folder = tmp_path_factory.mktemp("session")
    with running() as receiver:
        sinks = [
            {"type": "file", "path": f"{folder}/traces/chat.jsonl"},
            {"type": "stdout"},
            {"type": "http", "url": receiver.url, "batch": {"max_wait": "100ms"}},
        ]
        with serving(folder, config={"sinks": sinks}) as chat:
            session = play(chat)
            ended = chat.running.stop()
        http = [line for request in receiver.requests for line in request.lines]
    stdout = [line for line in ended.stdout.encode().splitlines() if line.startswith(b"{")]
    return Trace(session, Path(folder, "traces/chat.jsonl").read_bytes().splitlines(), stdout, http)


def test_trace_is_complete(trace: Trace) -> None:
    """Each ENTER has its EXIT or EXCEPTION, and STOP says that all was delivered and nothing lost, to each sink."""
    events = trace.events
    stop = events[-1]

    for sink in ("file", "stdout", "http"):
        check_conservation(events, sink=sink)
    assert stop["lost"] == {"file": 0, "stdout": 0, "http": 0}
    assert stop["delivered"] == dict.fromkeys(stop["lost"], stop["recorded"])


def test_all_sinks_get_the_same_lines(trace: Trace) -> None:
    """The file, the standard output and the server have each line once, in the same order, byte for byte."""
    assert trace.stdout == trace.file
    assert trace.http == trace.file


def test_fields_of_the_original_format_come_first(trace: Trace) -> None:
    """Names, order and types of the documented fields are as documented; all that was added comes after them."""
    calls = [event for event in trace.events if event["event"] in SEED_FIELDS]

    for event in calls:
        documented = SEED_FIELDS[event["event"]]
        assert list(event)[: len(documented)] == list(documented), event
        added = {name: event[name] for name in list(event)[len(documented) :]}
        assert added.keys() - {"task", "activeMicros", "ended", "request"} == OUR_FIELDS.keys(), event
        for name, kind in {**documented, **OUR_FIELDS}.items():
            assert isinstance(event[name], kind), (name, event)
    assert {event["event"] for event in calls} == set(SEED_FIELDS)


def test_values_are_json_text(trace: Trace) -> None:
    """Arguments and results are JSON in a string; "void" stands for a result of None."""
    for enter, leave in trace.calls:
        assert isinstance(json.loads(enter["args"]), dict)
        if leave["event"] == "EXIT" and leave["result"] != "void":
            assert json.loads(leave["result"]) is not None
    assert leaving(trace, "ChatService", "broadcast_to_room")["result"] == "void"


def test_numbers_are_plausible(trace: Trace) -> None:
    """Times are milliseconds since the epoch, durations agree with each other, ids are hexadecimal."""
    start = trace.events[0]
    for enter, leave in trace.calls:
        assert 0 <= enter["timestamp"] - start["timestamp"] < 600_000
        assert abs(leave["timestamp"] - enter["timestamp"] - leave["durationMillis"]) <= 1
        assert leave["durationMillis"] == leave["durationMicros"] // 1000
        assert leave.get("activeMicros", 0) <= leave["durationMicros"]
        assert len(bytes.fromhex(enter["traceId"])) == 16
        assert len(bytes.fromhex(enter["spanId"])) == 8
        assert enter["thread"].isdecimal()


def test_each_module_is_attached_once(trace: Trace) -> None:
    """There is one ATTACH for each module of the chat, and all of its functions are instrumented."""
    attached = [event for event in trace.events if event["event"] == "ATTACH"]
    names = ["", ".api", ".chat", ".clients", ".models", ".page", ".rooms", ".settings"]

    assert sorted(event["module"] for event in attached) == [f"sample_app{name}" for name in names]
    assert {function["how"] for event in attached for function in event["functions"]} == {"instrumented"}


def test_connections_are_traces(trace: Trace) -> None:
    """Each connection is one trace: it begins with the handler, and holds everything done for that user."""
    connections = entered(trace.events, "connect")
    assert [argument(event, "username") for event in connections] == CONNECTED
    assert len({event["traceId"] for event in connections}) == len(CONNECTED)

    for connection in connections:
        own = [event for event in trace.events if event.get("traceId") == connection["traceId"]]
        assert own[0] == connection
        assert connection["request"] == {"protocol": "websocket", "route": "/ws/{room_id}/{username:path}"}
        assert [event["spanId"] for event in own if event["parentId"] is None and event["event"] == "ENTER"] == [
            connection["spanId"]
        ]
        names = Counter(event["function"] for event in own if event["event"] == "ENTER")
        for function in ("handle_websocket_connection", "add_client", "receive_messages", "write_messages"):
            assert names[function] == 1, (function, names)


def test_connection_names_room_and_user(trace: Trace) -> None:
    """The ENTER of a connection shows the room and the user, as documented."""
    connections = entered(trace.events, "handle_websocket_connection")
    assert [event["class"] for event in connections] == ["ChatService"] * len(CONNECTED)
    assert [(argument(event, "room_id"), argument(event, "username")) for event in connections] == [
        ("general", name) for name in CONNECTED
    ]


def test_broadcasts_belong_to_their_connection(trace: Trace) -> None:
    """What is broadcast for a user lies below that user's connection: joining, each text, leaving."""
    parents = {event["spanId"]: event for event in trace.events if event["event"] == "ENTER"}
    broadcasts = entered(trace.events, "broadcast_to_room")

    for event in broadcasts:
        connection = ancestor(event, "handle_websocket_connection", parents)
        assert argument(connection, "username") == argument(event, "message")["Username"]
        assert argument(event, "room_id") == "general"
    assert Counter(argument(event, "message")["Content"] for event in broadcasts) == Counter(
        ["Hello everyone!", "Hi Alice!"]
        + [f"{name} joined the room" for name in CONNECTED]
        + [f"{name} left the room" for name in CONNECTED]
    )


def test_texts_are_broadcast_by_the_receiving_task(trace: Trace) -> None:
    """A text is broadcast below `receive_messages`, in a task of its own, as documented with another thread's name."""
    parents = {event["spanId"]: event for event in trace.events if event["event"] == "ENTER"}
    for event in entered(trace.events, "broadcast_to_room"):
        parent = parents[event["parentId"]]
        is_text = argument(event, "message")["Type"] == "message"
        assert parent["function"] == ("receive_messages" if is_text else "handle_websocket_connection")
        assert parent["task"] == event["task"]


def test_welcome_is_traced(trace: Trace) -> None:
    """The welcome is a call of `send_message_to_client`, with the message that the client has seen on the screen."""
    sent = [argument(event, "message") for event in entered(trace.events, "send_message_to_client")]
    seen = [line.removeprefix("< ") for line in trace.session.screens["Bob"] if line.startswith("<")]
    assert "Welcome to General Chat, Bob!" in seen[0]
    assert set(seen) <= set(sent)


def test_route_handlers_are_traced(trace: Trace) -> None:
    """The handlers that FastAPI holds since the import of the app are traced, with what they return."""
    rooms = trace.session.rooms.json()
    created = trace.session.created.json()
    listed = json.loads(leaving(trace, "sample_app.api", "list_rooms")["result"])
    returned = json.loads(leaving(trace, "sample_app.api", "create_room")["result"])

    assert [(room["id"], room["name"], room["activeUsers"]) for room in listed] == [("general", "General Chat", 3)]
    assert (rooms[0]["id"], rooms[0]["activeUsers"]) == ("general", 3)
    assert {name: returned[name] for name in ("id", "name", "activeUsers")} == {
        name: created[name] for name in ("id", "name", "activeUsers")
    }


def test_plain_command_shows_the_calls(tmp_path: Path) -> None:
    """`flowtrace-run uvicorn sample_app:app`, with what the working directory holds, shows the calls as a tree."""
    tracer, port = Tracer(tmp_path), free_port()
    try:
        server = tracer.start(["uvicorn", "sample_app:app", "--port", str(port)], config=None, cwd=ROOT, port=port)
        httpx.post(f"http://127.0.0.1:{port}/rooms", json={"name": "Tech Talk"}, timeout=30).raise_for_status()
        ended = server.stop()
    finally:
        tracer.end()

    assert '"POST /rooms HTTP/1.1" 201 Created' in ended.stdout
    tree = ended.stdout.partition("create_room(request")[2]
    assert "│ ┌ ChatRoomManager.create_room(name='Tech Talk')" in tree
    assert "│ └ create_room → ChatRoom(id='" in tree
    assert "none lost" in tree


def argument(event: Mapping[str, Any], name: str) -> Any:
    """An argument of a call, from its ENTER."""
    return json.loads(event["args"])[name]


def ancestor(event: Mapping[str, Any], function: str, parents: Mapping[str, Event]) -> Event:
    """The nearest call of ``function`` above a call, with the fields of its ENTER."""
    above = event
    while above["function"] != function:
        assert above["parentId"] is not None, f"{event} is not below {function}"
        above = parents[above["parentId"]]
    return dict(above)


def leaving(trace: Trace, owner: str, function: str) -> Event:
    """The end of the first call of a function."""
    return next(leave for enter, leave in trace.calls if (enter["class"], enter["function"]) == (owner, function))
