"""Rooms: their names, ids, order and counts."""

import re

import pytest

from sample_app.rooms import ChatRoomManager


def test_general_always_exists() -> None:
    """A new manager has exactly the room General Chat."""
    (room,) = ChatRoomManager().list_rooms()

    assert (room.id, room.name, room.active_users) == ("general", "General Chat", 0)


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        (None, ["Room name is required"]),
        ("", ["Room name is required"]),
        (" \t\n", ["Room name is required"]),
        ("ab", ["Room name must be at least 3 characters"]),
        ("  ab  ", ["Room name must be at least 3 characters"]),
        ("abc", []),
        ("x" * 50, []),
        ("x" * 51, ["Room name must not exceed 50 characters"]),
        ("general chat", ["Room name already exists"]),
        (" GENERAL CHAT ", ["Room name already exists"]),
        ("日本語", []),
    ],
)
def test_first_thing_wrong_with_a_name_is_told(name: str | None, errors: list[str]) -> None:
    """A name gets one message, the first that applies, or none."""
    assert ChatRoomManager().validate_room_name(name) == errors


def test_same_name_is_recognised_across_languages() -> None:
    """Case is folded, not just lowered: ß and SS are the same."""
    rooms = ChatRoomManager()
    rooms.create_room("Straße")

    assert rooms.validate_room_name("STRASSE") == ["Room name already exists"]


def test_new_room_is_empty_and_has_an_id_of_8_hex_digits() -> None:
    """A created room can be found under its id, without the spaces around its name."""
    rooms = ChatRoomManager()

    room = rooms.create_room("  Tech Talk ")

    assert re.fullmatch("[0-9a-f]{8}", room.id)
    assert rooms.get_room(room.id) is room
    assert (room.name, room.active_users) == ("Tech Talk", 0)


def test_taken_id_is_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a random id is already in use, another is drawn."""
    ids = iter(["aaaaaaaa" * 4, "aaaaaaaa" * 4, "bbbbbbbb" * 4])
    monkeypatch.setattr("sample_app.rooms.uuid4", lambda: type("Id", (), {"hex": next(ids)}))
    rooms = ChatRoomManager()

    assert [rooms.create_room(name).id for name in ("one", "two")] == ["aaaaaaaa", "bbbbbbbb"]


def test_rooms_are_sorted_by_name() -> None:
    """The list is in the order of names, not of creation."""
    rooms = ChatRoomManager()
    for name in ("Zebra", "Apples"):
        rooms.create_room(name)

    assert [room.name for room in rooms.list_rooms()] == ["Apples", "General Chat", "Zebra"]


def test_count_follows_who_comes_and_goes() -> None:
    """Counting up and down changes the count of that room only."""
    rooms = ChatRoomManager()
    other = rooms.create_room("Tech Talk")

    for _ in range(3):
        rooms.increment_user_count("general")
    rooms.decrement_user_count("general")

    assert {room.id: room.active_users for room in rooms.list_rooms()} == {"general": 2, other.id: 0}
