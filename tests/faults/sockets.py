"""Connections that fail: the k-th call of a client's socket, once or from then on.

    for calls in each_socket_call(server.port, error=errno.ECONNRESET):
        with calls:
            ...                 # the k-th call for a connection to that port fails

As `tests.faults.syscalls` for files; the server's own sockets, though in the same process, are left alone. Code under
test has to use ``socket``, as http.client and urllib3 do. With TLS, what is sent and received is out of reach, as
OpenSSL does it by itself: only the look-up, ``connect`` and ``close`` are seen.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any, Self

from tests.faults.syscalls import Faults

SENDS, RECEIVES = ("send", "sendall"), ("recv", "recv_into")
ALL = ("getaddrinfo", "connect", "setsockopt", *SENDS, *RECEIVES, "close")
_CUTS = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}


class SocketCalls(Faults):
    """The `Faults` of sockets, for connections to a port.

    A connection that a call fails at with ECONNRESET, EPIPE or ECONNABORTED is cut indeed: urllib3 looks for an answer
    then, and would wait for one.

    Args:
        port: Connections elsewhere are neither counted nor failed.
        only: The functions that count, of `ALL`.
        fault: As `Faults` takes it. With ``short``, a send passes half of the data on, and ``sendall`` fails then, as
            it would; a receive finds that the other side has ended the connection; other calls fail as they do without.
    """

    def __init__(self, port: int, *, only: Collection[str] = ALL, **fault: Any) -> None:
        super().__init__(**fault)
        self.port = port
        self._only = only
        self._known: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # one that was cut off has no peer to ask for

    def __enter__(self) -> Self:
        for name in self._only:
            if name == "getaddrinfo":
                self._watch(socket, name, lambda args: args[1] == self.port)
            else:
                self._watch(socket.socket, name, self._connects_to if name == "connect" else self._is_connected)
        return self

    def _connects_to(self, args: tuple[Any, ...]) -> bool:
        sock, address = args
        if not (isinstance(address, tuple) and address[1] == self.port):
            return False
        self._known.add(sock)
        return True

    def _is_connected(self, args: tuple[Any, ...]) -> bool:
        sock = args[0]
        if sock not in self._known:
            try:
                peer = sock.getpeername()
            except OSError:
                return False
            if not (isinstance(peer, tuple) and peer[1] == self.port):
                return False
            self._known.add(sock)
        return True

    def _failed(
        self, name: str, original: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], *, is_first: bool
    ) -> Any:
        if name == "close":
            original(*args)
        if self._short and is_first and name in SENDS:
            data = memoryview(args[1]).cast("B")
            taken = original(args[0], data[: len(data) // 2], *args[2:])
            if name == "send":
                return taken
        if self._short and is_first and name in RECEIVES:
            return b"" if name == "recv" else 0
        if name == "getaddrinfo" and isinstance(self._error, int):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if self._error in _CUTS and name != "close":
            with contextlib.suppress(OSError):  # it is not connected yet
                args[0].shutdown(socket.SHUT_RDWR)
        raise self._problem()


def each_socket_call(port: int, **fault: Any) -> Iterator[SocketCalls]:
    """One `SocketCalls` after another; the k-th makes its k-th call fail, and the last one none.

    Args:
        port: As `SocketCalls` takes it.
        fault: As `SocketCalls` takes them, except ``at``.
    """
    for at in itertools.count(1):
        calls = SocketCalls(port, at=at, **fault)
        yield calls
        if not calls.reached:
            return
