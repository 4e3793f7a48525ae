"""The http sink: what it does with each answer a server can give, and with none."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from harness import wait_until

from flowtrace import unpatched
from flowtrace.config import Duration, decode
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins import handover
from flowtrace_plugins import http as http_module
from flowtrace_plugins.http import HttpSink
from flowtrace_plugins.options import HttpOptions
from flowtrace_plugins.parcel import Parcel
from tests.faults import chaos_server
from tests.faults.chaos_server import (
    ChaosServer,
    answer,
    drip,
    flood,
    garbage,
    hang,
    held,
    huge_head,
    interim,
    limit,
    reset,
    reset_after_commit,
    truncated,
)
from tests.faults.syscalls import Calls


@pytest.fixture
def server() -> Iterator[ChaosServer]:
    """A server that answers 200 unless told otherwise."""
    with chaos_server.running() as running:
        yield running


class Opened:
    """A sink that is open, with what it said and lost."""

    def __init__(self, directory: Path, url: str, *, pid: int = 1, start_thread: Any = None, **options: Any) -> None:
        self.warnings: list[str] = []
        self.losses: list[tuple[str, int]] = []
        context = make_context(directory=directory, run="r", pid=pid, warnings=self.warnings, losses=self.losses)
        if start_thread:
            context = context._replace(start_thread=start_thread)
        self.sink = HttpSink(decode({"url": url, "timeout": "2s"} | options, HttpOptions), context)
        self.sink.open()
        self.directory = directory

    def write(self, *seqs: int, id: str = "r-1-1") -> None:
        """Write a batch of events with these numbers."""
        self.sink.write(make_batch(*({"seq": seq} for seq in seqs), id=id))

    def failure(self, *seqs: int, id: str = "r-1-1") -> SinkError:
        """Write a batch, which must fail."""
        with pytest.raises(SinkError) as caught:
            self.write(*seqs, id=id)
        return caught.value

    def have_time(self) -> None:
        """Once nothing is under way, give each try the time that a busy machine may need."""
        wait_until(lambda: self.sink._courier.is_free, "nothing is under way")
        self.sink._timeout_s = self.sink._handover._timeout_s = 30.0

    def close(self) -> None:
        """Close the sink."""
        self.sink.close(time.monotonic() + 2)

    @property
    def dead_letters(self) -> list[int]:
        """The numbers of the events that were set aside."""
        path = self.directory / ".flowtrace" / "dead-letter" / "test.jsonl"
        return [orjson.loads(line)["seq"] for line in path.read_bytes().splitlines()] if path.exists() else []


@pytest.fixture
def sink(server: ChaosServer, tmp_path: Path) -> Iterator[Opened]:
    """A sink without a spool, with a header of its own."""
    opened = Opened(tmp_path, server.url, headers={"Authorization": "Bearer t", "content-type": "text/plain"})
    yield opened
    opened.close()


def test_request(server: ChaosServer, sink: Opened) -> None:
    """A batch is one POST of compressed lines with its id; headers of the options do not replace ours."""
    sink.write(1, 2)

    (request,) = server.requests
    headers = request.headers
    assert request.path == "/v1/events"
    assert [event["seq"] for event in request.events] == [1, 2]
    assert headers["flowtrace-batch"] == "r-1-1"
    assert headers["content-type"] == "application/x-ndjson"
    assert headers["content-encoding"] == "gzip"
    assert headers["authorization"] == "Bearer t"
    assert headers["user-agent"].startswith("flowtrace/")


def test_uncompressed(server: ChaosServer, tmp_path: Path) -> None:
    """``compression: none`` sends the lines as they are."""
    opened = Opened(tmp_path, server.url, compression="none")

    opened.write(1)
    opened.close()

    assert server.requests[0].body == b'{"seq":1}\n'
    assert "Content-Encoding" not in server.requests[0].headers


def test_batching_is_that_of_the_options(tmp_path: Path) -> None:
    """The lane learns from the sink how large batches should be."""
    options = decode({"url": "http://127.0.0.1/", "batch": {"max_size": "2KiB", "max_wait": "3s"}}, HttpOptions)

    batching = HttpSink(options, make_context(directory=tmp_path)).batching

    assert (batching.max_bytes, batching.max_wait_s) == (2048, 3.0)


def test_connection_is_reused(server: ChaosServer, sink: Opened) -> None:
    """One connection serves all batches, whatever is answered."""
    server.script += [answer(200, b"{}"), answer(400, b"no"), answer(200)]

    sink.write(1)
    sink.write(2)
    sink.write(3)

    assert sink.sink._handover._receiver
    pool = sink.sink._handover._receiver._manager.connection_from_url(server.url)
    assert (pool.num_connections, pool.num_requests) == (1, 3)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_failures_that_pass(server: ChaosServer, sink: Opened, status: int) -> None:
    """A server that is busy or broken is asked again, with the same id."""  # fault S10, S16
    server.script += [answer(status)]

    error = sink.failure(1)
    sink.write(1)

    assert error.retry
    assert f"answered {status}" in str(error)
    assert [request.batch_id for request in server.requests] == ["r-1-1", "r-1-1"]


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 422])
def test_refusals(server: ChaosServer, sink: Opened, status: int) -> None:
    """What will never be taken is not tried again but kept in a file; redirects are not followed."""  # fault S11, S13
    server.script += [answer(status, Location=f"{server.url}/elsewhere")]

    sink.write(1, 2)  # no failure of the sink's, after some of which it would be left out

    assert sink.dead_letters == [1, 2]
    assert len(server.requests) == 1
    assert sink.losses == [("refused by the server", 2)]
    assert f"answered {status}" in sink.warnings[0]
    assert "what it refuses is kept in" in sink.warnings[0]


def test_retry_after_reaches_the_lane(server: ChaosServer, sink: Opened) -> None:
    """The server's wish comes with the error."""  # fault S10
    server.script += [answer(503, Retry_After="7")]

    assert sink.failure(1).retry_after_s == 7.0


