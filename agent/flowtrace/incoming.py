"""Incoming requests: where one reaches the program, its trace begins, or goes on below the call that sent it.

Parts are spliced (see `flowtrace.splices`) into the functions in which servers hand a request to the program, and into
those of frameworks, for servers that are not known here. From there until the request is answered, the current span is
an `Entry`; whatever was current before does not count, for a server may itself have been started by a traced call.
What routers find out on the way is noted for the root call, which shows it: method and route, and nothing else of
the request.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable

from flowtrace.introspection import slot_of
from flowtrace.late import orjson
from flowtrace.patterns import late
from flowtrace.recorder import Current, Entry
from flowtrace.splices import Splice, Splices
from flowtrace.tracecontext import HEADER, STATE_HEADER, Remote, parse
from flowtrace.typed import Any, NamedTuple

Values = dict[str, Any]

_SERVERS_SCOPE = (  # methods of objects with a `scope`
    "uvicorn.protocols.http.h11_impl:RequestResponseCycle.run_asgi",
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.run_asgi",
    "uvicorn.protocols.http.zttp_impl:RequestResponseCycle.run_asgi",
    "uvicorn.protocols.http.zttp_h2_impl:RequestResponseCycle.run_asgi",
    "uvicorn.protocols.websockets.websockets_impl:WebSocketProtocol.run_asgi",
    "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol.run_asgi",
    "uvicorn.protocols.websockets.wsproto_impl:WSProtocol.run_asgi",
    "gunicorn.asgi.websocket:WebSocketProtocol.run",
)
_GUNICORN_WORKERS = (
    "gunicorn.workers.sync:SyncWorker.handle_request",
    "gunicorn.workers.gthread:ThreadWorker.handle_request",
    "gunicorn.workers.base_async:AsyncWorker.handle_request",
)
_ASGI_APPLICATIONS = (
    "starlette.applications:Starlette.__call__",
    "django.core.handlers.asgi:ASGIHandler.__call__",
    "quart.app:Quart.__call__",
)
_WSGI_APPLICATIONS = ("flask.app:Flask.__call__", "django.core.handlers.wsgi:WSGIHandler.__call__")
_ROUTES = (
    "starlette.routing:Route.handle",
    "starlette.routing:WebSocketRoute.handle",
    "fastapi.routing:APIRoute.handle",
)

_METHOD = late(r"[A-Z-]{1,32}")
_MAX_ROUTE, _MAX_STATE = 512, 4096  # characters; what is longer is left out


class Arrived(NamedTuple):
    """What is read of a request: nothing that could be secret."""

    protocol: str = "http"
    method: object = None
    traceparent: object = None
    tracestate: object = None


class Request:
    """A request that the program is at work on.

    Attributes:
        remote: The call that sent it, where it said so.
        tracestate: What other tracers have sent along with that.
        mounted: The path templates of the applications and routers that it was handed on to.
        route: The template of the whole path, as soon as a router has found it.
        is_over: Whether it has been answered: tasks that it started may live longer.
    """

    __slots__ = ("is_over", "method", "mounted", "protocol", "remote", "route", "tracestate")

    def __init__(self, arrived: Arrived, *, accepts: bool) -> None:
        method, traceparent, state = arrived.method, arrived.traceparent, arrived.tracestate
        self.protocol = arrived.protocol
        self.method = method if type(method) is str and _METHOD.fullmatch(method) else None
        self.remote: Remote | None = parse(traceparent) if accepts and type(traceparent) is str else None
        is_valid = type(state) is str and 0 < len(state) <= _MAX_STATE and state.isascii() and state.isprintable()
        self.tracestate = str(state) if self.remote and is_valid else None
        self.mounted = ""
        self.route: str | None = None
        self.is_over = False

    def found(self, path: object) -> None:
        """A router has found the route."""
        if type(path) is str and len(path) <= _MAX_ROUTE:
            self.route = self.mounted + path

    def describe(self) -> bytes:
        """For the event of the root call: a JSON object."""
        fields = {"protocol": self.protocol, "method": self.method, "route": self.route}
        known = {name: value.encode(errors="replace").decode() for name, value in fields.items() if value is not None}
        return orjson.dumps(known)


class Visit:
    """The time in which a request is the current one, of a body that may be suspended meanwhile."""

    __slots__ = ("_is_away", "_others", "_variables", "request")

    def __init__(self, request: Request, values: dict[contextvars.ContextVar[Any], object]) -> None:
        self.request = request
        self._variables, self._others = [*values], [*values.values()]
        self._is_away = True
        self.resumed()

    def suspend(self) -> None:
        """Give the context back what it had."""
        if not self._is_away:
            self._is_away = True
            self._exchange()

    def resumed(self) -> None:
        """Take it up again, possibly in another context."""
        if self._is_away:
            self._is_away = False
            self._exchange()

    def _exchange(self) -> None:
        for number, variable in enumerate(self._variables):
            held = variable.get()
            variable.set(self._others[number])
            self._others[number] = held


class Incoming:
    """The splices for servers, frameworks and routers.

    Args:
        current: Holds the current span.
        accepts: Whether a request's ``traceparent`` counts.

    Attributes:
        request: Holds the request that the program is at work on.
    """

    def __init__(self, current: contextvars.ContextVar[Current | None], *, accepts: Callable[[], bool]) -> None:
        self._current, self._accepts = current, accepts
        self.request = contextvars.ContextVar[Request | None]("flowtrace request", default=None)

    def install(self, splices: Splices) -> None:
        """Have the functions spliced."""

        def add(names: Iterable[str], splice: Splice) -> None:
            for name in names:
                module, _, qualname = name.partition(":")
                splices.add(module, qualname, splice)

        add(_SERVERS_SCOPE, self._server(lambda values: _of_scope(_held(values["self"], "scope"))))
        add(["hypercorn.app_wrappers:ASGIWrapper.__call__"], self._server(lambda values: _of_scope(values["scope"])))
        add(["hypercorn.app_wrappers:WSGIWrapper.run_app"], self._server(lambda values: _of_environ(values["environ"])))
        add(["wsgiref.handlers:BaseHandler.run"], self._server(_of_wsgiref))
        add(["werkzeug.serving:WSGIRequestHandler.run_wsgi"], self._server(_of_werkzeug))
        add(["waitress.task:WSGITask.execute"], self._server(_of_waitress))
        add(_GUNICORN_WORKERS, self._server(_of_gunicorn))
        add(_ASGI_APPLICATIONS, self._application(lambda values: _of_scope(values["scope"])))
        add(_WSGI_APPLICATIONS, self._application(lambda values: _of_environ(values["environ"])))

        add(_ROUTES, Splice(self._found_by_starlette, wants_self=True))
        add(["starlette.routing:Mount.handle"], Splice(self._mounted, wants_self=True))
        add(["werkzeug.routing.map:MapAdapter.match"], Splice(self._under_way, _found_by_werkzeug))
        add(["django.core.handlers.base:BaseHandler.resolve_request"], Splice(self._under_way, _found_by_django))

    # -- requests ------------------------------------------------------------------------------------------------

    def _server(self, read: Callable[[Values], Arrived | None]) -> Splice:
        """What begins a request, whatever was before."""

        def enter(values: Values) -> Visit | None:
            arrived = read(values)
            return self._begin(arrived) if arrived else None

        return Splice(enter, _end, wants_self=True, suspend=Visit.suspend, resumed=Visit.resumed)

    def _application(self, read: Callable[[Values], Arrived | None]) -> Splice:
        """What begins a request where no server has: else it is one application inside another."""

        def enter(values: Values) -> Visit | None:
            arrived = read(values) if self._under_way(values) is None else None
            return self._begin(arrived) if arrived else None

        return Splice(enter, _end, suspend=Visit.suspend, resumed=Visit.resumed)

    def _begin(self, arrived: Arrived) -> Visit:
        request = Request(arrived, accepts=self._accepts())
        entry = Entry(request.remote, request.describe)
        return Visit(request, {self._current: (entry, None), self.request: request})

    def _under_way(self, values: Values) -> Request | None:
        request = self.request.get()
        return None if request is None or request.is_over else request

    # -- routes --------------------------------------------------------------------------------------------------

    def _found_by_starlette(self, values: Values) -> None:
        request = self._under_way(values)
        if request is not None:
            route = values["self"]
            # FastAPI has routers that share their routes: there the whole path is known to the scope only
            own = values["scope"].get("fastapi")
            place = own.get("effective_route_context") if type(own) is dict else None
            is_shared = place is not None and _held(place, "original_route") is route
            request.found(_held(place if is_shared else route, "path"))

    def _mounted(self, values: Values) -> None:
        request = self._under_way(values)
        path = _held(values["self"], "path")
        if request is not None and type(path) is str and len(request.mounted) + len(path) <= _MAX_ROUTE:
            request.mounted += path


def _end(visit: Visit, result: object) -> None:
    visit.resumed()
    visit.suspend()
    visit.request.is_over = True


def _found_by_werkzeug(request: Request, result: object) -> None:
    if type(result) is tuple:
        request.found(_held(result[0], "rule"))  # else it was asked for the endpoint only


def _found_by_django(request: Request, result: object) -> None:
    route = _held(result, "route")
    request.found(f"/{route}" if type(route) is str else None)


# -- what servers know of a request ------------------------------------------------------------------------------------


def _of_scope(scope: Any) -> Arrived | None:
    """`ASGI <https://asgi.readthedocs.io/en/latest/specs/www.html>`_."""
    protocol = scope.get("type") if type(scope) is dict else None
    if type(protocol) is not str or protocol not in ("http", "websocket"):
        return None
    headers = scope.get("headers")
    return Arrived(protocol, scope.get("method"), *_found_in(headers if type(headers) is list else None))


def _of_environ(environ: Any) -> Arrived:
    """`WSGI <https://peps.python.org/pep-3333/>`_: a header that came twice is joined by a comma."""
    if type(environ) is not dict:
        return Arrived()
    names = ("REQUEST_METHOD", "HTTP_TRACEPARENT", "HTTP_TRACESTATE")
    return Arrived("http", *(environ.get(name) for name in names))


def _of_wsgiref(values: Values) -> Arrived:
    return _of_environ(_held(values["self"], "base_env"))


def _of_werkzeug(values: Values) -> Arrived:
    handler = values["self"]
    return Arrived("http", _held(handler, "command"), *_found_in(_held(_held(handler, "headers"), "_headers")))


def _of_waitress(values: Values) -> Arrived:
    request = _held(values["self"], "request")
    headers = _held(request, "headers")
    return Arrived("http", _held(request, "command"), *_found_in(headers.items() if type(headers) is dict else None))


def _of_gunicorn(values: Values) -> Arrived:
    return Arrived("http", _held(values["req"], "method"), *_found_in(_held(values["req"], "headers")))


def _found_in(headers: Iterable[Any] | None) -> tuple[str | None, str | None]:
    """``traceparent`` and ``tracestate`` among names and values; what comes twice is joined, as HTTP has it."""
    found: dict[str, str] = {}
    for header in headers or ():
        name, value = header if type(header) in (tuple, list) and len(header) == 2 else ("", None)
        if type(name) in (bytes, str) and len(name) in _LENGTHS:
            key, text = _text(name).lower(), _text(value)
            if key in (HEADER, STATE_HEADER):
                found[key] = f"{found[key]},{text}" if key in found else text
    return found.get(HEADER), found.get(STATE_HEADER)


_LENGTHS = (len(HEADER), len(STATE_HEADER))


def _text(value: object) -> str:
    if type(value) is bytes:
        return value.decode("latin-1")
    return value if type(value) is str else ""


def _held(owner: object, name: str) -> Any:
    """What an object has stored under a name, whatever its class says to that; None where there is nothing."""
    try:
        namespace = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        namespace = {}
    return namespace[name] if type(namespace) is dict and name in namespace else slot_of(owner, name)
