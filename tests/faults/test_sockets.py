"""Connections that fail on demand: which calls, how often, and to which port."""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Iterator

import pytest
from harness import wait_until

from tests.faults import chaos_server
from tests.faults.chaos_server import ChaosServer
from tests.faults.sockets import SocketCalls, each_socket_call


@pytest.fixture
def server() -> Iterator[ChaosServer]:
    """A server that answers 200."""
    with chaos_server.running() as running:
        yield running


def post(port: int) -> int:
    """A request, by the library that urllib3 uses as well; returns the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/", body=b"{}\n", headers={"Flowtrace-Batch": "r-1-1"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_each_call_fails_once(server: ChaosServer) -> None:
    """There is a run for each call of a request, and one that nothing happens to."""
    failed: list[str] = []
    for number, calls in enumerate(each_socket_call(server.port, error=errno.ECONNRESET)):
        try:
            with calls:
                status = post(server.port)
        except OSError:
            failed.append(calls.made[number])
        last = calls

    assert [*dict.fromkeys(failed)] == ["getaddrinfo", "connect", "setsockopt", "sendall", "recv_into", "close"]
    assert [*dict.fromkeys(last.made)] == [*dict.fromkeys(failed)]
    assert (status, last.failed, len(failed)) == (200, 0, len(last.made))


def test_short_send_and_early_end(server: ChaosServer) -> None:
    """Of what is sent half arrives, and an answer that is cut off is none."""
    with SocketCalls(server.port, at=1, short=True, only=["sendall"]), pytest.raises(OSError, match="Input/output"):
        post(server.port)
    with (
        SocketCalls(server.port, at=1, short=True, only=["recv_into"]),
        pytest.raises(http.client.RemoteDisconnected),
    ):
        post(server.port)

    wait_until(lambda: server.requests, "the request that nobody waited for")
    assert [request.body for request in server.requests] == [b"{}\n"]


def test_fault_of_any_type_lasts(server: ChaosServer) -> None:
    """All calls fail from the k-th on, with what was asked for, and none after the ``with`` block."""
    with SocketCalls(server.port, at=1, error=TimeoutError, lasting=True, only=["connect"]) as calls:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                post(server.port)

    assert (calls.made, calls.failed) == (["connect"] * 2, 2)
    assert post(server.port) == 200
    assert "connect" not in vars(socket.socket)


def test_connections_elsewhere_are_left_alone(server: ChaosServer) -> None:
    """Neither other ports nor the sockets of the server itself are touched."""
    with SocketCalls(server.port + 1, at=1, lasting=True) as elsewhere:
        status = post(server.port)
    with SocketCalls(server.port) as calls:
        post(server.port)

    assert (status, elsewhere.made) == (200, [])
    assert "recv" not in calls.made  # with which the server looks for a request