def test_too_large_is_halved(server: ChaosServer, sink: Opened) -> None:
    """A body that is too large goes in halves of halves, each once, in order, under ids of their own."""  # fault S11
    server.always = limit(2)

    sink.write(*range(7))

    taken = [request for request in server.requests if len(request.lines) <= 2]
    assert [event["seq"] for request in taken for event in request.events] == list(range(7))
    assert [r.batch_id for r in taken] == ["r-1-1.0.0", "r-1-1.0.1", "r-1-1.1.0", "r-1-1.1.1"]


def test_halves_already_delivered_are_not_sent_again(server: ChaosServer, sink: Opened) -> None:
    """A retry goes on with the half that failed."""  # fault S11, S16
    server.script += [answer(413), answer(200), answer(503)]

    sink.failure(1, 2)
    sink.write(1, 2)

    assert [request.batch_id for request in server.requests[1:]] == ["r-1-1.0", "r-1-1.1", "r-1-1.1"]


def test_single_line_too_large(server: ChaosServer, sink: Opened) -> None:
    """A line that is too large by itself is set aside and counted; its neighbours are delivered."""  # fault S11
    server.script += [answer(413), answer(413), answer(200)]

    sink.write(1, 2)

    assert sink.dead_letters == [1]
    assert server.requests[-1].events == [{"seq": 2}]
    assert sink.losses == [("refused by the server", 1)]


