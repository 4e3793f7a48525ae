"""The shape of what goes over the wire."""

from datetime import UTC, datetime

from sample_app.models import ChatMessage, ChatRoom, current_second

MOMENT = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


def test_frame_is_compact_json_in_pascal_case() -> None:
    """A message becomes exactly the text that a client of the chat expects."""
    message = ChatMessage(
        type="system", room_id="general", username="System", content="Welcome to General Chat, Alice!", timestamp=MOMENT
    )

    assert message.to_frame() == (
        '{"Type":"system","RoomId":"general","Username":"System",'
        '"Content":"Welcome to General Chat, Alice!","Timestamp":"2024-01-15T10:30:00Z"}'
    )


def test_frame_leaves_letters_of_all_languages_as_they_are() -> None:
    """Text that is not ASCII is not escaped."""
    assert '"Content":"Grüße, 世界 🎉"' in ChatMessage.said("general", "Ada", "Grüße, 世界 🎉").to_frame()


def test_room_is_json_in_camel_case() -> None:
    """A room becomes exactly the JSON that a client of the chat expects."""
    room = ChatRoom(id="a1b2c3d4", name="Tech Talk", created_at=MOMENT)

    assert room.model_dump_json(by_alias=True) == (
        '{"id":"a1b2c3d4","name":"Tech Talk","createdAt":"2024-01-15T10:30:00Z","activeUsers":0}'
    )


def test_time_is_in_whole_seconds_of_utc() -> None:
    """Timestamps carry no fraction, which would change their form."""
    now = current_second()

    assert (now.microsecond, now.tzinfo) == (0, UTC)
    assert abs((datetime.now(UTC) - now).total_seconds()) < 2


def test_each_message_says_what_happened() -> None:
    """The five types carry the texts that people read."""
    room = ChatRoom(id="general", name="General Chat")
    messages = [
        ChatMessage.welcome(room, "Bob"),
        ChatMessage.joined("general", "Bob"),
        ChatMessage.said("general", "Bob", "Hi Alice!"),
        ChatMessage.left("general", "Bob"),
        ChatMessage.error("nowhere", "Room 'nowhere' not found"),
    ]

    assert [(each.type, each.room_id, each.username, each.content) for each in messages] == [
        ("system", "general", "System", "Welcome to General Chat, Bob!"),
        ("join", "general", "Bob", "Bob joined the room"),
        ("message", "general", "Bob", "Hi Alice!"),
        ("leave", "general", "Bob", "Bob left the room"),
        ("error", "nowhere", "System", "Room 'nowhere' not found"),
    ]
