"""What the chat's tests share: the real application under a real server, and connections made without any server."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from harness import wait_until
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import sample_app
from sample_app import api
from sample_app.chat import ChatService
from sample_app.rooms import ChatRoomManager
from sample_app.settings import Settings

DEADLINE_S = 10


class RunningServer:
    """The application under uvicorn in a thread, on a free port."""

    def __init__(self) -> None:
        # With the protocol spelled out, asyncio recognises TCP and sets TCP_NODELAY; else each answer may take 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(api.app, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        wait_until(lambda: self._server.started, "the server starts")

    def stop(self) -> None:
        """End the server as a signal would, and wait for it."""
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the server does not end"


class Chatter:
    """Somebody in a room, over a real connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def hear(self) -> dict[str, str]:
        """Return the next message."""
        message: dict[str, str] = json.loads(self.connection.recv(timeout=DEADLINE_S))
        return message

    def hear_content(self, count: int = 1) -> list[str]:
        """Return what the next messages say."""
        return [self.hear()["Content"] for _ in range(count)]

    def say(self, *texts: str | bytes) -> None:
        """Send texts, or binary frames."""
        for text in texts:
            self.connection.send(text)

    def leave(self) -> None:
        """Close as a client that is done."""
        self.connection.close()

    def hear_close(self) -> tuple[int, str]:
        """Read on until the server closes; return its code and reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.connection.recv(timeout=DEADLINE_S)
        assert self.connection.protocol.close_code is not None
        return self.connection.protocol.close_code, self.connection.protocol.close_reason or ""


class Chat:
    """A fresh chat behind the running server."""

    def __init__(self, server: RunningServer, http: httpx.Client, connections: contextlib.ExitStack) -> None:
        self.address = server.address
        self.http = http
        self._connections = connections

    def join(self, username: str, room_id: str = "general", **options: Any) -> Chatter:
        """Connect; the messages that greet are still to be heard."""
        url = f"ws://{self.address}/ws/{room_id}/{username}"
        return Chatter(self._connections.enter_context(connect(url, **options)))

    def join_and_skip_welcome(self, *usernames: str, room_id: str = "general") -> list[Chatter]:
        """Connect several and hear all that their coming causes."""
        chatters: list[Chatter] = []
        for username in usernames:
            newcomer = self.join(username, room_id)
            for chatter in [*chatters, newcomer]:
                chatter.hear()
            chatters.append(newcomer)
        return chatters

    def count_users(self, room_id: str = "general") -> int:
        """Return how many people the server says are in a room."""
        return next(room["activeUsers"] for room in self.http.get("/rooms").json() if room["id"] == room_id)

    def wait_for_users(self, count: int, room_id: str = "general") -> None:
        """Return when so many people are in a room."""
        wait_until(lambda: self.count_users(room_id) == count, f"{count} users in {room_id}")


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One server for all tests of the session."""
    running = RunningServer()
    yield running
    running.stop()


@pytest.fixture
def start_server() -> Iterator[Callable[[], RunningServer]]:
    """A way to a server of one's own, that the test itself may stop."""
    with contextlib.ExitStack() as stack:

        def start() -> RunningServer:
            running = RunningServer()
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """A way to start a server process and wait until it listens."""
    log = tmp_path / "server.log"  # a pipe that nobody empties would stop the server after 64 KiB

    with contextlib.ExitStack() as stack:

        def run(*arguments: str, **settings: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    cwd=Path(sample_app.__file__).parent.parent,
                    env=os.environ | settings,
                    stdout=stack.enter_context(log.open("wb")),
                    stderr=subprocess.STDOUT,
                )
            )
            stack.callback(process.kill)
            wait_until(lambda: "running on" in log.read_text(), "the server process starts")
            return process

        yield run


@pytest.fixture
def restrict(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A way to start the application's state afresh under other settings."""

    def replace_state(**settings: int) -> None:
        rooms = ChatRoomManager()
        monkeypatch.setattr(api, "rooms", rooms)
        monkeypatch.setattr(api, "chat", ChatService(rooms, Settings(**settings)))

    return replace_state


@pytest.fixture
def chat(server: RunningServer, restrict: Callable[..., None]) -> Iterator[Chat]:
    """A fresh chat; who is still there at the end is disconnected."""
    restrict()
    with httpx.Client(base_url=f"http://{server.address}") as http, contextlib.ExitStack() as connections:
        yield Chat(server, http, connections)


class Peer:
    """The far end of one connection to a ChatService, made of plain queues: it can stall, break and be cancelled."""

    def __init__(self, service: ChatService, room_id: str, username: str) -> None:
        self.heard: list[dict[str, str]] = []
        self.close: tuple[int, str] | None = None
        self.is_broken = False
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        websocket = WebSocket({"type": "websocket", "path": "/", "headers": []}, self._incoming.get, self._send)
        self.task = asyncio.create_task(service.handle_websocket_connection(websocket, room_id, username))

    async def _send(self, event: Any) -> None:
        await self._may_write.wait()
        if self.is_broken:
            raise OSError("connection reset by peer")
        if event["type"] == "websocket.send":
            self.heard.append(json.loads(event["text"]))
        elif event["type"] == "websocket.close":
            self.close = (event["code"], event["reason"])

    def say(self, text: str) -> None:
        """Send a text frame."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    def say_binary(self, data: bytes) -> None:
        """Send a binary frame."""
        self._incoming.put_nowait({"type": "websocket.receive", "bytes": data})

    def leave(self, code: int = 1000) -> None:
        """End the connection: 1000 as a client that is done, 1006 as one that is cut off."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": code})

    def crash(self) -> None:
        """Make every write fail from now on, without a word that the connection is gone."""
        self.is_broken = True

    def stall(self) -> None:
        """Stop reading: from now on a write waits."""
        self._may_write.clear()

    def resume(self) -> None:
        """Read again."""
        self._may_write.set()


@pytest.fixture
def peer() -> type[Peer]:
    """The class of connections that need no server."""
    return Peer


@pytest.fixture
def settle() -> Callable[[], Any]:
    """A coroutine function that lets everything run that can run."""

    async def run_all() -> None:
        for _ in range(40):  # the longest chain of wake-ups here is shorter than ten
            await asyncio.sleep(0)

    return run_all