def test_poison_batch_is_given_up(server: ChaosServer, sink: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that the server fails at time and again is set aside, so that what follows can flow."""  # fault S17
    monkeypatch.setattr(handover, "_POISON_S", 0.0)
    server.script += [answer(500)] * handover._POISON_TRIES

    errors = [sink.failure(1) for _ in range(handover._POISON_TRIES - 1)]
    sink.write(1)
    sink.write(2, id="r-1-2")

    assert all(error.retry for error in errors)
    assert (sink.dead_letters, sink.losses) == ([1], [("refused by the server", 1)])


def test_server_that_fails_for_a_while(server: ChaosServer, sink: Opened) -> None:
    """However often the server fails within a minute, it is not the batch that is given up."""  # fault S17
    server.script += [answer(500)] * 2 * handover._POISON_TRIES

    errors = [sink.failure(1) for _ in range(2 * handover._POISON_TRIES)]
    sink.write(1)

    assert all(error.retry for error in errors)
    assert sink.dead_letters == []


def test_partly_rejected(server: ChaosServer, sink: Opened) -> None:
    """Events that the server rejected in an accepted batch are counted and not sent again."""  # fault S12
    server.script += [answer(200, b'{"rejected": 2}')]

    sink.write(1, 2, 3)

    assert sink.losses == [("refused by the server", 2)]
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"[]", b'"', b'{"rejected": "x"}', b'{"rejected": true}', b'{"rejected": -1}'])
def test_strange_answers_of_200_are_deliveries(server: ChaosServer, sink: Opened, body: bytes) -> None:
    """Only the status decides; what stands in the body can do no harm."""  # fault S14
    server.script += [answer(200, body)]

    sink.write(1)

    assert sink.losses == []


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (hang, "no answer from {url} within 0.3 s"),
        (drip(b"HTTP/1.1 200 OK\r\nX: "), "no answer from {url} within 0.3 s"),
        (reset, "cannot reach {url}: "),
        (reset_after_commit, "cannot reach {url}: "),
        (garbage, "cannot reach {url}: "),
        (huge_head, "cannot reach {url}: "),
    ],
)
def test_no_answer(server: ChaosServer, tmp_path: Path, step: chaos_server.Step, problem: str) -> None:
    """Silence, endless drips, a cut connection and nonsense end in time and may be tried again."""  # fault S14, S16
    server.script += [step]
    opened = Opened(tmp_path, server.url, timeout="300ms")
    began = time.monotonic()

    error = opened.failure(1)
    took_s = time.monotonic() - began
    opened.have_time()
    opened.write(1)
    opened.close()

    assert error.retry
    assert str(error).startswith(problem.format(url=server.url))
    assert took_s < 5
    assert [request.batch_id for request in server.requests] == ["r-1-1", "r-1-1"]


@pytest.mark.parametrize("step", [interim(100), interim(100, 103, 103), truncated])
def test_beginning_of_an_answer(server: ChaosServer, sink: Opened, step: chaos_server.Step) -> None:
    """Answers before the answer are passed over, and one that breaks off after its status is an answer."""  # fault S14
    server.script += [step]

    sink.write(1, id="r-1-1")
    sink.write(2, id="r-1-2")

    assert [r.batch_id for r in server.requests] == ["r-1-1", "r-1-2"]


@pytest.mark.parametrize("step", [flood, drip(b"HTTP/1.1 200 OK\r\n\r\n", every_s=0.005)])
def test_endless_answer(server: ChaosServer, tmp_path: Path, step: chaos_server.Step) -> None:
    """A body without end is not read to the end: the status has said it all."""  # fault S14
    server.script += [step]
    opened = Opened(tmp_path, server.url, timeout="2s")
    began = time.monotonic()

    opened.write(1)
    took_s = time.monotonic() - began
    opened.close()

    assert took_s < 10


@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "Connection refused"), ("name.invalid", "")])
def test_nobody_there(tmp_path: Path, host: str, reason: str) -> None:
    """A refused connection and a name that nobody has are failures that may pass, told without secrets."""  # fault S15
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        opened = Opened(tmp_path, f"http://{host}:{port}/x?token=secret")
        error = opened.failure(1)
        opened.close()

    assert error.retry
    assert str(error).startswith(f"cannot reach http://{host}:{port}/x: {reason}")
    assert "secret" not in str(error)


def test_user_of_the_url_becomes_a_header(server: ChaosServer, tmp_path: Path) -> None:
    """User and password of the URL are sent as basic authentication, never as part of the URL."""  # fault X6
    opened = Opened(tmp_path, server.url.replace("http://", "http://me:p%40ss@"))

    opened.write(1)
    opened.close()

    assert server.requests[0].headers["Authorization"] == "Basic bWU6cEBzcw=="


def test_proxy_is_for_others(server: ChaosServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment serves other hosts, not this machine."""  # fault S15
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with chaos_server.running() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1/events"))
        here, there = Opened(tmp_path, server.url), Opened(tmp_path, "http://name.invalid/x")
        here.write(1)
        there.write(2)
        here.close()
        there.close()

    assert [request.path for request in server.requests] == ["/v1/events"]
    assert [request.path for request in proxy.requests] == ["http://name.invalid/x"]


def test_log_of_the_program_stays_its_own(server: ChaosServer, sink: Opened, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 logs each request; those of the sink do not show up in a program that logs everything."""
    caplog.set_level(logging.DEBUG)

    sink.write(1)
    logging.getLogger("urllib3.connectionpool").debug("the program's own")

    assert [record.message for record in caplog.records] == ["the program's own"]


# -- nothing holds the lane --------------------------------------------------------------------------------------------


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names are looked up only once this is set."""
    release, look_up = threading.Event(), socket.getaddrinfo

    def getaddrinfo(*args: Any, **options: Any) -> Any:
        assert release.wait(30)
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield release
    release.set()


def test_look_up_of_a_name(server: ChaosServer, tmp_path: Path, slow_names: threading.Event) -> None:
    """A name server that does not answer costs the lane its timeout, and one thread however often it tries."""
    # fault S15
    opened = Opened(tmp_path, server.url, timeout="200ms")
    before = threads()

    errors = [opened.failure(1, id="r-1-1") for _ in range(3)]
    other = opened.failure(2, id="r-1-2")
    after = threads()
    slow_names.set()
    wait_until(lambda: server.requests or opened.sink._courier.is_free, "the request is over")
    opened.have_time()
    opened.write(1, id="r-1-1")
    opened.close()

    assert {str(error) for error in [*errors, other]} == {f"no answer from {server.url} within 0.2 s"}
    assert after == before
    assert [*server.stored] == ["r-1-1"]


def test_answer_that_comes_after_all(server: ChaosServer, tmp_path: Path, slow_names: threading.Event) -> None:
    """A request that was given up and succeeds is the delivery of its batch: it is not sent again."""  # fault S16
    opened = Opened(tmp_path, server.url, timeout="10s")
    opened.sink._timeout_s = 0.0  # of the lane's wait, not of the request, which has begun
    request = opened.sink._begin(Parcel.of(make_batch({"seq": 1}, id="r-1-1")))
    opened.sink._timeout_s = 10.0
    slow_names.set()
    wait_until(lambda: request.is_done, "the request is over")

    opened.write(1, id="r-1-1")
    opened.close()

    assert [r.batch_id for r in server.requests] == ["r-1-1"]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that neither accepts nor refuses."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_addresses_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses a name has, the lane waits for one timeout."""  # fault S15
    with black_hole() as port:
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [address] * 50)
        opened = Opened(tmp_path, f"http://many.example:{port}/", timeout="200ms", headers={})
        began = time.monotonic()
        error = opened.failure(1)
        took_s = time.monotonic() - began
        opened.close()

    assert str(error).startswith("no answer from ")
    assert str(error).endswith(" within 0.2 s")
    assert took_s < 5  # 50 timeouts are 10 s


def test_server_that_reads_nothing(server: ChaosServer, tmp_path: Path) -> None:
    """A body that nobody reads costs no more than the timeout."""  # fault S15
    server.is_deaf = True
    opened = Opened(tmp_path, server.url, timeout="300ms", compression="none")

    with pytest.raises(SinkError, match=r"no answer from .* within 0\.3 s"):
        opened.sink.write(make_batch({"noise": "x" * 20_000_000}, id="r-1-1"))
    opened.close()

    assert server.requests == []


def test_handshake_that_never_ends(tmp_path: Path) -> None:
    """A server that accepts and says nothing, where TLS was expected, costs no more than the timeout."""  # fault S15
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        opened = Opened(tmp_path, url, timeout="200ms")
        error = opened.failure(1)
        opened.close()

    assert str(error) == f"no answer from {url} within 0.2 s"


def test_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    """A certificate that does not verify is a failure; nothing is sent to such a server."""  # fault S15, X6
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    with chaos_server.running(tls=context) as server:
        opened = Opened(tmp_path, server.url, headers={"Authorization": "Bearer secret"})
        error = opened.failure(1)
        opened.close()

    assert error.retry
    assert "certificate verify failed" in str(error)
    assert server.requests == []


def test_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose certificate the system trusts gets its batches over TLS, on one connection."""  # fault X6
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    with chaos_server.running(tls=context) as server:
        opened = Opened(tmp_path, server.url)
        opened.write(1, id="r-1-1")
        opened.write(2, id="r-1-2")
        opened.close()

    assert [*server.stored] == ["r-1-1", "r-1-2"]


def start_none(function: Callable[[], None]) -> None:
    """In the place of what starts a thread."""
    raise RuntimeError("can't start new thread")


def test_no_thread_can_be_started(server: ChaosServer, tmp_path: Path) -> None:
    """Without a thread of its own the sink delivers on the lane's, from the spool too."""  # fault T10
    server.script += [answer(503, Retry_After="0")]
    opened = Opened(tmp_path, server.url, spool={}, start_thread=start_none)

    opened.write(1, id="r-1-1")
    opened.write(2, id="r-1-2")
    opened.close()

    assert delivered(server) == [1, 1, 2]
    assert waiting(opened) == 0


def test_end_without_a_spool(server: ChaosServer, tmp_path: Path) -> None:
    """When the process ends, a request under way is waited for until the deadline, and not until its timeout."""
    # fault P9
    server.always = hang
    opened = Opened(tmp_path, server.url, timeout="60s")
    writing = Background(lambda: opened.failure(1))
    wait_until(lambda: server.requests, "the request is under way")

    opened.sink.ending(time.monotonic() + 0.2)
    error = writing.result()
    opened.sink.close(time.monotonic())

    assert error.retry
    assert "no answer" in str(error)


# -- pauses ------------------------------------------------------------------------------------------------------------


class Pausing:
    """A sink without a thread, whose clock and chance stand where one puts them."""

    def __init__(self, directory: Path, server: ChaosServer, patch: pytest.MonkeyPatch) -> None:
        self.now, self.chance = 1_000.0, 1.0
        patch.setattr(unpatched.time, "monotonic", lambda: self.now)
        patch.setattr(http_module, "chance", lambda: self.chance)
        self.server, self.opened = server, Opened(directory, server.url, spool={}, start_thread=start_none)

    def after(self, step: chaos_server.Step) -> float:
        """How long the server is left alone after an answer, when it has been left alone for as long as it had to."""
        self.now = max(self.now, self.opened.sink._not_before)
        asked, self.server.always = len(self.server.requests), step
        if waiting(self.opened):
            self.opened.sink.flush()
        else:
            self.opened.write(1, id=f"r-1-{asked}")
        assert len(self.server.requests) > asked
        return self.opened.sink._not_before - self.now


@pytest.fixture
def pausing(server: ChaosServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pausing:
    """See there."""
    return Pausing(tmp_path, server, monkeypatch)


@pytest.mark.parametrize(
    "step", [answer(408), answer(429), answer(500), answer(503), reset], ids=["408", "429", "500", "503", "reset"]
)
def test_pauses_double_up_to_a_limit(pausing: Pausing, step: chaos_server.Step) -> None:
    """After each failure in a row the longest pause is twice as long, up to five seconds; a delivery ends the row."""
    # fault S10
    assert [pausing.after(step) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]

    pausing.after(answer(200))

    assert pausing.after(step) == 0.5


def test_pauses_are_chance(pausing: Pausing) -> None:
    """The pause is anything from nothing to the longest: processes that failed together do not come back together."""
    # fault S10
    pauses = []
    for pausing.chance in (0.25, 0.5, 0.75, 0.999, 0.1, 0.0):
        pauses.append(pausing.after(answer(503)))

    assert pauses == pytest.approx([0.25 * 0.5, 0.5 * 1, 0.75 * 2, 0.999 * 4, 0.1 * 5, 0.0])


def test_pauses_for_weeks(pausing: Pausing) -> None:
    """A server that has been away for longer than any power of two can be computed is asked as ever."""  # fault S10
    pausing.opened.sink._failures = 100_000

    assert pausing.after(answer(503)) == 5.0


@pytest.mark.parametrize(
    ("asks", "pause_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:13:19 GMT", 0.0),
        ("1000000000", 300.0),
        ("Mon, 01 Jan 2199 00:00:00 GMT", 300.0),
        ("-5", 0.5),
        ("1e9", 0.5),
        ("soon", 0.5),
    ],
)
def test_pause_that_the_server_asks_for(
    pausing: Pausing, monkeypatch: pytest.MonkeyPatch, asks: str, pause_s: float
) -> None:
    """Seconds and a date are kept to, at most five minutes; what is past is over; of nonsense, the pause is our own."""
    # fault S10
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)  # Tue, 14 Nov 2023 22:13:20 GMT

    assert pausing.after(answer(429, Retry_After=asks)) == pause_s


