"""Traces that go from service to service: real servers, real requests, and what arrives on the other side."""

from __future__ import annotations

import http.server
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Ended, Event, Running, Tracer, check_conservation, free_port, wait_until
from websockets.sync.client import connect

from tests.faults.chaos_server import running

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

FRONT = """
    import httpx
    from fastapi import FastAPI, WebSocket
    app = FastAPI()

    @app.get("/orders/{order}")
    async def order(order: str, of: str):
        async with httpx.AsyncClient() as client:
            return (await client.get(of)).json()

    @app.get("/late/{order}")
    async def late(order: str, of: str):
        return httpx.get(of).json()

    @app.websocket("/live/{name}")
    async def live(websocket: WebSocket, name: str):
        await websocket.accept()
        await websocket.send_text(say(name))
        await websocket.close()

    def say(name):
        return "hello " + name
"""
BACK = """
    from fastapi import FastAPI
    app = FastAPI()

    @app.get("/price/{item}")
    def price(item: int):
        return look_up(item)

    def look_up(item):
        return {"price": item}
"""
WSGI = """
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    def app(environ, start_response):
        start_response("200 OK", [])
        yield greet(environ["PATH_INFO"])

    def greet(path):
        return path.encode()

    def main(port):  # itself traced
        make_server("127.0.0.1", port, app).serve_forever()

    if __name__ == "__main__":
        import sys
        main(int(sys.argv[1]))
"""
CLIENT = """
    import sys, time, urllib.request

    def ask(url):
        with urllib.request.urlopen(url) as response:
            return response.read()

    def main():
        ask(sys.argv[1])
        with open("asked", "w"):
            time.sleep(float(sys.argv[2]))  # while events are delivered

    main()
"""


class Service:
    """A service that listens.

    Attributes:
        running: Its process.
        url: Where.
    """

    def __init__(self, running: Running, port: int) -> None:
        self.running, self.url = running, f"http://127.0.0.1:{port}"

    def stop(self) -> Ended:
        """End it; nothing of its trace may be missing but what is below a call elsewhere."""
        return self.running.stop()


@pytest.fixture
def serve(tracer: Tracer, write: Callable[[str, str], Path]) -> Callable[..., Service]:
    """``serve("front", FRONT)`` starts a service under uvicorn; ``config`` has further keys."""

    def serve(name: str, source: str, *options: str, **config: Any) -> Service:
        write(f"{name}.py", source)
        port = free_port()
        keys = {"targets": [{"modules": [name, "__main__"]}], **config}
        command = ["uvicorn", f"{name}:app", "--port", str(port), *options]
        return Service(tracer.start(command, port=port, config=keys), port)

    return serve


def calls(ended: Ended, function: str) -> list[Event]:
    """The ENTER events of a function in that process, and no other that writes to the same folder."""
    events = [event for event in ended.events if event["pid"] == ended.pid]
    return [event for event in events if event["event"] == "ENTER" and event["function"] == function]


@pytest.mark.parametrize("path", ["orders", "late"])
def test_two_services_show_one_trace(serve: Callable[..., Service], path: str) -> None:
    """What the second does is below the call of the first that asked for it; each request is a trace of its own."""
    front, back = serve("front", FRONT), serve("back", BACK)

    for item in (1, 2):
        answer = httpx.get(f"{front.url}/{path}/{item}", params={"of": f"{back.url}/price/{item}"}, timeout=30)
        assert answer.json() == {"price": item}

    first, second = front.stop(), back.stop()
    check_conservation(second.events)
    orders, prices = calls(first, path if path == "late" else "order"), calls(second, "price")
    assert [event["parentId"] for event in orders] == [None, None]
    assert [event["traceId"] for event in prices] == [event["traceId"] for event in orders]
    assert [event["parentId"] for event in prices] == [event["spanId"] for event in orders]
    assert [event["parentId"] for event in calls(second, "look_up")] == [event["spanId"] for event in prices]
    assert len({event["traceId"] for event in orders}) == 2
    assert prices[0]["request"] == {"protocol": "http", "method": "GET", "route": "/price/{item}"}
    assert "request" not in calls(second, "look_up")[0]


def test_a_websocket_goes_on_from_its_handshake(serve: Callable[..., Service]) -> None:
    """The whole connection is part of the trace that asked for it."""
    front = serve("front", FRONT)

    with connect(front.url.replace("http", "ws") + "/live/Joe", additional_headers={"traceparent": PARENT}) as socket:
        assert socket.recv(timeout=30) == "hello Joe"

    ended = front.stop()
    (live,), (say,) = calls(ended, "live"), calls(ended, "say")
    assert (live["traceId"], live["parentId"]) == (TRACE, SPAN)
    assert (say["traceId"], say["parentId"]) == (TRACE, live["spanId"])
    assert live["request"] == {"protocol": "websocket", "route": "/live/{name}"}


