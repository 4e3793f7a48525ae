"""A hundred people in one room of a traced chat: nothing is lost, and every call is where it belongs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict

import pytest
from chat_server import ChatServer, entered, serving
from harness import Event, check_conservation
from websockets.asyncio.client import ClientConnection, connect

PEOPLE = 100
OTHERS = PEOPLE - 1


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[str]], list[Event]]:
    """What each of a hundred people has heard after each has said one thing, and the trace."""
    with serving(tmp_path_factory.mktemp("crowd")) as chat:
        heard = asyncio.run(meet(chat))
        chat.wait_until_empty()
        return heard, chat.running.stop().events


def test_everybody_hears_everybody(crowd: tuple[list[list[str]], list[Event]]) -> None:
    """Each person hears what each of the others has said, once, and nothing of their own."""
    for number, frames in enumerate(crowd[0]):
        said = Counter(json.loads(frame)["Content"] for frame in frames)
        assert said == Counter(f"I am {other}" for other in range(PEOPLE) if other != number)


def test_nothing_of_a_crowd_is_lost(crowd: tuple[list[list[str]], list[Event]]) -> None:
    """All calls are in the file, as STOP counts them."""
    events = crowd[1]
    check_conservation(events)
    assert events[-1]["lost"] == {"file": 0}
    assert len({event["traceId"] for event in entered(events, "connect")}) == PEOPLE


def test_each_broadcast_has_its_own_messages(crowd: tuple[list[list[str]], list[Event]]) -> None:
    """Below each broadcast of a text lie 99 messages with that text: one to each of the others."""
    children = defaultdict(list)
    for event in entered(crowd[1], "send_message_to_client"):
        children[event["parentId"]].append(json.loads(event["args"]))
    texts = 0

    for broadcast in entered(crowd[1], "broadcast_to_room"):
        args = json.loads(broadcast["args"])
        contents = {json.loads(child["message"])["Content"] for child in children[broadcast["spanId"]]}
        assert contents <= {args["message"]["Content"]}
        if args["message"]["Type"] == "message":
            texts += 1
            receivers = {child["client_id"] for child in children[broadcast["spanId"]]}
            assert len(receivers) == len(children[broadcast["spanId"]]) == OTHERS
            assert args["exclude_client_id"] not in receivers
    assert texts == PEOPLE


async def meet(chat: ChatServer) -> list[list[str]]:
    """All come in, all say one thing, all hear it, all leave; returns what each has heard of the others."""
    # No limit to what waits to be read: a client that stops reading would not see the answer to its close frame.
    people = [await connect(chat.url(f"user{number}"), max_queue=None) for number in range(PEOPLE)]
    for number, person in enumerate(people):
        await hear(person, 1 + OTHERS - number)  # the welcome, and who came later
    await asyncio.gather(*(person.send(f"I am {number}") for number, person in enumerate(people)))
    heard = await asyncio.gather(*(hear(person, OTHERS) for person in people))
    await asyncio.gather(*(person.close() for person in people))
    return list(heard)


async def hear(person: ClientConnection, count: int) -> list[str]:
    """The next frames, within a minute."""
    async with asyncio.timeout(60):
        return [str(await person.recv()) for _ in range(count)]
