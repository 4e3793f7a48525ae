"""Many connections at once, in one room and in fifty."""

import asyncio
import contextlib
import json
from collections.abc import Callable

import pytest
from websockets.asyncio.client import ClientConnection, connect


async def talk(address: str, room_ids: list[str], count: int, count_users: Callable[[], int]) -> list[list[str]]:
    """Connect ``count`` users to the rooms in turn, let one of each room speak; return what each heard of it."""
    async with contextlib.AsyncExitStack() as stack:
        handshakes = asyncio.Semaphore(50)

        async def enter(number: int) -> ClientConnection:
            url = f"ws://{address}/ws/{room_ids[number % len(room_ids)]}/user{number}"
            async with handshakes:
                connection = connect(url, compression=None, ping_interval=None, max_queue=None)
                return await stack.enter_async_context(connection)

        async def hear(connection: ClientConnection) -> list[str]:
            heard: list[str] = []
            while heard[-1:] != ["done"]:
                message = json.loads(await connection.recv())
                if message["Type"] == "message":
                    heard.append(message["Content"])
            return heard

        connections = await asyncio.gather(*map(enter, range(count)))
        assert count_users() == count
        for connection in connections[: len(room_ids)]:
            for text in ("one", "two", "done"):
                await connection.send(text)
        return await asyncio.gather(*map(hear, connections[len(room_ids) :]))


@pytest.mark.parametrize("room_count", [1, 50])
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.e2e)])
def test_everyone_hears_everything_in_order(chat, count, room_count) -> None:
    """All connections are served at once, each hears its room's speaker in order, and all are counted down after."""
    room_ids = ["general"]
    for number in range(1, room_count):
        room_ids.append(chat.http.post("/rooms", json={"name": f"Room {number}"}).json()["id"])

    def count_users() -> int:
        return sum(room["activeUsers"] for room in chat.http.get("/rooms").json())

    heard = asyncio.run(talk(chat.address, room_ids, count, count_users))

    assert heard == [["one", "two", "done"]] * (count - room_count)
    for room_id in room_ids:
        chat.wait_for_users(0, room_id)