# -- the spool -------------------------------------------------------------------------------------------------------


def spooling(directory: Path, server: ChaosServer, *, pid: int = 1, **options: Any) -> Opened:
    """A sink with a spool."""
    return Opened(directory, server.url, pid=pid, spool={"dir": ".flowtrace/spool"}, **options)


def waiting(opened: Opened) -> int:
    """How many batches wait on disk."""
    return len(list((opened.directory / ".flowtrace" / "spool").glob("*/*.ndjson.gz")))


def drained(opened: Opened) -> None:
    """Wait until nothing waits on disk."""
    wait_until(lambda: not waiting(opened) and opened.sink._courier.is_free, "the spool is empty")


def delivered(server: ChaosServer) -> list[int]:
    """The numbers of the events of the requests."""
    return [event["seq"] for event in server.events]


def test_spool_keeps_what_the_server_missed(server: ChaosServer, tmp_path: Path) -> None:
    """Batches wait on disk while the server is away, and are delivered in order before anything newer."""  # fault S10
    opened = spooling(tmp_path, server)
    server.stop()

    for number in (1, 2, 3):
        opened.write(number, id=f"r-1-{number}")
    waited = waiting(opened)
    server.up()
    opened.write(4, id="r-1-4")
    drained(opened)
    opened.write(5, id="r-1-5")
    opened.close()

    assert waited == 3
    assert delivered(server) == [1, 2, 3, 4, 5]
    assert [*server.stored] == [f"r-1-{number}" for number in (1, 2, 3, 4, 5)]


