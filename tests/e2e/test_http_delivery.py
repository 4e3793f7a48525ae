"""The http sink of a traced server: each event arrives once, and a receiver that is in trouble is alone with it."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from chat_server import FAST, entered, hear, serving
from harness import Event, Running, Tracer, by_process, check_conservation, free_port, wait_until

from tests.faults.chaos_server import ChaosServer, answer, hang, running

MESSAGES = 200
SHUTDOWN_S = 2.0  # the default of flush.shutdown_timeout
SLACK_S = 8.0  # for the server's own end, on a busy machine


@pytest.fixture
def receiver() -> Iterator[ChaosServer]:
    """A server that takes events."""
    with running() as server:
        yield server


def test_events_arrive_once_in_spite_of_failures(tmp_path: Path, receiver: ChaosServer) -> None:
    """After two answers of 503 every event arrives exactly once; a batch keeps its id while it is tried again."""
    receiver.script += [answer(503), answer(503)]

    with serving(tmp_path, config=file_and(http_sink(receiver.url))) as chat:
        with chat.join("Alice", "Bob") as (alice, bob):
            converse(alice, bob, 10)
        chat.wait_until_empty()
        ended = chat.running.stop()

    tries, delivered = receiver.requests[:3], receiver.requests[2:]
    assert len({request.batch_id for request in tries}) == 1
    assert len({request.body for request in tries}) == 1
    assert len({request.batch_id for request in delivered}) == len(delivered)
    assert numbers(event for request in delivered for event in request.events) == numbers(ended.events)
    check_conservation(ended.events, sink="http")
    assert ended.events[-1]["lost"] == {"file": 0, "http": 0}


def test_requests_are_as_documented(tmp_path: Path, receiver: ChaosServer) -> None:
    """Bodies are lines of JSON under gzip; the batch id begins with the run and the process id."""
    with serving(tmp_path, config=file_and(http_sink(receiver.url))) as chat:
        ended = chat.running.stop()

    start = ended.events[0]
    for request in receiver.requests:
        assert request.headers["Content-Type"] == "application/x-ndjson"
        assert request.headers["Content-Encoding"] == "gzip"
        assert request.batch_id.startswith(f"{start['run']}-{ended.pid}-")
        lines = gzip.decompress(request.body)
        assert lines.endswith(b"\n")
        assert [orjson.loads(line)["pid"] for line in lines.splitlines()] == [ended.pid] * len(request.lines)


def test_receiver_that_never_answers_does_not_delay_the_chat(tmp_path: Path, receiver: ChaosServer) -> None:
    """All messages reach the other person while the receiver hangs; the end waits no longer than configured."""
    receiver.always = hang

    with (
        serving(tmp_path, config=file_and(http_sink(receiver.url, timeout="60s")), env=FAST) as chat,
        chat.join("Alice", "Bob") as (alice, bob),
    ):
        wait_until(lambda: receiver.requests, "the receiver has a request to hang on")
        converse(alice, bob, MESSAGES)
        began = time.monotonic()
        ended = chat.running.stop()
        took_s = time.monotonic() - began

    assert took_s < SHUTDOWN_S + SLACK_S
    check_conservation(ended.events)
    stop = ended.events[-1]
    assert stop["lost"] == {"file": 0, "http": stop["recorded"]}
    assert len(entered(ended.events, "broadcast_to_room")) == MESSAGES + 4
    assert len(receiver.requests) == 1


def test_receiver_that_is_down_harms_no_other_sink(tmp_path: Path) -> None:
    """The file beside it has everything; STOP counts all as lost for the http sink, and the terminal says why."""
    url = f"http://127.0.0.1:{free_port()}/v1/events"

    with (
        serving(tmp_path, config=file_and(http_sink(url)), env=FAST) as chat,
        chat.join("Alice", "Bob") as (alice, bob),
    ):
        converse(alice, bob, MESSAGES)
        ended = chat.running.stop()

    check_conservation(ended.events)
    stop = ended.events[-1]
    assert stop["lost"] == {"file": 0, "http": stop["recorded"]}
    assert stop["delivered"] == {"file": stop["recorded"], "http": 0}
    said = [line for line in ended.stderr.splitlines() if "sink http" in line]
    assert f"cannot reach {url}" in said[0]
    assert said[1:] in ([], [f"flowtrace: sink http: no answer from {url} before the end"])  # a try was under way


def test_loss_is_an_event(tmp_path: Path, receiver: ChaosServer) -> None:
    """What the memory for one sink cannot hold is dropped whole, and LOSS names the sink, the reason and the count."""
    receiver.always = hang
    config = file_and(http_sink(receiver.url, timeout="60s")) | {"queue": {"max_bytes": "4MiB"}}

    with serving(tmp_path, config=config, env=FAST) as chat, chat.join("Alice", "Bob") as (alice, bob):
        for sent in range(50, 5_000, 50):  # far less than fits, and the next only when the file has it
            converse(alice, bob, 50)
            wait_for_broadcasts(chat.running, sent)
            if losses(chat.running.events):
                break
        ended = chat.running.stop()

    assert losses(ended.events)
    check_conservation(ended.events)
    assert ended.events[-1]["lost"]["file"] == 0
    assert {event["sink"] for event in losses(ended.events)} == {"http"}
    assert {event["reason"] for event in losses(ended.events)} - {"the process ended"} == {"the sink is too slow"}
    assert sum(event["calls"] for event in losses(ended.events)) > 0
    for event in losses(ended.events):
        assert event["events"] >= event["calls"]
        assert event["bytes"] > 0
        assert event["from"] <= event["to"]


def test_what_waits_on_disk_is_delivered_by_the_next_run(tmp_path: Path, receiver: ChaosServer) -> None:
    """With a spool, what a receiver that was down has missed arrives once it is up, each event once."""
    spool = tmp_path / "spool"
    config = file_and(http_sink(receiver.url, spool={"dir": str(spool)}))
    receiver.stop()

    with serving(tmp_path, config=config) as chat:
        missed = chat.running.stop().events
    receiver.up()
    with serving(tmp_path, config=config) as chat:
        wait_until(lambda: not left_in(spool), "the spool is empty")
        ended = chat.running.stop()

    assert missed
    assert missed[-1]["lost"] == {"file": 0, "http": 0}
    assert ended.events[-1]["lost"] == {"file": 0, "http": 0}
    assert numbers([*receiver.stored_events, *left_in(spool)]) == numbers(ended.events)


def test_end_waits_for_nobody_with_a_spool(tmp_path: Path, receiver: ChaosServer) -> None:
    """A receiver that hangs costs nothing at the end: what it did not take is on disk, and counts as delivered."""
    # fault P9
    receiver.always = hang
    spool = tmp_path / "spool"
    config = file_and(http_sink(receiver.url, spool={"dir": str(spool)}, timeout="10m"))
    config["flush"] = {"shutdown_timeout": "1h"}  # it is not for this that it ends

    with serving(tmp_path, config=config) as chat:
        wait_until(lambda: receiver.requests, "the receiver has a request to hang on")
        ended = chat.running.stop()

    assert numbers(left_in(spool)) == numbers(ended.events)
    check_conservation(left_in(spool), sink="http")
    assert ended.events[-1]["lost"] == {"file": 0, "http": 0}


FORKING = """
import os, sys, time

