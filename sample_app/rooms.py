"""The chat rooms: which exist, what their names may be and how many people are in each."""

from uuid import uuid4

from sample_app.models import ChatRoom

MIN_NAME_LENGTH = 3
MAX_NAME_LENGTH = 50


class ChatRoomManager:
    """All rooms by id; ``general`` is always among them.

    Every method runs without awaiting, so on one event loop each is a single step: what it checked is still true
    when the caller's next line runs.
    """

    def __init__(self) -> None:
        self._rooms = {"general": ChatRoom(id="general", name="General Chat")}

    def validate_room_name(self, name: str | None) -> list[str]:
        """Return what is wrong with a name for a new room: one message for people, or none."""
        name = (name or "").strip()
        if not name:
            return ["Room name is required"]
        if len(name) < MIN_NAME_LENGTH:
            return [f"Room name must be at least {MIN_NAME_LENGTH} characters"]
        if len(name) > MAX_NAME_LENGTH:
            return [f"Room name must not exceed {MAX_NAME_LENGTH} characters"]
        if any(name.casefold() == room.name.casefold() for room in self._rooms.values()):
            return ["Room name already exists"]
        return []

    def create_room(self, name: str) -> ChatRoom:
        """Add an empty room of a validated name, under a new id of 8 hex digits."""
        room_id = uuid4().hex[:8]
        while room_id in self._rooms:
            room_id = uuid4().hex[:8]
        self._rooms[room_id] = ChatRoom(id=room_id, name=name.strip())
        return self._rooms[room_id]

    def get_room(self, room_id: str) -> ChatRoom | None:
        """Return the room of this id, if there is one."""
        return self._rooms.get(room_id)

    def list_rooms(self) -> list[ChatRoom]:
        """Return all rooms, sorted by name."""
        return sorted(self._rooms.values(), key=lambda room: room.name)

    def increment_user_count(self, room_id: str) -> None:
        """Count one more client in a room."""
        self._rooms[room_id].active_users += 1

    def decrement_user_count(self, room_id: str) -> None:
        """Count one client fewer in a room."""
        self._rooms[room_id].active_users -= 1
