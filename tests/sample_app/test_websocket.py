"""The conversation over real connections to a real server."""

import re
import socket

import pytest
from websockets.sync.client import connect

from sample_app import api


def test_seed_session_is_reproduced(chat) -> None:
    """Alice, Bob and Charlie hear exactly what the documented session shows."""
    alice = chat.join("Alice")
    first = alice.connection.recv()
    bob = chat.join("Bob")
    bob_hears = [bob.connection.recv()]
    alice_hears = [first, alice.connection.recv()]
    alice.say("Hello everyone!")
    bob_hears.append(bob.connection.recv())
    bob.say("Hi Alice!")
    alice_hears.append(alice.connection.recv())
    charlie = chat.join("Charlie")
    alice_hears.append(alice.connection.recv())
    bob_hears.append(bob.connection.recv())

    def frame(kind: str, username: str, content: str) -> str:
        return f'{{"Type":"{kind}","RoomId":"general","Username":"{username}","Content":"{content}","Timestamp":"…"}}'

    def without_time(frames: list[str]) -> list[str]:
        return [re.sub(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"}$', '"…"}', each) for each in frames]

    assert charlie.hear_content() == ["Welcome to General Chat, Charlie!"]
    assert without_time(alice_hears) == [
        frame("system", "System", "Welcome to General Chat, Alice!"),
        frame("join", "Bob", "Bob joined the room"),
        frame("message", "Bob", "Hi Alice!"),
        frame("join", "Charlie", "Charlie joined the room"),
    ]
    assert without_time(bob_hears) == [
        frame("system", "System", "Welcome to General Chat, Bob!"),
        frame("message", "Alice", "Hello everyone!"),
        frame("join", "Charlie", "Charlie joined the room"),
    ]


def test_users_are_counted_down_when_they_disconnect(chat) -> None:
    """The cleanup scenario: one user is there, then nobody."""
    alice = chat.join("Alice")
    alice.hear()
    assert chat.count_users() == 1

    alice.leave()

    chat.wait_for_users(0)


def test_those_who_stay_hear_who_leaves(chat) -> None:
    """A close frame makes the leave message."""
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    bob.leave()

    message = alice.hear()
    assert (message["Type"], message["Username"], message["Content"]) == ("leave", "Bob", "Bob left the room")


def test_lost_connection_leaves_like_any_other(chat) -> None:
    """Somebody whose network breaks without a close frame is announced and counted down."""
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    bob.connection.socket.shutdown(socket.SHUT_RDWR)

    assert alice.hear_content() == ["Bob left the room"]
    assert chat.count_users() == 1


def test_everyone_leaves_when_the_server_ends(restrict, start_server) -> None:
    """A server that ends tells its clients so, and counts them all down before it is gone."""
    restrict()
    server = start_server()
    url = f"ws://{server.address}/ws/general"
    with connect(f"{url}/Alice") as alice, connect(f"{url}/Bob") as bob:
        for client in (alice, alice, bob):
            client.recv(timeout=10)
        assert api.rooms.list_rooms()[0].active_users == 2

        server.stop()

    assert api.rooms.list_rooms()[0].active_users == 0
    assert (alice.protocol.close_code, bob.protocol.close_code) == (1012, 1012)


def test_messages_stay_in_their_room(chat) -> None:
    """Somebody in another room hears nothing of it."""
    tech = chat.http.post("/rooms", json={"name": "Tech Talk"}).json()["id"]
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")
    eve, mallory = chat.join_and_skip_welcome("Eve", "Mallory", room_id=tech)

    alice.say("for general")
    mallory.say("for tech")

    assert bob.hear_content() == ["for general"]
    assert eve.hear() | {"Timestamp": ""} == {
        "Type": "message",
        "RoomId": tech,
        "Username": "Mallory",
        "Content": "for tech",
        "Timestamp": "",
    }


def test_messages_of_one_sender_arrive_in_order(chat, restrict) -> None:
    """A burst is delivered completely and in the order sent, even to those who hear two at once."""
    restrict(max_messages_per_second=10_000)
    alice, bob, charlie = chat.join_and_skip_welcome("Alice", "Bob", "Charlie")
    burst = [str(number) for number in range(500)]

    alice.say(*burst)
    bob.say(*burst)

    assert alice.hear_content(500) == bob.hear_content(500) == burst
    heard = [charlie.hear() for _ in range(1000)]
    for name in ("Alice", "Bob"):
        assert [each["Content"] for each in heard if each["Username"] == name] == burst


def test_sender_hears_no_echo_and_blank_texts_are_dropped(chat) -> None:
    """The next thing a sender hears is what somebody else says, and nobody hears nothing."""
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    alice.say("", "   ", "\n\t", "one")

    assert bob.hear_content() == ["one"]
    bob.say("two")
    assert alice.hear_content() == ["two"]


def test_text_is_passed_on_as_it_is(chat) -> None:
    """Nothing is trimmed, escaped or normalised."""
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")
    texts = ["  <script>alert('x')</script>  ", '"quoted" \\ and\nnew line', "e\u0301 🎉 \u0000 世界", "x" * 4096]

    alice.say(*texts)

    assert bob.hear_content(4) == texts


def test_two_users_may_have_one_name(chat) -> None:
    """Namesakes hear each other."""
    one, other = chat.join_and_skip_welcome("Alex", "Alex")

    one.say("Hello, Alex")

    assert other.hear_content() == ["Hello, Alex"]


def test_unknown_room_is_told_and_closed(chat) -> None:
    """The connection is accepted, told the error, and closed normally with a reason."""
    lost = chat.join("Alice", "invalid-room")

    message = lost.hear()

    assert list(message) == ["Type", "RoomId", "Username", "Content", "Timestamp"]
    assert list(message.values())[:4] == ["error", "invalid-room", "System", "Room 'invalid-room' not found"]
    assert lost.hear_close() == (1000, "Room not found")


@pytest.mark.parametrize("username", ["", "%20%20", "x" * 33, "tab%09", "%E2%80%AEevil"])
def test_username_that_will_not_do_is_refused(chat, username) -> None:
    """A name that is empty, blank, too long or not printable gets an error and no place in the room."""
    nobody = chat.join(username)

    assert nobody.hear_content() == ["Username must be 1 to 32 printable characters"]
    assert nobody.hear_close() == (1008, "Invalid username")
    assert chat.count_users() == 0


@pytest.mark.parametrize(
    ("quoted", "username"), [("x" * 32, "x" * 32), ("AC%2FDC", "AC/DC"), ("Zo%C3%AB%20%F0%9F%8E%89", "Zoë 🎉")]
)
def test_any_printable_username_will_do(chat, quoted, username) -> None:
    """Spaces, slashes and letters of all languages may be in a name."""
    assert chat.join(quoted).hear_content() == [f"Welcome to General Chat, {username}!"]


def test_full_room_is_told_and_closed(chat, restrict) -> None:
    """Beyond the limit a newcomer is refused until somebody leaves."""
    restrict(max_clients_per_room=2)
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    charlie = chat.join("Charlie")
    assert charlie.hear_content() == ["Room 'general' is full"]
    assert charlie.hear_close() == (1013, "Room is full")

    bob.leave()
    assert alice.hear_content() == ["Bob left the room"]
    assert chat.join("Charlie").hear_content() == ["Welcome to General Chat, Charlie!"]


def test_too_long_message_is_answered_by_an_error(chat, restrict) -> None:
    """A text over the limit goes to nobody, and the sender stays."""
    restrict(max_message_length=5)
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    alice.say("123456", "12345")

    message = alice.hear()
    assert (message["Type"], message["Username"]) == ("error", "System")
    assert message["Content"] == "Message must not exceed 5 characters"
    assert bob.hear_content() == ["12345"]


def test_too_many_messages_are_answered_by_errors(chat, restrict) -> None:
    """What comes over the rate goes to nobody, and the sender stays."""
    restrict(max_messages_per_second=3)
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    alice.say("1", "2", "3", "4", "5")

    assert alice.hear_content(2) == ["Too many messages: at most 3 per second"] * 2
    assert bob.hear_content(3) == ["1", "2", "3"]
    bob.say("Slowly, please")
    assert alice.hear_content() == ["Slowly, please"]


def test_binary_frame_is_answered_by_an_error(chat) -> None:
    """A binary frame goes to nobody, and the connection stays."""
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    alice.say(b"\x00\x01", "text")

    assert alice.hear_content() == ["Binary messages are not supported: send text"]
    assert bob.hear_content() == ["text"]


def test_client_that_does_not_read_is_disconnected(chat, restrict) -> None:
    """Its queue full, a slow client leaves with 1013, while the others hear everything without delay."""
    restrict(max_queued_messages=100, max_messages_per_second=10**9)
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect((chat.address.split(":")[0], int(chat.address.split(":")[1])))
    slow = chat.join("Slow", sock=narrow, compression=None, max_queue=1)
    assert alice.hear_content() == bob.hear_content() == ["Slow joined the room"]

    heard = []
    while "Slow left the room" not in heard:
        assert len(heard) < 20_000, "the slow client is never disconnected"
        alice.say("x" * 4096)
        heard += bob.hear_content()

    assert chat.count_users() == 2
    assert slow.hear_close() == (1013, "Too many messages were waiting")


def test_burst_does_not_make_healthy_clients_look_slow(chat, restrict) -> None:
    """More messages than a queue holds, in one piece, are not held against those who read."""
    restrict(max_queued_messages=10, max_messages_per_second=10**9)
    alice, bob = chat.join_and_skip_welcome("Alice", "Bob")

    alice.connection.socket.sendall(b"\x81\x81\0\0\0\0x" * 1000)  # 1,000 frames of "x", masked with zeros (RFC 6455)

    assert bob.hear_content(1000) == ["x"] * 1000
