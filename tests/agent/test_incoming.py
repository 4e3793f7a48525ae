"""Requests that reach the program: where their traces begin, and what is told of them."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import importlib.util
import io
import json
import pkgutil
import traceback
import wsgiref.handlers
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn.protocols
from fastapi import APIRouter, FastAPI, WebSocket
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from flowtrace import incoming
from flowtrace.events import ENTER
from flowtrace.incoming import Arrived, Incoming, Request, Visit
from flowtrace.recorder import LOST, SKIPPED, Entry, Functions, Recorder, Target
from flowtrace.splices import Splices
from flowtrace.tracecontext import Remote
from tests.agent.engine import Shown

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
MALFORMED = [
    "",
    "x",
    PARENT.upper(),
    PARENT + "-x",
    PARENT.replace("-01", "-1"),
    f"00-{'0' * 32}-{SPAN}-01",
    "ff" + PARENT[2:],
]

App = Callable[..., Awaitable[None]]


class Service:
    """What the program is at work on, with the real servers and frameworks spliced."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.recorder.state.strict = True
        self.accepts = True
        self.incoming = Incoming(self.recorder.current, accepts=lambda: self.accepts)
        self.splices = Splices(self.recorder)
        self.incoming.install(self.splices)
        self.splices.imported()
        self._parts: Functions = self.recorder.functions(Target("shop", "work", 1, Shown()))

    def work(self) -> None:
        """A traced call."""
        flow = self._parts.enter((), ())
        self._parts.leave(flow, None)

    def calls(self) -> list[tuple[Any, Any, dict[str, str] | None]]:
        """Trace, parent and request of each call so far."""
        records = [record for record in self.recorder.queue if record[0] == ENTER]
        return [(record[6], record[7], json.loads(record[9]) if record[9] else None) for record in records]

    def requests(self) -> list[dict[str, str] | None]:
        """What the calls say of their requests."""
        return [request for *_, request in self.calls()]

    @property
    def current(self) -> Any:
        return self.recorder.current.get()


@pytest.fixture
def service() -> Iterator[Service]:
    """One that is gone without a trace afterwards."""
    service = Service()
    yield service
    service.splices.switch(on=False)


def scope(path: str, *headers: tuple[bytes, bytes], kind: str = "http", method: str = "GET") -> dict[str, Any]:
    """What a server says of a request."""
    common = {"type": kind, "path": path, "headers": list(headers), "query_string": b"token=secret", "root_path": ""}
    return common | ({"method": method, "http_version": "1.1"} if kind == "http" else {"subprotocols": []})