def test_spool_of_an_earlier_run_is_delivered_first(server: ChaosServer, tmp_path: Path) -> None:
    """What a process left behind, the next one delivers."""  # fault P6
    server.script += [answer(503, Retry_After="300")]
    earlier = spooling(tmp_path, server)
    earlier.write(1, id="old-1-1")
    earlier.close()

    later = spooling(tmp_path, server)
    later.write(2, id="r-1-1")
    drained(later)
    later.close()

    assert delivered(server) == [1, 1, 2]


def test_spool_is_drained_without_being_asked(server: ChaosServer, tmp_path: Path) -> None:
    """A quiet program's events do not wait for its next event."""
    opened = spooling(tmp_path, server)
    server.script += [answer(503, Retry_After="0")]

    opened.write(1)
    drained(opened)
    opened.close()

    assert delivered(server) == [1, 1]


def test_what_another_process_left_is_found(server: ChaosServer, tmp_path: Path) -> None:
    """A process that has nothing to deliver looks now and then for what others could not."""  # fault S20
    opened = spooling(tmp_path, server)
    other = spooling(tmp_path, server, pid=2)
    server.script += [answer(503, Retry_After="300")]
    other.write(1, id="r-2-1")
    other.close()

    opened.sink.flush()
    drained(opened)
    opened.close()

    assert delivered(server) == [1, 1]


def test_back_off_asks_nobody(server: ChaosServer, tmp_path: Path) -> None:
    """As long as the server asked to wait, batches go to the disk without a try."""  # fault S10
    opened = spooling(tmp_path, server)
    server.script += [answer(429, Retry_After="300")]

    for number in range(5):
        opened.write(number, id=f"r-1-{number}")
        opened.sink.flush()
    opened.close()

    assert len(server.requests) == 1
    assert waiting(opened) == 5


