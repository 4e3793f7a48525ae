"""An HTTP server for tests that answers as it is told: with any status, late, in drips, in a loop, or not at all."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any, NamedTuple

import orjson


class Request(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: Message
    body: bytes

    @property
    def batch_id(self) -> str:
        """The id of the batch in it."""
        return str(self.headers["Flowtrace-Batch"])

    @property
    def lines(self) -> list[bytes]:
        """The lines of the body, decompressed."""
        body = gzip.decompress(self.body) if self.headers.get("Content-Encoding") == "gzip" else self.body
        return body.splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of the body."""
        return [orjson.loads(line) for line in self.lines]


Step = Callable[["_Handler", Request], None]


class ChaosServer:
    """Answers the first requests as its script says and all others with 200.

    Attributes:
        script: What to do with the next requests, one step each; may be added to at any time.
        always: What to do once the script is used up.
        requests: What has arrived, in order, including what was not answered.
    """

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.always: Step = answer(200)
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False  # joined at the end, so that no socket is left to the collector
        self._server.block_on_close = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/events"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all requests."""
        return [event for request in self.requests for event in request.events]

    def stop(self) -> None:
        """Stop listening; connections are cut."""
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        return type("Handler", (_Handler,), {"chaos": self})


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 0.2  # between two looks at whether the server was stopped
    chaos: ChaosServer

    def handle_one_request(self) -> None:
        while not self.chaos.stopped.is_set():
            try:
                if not self.connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
            super().handle_one_request()
            return
        self.close_connection = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = Request(self.path, self.headers, body)
        self.chaos.requests.append(request)
        step = self.chaos.script.pop(0) if self.chaos.script else self.chaos.always
        with contextlib.suppress(OSError):
            step(self, request)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def answer(status: int, body: bytes = b"", **headers: str) -> Step:
    """Answer with a status; header names are written with underscores."""

    def step(handler: _Handler, request: Request) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return step


def limit(max_lines: int) -> Step:
    """Answer 413 to a body of more lines than this."""

    def step(handler: _Handler, request: Request) -> None:
        answer(413 if len(request.lines) > max_lines else 200)(handler, request)

    return step


def hang(handler: _Handler, request: Request) -> None:
    """Answer nothing until the server is stopped."""
    handler.chaos.stopped.wait()
    handler.close_connection = True


def reset(handler: _Handler, request: Request) -> None:
    """Cut the connection after the body has arrived, without an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def garbage(handler: _Handler, request: Request) -> None:
    """Answer with something that is not HTTP."""
    handler.wfile.write(b"\x00\xff SSH-2.0-OpenSSH_9.6\r\n\r\n")
    handler.close_connection = True


def drip(head: bytes, *, every_s: float = 0.05) -> Step:
    """Send ``head`` byte by byte and then zeros for ever."""

    def step(handler: _Handler, request: Request) -> None:
        handler.close_connection = True
        sent = 0
        while not handler.chaos.stopped.is_set():
            handler.wfile.write(head[sent : sent + 1] or b"0")
            sent += 1
            time.sleep(every_s)

    return step


def flood(handler: _Handler, request: Request) -> None:
    """Answer 200 with a body that never ends."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while not handler.chaos.stopped.is_set():
        handler.wfile.write(b"x" * 65536)


@contextlib.contextmanager
def running(*script: Step) -> Iterator[ChaosServer]:
    """A server for the time of a ``with`` block."""
    server = ChaosServer(*script)
    try:
        yield server
    finally:
        server.stop()