def ask(app: App, scope: dict[str, Any]) -> int | None:
    """Hand a request to an application; gives the status."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return next((message["status"] for message in sent if "status" in message), None)


def shop(service: Service) -> Starlette:
    """An application that makes a traced call for each request."""

    async def room(request: Any) -> PlainTextResponse:
        service.work()
        await asyncio.sleep(0)
        service.work()
        return PlainTextResponse("")

    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        service.work()
        await websocket.close()

    inner = Starlette(routes=[Route("/rooms/{room}", room)])
    routes = [
        Route("/rooms/{room}", room),
        WebSocketRoute("/ws/{name}", chat),
        Mount("/of/{tenant}", routes=[Route("/rooms/{room}", room)]),
        Mount("/app", inner),
    ]
    return Starlette(routes=routes)


def test_a_request_is_one_trace(service: Service) -> None:
    """All its calls that are below no other have the same trace, each request its own; afterwards nothing is left."""
    app = shop(service)

    for _ in range(2):
        assert ask(app, scope("/rooms/1")) == 200

    traces = [trace for trace, *_ in service.calls()]
    assert traces[0] == traces[1] != traces[2] == traces[3]
    assert [parent for _, parent, _ in service.calls()] == [None] * 4


def test_a_traceparent_continues_its_trace(service: Service) -> None:
    """The calls are below the one that sent the request."""
    ask(shop(service), scope("/rooms/1", (b"traceparent", PARENT.encode())))

    assert {call[:2] for call in map(tuple, service.calls())} == {(TRACE, SPAN)}


def test_what_is_not_recorded_elsewhere_is_not_here(service: Service) -> None:
    """The flag of the caller decides, whatever the rate is."""
    ask(shop(service), scope("/rooms/1", (b"traceparent", PARENT[:-1].encode() + b"0")))

    assert service.calls() == []
    assert service.recorder.state.skipped_calls == 2


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_traceparent_begins_a_new_trace(service: Service, text: str) -> None:
    """It is as if there were none."""
    ask(shop(service), scope("/rooms/1", (b"traceparent", text.encode())))

    (trace, parent, _), second = service.calls()
    assert (type(trace), parent) == (int, None)
    assert second[0] == trace


@pytest.mark.parametrize(
    "headers",
    [
        [(b"traceparent", PARENT.encode())] * 2,
        [(b"traceparent", b"\xff" * 55)],
        [(b"traceparent", None)],
        [(b"traceparent", PARENT.encode(), b"")],
        [b"ab", None, {}],
    ],
)
def test_headers_of_odd_forms_begin_a_new_trace(service: Service, headers: Any) -> None:
    """One that comes twice says nothing, as the recommendation has it; what is no text neither."""
    request = scope("/rooms/1") | {"headers": headers}

    visit = service.incoming._begin(incoming._of_scope(request))  # type: ignore[arg-type]

    assert visit.request.remote is None


def test_a_type_that_is_no_text_is_not_looked_at() -> None:
    """Comparing it would run code of the program's."""

    class Watched(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            raise AssertionError(other)

    assert incoming._of_scope({"type": Watched("http")}) is None


def test_headers_that_are_not_accepted_do_not_count(service: Service) -> None:
    """With ``propagation.accept: false`` a request is a trace all the same."""
    service.accepts = False

    ask(shop(service), scope("/rooms/1", (b"traceparent", PARENT.encode())))

    (trace, parent, _), second = service.calls()
    assert (type(trace), parent) == (int, None)
    assert second[0] == trace


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/rooms/secret", "/rooms/{room}"),
        ("/of/secret/rooms/secret", "/of/{tenant}/rooms/{room}"),
        ("/app/rooms/secret", "/app/rooms/{room}"),
    ],
)
def test_the_root_call_tells_method_and_route(service: Service, path: str, route: str) -> None:
    """The template with the prefixes of what it was mounted in: no value of a parameter, no query, no header."""
    ask(shop(service), scope(path, (b"authorization", b"secret")))

    assert service.requests() == [{"protocol": "http", "method": "GET", "route": route}] * 2


def test_a_websocket_is_a_request(service: Service) -> None:
    """From its handshake to its end; it has no method."""
    ask(shop(service), scope("/ws/secret", (b"traceparent", PARENT.encode()), kind="websocket"))

    assert service.calls() == [(TRACE, SPAN, {"protocol": "websocket", "route": "/ws/{name}"})]


