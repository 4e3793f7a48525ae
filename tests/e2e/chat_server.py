"""The chat as a real process: uvicorn, traced or not, and the requests and connections that reach it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from harness import FILE_SINK_ONLY, ROOT, Config, Running, Tracer, environment, free_port, wait_until
from websockets.sync.client import ClientConnection, connect

TARGETS = [{"modules": ["sample_app", "sample_app.*"]}]
UVICORN = str(Path(sys.executable).with_name("uvicorn"))
FAST = {"CHAT_MAX_MESSAGES_PER_SECOND": "1000000"}  # for tests that send more than a person can


class ChatServer:
    """A chat that listens.

    Attributes:
        running: Its process.
        port: Where it listens, on 127.0.0.1.
        http: Sends requests to it.
    """

    def __init__(self, running: Running, port: int, http: httpx.Client) -> None:
        self.running, self.port, self.http = running, port, http

    def url(self, username: str, room_id: str = "general") -> str:
        """Where to connect as ``username``."""
        return f"ws://127.0.0.1:{self.port}/ws/{room_id}/{username}"

    @contextlib.contextmanager
    def join(self, *usernames: str) -> Iterator[list[ClientConnection]]:
        """Connections to the room "general", once everybody has heard all that their coming causes."""
        with contextlib.ExitStack() as stack:
            joined: list[ClientConnection] = []
            for username in usernames:
                joined.append(stack.enter_context(connect(self.url(username))))
                for each in joined:
                    each.recv(timeout=10)
            yield joined

    def count_users(self, room_id: str = "general") -> int:
        """How many people the server says are in a room."""
        return next(int(room["activeUsers"]) for room in self.http.get("/rooms").json() if room["id"] == room_id)

    def wait_until_empty(self) -> None:
        """Wait until the server has noticed that everybody has left."""
        wait_until(lambda: self.count_users() == 0, "everybody has left")


def uvicorn(port: int, *options: str, app_dir: Path = ROOT) -> list[str]:
    """The command that serves the chat."""
    return [UVICORN, "sample_app:app", "--app-dir", str(app_dir), "--port", str(port), *options]


@contextlib.contextmanager
def serving(
    folder: Path,
    *options: str,
    traced: bool = True,
    config: Config = FILE_SINK_ONLY,
    env: Mapping[str, str] | None = None,
    app_dir: Path = ROOT,
) -> Iterator[ChatServer]:
    """A chat for the time of a ``with`` block.

    Args:
        folder: For the configuration, the trace files and the output.
        options: For uvicorn.
        traced: Whether it runs under flowtrace.
        config: Keys of the configuration; see `harness.Tracer.run`.
        env: Variables to set.
        app_dir: The folder that holds the package ``sample_app``.
    """
    port = free_port()
    command = uvicorn(port, *options, app_dir=app_dir)
    if traced:
        running = Tracer(folder).start(command, config=with_targets(config), env=env)
    else:
        running = Running(command, cwd=folder, env=environment(**(env or {})), folder=folder)
    try:
        running.wait_for_port(port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield ChatServer(running, port, http)
    finally:
        running.kill()


def with_targets(config: Config) -> Config:
    """A configuration that traces the chat."""
    return config if isinstance(config, str) or config is None else {"service": "chat", "targets": TARGETS, **config}


def hear(connection: ClientConnection, count: int) -> list[str]:
    """The frames that arrive next, ``count`` of them."""
    return [str(connection.recv(timeout=30)) for _ in range(count)]


def entered(events: Sequence[Mapping[str, Any]], function: str) -> list[Mapping[str, Any]]:
    """The ENTER events of a function."""
    return [event for event in events if event["event"] == "ENTER" and event["function"] == function]
