"""An HTTP server for tests that answers as it is told: with any status, late, in drips, in a loop, or not at all.

It is a receiver as well: what it answers with 2xx it has stored before, each batch id once.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any, NamedTuple

import orjson


class Request(NamedTuple):
    """A request as it arrived, and when, in seconds of ``time.monotonic()``."""

    path: str
    headers: Message
    body: bytes
    at_s: float

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

    Args:
        script: See below.
        tls: Makes it an https server, with the certificate of this context.

    Attributes:
        script: What to do with the next requests, one step each; may be added to at any time.
        always: What to do once the script is used up.
        requests: What has arrived, in order, including what was not answered.
        stored: What was stored, by batch id, in the order of coming.
        doubles: The ids of batches that came although they were stored.
        is_deaf: Bodies are not read as long as this is true.
    """

    def __init__(self, *script: Step, tls: ssl.SSLContext | None = None) -> None:
        self.script = list(script)
        self.always: Step = answer(200)
        self.requests: list[Request] = []
        self.stored: dict[str, Request] = {}
        self.doubles: list[str] = []
        self.is_deaf = False
        self._tls = tls
        self._storing = threading.Lock()
        self._port = 0
        self.up()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._port}/v1/events"

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._port

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all requests."""
        return [event for request in self.requests for event in request.events]

    @property
    def stored_events(self) -> list[dict[str, Any]]:
        """The events of what was stored."""
        return [event for request in self.stored.values() for event in request.events]

    def commit(self, request: Request) -> None:
        """Store a request, unless its batch is stored already."""
        with self._storing:
            if request.batch_id in self.stored:
                self.doubles.append(request.batch_id)
            self.stored.setdefault(request.batch_id, request)

    def up(self) -> None:
        """Listen, on the same port each time."""
        self._server = _Server(("127.0.0.1", self._port), type("Handler", (_Handler,), {"chaos": self}))
        self._port = self._server.server_port
        if self._tls:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; connections are cut."""
        self._server.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # joined at the end, so that no socket is left to the collector
    block_on_close = True

    def __init__(self, *args: Any) -> None:
        self.stopped = threading.Event()
        super().__init__(*args)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients break off."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 0.2  # between two looks at whether the server was stopped
    chaos: ChaosServer
    server: _Server

    @property
    def is_stopped(self) -> bool:
        """True when the connection is to be cut."""
        return self.server.stopped.is_set()

    def handle_one_request(self) -> None:
        while not self.is_stopped:
            try:
                if isinstance(self.connection, ssl.SSLSocket):
                    self.connection.do_handshake()
                elif not self.connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
            super().handle_one_request()
            return
        self.close_connection = True

    def do_POST(self) -> None:
        while self.chaos.is_deaf:
            if self.server.stopped.wait(0.01):
                self.close_connection = True
                return
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the client has broken off
            self.close_connection = True
            return
        request = Request(self.path, self.headers, body, time.monotonic())
        self.chaos.requests.append(request)
        step = self.chaos.script.pop(0) if self.chaos.script else self.chaos.always
        with contextlib.suppress(OSError):
            step(self, request)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def answer(status: int, body: bytes = b"", **headers: str) -> Step:
    """Answer with a status; header names are written with underscores."""

    def step(handler: _Handler, request: Request) -> None:
        if 200 <= status < 300:
            handler.chaos.commit(request)
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
    handler.server.stopped.wait()
    handler.close_connection = True


def reset(handler: _Handler, request: Request) -> None:
    """Cut the connection after the body has arrived, without an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def reset_after_commit(handler: _Handler, request: Request) -> None:
    """Store the batch, and cut the connection instead of saying so."""
    handler.chaos.commit(request)
    reset(handler, request)


def truncated(handler: _Handler, request: Request) -> None:
    """Store the batch, say so, and break off in the midst of the answer's body."""
    handler.chaos.commit(request)
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"reje')
    handler.close_connection = True


def interim(*statuses: int) -> Step:
    """Answer with these statuses, each below 200, and then with 200."""

    def step(handler: _Handler, request: Request) -> None:
        for status in statuses:
            handler.send_response_only(status)
            handler.end_headers()
        answer(200)(handler, request)

    return step


def held(until: threading.Event, then: Step) -> Step:
    """Answer when something has happened elsewhere, or never if the server is stopped before."""

    def step(handler: _Handler, request: Request) -> None:
        while not until.wait(0.01):
            if handler.is_stopped:
                handler.close_connection = True
                return
        then(handler, request)

    return step


def garbage(handler: _Handler, request: Request) -> None:
    """Answer with something that is not HTTP."""
    handler.wfile.write(b"\x00\xff SSH-2.0-OpenSSH_9.6\r\n\r\n")
    handler.close_connection = True


def drip(head: bytes, *, every_s: float = 0.05) -> Step:
    """Send ``head`` byte by byte and then zeros for ever."""

    def step(handler: _Handler, request: Request) -> None:
        handler.close_connection = True
        sent = 0
        while not handler.is_stopped:
            handler.wfile.write(head[sent : sent + 1] or b"0")
            sent += 1
            time.sleep(every_s)

    return step


def huge_head(handler: _Handler, request: Request) -> None:
    """Answer 200 with headers that are larger than any client takes."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 1_000_000 + b"\r\n\r\n")


def flood(handler: _Handler, request: Request) -> None:
    """Answer 200 with a body that never ends."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while not handler.is_stopped:
        handler.wfile.write(b"x" * 65536)


@contextlib.contextmanager
def running(*script: Step, tls: ssl.SSLContext | None = None) -> Iterator[ChaosServer]:
    """A server for the time of a ``with`` block."""
    server = ChaosServer(*script, tls=tls)
    try:
        yield server
    finally:
        server.stop()
