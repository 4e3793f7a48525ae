"""Requests that the program makes: what is added to them, and that nothing else of them changes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import http.client
import socketserver
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpcore  # noqa: F401  # httpx imports it late, past the splices of these tests
import httpx
import pytest
import urllib3

from flowtrace.carriers import remote
from flowtrace.events import Ids
from flowtrace.incoming import Arrived, Request
from flowtrace.outgoing import Outgoing
from flowtrace.recorder import LOST, SKIPPED, Entry, Recorder
from flowtrace.splices import Splices
from flowtrace.tracecontext import Remote, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENDER = Remote(TRACE, SPAN)
STATE = "congo=t61rcWkgMzE"
REQUEST = contextvars.ContextVar[Request | None]("request", default=None)


class Wire(socketserver.ThreadingTCPServer):
    """A server that keeps the bytes of requests, and answers each with nothing."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.requests: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/path"


class _Connection(socketserver.StreamRequestHandler):
    server: Wire

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        lines = head.lower().split(b"\r\n")
        if b"transfer-encoding: chunked" in lines:
            body = b"".join(iter(self.rfile.readline, b"0\r\n"))
        else:
            length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
            body = self.rfile.read(length)
        self.server.requests.append(head + b"\r\n" + body)
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class Client:
    """A program that makes requests, with the real libraries spliced."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.recorder.state.strict = True
        self.ids = Ids(lambda count: bytes(range(count)))
        self.sends = True
        self.splices = Splices(self.recorder)
        self.outgoing = Outgoing(self.recorder.current, REQUEST, self.ids, sends=lambda: self.sends)
        self.outgoing.install(self.splices)
        self.splices.imported()

    @contextlib.contextmanager
    def within(self, current: Any, request: Request | None = None) -> Iterator[None]:
        """Below this span, at work on this request."""
        before, token = self.recorder.current.get(), REQUEST.set(request)
        self.recorder.current.set(current)
        yield
        self.recorder.current.set(before)
        REQUEST.reset(token)


@pytest.fixture
def client() -> Iterator[Client]:
    """One that is gone without a trace afterwards."""
    client = Client()
    yield client
    client.splices.switch(on=False)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A server for the time of a test."""
    with Wire() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def by_http_client(url: str, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.request("POST", "/path", iter([b"ab", b"c"]), headers, encode_chunked=True)
    connection.getresponse().read()
    connection.close()


def by_urllib(url: str, headers: dict[str, str]) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, b"abc", headers)) as response:
        response.read()


def by_urllib3(url: str, headers: dict[str, str]) -> None:
    with urllib3.PoolManager() as pool:
        pool.request("POST", url, body=b"abc", headers=headers)


def by_httpx(url: str, headers: dict[str, str]) -> None:
    request = httpx.post(url, content=b"abc", headers=headers).request
    assert [*request.headers].count("traceparent") == [name.lower() for name in headers].count("traceparent")


def by_httpx_asynchronously(url: str, headers: dict[str, str]) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as client:
            await client.post(url, content=b"abc", headers=headers)

    asyncio.run(main())


LIBRARIES = pytest.mark.parametrize(
    "post", [by_http_client, by_urllib, by_urllib3, by_httpx, by_httpx_asynchronously], ids=lambda post: post.__name__
)
Post = Callable[[str, dict[str, str]], None]


@LIBRARIES
def test_requests_carry_the_current_span(client: Client, wire: Wire, post: Post) -> None:
    """One header more, behind the others: these, their order and case, and the body are byte by byte the same."""
    post(wire.url, {"X-Own": "1"})
    with client.within((7, 9)):
        post(wire.url, {"X-Own": "1"})

    plain, traced = wire.requests
    text = f"traceparent: 00-{client.ids.trace(7)}-{client.ids.span(9)}-01\r\n".encode()
    head, body = plain.split(b"\r\n\r\n")
    assert traced == head + b"\r\n" + text + b"\r\n" + body
    assert b"abc" in body.replace(b"\r\n", b"").replace(b"1", b"").replace(b"2", b"")


