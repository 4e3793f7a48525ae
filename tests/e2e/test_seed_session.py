"""The session of the chat's documentation, with wscat, with and without flowtrace: text for text what is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from chat_server import serving
from harness import Ended
from seed_session import Session, play

BOTH = pytest.mark.parametrize("how", ["traced", "untraced"])

# As documented, but for the last lines of Alice and Bob, who stay until the others have left.
DOCUMENTED = {
    "Alice": [
        "Connected (press CTRL+C to quit)",
        '< {"Type":"system","RoomId":"general","Username":"System","Content":"Welcome to General Chat, Alice!","Timestamp":"2024-01-15T10:30:00Z"}',  # noqa: E501
        '< {"Type":"join","RoomId":"general","Username":"Bob","Content":"Bob joined the room","Timestamp":"2024-01-15T10:30:05Z"}',  # noqa: E501
        "> Hello everyone!",
        '< {"Type":"message","RoomId":"general","Username":"Bob","Content":"Hi Alice!","Timestamp":"2024-01-15T10:30:12Z"}',  # noqa: E501
        '< {"Type":"join","RoomId":"general","Username":"Charlie","Content":"Charlie joined the room","Timestamp":"2024-01-15T10:30:15Z"}',  # noqa: E501
        '< {"Type":"leave","RoomId":"general","Username":"Charlie","Content":"Charlie left the room","Timestamp":"2024-01-15T10:35:00Z"}',  # noqa: E501
        '< {"Type":"leave","RoomId":"general","Username":"Bob","Content":"Bob left the room","Timestamp":"2024-01-15T10:35:00Z"}',  # noqa: E501
    ],
    "Bob": [
        "Connected (press CTRL+C to quit)",
        '< {"Type":"system","RoomId":"general","Username":"System","Content":"Welcome to General Chat, Bob!","Timestamp":"2024-01-15T10:30:05Z"}',  # noqa: E501
        '< {"Type":"message","RoomId":"general","Username":"Alice","Content":"Hello everyone!","Timestamp":"2024-01-15T10:30:10Z"}',  # noqa: E501
        "> Hi Alice!",
        '< {"Type":"join","RoomId":"general","Username":"Charlie","Content":"Charlie joined the room","Timestamp":"2024-01-15T10:30:15Z"}',  # noqa: E501
        '< {"Type":"leave","RoomId":"general","Username":"Charlie","Content":"Charlie left the room","Timestamp":"2024-01-15T10:35:00Z"}',  # noqa: E501
    ],
    "Charlie": [
        "Connected (press CTRL+C to quit)",
        '< {"Type":"system","RoomId":"general","Username":"System","Content":"Welcome to General Chat, Charlie!","Timestamp":"2024-01-15T10:30:15Z"}',  # noqa: E501
    ],
}


class Played(NamedTuple):
    """A session and the end of its server."""

    session: Session
    server: Ended


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """The session, once with and once without flowtrace."""
    return {how: _play(tmp_path_factory.mktemp(how), traced=how == "traced") for how in ("traced", "untraced")}


@BOTH
def test_terminals_show_the_documented_session(how: str, played: dict[str, Played]) -> None:
    """Each of the three terminals shows what the documentation shows, but for the time."""
    screens = {name: without_times(lines) for name, lines in played[how].session.screens.items()}
    assert screens == {name: without_times(lines) for name, lines in DOCUMENTED.items()}


@BOTH
def test_rooms_are_listed_as_documented(how: str, played: dict[str, Played]) -> None:
    """`GET /rooms` gives the documented keys in the documented order, and counts the three."""
    rooms = played[how].session.rooms
    documented = '[{"id":"general","name":"General Chat","createdAt":"2024-01-15T10:00:00Z","activeUsers":3}]'
    assert (rooms.status_code, without_times([rooms.text])) == (200, without_times([documented]))


@BOTH
def test_room_is_created_as_documented(how: str, played: dict[str, Played]) -> None:
    """`POST /rooms` answers 201 with the documented keys, an id of 8 hex digits and nobody in it."""
    created = played[how].session.created
    documented = '{"id":"a1b2c3d4","name":"Tech Talk","createdAt":"2024-01-15T10:30:00Z","activeUsers":0}'
    room_id = created.json()["id"]
    assert re.fullmatch("[0-9a-f]{8}", room_id)
    assert created.status_code == 201
    assert without_times([created.text.replace(room_id, "a1b2c3d4")]) == without_times([documented])


@BOTH
def test_connection_is_cleaned_up(how: str, played: dict[str, Played]) -> None:
    """There is one active user while a connection stands, and none after Ctrl-C in wscat."""
    assert played[how].session.active_users == [1, 0]


def test_server_ends_and_logs_as_it_does_untraced(played: dict[str, Played]) -> None:
    """Exit status and log are those of the untraced server, plus the one line that flowtrace says."""
    traced, untraced = played["traced"].server, played["untraced"].server
    said = [line for line in traced.stderr.splitlines() if line.startswith("flowtrace: ")]

    assert traced.returncode == untraced.returncode
    assert [re.sub(r"\d+", "N", line) for line in said] == [
        "flowtrace: chat, pid N: N functions in N modules traced, to file"
    ], traced.stderr
    assert log(traced) == log(untraced)


def test_headers_are_those_of_the_untraced_server(played: dict[str, Played]) -> None:
    """Tracing neither adds nor changes a header of an answer."""
    for answer in ("rooms", "created"):
        traced, untraced = (getattr(played[how].session, answer) for how in ("traced", "untraced"))
        assert headers(traced.headers) == headers(untraced.headers)


def _play(folder: Path, *, traced: bool) -> Played:
    with serving(folder, traced=traced) as chat:
        session = play(chat)
        return Played(session, chat.running.stop())


def without_times(lines: list[str]) -> list[str]:
    """Lines with one time for all times."""
    return [re.sub(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"', json.dumps("<time>"), line) for line in lines]


def log(ended: Ended) -> list[str]:
    """What the server has logged on stderr, without process ids and ports; connections end in no fixed order."""
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("flowtrace: ")]
    return sorted(re.sub(r"\d+", "N", line) for line in lines)


def headers(answer: dict[str, str]) -> dict[str, str]:
    """Headers without what differs between any two runs."""
    return {name: value for name, value in answer.items() if name not in ("date", "location")}
