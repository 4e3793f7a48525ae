"""The receiver: one try to hand a body to a server, every step of which ends in time; test_http has what follows."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flowtrace.config import decode
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch
from flowtrace_plugins.options import HttpOptions
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.receiver import Receiver, Refused, ServerFailed, retry_after_s
from tests.faults import chaos_server
from tests.faults.chaos_server import ChaosServer, answer


@pytest.fixture
def server() -> Iterator[ChaosServer]:
    """A server that answers 200 unless told otherwise."""
    with chaos_server.running() as running:
        yield running


@pytest.fixture
def receiver(server: ChaosServer) -> Iterator[Receiver]:
    """What posts to it, uncompressed."""
    made = Receiver(decode({"url": server.url, "compression": "none"}, HttpOptions))
    yield made
    made.close()


def parcel(noise: int = 0) -> Parcel:
    """A batch of one event with so many bytes of noise."""
    return Parcel.of(make_batch({"seq": 1, "noise": "x" * noise}, id="r-1-1"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-5", None),
        ("1e3", None),
        ("1000000000", 300.0),
        ("garbage", None),
        ("", None),
        ("٣", None),
        ("nan", None),
        ("inf", None),
        ("9" * 5000, None),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 2199 00:00:00 GMT", 300.0),
        ("Mon, 99 Jan 2199 00:00:00 GMT", 300.0),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    """Seconds and dates are honoured up to five minutes; garbage is as good as nothing."""  # fault S10
    assert retry_after_s(value) == expected
    assert retry_after_s(None) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, SinkError), (429, SinkError), (500, ServerFailed), (101, ServerFailed), (307, Refused), (413, Refused)],
)
def test_kinds_of_failure(server: ChaosServer, receiver: Receiver, status: int, kind: type[Exception]) -> None:
    """An answer says that it is not now, that the server has failed, or that it is never."""  # fault S10, S11, S13
    server.script += [answer(status, Retry_After="7")]

    with pytest.raises(kind) as caught:
        receiver.post(parcel(), timeout_s=10)

    assert type(caught.value) is kind
    assert not isinstance(caught.value, SinkError) or caught.value.retry_after_s == 7.0


def test_time_of_an_earlier_try(server: ChaosServer, receiver: Receiver) -> None:
    """A try on a connection that is reused has all its own time for sending, not what was left of an earlier one's."""
    receiver.post(parcel(), timeout_s=0.3)
    server.is_deaf = True
    hears_again = threading.Timer(0.6, lambda: setattr(server, "is_deaf", False))  # after what was left has passed
    hears_again.start()

    receiver.post(parcel(noise=20_000_000), timeout_s=60)
    hears_again.join()

    assert [len(request.body) > 1000 for request in server.requests] == [False, True]


def test_nothing_is_sent_to_a_server_that_is_reached_too_late(
    server: ChaosServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is over by the end of the connecting, the body stays here: nobody waits for it any more."""
    connect = http.client.HTTPConnection.connect
    over = [False]

    def late(connection: Any) -> None:
        connect(connection)
        over[0] = True

    from flowtrace_plugins import receiver as module

    now = module.time.monotonic
    monkeypatch.setattr(module.HTTPConnection, "connect", late)
    monkeypatch.setattr(module.time, "monotonic", lambda: now() + 3600 * over[0])
    with pytest.raises(SinkError, match=r"no answer from .* within 10 s"):
        receiver.post(parcel(), timeout_s=10)

    assert server.requests == []


def test_connection_that_the_program_closes(server: ChaosServer, receiver: Receiver) -> None:
    """A program that closes descriptors it does not know, and opens connections of its own, gets nothing of ours there.

    Nor are they closed, and the batch goes over a new connection.
    """
    # fault P11
    receiver.post(parcel(), timeout_s=10)
    pool = receiver._manager.connection_from_url(server.url)
    connection = pool.pool.queue[-1]  # type: ignore[union-attr]
    number = connection.sock.fileno()
    theirs, peer = socket.socketpair()
    with theirs, peer:
        os.dup2(theirs.fileno(), number)
        receiver.post(parcel(), timeout_s=10)
        peer.setblocking(False)

        with pytest.raises(BlockingIOError):
            peer.recv(1)
        os.write(number, b"still open")
        assert peer.recv(10) == b"still open"
        os.close(number)

    assert len(server.requests) == 2


def test_connection_that_the_program_closes_while_it_is_used(server: ChaosServer, receiver: Receiver) -> None:
    """What is closed between two requests and not noticed is noticed before anything is written."""  # fault P11
    receiver.post(parcel(), timeout_s=10)
    connection = receiver._manager.connection_from_url(server.url).pool.queue[-1]  # type: ignore[union-attr]
    theirs, peer = socket.socketpair()
    with theirs, peer:
        number = connection.sock.fileno()
        os.dup2(theirs.fileno(), number)

        with pytest.raises(ConnectionError):
            connection.send(b"ours")
        connection.close()
        os.write(number, b"still open")
        os.close(number)

        assert peer.recv(100) == b"still open"
