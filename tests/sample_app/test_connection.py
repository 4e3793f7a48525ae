"""The life of one connection where timing matters: stalled, broken, cancelled and failing, without a server."""

import asyncio

import pytest

from sample_app.chat import ChatService
from sample_app.rooms import ChatRoomManager
from sample_app.settings import Settings


def contents(messages: list[dict[str, str]]) -> list[str]:
    """Return what messages say."""
    return [message["Content"] for message in messages]


@pytest.fixture
def rooms() -> ChatRoomManager:
    """The rooms of the service."""
    return ChatRoomManager()


@pytest.fixture
def service(rooms) -> ChatService:
    """A service with a queue that is soon full."""
    return ChatService(rooms, Settings(max_queued_messages=3, max_messages_per_second=1000, close_timeout_s=1))


def test_welcome_comes_first_whatever_happens_meanwhile(service, peer, settle) -> None:
    """Newcomers who arrive in the same instant, amid talk, each hear their welcome before all else."""

    async def scenario() -> list[peer]:
        alice = peer(service, "general", "Alice")
        await settle()
        newcomers = [peer(service, "general", f"New{number}") for number in range(2)]
        alice.say("hello")
        await settle()
        for each in [alice, *newcomers]:
            each.leave()
        await settle()
        return newcomers

    for number, newcomer in enumerate(asyncio.run(scenario())):
        assert newcomer.heard[0]["Content"] == f"Welcome to General Chat, New{number}!"


@pytest.mark.parametrize(
    "end", [lambda bob: bob.leave(1000), lambda bob: bob.leave(1006), lambda bob: bob.task.cancel()]
)
def test_every_way_to_go_is_a_leave(service, rooms, peer, settle, end) -> None:
    """Closed, cut off or cancelled: announced to the others once and counted down."""

    async def scenario() -> list[str]:
        alice, bob = peer(service, "general", "Alice"), peer(service, "general", "Bob")
        await settle()
        end(bob)
        await settle()
        assert bob.task.done()
        alice.leave()
        await settle()
        return contents(alice.heard)

    assert asyncio.run(scenario())[-2:] == ["Bob joined the room", "Bob left the room"]
    assert rooms.list_rooms()[0].active_users == 0


def test_connection_on_which_nothing_can_be_written_is_left(service, rooms, peer, settle) -> None:
    """A write that fails ends the connection, even if the server never says that it is gone."""

    async def scenario() -> list[str]:
        alice, bob = peer(service, "general", "Alice"), peer(service, "general", "Bob")
        await settle()
        bob.crash()
        alice.say("Bob?")
        await settle()
        assert bob.task.done()
        assert bob.task.exception() is None
        alice.leave()
        await settle()
        return contents(alice.heard)

    assert asyncio.run(scenario())[-1] == "Bob left the room"


def test_full_queue_disconnects_only_its_client(service, rooms, peer, settle) -> None:
    """One write in progress and three waiting are borne, the next is too many: 1013, and it leaves like anyone else."""

    async def scenario() -> tuple[peer, peer]:
        alice, bob, slow = (peer(service, "general", name) for name in ("Alice", "Bob", "Slow"))
        await settle()
        slow.stall()
        for number in range(4):
            alice.say(str(number))
            await settle()
        assert rooms.list_rooms()[0].active_users == 3
        alice.say("4")
        await settle()
        assert rooms.list_rooms()[0].active_users == 2
        slow.resume()
        await settle()
        assert slow.task.done()
        for each in (alice, bob):
            each.leave()
            await settle()
        return bob, slow

    bob, slow = asyncio.run(scenario())
    assert contents(bob.heard)[-7:] == ["0", "1", "2", "3", "4", "Slow left the room", "Alice left the room"]
    assert slow.close == (1013, "Too many messages were waiting")
    assert contents(slow.heard) == ["Welcome to General Chat, Slow!"]


def test_slow_client_that_stays_stalled_is_given_up(service, peer, settle) -> None:
    """The close frame is tried for a bounded time, then the connection ends without it."""

    async def scenario() -> peer:
        alice, slow = peer(service, "general", "Alice"), peer(service, "general", "Slow")
        await settle()
        slow.stall()
        for _ in range(5):
            alice.say("x")
        alice.leave()
        await asyncio.wait_for(slow.task, timeout=10)
        return slow

    assert asyncio.run(scenario()).close is None


def test_own_errors_count_as_messages_that_wait(service, peer, settle) -> None:
    """Somebody who sends nonsense and never reads the answers is disconnected, too."""

    async def scenario() -> peer:
        slow = peer(service, "general", "Slow")
        await settle()
        slow.stall()
        for _ in range(5):
            slow.say_binary(b"x")
        await settle()
        slow.resume()
        await settle()
        return slow

    assert asyncio.run(scenario()).close == (1013, "Too many messages were waiting")


def test_peer_that_goes_while_being_refused_does_no_harm(service, peer, settle) -> None:
    """A refusal that cannot be written is nobody's problem."""

    async def scenario() -> peer:
        lost = peer(service, "nowhere", "Alice")
        await asyncio.sleep(0)
        lost.crash()
        await settle()
        return lost

    lost = asyncio.run(scenario())
    assert lost.task.done()


def test_unexpected_failure_is_raised_after_leaving(service, rooms, peer, settle, monkeypatch) -> None:
    """A bug is not swallowed: the client leaves, and the server gets the exception to log."""

    def fail(client: object, text: str) -> str:
        raise ZeroDivisionError(text)

    async def scenario() -> BaseException | None:
        alice, bob = peer(service, "general", "Alice"), peer(service, "general", "Bob")
        await settle()
        monkeypatch.setattr(service, "find_problem", fail)
        bob.say("boom")
        await settle()
        alice.leave()
        await settle()
        assert contents(alice.heard)[-1] == "Bob left the room"
        return bob.task.exception()

    assert isinstance(asyncio.run(scenario()), ZeroDivisionError)
    assert rooms.list_rooms()[0].active_users == 0


def test_nothing_is_kept_of_those_who_left(service, peer, settle) -> None:
    """A service that everybody left is as empty as a new one."""

    async def scenario() -> None:
        peers = [peer(service, "general", str(number)) for number in range(3)]
        await settle()
        for each in peers:
            each.leave()
        await settle()

    asyncio.run(scenario())
    assert service._clients == {}
    assert service._client_ids == {}


def test_broadcast_is_turned_into_json_once(service, peer, settle, monkeypatch) -> None:
    """However many hear a message, they share one frame."""
    made = []

    async def scenario() -> None:
        peers = [peer(service, "general", str(number)) for number in range(3)]
        await settle()
        monkeypatch.setattr(service, "send_message_to_client", lambda client_id, message: made.append(message))
        peers[0].say("hello")
        await settle()
        monkeypatch.undo()
        for each in peers:
            each.leave()
        await settle()

    asyncio.run(scenario())
    assert len(made) == 2
    assert made[0] is made[1]
