"""Outgoing requests: those that the program makes by HTTP say below which call they are made.

Parts are spliced (see `flowtrace.splices`) into the functions in which libraries write a request's headers, behind
everything that the program can look at: nothing of its own objects changes. ``http.client`` is what urllib, urllib3,
requests and botocore make their requests with; ``httpcore`` is httpx's.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable

from flowtrace.carriers import remote
from flowtrace.events import Ids
from flowtrace.incoming import Request
from flowtrace.recorder import LOST, SKIPPED, Current
from flowtrace.splices import Splice, Splices
from flowtrace.tracecontext import HEADER, STATE_HEADER, Remote
from flowtrace.typed import Any

Values = dict[str, Any]
Headers = list[tuple[str, str]]

_STARTED = "Request-started"  # the state of a connection that has not sent the headers yet


class Outgoing:
    """The splices for libraries that make requests.

    Args:
        current: Holds the current span.
        request: Holds the request that the program is at work on.
        ids: Turns numbers into ids.
        sends: Whether other services are told.
    """

    def __init__(
        self,
        current: contextvars.ContextVar[Current | None],
        request: contextvars.ContextVar[Request | None],
        ids: Ids,
        *,
        sends: Callable[[], bool],
    ) -> None:
        self._current, self._request, self._ids, self._sends = current, request, ids, sends

    def install(self, splices: Splices) -> None:
        """Have the functions spliced."""
        of_httpcore = Splice(self._by_httpcore)
        splices.add("http.client", "HTTPConnection.endheaders", Splice(self._by_http_client, wants_self=True))
        splices.add("httpcore._sync.connection_pool", "ConnectionPool.handle_request", of_httpcore)
        splices.add("httpcore._async.connection_pool", "AsyncConnectionPool.handle_async_request", of_httpcore)
        splices.add("aiohttp.http_writer", "StreamWriter.write_headers", Splice(self._by_aiohttp, _withdraw))

    def headers(self) -> Headers:
        """What a request that is made now is to carry."""
        current = self._current.get()
        if current is None or not self._sends():
            return []
        request = self._request.get()
        sender = request.remote if request else None
        place = remote(current, self._ids)
        if place is not None and sender is not None and (current is LOST or current is SKIPPED):
            place = Remote(sender.trace, place.span, is_sampled=False)  # not recorded, but known which one it is
        if place is None:
            return []
        headers = [(HEADER, str(place))]
        if request is not None and request.tracestate and sender is not None and sender.trace == place.trace:
            headers.append((STATE_HEADER, request.tracestate))
        return headers

    def _missing(self, names: set[bytes]) -> Headers:
        """What is to be added to a request with these headers; one that says itself where it belongs is left alone."""
        headers = self.headers() if HEADER.encode() not in names else []
        return [(name, value) for name, value in headers if name.encode() not in names]

    def _by_http_client(self, values: Values) -> None:
        connection = values["self"]
        lines: list[bytes] = connection._buffer
        if connection._HTTPConnection__state == _STARTED:
            for name, value in self._missing({line.partition(b":")[0].lower() for line in lines[1:]}):
                lines.append(f"{name}: {value}".encode())

    def _by_httpcore(self, values: Values) -> None:
        headers: list[tuple[bytes, bytes]] = values["request"].headers
        for name, value in self._missing({name.lower() for name, _ in headers}):
            headers.append((name.encode(), value.encode()))

    def _by_aiohttp(self, values: Values) -> tuple[Any, Headers] | None:
        headers = values["headers"]
        if values["status_line"].startswith("HTTP/"):  # a server that answers
            return None
        missing = self._missing({name.lower().encode(errors="replace") for name in headers})
        headers.extend(missing)
        return headers, missing


def _withdraw(added: tuple[Any, Headers], result: object) -> None:
    """Once they are written, the program's own headers are as they were: it can look at them later."""
    headers, missing = added
    for name, _ in missing:
        headers.popall(name, None)
