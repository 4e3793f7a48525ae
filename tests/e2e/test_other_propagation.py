"""Traces across services by the servers, frameworks, clients and tracers that people use beside those of the chat."""

from __future__ import annotations

import http.server
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Ended, Event, Tracer, check_conservation, free_port
from other_tools import command, last_life, needs
from websockets.sync.client import connect

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

Write = Callable[[str, str], Path]

FLASK = """
    from flask import Blueprint, Flask
    app, rooms = Flask(__name__), Blueprint("rooms", __name__, url_prefix="/of/<tenant>")

    @rooms.get("/rooms/<int:room>")
    def handle(tenant, room):
        def body():
            yield work(room)
        return body()

    def work(room):
        return str(room)

    app.register_blueprint(rooms)
"""
DJANGO = """
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import include, path

    def handle(request, tenant, room):
        return HttpResponse(work(room))

    def work(room):
        return str(room)

    urlpatterns = [path("of/<tenant>/", include([path("rooms/<int:room>", handle)]))]
    settings.configure(SECRET_KEY="-", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
    django.setup()

    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    app, asgi = get_wsgi_application(), get_asgi_application()
"""
STARLETTE = """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route, WebSocketRoute

    async def handle(request):
        return PlainTextResponse(work(request.path_params["room"]))

    async def live(websocket):
        await websocket.accept()
        await websocket.send_text(work(1))
        await websocket.close()

    def work(room):
        return str(room)

    routes = [Route("/rooms/{room:int}", handle), WebSocketRoute("/live", live)]
    app = Starlette(routes=[Mount("/of/{tenant}", routes=routes)])
"""
RAW = """
    async def app(scope, receive, send):  # no framework
        if scope["type"] == "http":
            await handle(send)

    async def handle(send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": work(7).encode()})

    def work(room):
        return str(room)
"""
FLASK_ROUTE, DJANGO_ROUTE = "/of/<tenant>/rooms/<int:room>", "/of/<tenant>/rooms/<int:room>"
STARLETTE_ROUTE = "/of/{tenant}/rooms/{room:int}"
GUNICORN = "gunicorn --bind 127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("source", "line", "route"),
    [
        pytest.param(FLASK, "flask --app shop run --port {port}", FLASK_ROUTE, id="Flask, werkzeug"),
        pytest.param(FLASK, f"{GUNICORN} shop:app", FLASK_ROUTE, id="Flask, gunicorn"),
        pytest.param(FLASK, f"{GUNICORN} --threads 2 shop:app", FLASK_ROUTE, id="Flask, gunicorn with threads"),
        pytest.param(FLASK, "waitress-serve --listen=127.0.0.1:{port} shop:app", FLASK_ROUTE, id="Flask, waitress"),
        pytest.param(FLASK, "hypercorn --bind 127.0.0.1:{port} wsgi:shop:app", FLASK_ROUTE, id="Flask, hypercorn"),
        pytest.param(DJANGO, f"{GUNICORN} shop:app", DJANGO_ROUTE, id="Django, gunicorn"),
        pytest.param(DJANGO, "waitress-serve --listen=127.0.0.1:{port} shop:app", DJANGO_ROUTE, id="Django, waitress"),
        pytest.param(DJANGO, "uvicorn shop:asgi --port {port}", DJANGO_ROUTE, id="Django, uvicorn"),
        pytest.param(STARLETTE, "hypercorn --bind 127.0.0.1:{port} shop:app", STARLETTE_ROUTE, id="hypercorn"),
        pytest.param(STARLETTE, "uvicorn --http h11 shop:app --port {port}", STARLETTE_ROUTE, id="Starlette, h11"),
        pytest.param(STARLETTE, "uvicorn --http httptools shop:app --port {port}", STARLETTE_ROUTE, id="httptools"),
        pytest.param(RAW, "uvicorn shop:app --port {port}", None, id="uvicorn alone"),
        pytest.param(RAW, "hypercorn --bind 127.0.0.1:{port} shop:app", None, id="hypercorn alone"),
    ],
)  # fmt: skip
@needs("django")
def test_requests_are_traces(tracer: Tracer, write: Write, source: str, line: str, route: str | None) -> None:
    """Whoever serves and routes: a request is a trace of its own or goes on with the caller's, and shows its route."""
    write("shop.py", source)
    port = free_port()
    name, *arguments = line.format(port=port).split()
    program = tracer.start([command(name), *arguments], port=port, config={"targets": [{"modules": ["shop"]}]})

    url = f"http://127.0.0.1:{port}/of/secret/rooms/7?token=secret"
    assert httpx.get(url, headers={"traceparent": PARENT}, timeout=30).text == "7"
    assert httpx.get(url, timeout=30).text == "7"

    ended = program.stop(signal.SIGINT)
    requests = [event for event in ended.events if "request" in event and event.get("parentId") == SPAN]
    traces = {event["traceId"] for event in ended.events if event.get("function") == "work"}
    expected = {"protocol": "http", "method": "GET"} | ({"route": route} if route else {})
    assert [event["request"] for event in requests if event["function"] in ("handle", "app")][:1] == [expected]
    assert len(traces) == 2
    assert TRACE in traces
    works = [event for event in ended.events if event.get("function") == "work" and event["event"] == "ENTER"]
    assert len(works) == 2
    for process in {event["pid"] for event in works}:
        check_conservation([event for event in ended.events if event["pid"] == process], elsewhere=[SPAN])