def test_refused_from_the_spool(server: ChaosServer, tmp_path: Path) -> None:
    """What the server refuses after it was put on disk is set aside, counted, and holds up nothing."""  # fault S11
    opened = spooling(tmp_path, server)
    server.script += [answer(503, Retry_After="0"), answer(400)]

    opened.write(1, id="r-1-1")
    opened.write(2, id="r-1-2")
    drained(opened)
    opened.close()

    assert opened.dead_letters == [1]
    assert opened.losses == [("refused by the server", 1)]
    assert delivered(server) == [1, 1, 2]


def test_two_servers_share_no_spool(server: ChaosServer, tmp_path: Path) -> None:
    """What waits for one server does not go to another one, though their sinks name the same directory."""
    server.script += [answer(503, Retry_After="300")]
    opened = spooling(tmp_path, server)
    opened.write(1)
    opened.close()

    with chaos_server.running() as elsewhere:
        other = spooling(tmp_path, elsewhere)
        other.write(2)
        other.close()
        arrived = delivered(elsewhere)
    same = Opened(tmp_path, server.url.replace("//", "//me:new@") + "?token=new", spool={})
    drained(same)
    same.close()

    assert arrived == [2]
    assert delivered(server) == [1, 1]


def test_losses_of_others_are_not_ours(server: ChaosServer, tmp_path: Path) -> None:
    """What is lost of another process's batches is said, but is not counted: it is not in this process's totals."""
    server.script += [answer(503, Retry_After="300"), answer(400)]
    earlier = spooling(tmp_path, server)
    earlier.write(1, 2, id="old-1-1")
    earlier.close()

    later = spooling(tmp_path, server)
    drained(later)
    later.close()

    assert later.losses == []
    assert any("refused by the server: 2 events of other processes" in warning for warning in later.warnings)


def test_two_processes_do_not_drain_at_once(server: ChaosServer, tmp_path: Path) -> None:
    """While one process drains, another only adds; when it is done, the other goes on."""  # fault S20
    release = threading.Event()
    server.script += [answer(503, Retry_After="0"), held(release, answer(200))]
    one = spooling(tmp_path, server)
    one.write(1, id="r-1-1")
    wait_until(lambda: len(server.requests) == 2, "the first one is delivering")

    two = spooling(tmp_path, server, pid=2)
    two.write(2, id="r-2-1")
    two.sink.flush()
    meanwhile = len(server.requests), waiting(two)
    release.set()
    drained(two)
    one.close()
    two.close()

    assert meanwhile == (2, 2)
    assert sorted(server.stored) == ["r-1-1", "r-2-1"]
    assert server.doubles == []


def test_slow_request_does_not_hold_the_lane(server: ChaosServer, tmp_path: Path) -> None:
    """A request that takes long gets its place on disk; what comes after is behind it, and none of it comes twice."""
    release = threading.Event()
    server.script += [held(release, answer(200))]
    opened = spooling(tmp_path, server, timeout="60s")
    other = spooling(tmp_path, server, pid=2)

    opened.write(1, id="r-1-1")
    opened.write(2, id="r-1-2")
    other.sink.flush()  # may not deliver what is being delivered
    meanwhile = len(server.requests), waiting(opened)
    release.set()
    wait_until(lambda: waiting(opened) <= 1, "the first one is delivered")  # and perhaps the second by the other
    opened.sink.flush()
    drained(opened)
    opened.close()
    other.close()

    assert meanwhile == (1, 2)
    assert delivered(server) == [1, 2]
    assert server.doubles == []


def test_slow_request_that_fails(server: ChaosServer, tmp_path: Path) -> None:
    """A request that fails after its batch was put on disk is tried again from there, in its turn."""  # fault S16
    release = threading.Event()
    server.script += [held(release, reset_after_commit)]
    opened = spooling(tmp_path, server, timeout="60s")

    opened.write(1, id="r-1-1")
    opened.write(2, id="r-1-2")
    release.set()
    wait_until(lambda: opened.sink._courier.is_free, "the request has failed")
    opened.sink._not_before = 0.0
    opened.sink.flush()
    drained(opened)
    opened.close()

    assert [r.batch_id for r in server.requests] == ["r-1-1", "r-1-1", "r-1-2"]
    assert server.doubles == ["r-1-1"]  # which the id has told the server
    assert [event["seq"] for event in server.stored_events] == [1, 2]


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO])
def test_what_is_delivered_cannot_be_deleted(server: ChaosServer, tmp_path: Path, error: int, status: int) -> None:
    """It is neither sent nor counted again, holds up nothing, and is deleted when that is possible."""  # fault S5
    opened = spooling(tmp_path, server, start_thread=start_none)
    server.script += [answer(503, Retry_After="300")]
    for number in (1, 2, 3):
        opened.write(number, id=f"r-1-{number}")
    server.script += [answer(status)] * 3
    opened.sink._not_before = 0.0

    with Calls(tmp_path, at=1, error=error, lasting=True, only=("unlink",)):
        wait_until(lambda: opened.sink.flush() or len(server.requests) >= 4, "all are sent")
        for _ in range(5):
            opened.sink.flush()
        opened.write(4, id="r-1-4")
        left = waiting(opened)
    opened.sink.flush()
    opened.close()

    assert [request.batch_id for request in server.requests] == ["r-1-1", "r-1-1", "r-1-2", "r-1-3", "r-1-4"]
    assert opened.losses == ([] if status == 200 else [("refused by the server", 1)] * 3)
    assert (left, waiting(opened)) == (3, 0)


