"""Many connections at once, in one room and in fifty."""

import asyncio
import contextlib
import json
import resource
from collections.abc import Iterator

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

TEXTS = ["one", "two", "done"]


async def hear_talk(connection: ClientConnection) -> list[str]:
    """Return what is said, up to and with the last of the texts."""
    heard: list[str] = []
    while heard[-1:] != TEXTS[-1:]:
        frame = await connection.recv()
        if '"Type":"message"' in frame:
            heard.append(json.loads(frame)["Content"])
    return heard


async def talk(http: httpx.Client, room_ids: list[str], count: int) -> list[list[str]]:
    """Have users enter the rooms in turn and the first of each speak; return what each of the others heard."""
    handshakes = asyncio.Semaphore(50)

    async def enter(number: int) -> ClientConnection:
        url = f"ws://{http.base_url.netloc.decode()}/ws/{room_ids[number % len(room_ids)]}/user{number}"
        async with handshakes:
            return await stack.enter_async_context(
                connect(url, compression=None, ping_interval=None, max_queue=None, open_timeout=60, close_timeout=60)
            )

    async with contextlib.AsyncExitStack() as stack:
        connections = await asyncio.gather(*map(enter, range(count)))
        assert sum(room["activeUsers"] for room in http.get("/rooms").json()) == count
        for speaker in connections[: len(room_ids)]:
            for text in TEXTS:
                await speaker.send(text)
        heard = await asyncio.gather(*map(hear_talk, connections[len(room_ids) :]))
        await asyncio.gather(*(connection.close() for connection in connections))
    return heard


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process, and the server that it starts, open more files than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.e2e
@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("room_count", [1, 50])
@pytest.mark.parametrize("count", [100, 1000])
def test_everyone_hears_everything_in_order(start_process, free_port, wait_until, count, room_count) -> None:
    """All connections are served at once, each hears its room's speaker in order, and all are counted down after."""
    start_process("sample_app", CHAT_PORT=str(free_port))
    with httpx.Client(base_url=f"http://127.0.0.1:{free_port}", timeout=60) as http:
        room_ids = ["general"]
        for number in range(1, room_count):
            room_ids.append(http.post("/rooms", json={"name": f"Room {number}"}).json()["id"])

        heard = asyncio.run(talk(http, room_ids, count))

        assert heard == [TEXTS] * (count - room_count)
        wait_until(lambda: all(room["activeUsers"] == 0 for room in http.get("/rooms").json()), "all have left")
