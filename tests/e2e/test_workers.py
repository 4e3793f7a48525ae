"""Servers of several processes, and how servers end: every process has a file of its own, and nothing is cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import httpx
import pytest
from chat_server import ChatServer, entered, serving
from harness import ROOT, Ended, Event, by_process, check_conservation, wait_until

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
REQUESTS = 20


@SIGNALS
def test_server_that_is_stopped_delivers_everything(tmp_path: Path, number: signal.Signals) -> None:
    """With SIGTERM or Ctrl-C the last calls and STOP are in the file, and the exit status is that of the server."""
    untraced = end_amid_conversation(tmp_path / "untraced", number, traced=False)
    traced = end_amid_conversation(tmp_path / "traced", number, traced=True)

    check_conservation(traced.events)
    assert traced.events[-1]["lost"] == {"file": 0}
    assert len(entered(traced.events, "remove_client")) == 2
    assert traced.returncode == untraced.returncode


@SIGNALS
def test_workers_have_files_of_their_own(tmp_path: Path, number: signal.Signals) -> None:
    """Each of two workers writes its calls to its own file; every request is in exactly one of them."""
    untraced = end_workers(tmp_path / "untraced", number, traced=False)
    traced = end_workers(tmp_path / "traced", number, traced=True)

    processes = by_process(traced.events)
    workers = [processes[pid] for pid in started_workers(traced.events)]
    assert len(workers) == 2
    assert traced.pid not in {events[0]["pid"] for events in workers}
    assert {events[0]["parentPid"] for events in workers} == {traced.pid}
    assert sum(len(entered_handler(events)) for events in workers) == REQUESTS
    check_conservation(traced.events)
    check_files(traced)
    assert traced.returncode == untraced.returncode


def test_reloaded_server_is_traced_again(tmp_path: Path) -> None:
    """With `--reload`, a changed file ends one traced process and starts the next; neither loses anything."""
    copy = shutil.copytree(ROOT / "sample_app", tmp_path / "app" / "sample_app").parent
    with serving(tmp_path, "--reload", "--reload-dir", str(copy), app_dir=copy) as chat:
        first = wait_until(lambda: serving_process(chat), "a process serves")
        change(copy / "sample_app" / "rooms.py")
        second = wait_until(lambda: {serving_process(chat)} - {None, first}, "another process serves").pop()
        ended = chat.running.stop()

    check_conservation(ended.events)
    processes = by_process(ended.events)
    assert entered(processes[first], "list_rooms")
    assert entered(processes[second], "list_rooms")
    check_files(ended)


def test_killed_server_leaves_what_was_said_in_the_file(tmp_path: Path) -> None:  # fault C9, P6
    """Events are in the file while the server runs; killing it leaves whole lines, and at most one that is torn."""
    with serving(tmp_path) as chat, chat.join("Alice", "Bob") as (alice, bob):
        alice.send("Hello everyone!")
        bob.recv(timeout=10)
        wait_until(lambda: "Hello everyone!" in str(entered(chat.running.events, "broadcast_to_room")), "the text")
        ended = chat.running.stop(signal.SIGKILL)

    assert ended.returncode == -signal.SIGKILL
    numbers = [event["seq"] for event in ended.events]
    assert sorted(numbers) == list(range(len(numbers)))
    assert ended.events[-1]["event"] != "STOP"


def test_worker_that_replaces_a_killed_one_is_traced(tmp_path: Path) -> None:
    """When a worker dies, uvicorn starts another, which is traced to a file of its own."""
    with serving(tmp_path, "--workers", "2") as chat:
        wait_for_workers(chat, 2)
        killed = wait_until(lambda: started_workers(chat.running.events))[0]
        os.kill(killed, signal.SIGKILL)
        wait_for_workers(chat, 3)
        ended = chat.running.stop()

    check_conservation([event for event in ended.events if event["pid"] != killed])
    assert len(started_workers(ended.events)) == 3
    check_files(ended)


def end_amid_conversation(folder: Path, number: signal.Signals, *, traced: bool) -> Ended:
    """Stop a server to which two people are connected."""
    folder.mkdir()
    with serving(folder, traced=traced) as chat, chat.join("Alice", "Bob") as (alice, bob):
        alice.send("Hello everyone!")
        bob.recv(timeout=10)
        return chat.running.stop(number)


def end_workers(folder: Path, number: signal.Signals, *, traced: bool) -> Ended:
    """Send requests to two workers, each over a connection of its own, and stop the server.

    SIGTERM is sent to the parent alone; Ctrl-C reaches every process of the terminal.
    """
    folder.mkdir()
    with serving(folder, "--workers", "2", traced=traced) as chat:
        wait_for_workers(chat, 2)
        for _ in range(REQUESTS):
            httpx.get(f"http://127.0.0.1:{chat.port}/rooms", timeout=30).raise_for_status()
        if number == signal.SIGINT:
            os.killpg(chat.running.pid, number)
            return chat.running.wait()
        return chat.running.stop(number)


def wait_for_workers(chat: ChatServer, count: int) -> None:
    """Wait until so many workers have started since the beginning."""
    wait_until(lambda: chat.running.stderr.count("Application startup complete") == count, f"{count} workers")


def started_workers(events: list[Event]) -> list[int]:
    """The ids of the processes that have imported the chat."""
    return [int(event["pid"]) for event in entered(events, "from_environment")]


def serving_process(chat: ChatServer) -> int | None:
    """The id of the process that answers now, found in its trace."""
    try:
        httpx.get(f"http://127.0.0.1:{chat.port}/rooms", timeout=30)
    except httpx.TransportError:  # it is just being replaced
        return None
    handled = wait_until(lambda: entered_handler(chat.running.events), "the request is traced")
    latest: int = max(handled, key=lambda event: event["timestamp"])["pid"]
    return latest


def change(path: Path) -> None:
    """Make a file newer, as saving it in an editor does."""
    newer = path.stat().st_mtime + 10
    os.utime(path, (newer, newer))


def entered_handler(events: list[Event]) -> list[Event]:
    """The ENTER events of the handler of `GET /rooms`."""
    return [dict(event) for event in entered(events, "list_rooms") if event["module"] == "sample_app.api"]


def check_files(ended: Ended) -> None:
    """Assert that each trace file holds the events of the process that its name says."""
    for path in ended.traces.glob("*.jsonl"):
        processes = {json.loads(line)["pid"] for line in path.read_bytes().splitlines()}
        assert processes == {int(path.stem.rpartition("-")[2])}