def test_slow_request_whose_place_cannot_be_deleted(server: ChaosServer, tmp_path: Path) -> None:
    """What got its place on disk while it was under way is not sent from there, though its file stays."""  # fault S5
    release = threading.Event()
    server.script += [held(release, answer(200))]
    opened = spooling(tmp_path, server, timeout="60s")

    opened.write(1, id="r-1-1")
    with Calls(tmp_path, at=1, error=errno.EROFS, lasting=True, only=("unlink",)):
        release.set()
        wait_until(lambda: opened.sink._courier.is_free, "the request is over")
        opened.write(2, id="r-1-2")
        drained_to = waiting(opened)
    opened.sink.flush()
    drained(opened)
    opened.close()

    assert delivered(server) == [1, 2]
    assert drained_to >= 1
    assert server.doubles == []


def test_spool_that_cannot_be_looked_into(server: ChaosServer, tmp_path: Path) -> None:
    """What may wait there is not overtaken: a new batch goes behind it, or stays with the lane."""  # fault S19
    opened = spooling(tmp_path, server, start_thread=start_none)
    server.script += [answer(503, Retry_After="300")]
    opened.write(1, id="r-1-1")
    opened.sink._not_before = 0.0

    with Calls(tmp_path, at=1, error=errno.EMFILE, lasting=True, only=("open", "scandir", "listdir")):
        error = opened.failure(2, id="r-1-2")
        opened.sink.flush()
    opened.sink._not_before = 0.0
    opened.write(2, id="r-1-2")
    wait_until(lambda: opened.sink.flush() or not waiting(opened), "the spool is empty")
    opened.close()

    assert error.retry
    assert "Too many open files" in str(error)
    assert delivered(server) == [1, 1, 2]


def test_unusable_spool_is_done_without(server: ChaosServer, tmp_path: Path) -> None:
    """A spool directory that cannot be made costs a warning, not the sink."""  # fault S19, P12
    (tmp_path / ".flowtrace").touch()

    opened = spooling(tmp_path, server)
    opened.write(1)
    opened.close()

    [warning] = opened.warnings
    assert warning.startswith(f"cannot use the spool {tmp_path}/.flowtrace/spool/")
    assert warning.endswith(": Not a directory; going on without it")
    assert delivered(server) == [1]


def test_end_with_a_request_under_way(server: ChaosServer, tmp_path: Path) -> None:
    """What is under way when the process ends goes to the disk, and nothing after it is sent or waited for."""
    # fault P9
    server.always = hang
    opened = spooling(tmp_path, server, timeout="60s")
    writing = Background(lambda: opened.write(1, id="r-1-1"))
    wait_until(lambda: server.requests, "the request is under way")

    opened.sink.ending(time.monotonic() + 60)
    writing.result()
    opened.write(2, id="r-1-2")
    opened.sink.close(time.monotonic() + 60)

    assert waiting(opened) == 2
    assert len(server.requests) == 1
    assert opened.warnings[-1].startswith(f"2 events wait in the spool {tmp_path}/.flowtrace/spool/")
    assert opened.warnings[-1].endswith(" for the next run")


def test_empty_spool_is_not_spoken_of(server: ChaosServer, tmp_path: Path) -> None:
    """Where all was delivered, the end says nothing."""
    opened = spooling(tmp_path, server)
    opened.write(1)
    opened.close()

    assert delivered(server) == [1]
    assert opened.warnings == []


def test_silence_at_the_end_is_said_once(server: ChaosServer, tmp_path: Path) -> None:
    """What waits behind a request without an answer fails in the words of that request."""
    server.always = hang
    opened = Opened(tmp_path, server.url, timeout="60s")
    opened.sink.ending(time.monotonic())

    errors = [opened.failure(1, id="r-1-1"), opened.failure(2, id="r-1-2")]
    opened.close()

    assert {str(error) for error in errors} == {f"no answer from {server.url} before the end"}


