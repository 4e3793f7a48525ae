"""The http sink while each call of its sockets fails, once and for good: nothing is lost or waits for long."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ENDURANCE, wait_until

from flowtrace.config import decode
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins import http as http_module
from flowtrace_plugins.http import HttpSink
from flowtrace_plugins.options import HttpOptions
from tests.faults import chaos_server
from tests.faults.chaos_server import ChaosServer
from tests.faults.sockets import RECEIVES, SENDS, SocketCalls, each_socket_call

BATCHES = 3
TIMEOUT_S = 60.0  # of a request: a test that takes as long has waited for an answer that cannot come
SOON_S = 20.0
FAULTS: dict[str, dict[str, Any]] = {
    "is cut off": {"error": errno.ECONNRESET},
    "stays cut off": {"error": errno.ECONNRESET, "lasting": True},
    "times out": {"error": TimeoutError},
    "falls short": {"error": errno.EPIPE, "short": True, "only": (*SENDS, *RECEIVES)},
}
if ENDURANCE:
    FAULTS |= {
        "falls short and stays so": {"error": errno.EPIPE, "short": True, "lasting": True},
        "times out each time": {"error": TimeoutError, "lasting": True},
        "has no memory": {"error": errno.ENOBUFS},
        "has no way": {"error": errno.ENETUNREACH, "lasting": True},
        "has no descriptor": {"error": errno.EMFILE},
        "is interrupted": {"error": errno.EINTR},
    }
_runs = itertools.count()
LASTING = [fault for fault in FAULTS if FAULTS[fault].get("lasting")]


@pytest.fixture(scope="module")
def listening() -> Iterator[ChaosServer]:
    """A server for all tests."""
    with chaos_server.running() as running:
        yield running


@pytest.fixture
def server(listening: ChaosServer, monkeypatch: pytest.MonkeyPatch) -> ChaosServer:
    """It, and sinks that try again at once."""
    monkeypatch.setattr(http_module, "_BACKOFF_BASE_S", 0.0)
    monkeypatch.setattr(http_module, "_PAUSE_S", 0.001)
    return listening


def no_thread(function: Callable[[], None]) -> None:
    """What a context has where no thread can be started."""
    raise RuntimeError("can't start new thread")


class Delivery:
    """A sink, and as much of a lane as it needs: what is not taken is tried again.

    Attributes:
        taken: The numbers of the events that the sink took.
        waiting: Those that it did not take.
        errors: What it raised.
    """

    def __init__(self, server: ChaosServer, directory: Path, *, spool: bool, threads: bool = True) -> None:
        self.server, self.directory, self.run = server, directory, f"run{next(_runs)}"
        self.taken: list[int] = []
        self.waiting = list(range(BATCHES))
        self.errors: list[SinkError] = []
        self.losses: list[tuple[str, int]] = []
        self._spool = {"spool": {"dir": "spool"}} if spool else {}
        self._threads = threads
        self.sink = self.new_sink(pid=1)

    def new_sink(self, *, pid: int) -> HttpSink:
        """A sink that is open, of this process or of one that follows."""
        context = make_context(directory=self.directory, run=self.run, pid=pid, losses=self.losses)
        if not self._threads:
            context = context._replace(start_thread=no_thread)
        options = {"url": self.server.url, "timeout": f"{TIMEOUT_S:.0f}s"} | self._spool
        sink = HttpSink(decode(options, HttpOptions), context)
        sink.open()
        return sink

    def attempt(self, tries: int) -> None:
        """Write what was not taken yet, in order, with so many tries in all."""
        for _ in range(tries):
            if not self.waiting:
                return
            number = self.waiting[0]
            try:
                self.sink.write(make_batch({"seq": number}, id=f"{self.run}-1-{number}"))
            except SinkError as error:
                self.errors.append(error)
            else:
                self.taken.append(self.waiting.pop(0))

    def close(self) -> None:
        """Close the sink, which has asked for another try each time that it took nothing."""
        self.sink.close(time.monotonic() + 1)
        assert all(error.retry for error in self.errors)

    @property
    def stored(self) -> list[int]:
        """The numbers of the events that the server has stored, in order of their coming."""
        own = [request for id, request in [*self.server.stored.items()] if id.startswith(f"{self.run}-")]
        return [event["seq"] for request in own for event in request.events]


@pytest.mark.parametrize("fault", FAULTS)
def test_without_a_spool_what_fails_is_tried_again(server: ChaosServer, tmp_path: Path, fault: str) -> None:
    """Whichever call fails: what the sink took is stored, and what it did not it takes as soon as the fault is over."""
    # fault S15, S16
    for calls in each_socket_call(server.port, **FAULTS[fault]):
        began_s = time.monotonic()
        delivery = Delivery(server, tmp_path, spool=False)
        with calls:
            delivery.attempt(BATCHES + 2)
        stored, taken = delivery.stored, delivery.taken.copy()
        delivery.attempt(BATCHES)
        delivery.close()

        assert set(taken) <= set(stored), calls
        assert delivery.stored == delivery.taken == list(range(BATCHES)), calls
        assert delivery.losses == []
        assert time.monotonic() - began_s < SOON_S, calls


@pytest.mark.parametrize("threads", [True, False], ids=["by a thread", "without a thread"])
@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_spool_everything_is_taken(server: ChaosServer, tmp_path: Path, fault: str, *, threads: bool) -> None:
    """Whichever call fails: each batch is taken at its first try, and stored in order once the fault is over."""
    # fault S15, S16
    for number, calls in enumerate(each_socket_call(server.port, **FAULTS[fault])):
        began_s = time.monotonic()
        delivery = Delivery(server, tmp_path / f"{number}", spool=True, threads=threads)
        with calls:
            delivery.attempt(BATCHES)
        assert delivery.taken == list(range(BATCHES)), calls

        def is_delivered(delivery: Delivery = delivery) -> bool:
            delivery.sink.flush()
            return not waiting_in(delivery) and len(delivery.stored) == BATCHES

        wait_until(is_delivered, f"all is delivered after {calls}", deadline_s=SOON_S)
        delivery.close()

        assert delivery.stored == list(range(BATCHES)), calls
        assert delivery.losses == []
        assert time.monotonic() - began_s < SOON_S, calls


@pytest.mark.parametrize("fault", LASTING)
def test_end_during_a_fault_leaves_the_rest_to_the_next(server: ChaosServer, tmp_path: Path, fault: str) -> None:
    """A process that ends while the network fails ends in time; what it took and the server has not is in the spool."""
    # fault S15, S16
    for number, calls in enumerate(each_socket_call(server.port, **FAULTS[fault])):
        delivery = Delivery(server, tmp_path / f"{number}", spool=True, threads=False)
        with calls:
            delivery.attempt(BATCHES)
            began_s = time.monotonic()
            delivery.close()
            assert time.monotonic() - began_s < SOON_S
        assert len({*delivery.stored, *waiting_in(delivery)}) == len(delivery.taken) == BATCHES, calls

        later = delivery.new_sink(pid=2)
        wait_until(lambda later=later, delivery=delivery: later.flush() or not waiting_in(delivery), deadline_s=SOON_S)
        later.close(time.monotonic() + 1)

        assert delivery.stored == list(range(BATCHES)), calls
        assert delivery.losses == []


def waiting_in(delivery: Delivery) -> set[int]:
    """The numbers of the batches in the spool."""
    return {int(path.name.split(".")[0].rpartition("-")[2]) for path in delivery.directory.glob("spool/*/*.gz")}


def test_end_while_a_request_is_cut_off_again_and_again(server: ChaosServer, tmp_path: Path) -> None:
    """The thread that delivers from the spool makes no more requests than its pauses allow, and none after the end."""
    delivery = Delivery(server, tmp_path, spool=True)
    with SocketCalls(server.port, at=1, error=errno.ECONNREFUSED, lasting=True, only=["connect"]) as calls:
        delivery.attempt(BATCHES)
        wait_until(lambda: calls.failed > 3, deadline_s=SOON_S)
        delivery.close()
        wait_until(lambda: delivery.sink._courier.is_free, "the courier rests", deadline_s=SOON_S)
        tries = calls.failed
        delivery.sink.flush()

    assert calls.failed == tries
    assert waiting_in(delivery) == set(range(BATCHES))


@pytest.mark.parametrize("at", [None, 1], ids=["", "which fails"])
def test_end_closes_the_connection(server: ChaosServer, tmp_path: Path, at: int | None) -> None:
    """The connection is not left to the collector, whatever closing it reports."""
    delivery = Delivery(server, tmp_path, spool=False)
    delivery.attempt(BATCHES)

    with SocketCalls(server.port, at=at, error=errno.EIO, only=["close"]) as calls:
        delivery.close()
        wait_until(lambda: calls.made, "the connection is closed", deadline_s=SOON_S)

    assert delivery.stored == list(range(BATCHES))
