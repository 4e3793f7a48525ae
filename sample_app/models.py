"""What goes over the wire: rooms in camelCase over REST, messages in PascalCase over the WebSocket."""

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel, to_pascal


def current_second() -> datetime:
    """Return the time in UTC in whole seconds, which JSON shows as ``2024-01-15T10:30:00Z``."""
    return datetime.now(UTC).replace(microsecond=0)


class RoomRequest(BaseModel):
    """The body of a request for a new room; ChatRoomManager judges the name."""

    name: str | None = None

    @field_validator("name")
    @classmethod
    def is_encodable(cls, name: str | None) -> str | None:
        """Refuse half a surrogate pair: JSON can spell it, but no answer could ever contain it."""
        (name or "").encode()
        return name


class ChatRoom(BaseModel):
    """A room and how many clients are in it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    id: str
    name: str
    created_at: datetime = Field(default_factory=current_second)
    active_users: int = 0


class ErrorResponse(BaseModel):
    """The body of every REST response that is not a success."""

    errors: list[str]


class ChatMessage(BaseModel):
    """One message from the server to a client."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, frozen=True)

    type: Literal["system", "join", "message", "leave", "error"]
    room_id: str
    username: str
    content: str
    timestamp: datetime = Field(default_factory=current_second)

    @classmethod
    def welcome(cls, room: ChatRoom, username: str) -> Self:
        """Return what greets a newcomer."""
        content = f"Welcome to {room.name}, {username}!"
        return cls(type="system", room_id=room.id, username="System", content=content)

    @classmethod
    def joined(cls, room_id: str, username: str) -> Self:
        """Return what tells the others of a newcomer."""
        return cls(type="join", room_id=room_id, username=username, content=f"{username} joined the room")

    @classmethod
    def said(cls, room_id: str, username: str, content: str) -> Self:
        """Return what a user says to the others."""
        return cls(type="message", room_id=room_id, username=username, content=content)

    @classmethod
    def left(cls, room_id: str, username: str) -> Self:
        """Return what tells the others that somebody is gone."""
        return cls(type="leave", room_id=room_id, username=username, content=f"{username} left the room")

    @classmethod
    def error(cls, room_id: str, content: str) -> Self:
        """Return what tells one client that the server did not do what it asked for."""
        return cls(type="error", room_id=room_id, username="System", content=content)

    def to_frame(self) -> str:
        """Return the compact JSON text that goes into one WebSocket frame."""
        return self.model_dump_json(by_alias=True)