@pytest.mark.parametrize("is_told_first", [True, False])
def test_end_without_a_thread(server: ChaosServer, tmp_path: Path, is_told_first: bool) -> None:
    """Where no thread can be started, as in ``atexit`` on 3.12.1, the end begins no request that nobody could leave.

    A sink may be opened only then: a short program has ended before its first batch was full.
    """  # fault P8
    server.always = hang
    context = make_context(directory=tmp_path, run="r", pid=1)._replace(start_thread=start_none)
    sink = HttpSink(decode({"url": server.url, "timeout": "60s", "spool": {}}, HttpOptions), context)
    began = time.monotonic()

    if is_told_first:
        sink.ending(began + 60)
    sink.open()
    sink.ending(began + 60)
    sink.write(make_batch({"seq": 1}, id="r-1-1"))
    sink.flush()
    sink.close(began + 60)

    assert len(list(tmp_path.glob(".flowtrace/spool/*/*.gz"))) == 1
    assert server.requests == []
    assert time.monotonic() - began < 30  # half of the timeout


def test_spool_is_forced_to_the_disk_until_the_end(server: ChaosServer, tmp_path: Path) -> None:
    """Each batch that waits survives a loss of power; those of the last moments need not, not to hold up the end."""
    opened = spooling(tmp_path, server)
    server.stop()

    with Calls(tmp_path, only=("fsync",)) as calls:
        for number in (1, 2, 3):
            opened.write(number, id=f"r-1-{number}")
        before = len(calls.made)
        opened.sink.ending(time.monotonic() + 60)
        opened.write(4, id="r-1-4")
        opened.close()
    server.up()

    assert (before, len(calls.made)) == (6, 6)  # of each file and its name
    assert waiting(opened) == 4


def test_thread_is_there_from_the_start(server: ChaosServer, tmp_path: Path) -> None:
    """A sink that is first used at the end of the process has its thread: no request holds up its lane."""  # fault P8
    server.always = hang
    may_start = [True]

    def start(function: Callable[[], None]) -> None:
        if not may_start[0]:
            start_none(function)
        threading.Thread(target=function).start()

    context = make_context(directory=tmp_path, run="r", pid=1)._replace(start_thread=start)
    sink = HttpSink(decode({"url": server.url, "timeout": "60s", "spool": {}}, HttpOptions), context)
    may_start[0] = False
    began = time.monotonic()

    sink.open()
    sink.write(make_batch({"seq": 1}, id="r-1-1"))  # the end is not announced yet, and threads wait for their own
    sink.ending(time.monotonic() + 60)
    sink.write(make_batch({"seq": 2}, id="r-1-2"))
    sink.close(time.monotonic() + 60)

    assert len(list(tmp_path.glob(".flowtrace/spool/*/*.gz"))) == 2
    assert time.monotonic() - began < 30  # half of the timeout


def test_end_while_draining(server: ChaosServer, tmp_path: Path) -> None:
    """A full spool does not hold up the end: its rest is the next run's."""  # fault P9
    opened = spooling(tmp_path, server)
    server.stop()
    for number in range(5):
        opened.write(number, id=f"r-1-{number}")
    server.up()
    server.script += [answer(200), hang]
    opened.sink._not_before = 0.0
    wait_until(lambda: opened.sink.flush() or len(server.requests) == 2, "the second one is under way")

    opened.sink.ending(time.monotonic() + 60)
    opened.sink.close(time.monotonic() + 60)

    assert [*server.stored] == ["r-1-0"]
    assert waiting(opened) == 4


def test_end_that_is_quick_enough(server: ChaosServer, tmp_path: Path) -> None:
    """What the server takes at once is delivered in the end, too, and the spool stays empty."""
    opened = spooling(tmp_path, server)
    opened.sink._end_by = lambda: time.monotonic() + 30  # type: ignore[method-assign]  # however busy this machine is
    opened.sink.ending(time.monotonic() + 60)

    opened.write(1)
    opened.close()

    assert delivered(server) == [1]
    assert waiting(opened) == 0


def test_disk_that_is_full(server: ChaosServer, tmp_path: Path) -> None:
    """What neither the server nor the disk takes stays with the lane, but a request under way may deliver it."""
    # fault S3
    release = threading.Event()
    server.script += [held(release, answer(200))]
    opened = spooling(tmp_path, server, timeout="60s")

    with Calls(tmp_path, at=1, error=errno.ENOSPC, lasting=True, only=("write",)):
        error = opened.failure(1, id="r-1-1")
        release.set()
        opened.write(1, id="r-1-1")
    opened.close()

    assert error.retry
    assert "No space left" in str(error)
    assert [r.batch_id for r in server.requests] == ["r-1-1"]
    assert waiting(opened) == 0


def test_timeout_is_a_duration() -> None:
    """The default timeout is the documented one."""
    assert HttpOptions(url="http://127.0.0.1/").timeout == Duration("5s")


def threads() -> int:
    """How many threads this process has, raw ones included."""
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()


class Background:
    """A call on another thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._call = self._pool.submit(call)

    def result(self) -> Any:
        """What came of it."""
        try:
            return self._call.result(timeout=30)
        finally:
            self._pool.shutdown()
