"""Any order of joins, texts, leaves, crashes and new rooms, compared with a model of what each user must hear."""

import asyncio

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sample_app.chat import ChatService
from sample_app.rooms import ChatRoomManager
from sample_app.settings import Settings

QUEUED = 4
LIMITS = Settings(
    max_queued_messages=QUEUED, max_message_length=20, max_username_length=8, max_clients_per_room=4, close_timeout_s=1
)
NAMES = st.sampled_from(["Alice", "Bob", "Zoë 🎉", "AC/DC"])
ROOM_NAMES = st.sampled_from(["Tech Talk", "tech talk", "General chat", "Books", "ab", " ", "x" * 51, "Ünïcödé"])


class Expected:
    """What the model knows of one user."""

    def __init__(self, peer, room_id: str, username: str) -> None:
        self.peer, self.room_id, self.username = peer, room_id, username
        self.hears: list[tuple[str, str, str]] = []
        self.waiting: int | None = None  # messages that wait while the user does not read


class ChatMachine(RuleBasedStateMachine):
    """Drives a real ChatService and a model of it side by side."""

    rooms_known = Bundle("rooms_known")
    users = Bundle("users")

    def __init__(self, peer, settle) -> None:
        super().__init__()
        self.make_peer, self.settle = peer, settle
        self.runner = asyncio.Runner()
        self.manager = ChatRoomManager()
        self.service = ChatService(self.manager, LIMITS)
        self.names = {"general": "General Chat"}
        self.present: list[Expected] = []

    def run(self, action=lambda: None):
        """Do something inside the event loop and let everything happen that follows from it."""

        async def act():
            result = action()
            await self.settle()
            return result

        return self.runner.run(act())

    def announce(self, room_id: str, message: tuple[str, str, str], but: Expected | None = None) -> None:
        """Have everyone in a room hear a message; whoever has too many waiting leaves over it."""
        overflown = []
        for user in self.present:
            if user.room_id != room_id or user is but:
                continue
            if user.waiting is None:
                user.hears.append(message)
            elif user.waiting <= QUEUED:  # one is being written, the rest are in the queue
                user.waiting += 1
            else:
                overflown.append(user)
        for user in overflown:
            self.depart(user)

    def depart(self, user: Expected) -> None:
        """Take a user out of the model."""
        self.present.remove(user)
        self.announce(user.room_id, ("leave", user.username, f"{user.username} left the room"))

    @rule(target=rooms_known, name=ROOM_NAMES)
    def create_room(self, name):
        """A name is taken once, whatever its case."""
        taken = {each.casefold() for each in self.names.values()}
        is_valid = 3 <= len(name.strip()) <= 50 and name.strip().casefold() not in taken
        assert (not self.manager.validate_room_name(name)) == is_valid
        if not is_valid:
            return "general"
        room = self.manager.create_room(name)
        self.names[room.id] = room.name
        return room.id

    @rule(target=users, room_id=rooms_known, username=NAMES)
    def join(self, room_id, username):
        """A newcomer is welcomed and announced, as long as there is room."""
        is_full = sum(user.room_id == room_id for user in self.present) == LIMITS.max_clients_per_room
        user = Expected(self.run(lambda: self.make_peer(self.service, room_id, username)), room_id, username)
        if is_full:
            user.hears = [("error", "System", f"Room '{room_id}' is full")]
            assert user.peer.close == (1013, "Room is full")
        else:
            user.hears = [("system", "System", f"Welcome to {self.names[room_id]}, {username}!")]
            self.present.append(user)
            self.announce(room_id, ("join", username, f"{username} joined the room"), but=user)
        return user

    @rule(username=NAMES)
    def join_nowhere(self, username):
        """An unknown room is refused."""
        peer = self.run(lambda: self.make_peer(self.service, "nowhere", username))
        assert [each["Content"] for each in peer.heard] == ["Room 'nowhere' not found"]
        assert peer.close == (1000, "Room not found")

    @rule(username=st.sampled_from(["", "  ", "x" * 9, "a\tb"]))
    def join_as_nobody(self, username):
        """An impossible name is refused."""
        peer = self.run(lambda: self.make_peer(self.service, "general", username))
        assert peer.close == (1008, "Invalid username")

    @rule(user=users, text=st.text(max_size=25))
    def say(self, user, text):
        """A text reaches the others of the room, or its sender hears why not."""
        if user not in self.present:
            return
        self.run(lambda: user.peer.say(text))
        if not text.strip():
            return
        if len(text) <= LIMITS.max_message_length:
            self.announce(user.room_id, ("message", user.username, text), but=user)
        elif user.waiting is None:
            user.hears.append(("error", "System", "Message must not exceed 20 characters"))
        elif user.waiting <= QUEUED:
            user.waiting += 1
        else:
            self.depart(user)

    @rule(user=consumes(users), code=st.sampled_from([1000, 1001, 1006]))
    def leave(self, user, code):
        """A user is gone, with or without a close frame."""
        if user in self.present:
            self.run(lambda: user.peer.leave(code))
            self.depart(user)

    @rule(user=consumes(users))
    def cancel(self, user):
        """A task that is cancelled leaves as well."""
        if user in self.present:
            self.run(user.peer.task.cancel)
            self.depart(user)

    @rule(user=users)
    @precondition(lambda self: not any(user.waiting is not None for user in self.present))
    def stall(self, user):
        """One user at a time stops reading; two would leave in an order that nobody promises."""
        if user in self.present:
            user.peer.stall()
            user.waiting = 0

    @rule()
    @precondition(lambda self: not any(user.waiting is not None for user in self.present))  # as above
    def crash(self):
        """A connection that breaks unnoticed ends with the next message to it."""
        crowd = [user for user in self.present if user.room_id == "general" and user.waiting is None]
        if len(crowd) < 2:
            return
        broken, speaker = crowd[:2]
        broken.peer.crash()
        self.run(lambda: speaker.peer.say("anyone?"))
        self.announce("general", ("message", speaker.username, "anyone?"), but=speaker)
        broken.hears.pop()
        if speaker in self.present:
            self.depart(broken)

    @invariant()
    def users_are_counted(self):
        """The server counts whom the model knows to be there."""
        counts = {room.id: room.active_users for room in self.manager.list_rooms()}
        assert counts == {room_id: sum(user.room_id == room_id for user in self.present) for room_id in self.names}

    @invariant()
    def everyone_hears_what_they_must(self):
        """Each user who reads has heard exactly what the model says, in that order."""
        for user in self.present:
            if user.waiting is None:
                heard = [(each["Type"], each["Username"], each["Content"]) for each in user.peer.heard]
                assert heard == user.hears

    def teardown(self):
        """Everybody leaves, and nothing is kept."""
        for user in list(self.present):
            user.peer.resume()
            self.run(user.peer.leave)
        self.runner.close()
        assert self.service._clients == {}


def test_chat_does_what_its_model_says(peer, settle) -> None:
    """Whatever happens in whatever order, everyone hears what they must and nobody is counted wrongly."""
    run_state_machine_as_test(
        lambda: ChatMachine(peer, settle),
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
