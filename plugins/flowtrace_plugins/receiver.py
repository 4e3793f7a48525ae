"""The server at the other end of the http sink: one try to hand it a body, within one deadline.

urllib3's timeouts are per step: a server that sends a byte now and then could hold a try for ever. Here each step,
and each read of the answer, gets what is left of the time for the whole try. What that cannot bound, the look-up of
names and the attempts to connect to several addresses, nobody waits for: see `courier`.
"""

from __future__ import annotations

import contextlib
import contextvars
import http
import http.client
import importlib.metadata
import io
import logging
import os
import socket
import urllib.request
from typing import Any
from urllib.parse import unquote

import orjson
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from flowtrace.errors import SinkError
from flowtrace.unpatched import time
from flowtrace_plugins.endpoint import Endpoint
from flowtrace_plugins.literal import clip, escaped
from flowtrace_plugins.options import HttpOptions
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.private import identity

MAX_ANSWER_BYTES = 64 * 1024
MAX_RETRY_AFTER_S = 300.0
_TOO_LARGE = 413
_CLOSED = "the program has closed the connection"
_AWAY = {408, 429, 502, 503, 504}  # the server or what stands before it has no time now, for any body

_until: contextvars.ContextVar[float | None] = contextvars.ContextVar("flowtrace_http_until", default=None)


class Refused(Exception):
    """The server will never take this body."""

    def __init__(self, problem: str, *, too_large: bool) -> None:
        self.too_large = too_large
        super().__init__(problem)


class ServerFailed(SinkError):
    """The server met an error of its own; that may pass, or be this body's doing."""


class Receiver:
    """Posts batches to the URL of the options.

    Raises:
        SinkError: the proxy that the environment names cannot be used.
    """

    def __init__(self, options: HttpOptions) -> None:
        self._endpoint = Endpoint.parse(options.url)
        self._compressed = options.compression == "gzip"
        self._headers = _headers(options, self._endpoint)
        try:
            self._manager = _manager(self._endpoint)
        except urllib3.exceptions.HTTPError as error:
            raise SinkError(f"cannot use the proxy of the environment: {error}", retry=False) from error

    def post(self, parcel: Parcel, *, timeout_s: float) -> int:
        """Try once to hand over a batch.

        Returns:
            How many of its events the server says that it rejected; all others are delivered.

        Raises:
            SinkError: not delivered this time; ServerFailed where the server says that it failed.
            Refused: it never will be.
        """
        token = _until.set(time.monotonic() + timeout_s)
        try:
            return self._try(parcel, timeout_s)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            reason = _reason(error)
            raise (self._unreached(reason) if reason else self.unanswered(within(timeout_s))) from error
        finally:
            _until.reset(token)

    def unanswered(self, when: str) -> SinkError:
        """The error of a try whose time was over."""
        return SinkError(f"no answer from {self._endpoint.shown} {when}")

    def _unreached(self, reason: str) -> SinkError:
        return SinkError(f"cannot reach {self._endpoint.shown}: {reason}")

    def close(self) -> None:
        """Close the connections."""
        pools = self._manager.pools
        for pool in [pools.get(key) for key in [*pools.keys()]]:
            if pool:
                pool.close()  # urllib3 leaves that to the collector
        self._manager.clear()

    def _try(self, parcel: Parcel, timeout_s: float) -> int:
        response = self._manager.urlopen(
            "POST",
            self._endpoint.url,
            body=parcel.packed if self._compressed else parcel.batch.body,
            headers={**self._headers, "Flowtrace-Batch": parcel.id},
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        answer = _read(response)
        if 200 <= response.status < 300:
            return _rejected(answer, of=parcel.events)
        reason = clip(escaped(response.reason or ""), 40)
        problem = f"{self._endpoint.shown} answered {response.status} {reason}".rstrip()
        wait_s = retry_after_s(response.headers.get("Retry-After"))
        if response.status in _AWAY:
            raise SinkError(problem, retry_after_s=wait_s)
        if response.status >= 500 or response.status < 200:
            raise ServerFailed(problem, retry_after_s=wait_s)
        raise Refused(problem, too_large=response.status == _TOO_LARGE)


def _headers(options: HttpOptions, endpoint: Endpoint) -> dict[str, str]:
    ours = {"User-Agent": f"flowtrace/{_version()}", "Content-Type": "application/x-ndjson"}
    if options.compression == "gzip":
        ours["Content-Encoding"] = "gzip"
    if endpoint.user_info:
        ours |= urllib3.make_headers(basic_auth=unquote(endpoint.user_info))
    reserved = {*map(str.lower, ours), "flowtrace-batch", "content-length", "transfer-encoding"}
    return {name: value for name, value in dict(options.headers).items() if name.lower() not in reserved} | ours


def _version() -> str:
    try:
        return importlib.metadata.version("flowtrace-agent")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "source"


def _manager(endpoint: Endpoint) -> urllib3.PoolManager:
    """Connections that verify certificates, through the proxy of the environment where it applies."""
    proxies = {} if endpoint.loopback else urllib.request.getproxies()
    proxy = proxies.get(endpoint.scheme) or proxies.get("all")
    manager: urllib3.PoolManager
    if proxy and not urllib.request.proxy_bypass(endpoint.host):
        user_info = urllib3.util.parse_url(proxy).auth
        proxy_headers = urllib3.make_headers(proxy_basic_auth=unquote(user_info)) if user_info else None
        manager = urllib3.ProxyManager(proxy, proxy_headers=proxy_headers)
    else:
        manager = urllib3.PoolManager()
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    """The beginning of the answer's body; what is longer, slow or broken costs the connection, not the delivery."""
    body = b""
    try:
        body = response.read(MAX_ANSWER_BYTES)
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError):
        response.close()
    if len(body) == MAX_ANSWER_BYTES:
        response.close()
    response.release_conn()
    return body


