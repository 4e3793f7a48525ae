"""An application that counts its calls, for servers of several processes, and what sends requests to it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from comparison import Comparison, Counted, by_name
from harness import Ended

PYTHON = sys.executable
REQUESTS = 10
CLOSED = 50
APPLICATION = f"""
    count("module")

    def handle(path):
        count("handle")
        return f"{{os.getpid()}} {{path}}".encode()

    async def app(scope, receive, send):
        count("app")
        if scope["type"] == "http":
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": handle(scope["path"])}})
        while scope["type"] == "lifespan":
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                works({CLOSED})  # the last that the process does
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return

    def wsgi(environ, start_response):
        count("wsgi")
        start_response("200 OK", [])
        return [handle(environ["PATH_INFO"])]
    """


def serve(
    comparison: Comparison,
    command: Sequence[str],
    port: int,
    *,
    processes: int = 1,
    number: int = signal.SIGTERM,
    drive: Callable[[Counted], object] = lambda _: None,
) -> Ended:
    """Start a server without and with flowtrace, send it requests, end it, and compare.

    Args:
        comparison: Runs it, and knows its calls afterwards.
        command: COMMAND and its arguments; the application is in the module `served`.
        port: Where it listens.
        processes: How many of them import the application.
        number: The signal that ends it: SIGTERM is sent to the first process, SIGINT to all, as a terminal does.
        drive: What else happens before the end.
    """
    comparison.write(APPLICATION, "served.py")

    def send(program: Counted) -> None:
        program.wait_for("module", processes)
        program.running.wait_for_port(port)
        request(port)
        drive(program)
        if number == signal.SIGINT:
            os.killpg(program.running.pid, number)
        else:
            program.running.process.send_signal(number)

    ended = comparison.run([PYTHON, "-m", *command], drive=send, compares_streams=False)

    assert by_name(comparison.counted)["handle"] >= REQUESTS
    for pid, name in list(comparison.counted):
        if name == "module":  # which is no function
            del comparison.counted[pid, name]
    return ended


def request(port: int) -> set[str]:
    """Send requests, each over a connection of its own; returns the ids of the processes that answered."""
    answers = [httpx.get(f"http://127.0.0.1:{port}/{n}", timeout=30) for n in range(REQUESTS)]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.text.split()[0] for answer in answers}


def touch(path: Path) -> None:
    """Make a file newer, as saving it in an editor does."""
    newer = path.stat().st_mtime + 10
    os.utime(path, (newer, newer))


def answers_again(port: int, before: set[str]) -> bool:
    """Whether others than these processes answer now."""
    try:
        return not request(port) & before
    except httpx.TransportError:
        return False