def work(n):
    return n

for n in range(4):
    work(n)
    time.sleep(0.1)  # so that the sink is at work
    child = os.fork()
    if not child:
        for k in range(100):
            work(k)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("is_up", [True, False])
def test_children_deliver_too(tracer: Tracer, receiver: ChaosServer, is_up: bool) -> None:
    """Forked children have sinks of their own, on the same spool; the sink's thread makes Python warn of no fork."""
    # fault P1, S20
    spool = tracer.folder / "spool"
    program = tracer.folder / "forking.py"
    program.write_text(FORKING)
    if not is_up:
        receiver.stop()

    ended = tracer.run(
        ["python", "-W", "error", str(program)],
        config={"sinks": [http_sink(receiver.url, spool={"dir": str(spool)})]},
    )

    arrived = [*receiver.stored_events, *left_in(spool)]
    assert ended.returncode == 0, ended.stderr
    check_conservation(arrived, sink="http")
    assert sorted(len(entered(own, "work")) for own in by_process(arrived).values()) == [4, 100, 100, 100, 100]
    assert receiver.doubles == []


def left_in(spool: Path) -> list[Event]:
    """The events that wait."""
    bodies = [gzip.decompress(path.read_bytes()) for path in sorted(spool.glob("*/*.gz"))]
    return [orjson.loads(line) for body in bodies for line in body.splitlines()]


def http_sink(url: str, **options: Any) -> dict[str, Any]:
    """An http sink that sends several requests within a short conversation."""
    return {"type": "http", "url": url, "batch": {"max_wait": "50ms"}, **options}


def file_and(*sinks: dict[str, Any]) -> dict[str, Any]:
    """A configuration with other sinks beside a file."""
    return {"sinks": [{"type": "file", "path": "traces/{pid}.jsonl"}, *sinks]}


def converse(speaker: Any, listener: Any, count: int) -> None:
    """Say something, and wait until it has arrived, so many times."""
    for number in range(count):
        speaker.send(f"message {number}")
        assert f'"message {number}"' in hear(listener, 1)[0]


def wait_for_broadcasts(server: Running, count: int) -> None:
    """Wait until so many broadcasts are in the file."""
    wait_until(lambda: len(entered(server.events, "broadcast_to_room")) >= count, f"{count} broadcasts in the file")


def numbers(events: Any) -> list[tuple[int, int]]:
    """What identifies events, sorted: one that arrived twice is there twice."""
    return sorted((event["pid"], event["seq"]) for event in events)


def losses(events: Sequence[Event]) -> list[Event]:
    """The LOSS events."""
    return [event for event in events if event["event"] == "LOSS"]