@needs("wsproto")
def test_websockets_of_another_implementation(tracer: Tracer, write: Write) -> None:
    """A handshake that wsproto reads continues its trace too."""
    write("shop.py", STARLETTE)
    port = free_port()
    arguments = [command("uvicorn"), "--ws", "wsproto", "shop:app", "--port", str(port)]
    program = tracer.start(arguments, port=port, config={"targets": [{"modules": ["shop"]}]})

    url = f"ws://127.0.0.1:{port}/of/secret/live"
    with connect(url, additional_headers={"traceparent": PARENT}) as socket:
        assert socket.recv(timeout=30) == "1"

    (live,) = calls(program.stop(), "live")
    assert (live["traceId"], live["parentId"]) == (TRACE, SPAN)
    assert live["request"] == {"protocol": "websocket", "route": "/of/{tenant}/live"}


def calls(ended: Ended, function: str) -> list[Event]:
    """The ENTER events of a function."""
    return [event for event in ended.events if event["event"] == "ENTER" and event["function"] == function]


CLIENT = """
    import asyncio, sys
    URL = sys.argv[1]

    def by_requests():
        import requests
        sent = requests.post(URL, data=b"abc", headers={"X-Own": "1"}).request
        assert "traceparent" not in sent.headers

    async def by_aiohttp():
        import aiohttp
        async with aiohttp.ClientSession() as session:
            async with session.post(URL, data=b"abc", headers={"X-Own": "1"}) as response:
                assert "traceparent" not in response.request_info.headers

    async def by_aiohttp_server():  # whose answers are written by the same function
        from aiohttp import ClientSession, web
        async def answer(request):
            return web.Response(text="abc")
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        async with ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                assert "traceparent" not in response.headers
        await runner.cleanup()

    if sys.argv[2] == "requests":
        by_requests()
    else:
        asyncio.run(by_aiohttp())
        asyncio.run(by_aiohttp_server())
"""


class Plain(http.server.BaseHTTPRequestHandler):
    """A service that is not traced; ``server.requests`` has the heads and bodies that it got."""

    def do_POST(self) -> None:
        """Keep the request, and answer with nothing."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.headers.items(), body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def plain() -> Iterator[Any]:
    """Such a service."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        server.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("library", ["requests", "aiohttp"])
@needs("aiohttp")
def test_other_clients_send_the_current_span(tracer: Tracer, write: Write, plain: Any, library: str) -> None:
    """One header more, and nothing else: headers, their order and case, and the body are those of the untraced run."""
    write("client.py", CLIENT)
    arguments = [command("python"), "client.py", f"http://127.0.0.1:{plain.server_port}/", library]

    alone = tracer.run_plain(arguments)
    ended = tracer.run(arguments, config={"targets": [{"modules": ["__main__"]}]})

    assert (alone.returncode, ended.returncode) == (0, 0), ended.stderr
    (expected, body), (headers, same) = plain.requests
    (call,) = calls(ended, f"by_{library}")
    assert headers == [*expected, ("traceparent", f"00-{call['traceId']}-{call['spanId']}-01")]
    assert same == body == b"abc"


OPENTELEMETRY = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    def spans():
        for provider in (TracerProvider(), TracerProvider(ALWAYS_OFF)):
            tracer = provider.get_tracer("shop")
            with tracer.start_as_current_span("work") as span:
                context = span.get_span_context()
                yield f"{context.trace_id:032x}", f"{context.span_id:016x}"
"""
DDTRACE = """
    from ddtrace.trace import tracer

    def spans():
        for priority in (None, -1):
            with tracer.trace("work") as span:
                if priority is not None:
                    span.context.sampling_priority = priority
                yield f"{span.trace_id:032x}", f"{span.span_id:016x}"
"""
PROGRAM = """
    import json
    import shop
    from spans import spans

    shop.outside()
    print(json.dumps([span for span in spans() if shop.inside(span) or True]))
    shop.outside()
"""
SHOP = """
    def outside(): return within()
    def inside(span): return within()
    def within(): return 1
"""


@pytest.mark.parametrize(
    ("source", "first"),
    [
        pytest.param(OPENTELEMETRY, [], marks=needs("opentelemetry.sdk"), id="OpenTelemetry"),
        pytest.param(DDTRACE, [], marks=needs("ddtrace"), id="ddtrace"),
        pytest.param(DDTRACE, ["ddtrace-run"], marks=needs("ddtrace"), id="ddtrace-run"),
    ],
)
def test_spans_of_other_tracers_are_joined(tracer: Tracer, write: Write, source: str, first: list[str]) -> None:
    """A call below a span of theirs is part of its trace, and not recorded where it is not; others have their own."""
    for name, text in (("spans.py", source), ("shop.py", SHOP), ("program.py", PROGRAM)):
        write(name, text)
    env = {"DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false", "DD_REMOTE_CONFIGURATION_ENABLED": "false"}
    env |= {"DD_TRACE_AGENT_URL": f"http://127.0.0.1:{free_port()}", "DD_TRACE_STARTUP_LOGS": "false"}
    arguments = [*map(command, first), command("python"), "program.py"]

    ended = tracer.run(arguments, config={"targets": [{"modules": ["shop"]}]}, env=env)

    assert ended.returncode == 0, ended.stderr
    (trace, span), (not_sampled, _) = json.loads(re.findall(r"^\[\[.*$", ended.stdout, re.M)[0])
    events = last_life(ended.events)
    check_conservation(events, elsewhere=[span])
    entered = [event for event in events if event["event"] == "ENTER"]
    assert [event["function"] for event in entered] == ["outside", "within", "inside", "within", "outside", "within"]
    assert [event["traceId"] == trace for event in entered] == [False, False, True, True, False, False]
    assert [event["parentId"] for event in entered[::2]] == [None, span, None]
    assert not_sampled not in {event["traceId"] for event in entered}
    assert events[-1]["skippedCalls"] == 2