@pytest.mark.parametrize(
    ("headers", "accept"),
    [
        ([], True),
        ([PARENT.replace("00-", "ff-", 1)], True),
        ([PARENT + "-and-more"], True),
        ([PARENT, PARENT], True),
        ([PARENT.upper()], True),
        (["x" * 5000], True),
        ([PARENT], False),
    ],
)
def test_what_cannot_or_may_not_be_continued_begins_anew(
    serve: Callable[..., Service], headers: list[str], accept: bool
) -> None:
    """Headers that are malformed, or not accepted, are as good as none, for the answer too."""
    back = serve("back", BACK, propagation={"accept": accept})

    answer = httpx.get(f"{back.url}/price/1", headers=[("traceparent", value) for value in headers], timeout=30)

    assert answer.json() == {"price": 1}
    ended = back.stop()
    check_conservation(ended.events)
    (price,) = calls(ended, "price")
    assert price["parentId"] is None
    assert price["traceId"] != TRACE


def test_what_the_caller_does_not_record_is_not_recorded(serve: Callable[..., Service]) -> None:
    """Its flag says so, and STOP counts the calls."""
    back = serve("back", BACK)

    httpx.get(f"{back.url}/price/1", headers={"traceparent": PARENT[:-1] + "0"}, timeout=30)

    ended = back.stop()
    assert calls(ended, "price") == []
    assert ended.events[-1]["skippedCalls"] == 2


def test_requests_of_a_server_that_a_traced_call_started(tracer: Tracer, write: Callable[[str, str], Path]) -> None:
    """By WSGI; each is a trace, bodies that are yielded belong to it, and what started the server has its own."""
    write("shop.py", WSGI)
    port = free_port()
    running = tracer.start(["python", "shop.py", str(port)], port=port, config={"targets": [{"modules": ["__main__"]}]})

    url = f"http://127.0.0.1:{port}/secret"
    httpx.get(url, headers={"traceparent": PARENT}, timeout=30)
    httpx.get(url, timeout=30)

    ended = running.stop(signal.SIGINT)
    (main,), apps, greetings = (calls(ended, name) for name in ("main", "app", "greet"))
    check_conservation(ended.events, elsewhere=[SPAN])
    assert [event["parentId"] for event in apps] == [SPAN, None]
    assert len({TRACE, main["traceId"], apps[1]["traceId"]}) == 3
    assert apps[0]["traceId"] == TRACE
    assert [event["parentId"] for event in greetings] == [event["spanId"] for event in apps]
    assert apps[0]["request"] == {"protocol": "http", "method": "GET"}
    assert "request" not in main


class Plain(http.server.BaseHTTPRequestHandler):
    """A service that is not traced; ``server.heads`` has the headers that it got."""

    def do_GET(self) -> None:
        """Answer with nothing."""
        self.server.heads.append(dict(self.headers.items()))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def plain() -> Iterator[Any]:
    """Such a service."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        server.heads = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("send", [True, False])
def test_other_services_see_the_header(
    tracer: Tracer, write: Callable[[str, str], Path], plain: Any, send: bool
) -> None:
    """It has the ids of the call that the trace file has; with ``send: false`` there is none."""
    write("client.py", CLIENT)
    keys = {"targets": [{"modules": ["__main__"]}], "propagation": {"send": send}}

    ended = tracer.run(["python", "client.py", f"http://127.0.0.1:{plain.server_port}/", "0"], config=keys)

    (head,) = plain.heads
    (ask,) = calls(ended, "ask")
    assert head.pop("traceparent", None) == (f"00-{ask['traceId']}-{ask['spanId']}-01" if send else None)
    assert head.keys() == {"Accept-Encoding", "Host", "User-Agent", "Connection"}


def test_what_is_sent_on_is_what_came(tracer: Tracer, write: Callable[[str, str], Path], plain: Any) -> None:
    """``tracestate`` goes out with the trace that it came with."""
    write("front.py", FRONT)
    port = free_port()
    command = ["uvicorn", "front:app", "--port", str(port)]
    running = tracer.start(command, port=port, config={"targets": [{"modules": ["front"]}]})

    headers = {"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE,rojo=1"}
    of = f"http://127.0.0.1:{plain.server_port}/"
    httpx.get(f"http://127.0.0.1:{port}/orders/1", params={"of": of}, headers=headers, timeout=30)

    (order,) = calls(running.stop(), "order")
    (head,) = plain.heads
    assert head["traceparent"] == f"00-{TRACE}-{order['spanId']}-01"
    assert head["tracestate"] == headers["tracestate"]


def test_events_are_sent_without_a_trace(tracer: Tracer, write: Callable[[str, str], Path], plain: Any) -> None:
    """The http sink uses a library that is spliced: what it sends while a traced call runs is not the program's."""
    write("client.py", CLIENT)
    with running() as receiver:
        sink = {"type": "http", "url": receiver.url, "batch": {"max_wait": "10ms"}}
        keys = {"targets": [{"modules": ["__main__"]}], "sinks": [sink], "flush": {"interval": "10ms"}}
        url = f"http://127.0.0.1:{plain.server_port}/"
        program = tracer.start(["python", "client.py", url, "1"], config=keys)
        wait_until((tracer.folder / "asked").exists, "the request was made")
        wait_until(lambda: any(b'"ask"' in line for each in receiver.requests for line in each.lines), "events arrive")
        program.wait()

    assert "traceparent" in plain.heads[0]
    assert receiver.requests
    assert [each.headers for each in receiver.requests if "traceparent" in each.headers] == []
