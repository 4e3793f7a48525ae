"""The session of Alice, Bob and Charlie from the chat's documentation, played with wscat against a real server."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import httpx
from chat_server import ChatServer
from harness import wait_until
from wscat import Wscat


@dataclass
class Session:
    """What everybody has seen.

    Attributes:
        screens: The lines in each person's terminal, until they pressed Ctrl-C.
        rooms: The answer to ``GET /rooms`` while all three were there.
        created: The answer to ``POST /rooms``.
        active_users: Of a later connection: while it stood, and in the end.
    """

    screens: dict[str, list[str]]
    rooms: httpx.Response
    created: httpx.Response
    active_users: list[int]


def play(chat: ChatServer) -> Session:
    """Play the session, then the scenario of connection cleanup."""
    with ExitStack() as stack:
        terminals: dict[str, Wscat] = {}
        for name in ("Alice", "Bob"):
            join(chat, name, terminals, stack)
        alice, bob = terminals["Alice"], terminals["Bob"]
        alice.type("Hello everyone!")
        bob.wait_for("Hello everyone!")
        bob.type("Hi Alice!")
        alice.wait_for("Hi Alice!")
        join(chat, "Charlie", terminals, stack)
        rooms = chat.http.get("/rooms")
        created = chat.http.post("/rooms", json={"name": "Tech Talk"})
        screens = {name: leave(name, terminals) for name in ("Charlie", "Bob", "Alice")}
        chat.wait_until_empty()
    return Session(screens, rooms, created, clean_up(chat))


def join(chat: ChatServer, name: str, terminals: dict[str, Wscat], stack: ExitStack) -> None:
    """Somebody connects, and everybody hears of it."""
    newcomer = stack.enter_context(Wscat(chat.url(name)))
    newcomer.wait_for(f"Welcome to General Chat, {name}!")
    for other in terminals.values():
        other.wait_for(f"{name} joined the room")
    terminals[name] = newcomer


def leave(name: str, terminals: dict[str, Wscat]) -> list[str]:
    """Somebody presses Ctrl-C, and everybody who stays hears of it; returns the screen of who has left."""
    terminal = terminals.pop(name)
    screen = terminal.screen
    terminal.press_ctrl_c()
    for other in terminals.values():
        other.wait_for(f"{name} left the room")
    return screen


def clean_up(chat: ChatServer) -> list[int]:
    """One connection comes and goes; returns how many users the server says there are, during and after."""
    with Wscat(chat.url("Alice")) as alice:
        alice.wait_for("Welcome")
        during = chat.count_users()
        alice.press_ctrl_c()
        wait_until(lambda: chat.count_users() != during, "the number of users changes")
    return [during, chat.count_users()]