@LIBRARIES
def test_a_request_that_says_itself_where_it_belongs_is_left_alone(client: Client, wire: Wire, post: Post) -> None:
    """Whatever it says, and however it writes the name."""
    with client.within((7, 9), sent_by(SENDER)):
        post(wire.url, {"TraceParent": "mine"})

    (request,) = wire.requests
    assert request.lower().count(b"traceparent: mine") == request.lower().count(b"traceparent") == 1
    assert b"tracestate" not in request


@LIBRARIES
@pytest.mark.parametrize("case", ["no span", "switched off", "the agent's own"])
def test_nothing_is_added_where_there_is_nothing_to_say(client: Client, wire: Wire, post: Post, case: str) -> None:
    """Outside of traced calls, with ``propagation.send: false``, and for what a sink sends."""
    client.sends = case != "switched off"
    blind = client.recorder.blind() if case == "the agent's own" else contextlib.nullcontext()
    with client.within(None if case == "no span" else (7, 9)), blind:
        post(wire.url, {})

    assert b"traceparent" not in wire.requests[0].lower()


def test_a_header_is_added_once_for_each_request_of_a_connection(client: Client, wire: Wire) -> None:
    """A connection that is in the wrong state says so as ever, and what it sends later is whole."""
    connection = http.client.HTTPConnection(wire.url.split("/")[2])
    with client.within((7, 9)):
        with pytest.raises(http.client.CannotSendHeader):
            connection.endheaders()
        connection.putrequest("GET", "/path", skip_host=True)
        connection.putheader("Host", "a")
        connection.endheaders()
        connection.getresponse().read()
    connection.close()

    assert wire.requests[0].count(b"traceparent") == 1


def sent_by(sender: Remote | None, state: str | None = STATE) -> Request:
    """A request that the program is at work on."""
    return Request(Arrived("http", "GET", str(sender) if sender else None, state), accepts=True)


@pytest.mark.parametrize("current", [LOST, SKIPPED])
def test_what_is_not_recorded_here_is_not_there_either(client: Client, current: Any) -> None:
    """The flag says so; the trace is that of the request, where that is known, else one of its own each time."""
    seen = []
    for request in (None, None, sent_by(None), sent_by(SENDER)):
        with client.within(current, request):
            place = parse(dict(client.outgoing.headers())["traceparent"])
        assert place is not None
        assert not place.is_sampled
        seen.append(place.trace)

    assert len(set(seen)) == 4
    assert seen[3] == TRACE


def test_a_request_without_calls_is_handed_on(client: Client) -> None:
    """Outside of traced calls, what a request sends belongs to the one who sent that; who said nothing gets nothing."""
    with client.within((Entry(SENDER), None), sent_by(SENDER)):
        assert client.outgoing.headers() == [("traceparent", str(SENDER)), ("tracestate", STATE)]
    with client.within((Entry(), None), sent_by(None)):
        assert client.outgoing.headers() == []


def test_tracestate_goes_on_with_its_trace_only(client: Client) -> None:
    """Not where the trace is another: a call of another tracer was joined, or the request said nothing."""
    other = "f" * 32
    for trace, request, expected in (
        (TRACE, sent_by(SENDER), STATE),
        (TRACE, sent_by(SENDER, None), None),
        (other, sent_by(SENDER), None),
        (7, sent_by(None), None),
    ):
        with client.within((trace, 9), request):
            assert dict(client.outgoing.headers()).get("tracestate") == expected


def test_a_tracestate_of_the_programs_own_is_left_alone(client: Client, wire: Wire) -> None:
    """It is not sent twice."""
    with client.within((TRACE, 9), sent_by(SENDER)):
        by_urllib3(wire.url, {"Tracestate": "mine=1"})

    assert wire.requests[0].lower().count(b"tracestate") == 1
    assert b"traceparent: 00-" in wire.requests[0]


def test_ids_are_those_of_the_events(client: Client) -> None:
    """What is sent is what the carriers send to processes, and the trace file says."""
    with client.within((7, 9)):
        assert dict(client.outgoing.headers())["traceparent"] == str(remote((7, 9), client.ids))