def test_routers_of_fastapi_tell_the_whole_route(service: Service) -> None:
    """With the prefixes under which they are included, also one in another, and one that is included twice."""
    inner = APIRouter(prefix="/inner")

    @inner.get("/rooms/{room}")
    async def room(room: str) -> None:
        service.work()

    @inner.websocket("/ws/{name}")
    async def chat(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        service.work()
        await websocket.close()

    outer, app = APIRouter(prefix="/outer"), FastAPI()
    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(inner, prefix="/v2")

    for path in ("/outer/inner/rooms/1", "/v2/inner/rooms/1"):
        ask(app, scope(path) | {"app": app})
    ask(app, scope("/outer/inner/ws/joe", kind="websocket"))

    routes = [request["route"] for request in service.requests() if request]
    assert routes == ["/outer/inner/rooms/{room}", "/v2/inner/rooms/{room}", "/outer/inner/ws/{name}"]


def test_the_lifespan_of_an_application_is_no_request(service: Service) -> None:
    """What it does when it starts is not part of one."""
    began: list[Any] = []

    async def begin(app: Any, lifespan: Any, receive: Any, send: Any) -> None:
        began.append(service.current)

    app = Starlette()
    app.router.lifespan = begin.__get__(app)  # type: ignore[method-assign]
    ask(app, {"type": "lifespan"})

    assert began == [None]


def test_a_new_request_does_not_belong_to_what_is_below_it(service: Service) -> None:
    """A server that was started below a traced call, even one that is not recorded, serves requests of their own."""
    for above in [(1, 1), LOST, SKIPPED, (Entry(Remote(TRACE, SPAN)), None)]:

        def run(above: Any = above) -> Any:
            service.recorder.current.set(above)
            handler = wsgiref.handlers.SimpleHandler(io.BytesIO(), io.BytesIO(), io.StringIO(), environ())
            handler.run(lambda environ, start: (service.work(), start("200 OK", []), [b""])[2])  # type: ignore[func-returns-value]
            return service.current

        service.recorder.queue.clear()
        assert contextvars.Context().run(run) is above
        assert [call[1] for call in service.calls()] == [None]


def environ(**changes: str) -> dict[str, Any]:
    """What a server says of a request by WSGI."""
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/secret", "SERVER_PROTOCOL": "HTTP/1.0", **changes}


def test_wsgi_requests_are_traces_until_they_are_answered(service: Service) -> None:
    """The body that an application yields is part of its request."""

    def app(environ: Any, start: Any) -> Iterator[bytes]:
        start("200 OK", [])
        service.work()
        yield b"1"
        service.work()

    given = environ(HTTP_TRACEPARENT=PARENT)
    wsgiref.handlers.SimpleHandler(io.BytesIO(), io.BytesIO(), io.StringIO(), given).run(app)

    assert service.calls() == [(TRACE, SPAN, {"protocol": "http", "method": "GET"})] * 2
    assert service.current is None
    assert service.incoming.request.get() is None


def test_requests_at_the_same_time_do_not_meet(service: Service) -> None:
    """Each of a hundred that wait for each other in one loop has a trace of its own."""
    app = shop(service)

    async def nothing(*_: Any) -> Any: ...

    async def main() -> None:
        await asyncio.gather(*(app(scope("/rooms/1"), nothing, nothing) for _ in range(100)))

    asyncio.run(main())

    traces = [trace for trace, *_ in service.calls()]
    assert sorted(traces.count(trace) for trace in traces) == [2] * 200


def test_applications_share_a_context_with_their_caller(service: Service) -> None:
    """While one waits that is driven by hand, the caller is not inside of its request."""

    @type.__call__
    class pause:
        def __await__(self) -> Iterator[None]:
            yield

    async def room(request: Any) -> PlainTextResponse:
        await pause  # type: ignore[misc]
        service.work()
        return PlainTextResponse("")

    async def nothing(*_: Any) -> Any: ...

    app = Starlette(routes=[Route("/", room)])
    first, second = app(scope("/"), nothing, nothing), app(scope("/"), nothing, nothing)
    for request in (first, second):
        request.send(None)  # type: ignore[attr-defined]
        assert (service.current, service.incoming.request.get()) == (None, None)
    for request in (first, second):
        with pytest.raises(StopIteration):
            request.send(None)  # type: ignore[attr-defined]

    assert len({trace for trace, *_ in service.calls()}) == 2


def test_exceptions_of_a_request_read_as_untraced(service: Service) -> None:
    """No frame is added, and the context is as it was."""  # fault C1
    texts = []

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("x")

    for on in (False, True):
        service.splices.switch(on=on)
        app = Starlette()
        app.middleware_stack = fail
        coroutine = app(scope("/"), fail, fail)
        try:
            coroutine.send(None)  # type: ignore[attr-defined]
        except KeyError:
            texts.append(traceback.format_exc())

    assert texts[0] == texts[1]
    assert service.current is None


def test_a_request_that_is_over_holds_no_new_one(service: Service) -> None:
    """A task that outlives its request may be handed another one, as where requests come on one connection."""
    app, later = shop(service), contextvars.Context()

    async def nothing(*_: Any) -> Any: ...

    async def main() -> None:
        await app(scope("/rooms/1"), nothing, nothing)

    visit = later.run(lambda: service.incoming._begin(Arrived()))
    visit.request.is_over = True
    later.run(asyncio.run, main())

    assert len(service.calls()) == 2
    assert {request["route"] for request in service.requests() if request} == {"/rooms/{room}"}


@pytest.mark.parametrize("method", ["get", "G T", "X" * 33, "GET\n", "", b"GET", None])
def test_odd_methods_are_left_out(method: object) -> None:
    """Anybody can send anything as a method."""
    request = Request(Arrived(method=method), accepts=True)

    assert json.loads(request.describe()) == {"protocol": "http"}


@given(st.text(max_size=600) | st.none() | st.integers())
def test_describing_raises_nothing(path: object) -> None:
    """Whatever a router has for a path."""  # fault U19
    request = Request(Arrived(), accepts=True)
    request.found(path)

    described = json.loads(request.describe())

    assert ("route" in described) == (type(path) is str and len(path) <= 512)


@pytest.mark.parametrize(
    ("traceparent", "state", "kept"),
    [
        (PARENT, "a=1,b=2", "a=1,b=2"),
        ("x", "a=1", None),
        (PARENT, "a\r\nb: c", None),
        (PARENT, "é", None),
        (PARENT, "x" * 5000, None),
        (PARENT, "", None),
    ],
)
def test_tracestate_is_kept_where_it_is_sound(traceparent: str, state: str, kept: str | None) -> None:
    """Only with a valid traceparent, as section 3.3 has it, and never what would break a header."""
    assert Request(Arrived("http", "GET", traceparent, state), accepts=True).tracestate == kept


@given(st.lists(st.sampled_from(["suspend", "resumed"]), max_size=20))
def test_a_visit_gives_back_what_there_was(steps: list[str]) -> None:
    """However often it is told to stop and to go on: while it is away the context is as before, at the end too."""

    def run() -> None:
        variable = contextvars.ContextVar[str]("variable")
        variable.set("before")
        visit = Visit(Request(Arrived(), accepts=True), {variable: "within"})
        for step in steps:
            getattr(visit, step)()
            assert variable.get() == ("before" if step == "suspend" else "within")
        incoming._end(visit, None)
        assert variable.get() == "before"

    contextvars.Context().run(run)


def test_a_visit_may_end_in_another_context() -> None:
    """That one keeps what it had, as where a garbage collector closes a coroutine."""  # fault C4
    variable = contextvars.ContextVar[str]("variable", default="none")
    request = Request(Arrived(), accepts=True)
    visit = contextvars.Context().run(lambda: Visit(request, {variable: "within"}))
    visit.suspend()
    variable.set("other")

    incoming._end(visit, None)

    assert variable.get() == "other"
    assert request.is_over


def source(module: str) -> str:
    """What a module is made of, which may need libraries that are not installed."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()


def test_all_ways_of_uvicorn_into_a_program_are_known() -> None:
    """A protocol that this version has and the table has not would go unnoticed."""
    entrances = {
        f"{name}:{node.name}.run_asgi"
        for name in [found.name for found in pkgutil.walk_packages(uvicorn.protocols.__path__, "uvicorn.protocols.")]
        for node in ast.walk(ast.parse(source(name)))
        if isinstance(node, ast.ClassDef) and "run_asgi" in {getattr(each, "name", None) for each in node.body}
    }

    assert entrances
    assert entrances <= set(incoming._SERVERS_SCOPE)