def _rejected(answer: bytes, *, of: int) -> int:
    """The count in an answer such as ``{"rejected": 3}``."""
    try:
        count = orjson.loads(answer)["rejected"]
    except (ValueError, TypeError, KeyError, IndexError):
        return 0
    return min(max(count, 0), of) if type(count) is int else 0


def retry_after_s(value: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks for, 0 to 300; None where it says nothing of use.

    RFC 9110, section 10.2.3: a number of seconds or a date.
    """
    if value is None:
        return None
    try:
        seconds = urllib3.Retry().parse_retry_after(value)
    except (urllib3.exceptions.InvalidHeader, ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _reason(error: BaseException) -> str:
    """The cause of a failure, without the addresses of objects that urllib3's messages hold; empty for lack of time."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    timed_out = any(isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError) for cause in causes)
    if timed_out:
        return ""
    is_cut_off = isinstance(error, urllib3.exceptions.ProtocolError)
    return "the connection was cut, or the answer was no HTTP" if is_cut_off else type(error).__name__


def within(timeout_s: float) -> str:
    """What is said of the time of a try."""
    return f"within {timeout_s:.3g} s"


def _left_s() -> float:
    """What is left of the time for this try.

    Raises:
        TimeoutError: nothing.
    """
    left = (_until.get() or 0.0) - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for the try is over")
    return left


class _Deadlined(io.RawIOBase):
    """The receiving side of a socket, every read of which ends when the try does."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        self._identity = _identity(sock)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if _identity(self._sock) != self._identity:
            raise ConnectionError(_CLOSED)
        self._sock.settimeout(_left_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Deadlined(self.fp.detach(), sock))

    def _read_status(self) -> tuple[str, int, str]:
        """The status line; http.client passes over 100, and would take 103 for the answer (RFC 9110, section 15.2)."""
        version, status, reason = super()._read_status()  # type: ignore[misc]
        is_interim = 100 <= status < 200 and status != http.HTTPStatus.SWITCHING_PROTOCOLS
        return version, http.HTTPStatus.CONTINUE if is_interim else status, reason


class _Timed(HTTPConnection):
    """A connection whose steps end when the try does.

    Programs close descriptors they do not know, as daemons do, and open connections of their own under the same
    numbers: into these nothing is written, and they are not closed.
    """

    response_class = _Response
    _own: tuple[int, int] | None = None

    def connect(self) -> None:
        self._own = None
        super().connect()
        self._own = _identity(self.sock)
        self.sock.settimeout(_left_s())

    @property
    def is_connected(self) -> bool:
        return self._is_ours() and super().is_connected

    def send(self, data: Any) -> None:
        if self.sock is not None:
            if not self._is_ours():
                raise ConnectionError(_CLOSED)
            self.sock.settimeout(_left_s())  # what was left of an earlier try's time is still set on it
        super().send(data)

    def close(self) -> None:
        self._is_ours()
        with contextlib.suppress(OSError):  # it is closed whatever is reported, and the collector may be who does it
            super().close()

    def _is_ours(self) -> bool:
        """Whether the descriptor is still that of the connection; forgets it where it is not."""
        if self.sock is not None and self._own and _identity(self.sock) != self._own:
            self.sock.detach()
            self.sock = None
        return self.sock is not None


def _identity(sock: socket.socket) -> tuple[int, int] | None:
    """What tells a socket from all others; None where its descriptor is closed."""
    try:
        return identity(os.fstat(sock.fileno()))
    except OSError:
        return None


class _SecureConnection(_Timed, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Timed


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _is_the_programs(record: logging.LogRecord) -> bool:
    """Keep what urllib3 says about our requests out of the program's log."""
    return _until.get() is None


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.poolmanager", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_is_the_programs)
