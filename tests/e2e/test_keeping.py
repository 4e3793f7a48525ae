"""Tail rules in real programs: only what was slow or failed is written, all else is counted."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chat_server
import harness
from test_ctl import done, edit

Run = Callable[..., harness.Ended]
Start = Callable[..., harness.Running]
Write = Callable[[str, str], Path]
NEVER = "1h"  # no call takes so long, however slow the machine


def spans(events: list[harness.Event]) -> dict[str, tuple[str, str | None]]:
    """Name and parent of each call, by its id."""
    return {e["spanId"]: (e["function"], e["parentId"]) for e in events if e["event"] == "ENTER"}


def test_only_what_failed_is_written(write: Write, run_traced: Run) -> None:
    """Of a thousand calls that went well nothing is in the file, of the one that failed the whole tree."""
    write(
        "app.py",
        """
        def check(n):
            if n == 500:
                raise KeyError(n)

        def look(n):
            return n

        def handle(n):
            look(n)
            try:
                check(n)
            except KeyError:
                return "failed"

        for n in range(1000):
            handle(n)
        """,
    )
    ended = run_traced([sys.executable, "app.py"], config={"keep": {"slower_than": NEVER, "errors": True}})

    harness.check_conservation(ended.events)
    calls = [event for event in ended.events if event["event"] in ("ENTER", "EXIT", "EXCEPTION")]
    assert [(event["event"], event["function"]) for event in calls] == [
        ("ENTER", "handle"), ("ENTER", "look"), ("EXIT", "look"), ("ENTER", "check"), ("EXCEPTION", "check"),
        ("EXIT", "handle"),
    ]  # fmt: skip
    assert json.loads(calls[0]["args"]) == {"n": 500}
    assert [event["seq"] for event in calls] == [*range(calls[0]["seq"], calls[0]["seq"] + 6)]
    stop = ended.events[-1]
    assert (stop["discardedCalls"], stop["discardedEvents"], stop["lost"]) == (2997, 5994, {"file": 0})


def test_what_was_slow_is_written(write: Write, run_traced: Run) -> None:
    """With all that it has called, in threads and tasks too."""
    write(
        "app.py",
        """
        import asyncio, time

        def fast():
            pass

        def in_a_thread():
            time.sleep(0.1)

        async def slow():
            fast()
            await asyncio.gather(asyncio.create_task(part()), asyncio.to_thread(in_a_thread))

        async def part():
            fast()

        fast()
        asyncio.run(slow())
        """,
    )
    ended = run_traced([sys.executable, "app.py"], config={"keep": {"slower_than": "90ms", "max_wait": NEVER}})

    harness.check_conservation(ended.events)
    found = spans(ended.events)
    root = next(span for span, (name, _) in found.items() if name == "slow")
    below = sorted((name, found[str(parent)][0]) for name, parent in found.values() if name != "slow" and parent)
    assert below == [("fast", "part"), ("fast", "slow"), ("in_a_thread", "slow"), ("part", "slow")]
    assert found[root][1] is None


def test_program_below_one_call_is_decided_by_part(write: Write, start_traced: Start, tmp_path: Path) -> None:
    """``asyncio.run(main())``: what fails in it is written while it runs, and what goes well never."""
    write(
        "app.py",
        """
        import asyncio, pathlib

        async def handle(n):
            await asyncio.sleep(0)
            if n % 10 == 0:
                raise ValueError(n)

        async def main():
            n = 0
            while not pathlib.Path("over").exists():
                n += 1
                await asyncio.gather(handle(n), return_exceptions=True)
                await asyncio.sleep(0.001)

        asyncio.run(main())
        """,
    )
    running = start_traced([sys.executable, "app.py"], config={"keep": {"slower_than": NEVER, "max_wait": "50ms"}})

    def failed() -> list[harness.Event]:
        return [event for event in running.events if event["event"] == "EXCEPTION"]

    harness.wait_until(lambda: len(failed()) > 20, "failures are written while the program runs")
    (tmp_path / "over").touch()
    ended = running.wait()

    harness.check_conservation(ended.events)
    found = spans(ended.events)
    [main] = [span for span, (name, _) in found.items() if name == "main"]
    assert {parent for name, parent in found.values() if name == "handle"} == {main}
    numbers = [json.loads(event["args"])["n"] for event in chat_server.entered(ended.events, "handle")]
    assert numbers == [*range(10, numbers[-1] + 1, 10)]
    assert ended.events[-1]["discardedCalls"] >= 9 * (len(numbers) - 1)


def test_conversation_is_decided_by_part(tmp_path: Path) -> None:
    """A websocket lives on: its open calls are written, for they were slow, but no message that went well."""
    keep = {"slower_than": "1s", "max_wait": "100ms"}
    with chat_server.serving(tmp_path, config={"keep": keep}, env=chat_server.FAST) as chat:
        with chat.join("Alice", "Bob") as (alice, bob):
            began = time.monotonic()
            for number in range(50):
                alice.send(f"message {number}")
                chat_server.hear(bob, 1)
            while time.monotonic() < began + 1.1:  # so long have both been there, at least
                alice.send("again")
                chat_server.hear(bob, 1)
        assert chat.http.get("/rooms/nowhere").status_code == 404
        chat.wait_until_empty()
        ended = chat.running.stop()

    harness.check_conservation(ended.events)
    events = ended.events
    for function in ("connect", "handle_websocket_connection", "receive_messages", "write_messages"):
        assert len(chat_server.entered(events, function)) == 2
    assert chat_server.entered(events, "find_problem") == []
    assert [e["function"] for e in events if e["event"] == "EXCEPTION"] != []
    assert events[-1]["discardedCalls"] > 100


def test_rules_come_and_go(write: Write, start_traced: Start) -> None:
    """``flowtrace ctl PID reload`` puts `keep` in force, and takes it away; nothing is lost between."""
    write(
        "app.py",
        """
        import time

        def tick(n):
            return n

        def tock(n):
            return tick(n) + 1

        n = 0
        while True:
            n = tock(n)
            if n == 10:
                print("ready", flush=True)
            time.sleep(0.001)
        """,
    )
    running = start_traced([sys.executable, "app.py"])
    harness.wait_until(lambda: "ready" in running.stdout, "the program runs")

    def numbers() -> list[Any]:
        return [json.loads(event["args"])["n"] for event in chat_server.entered(running.events, "tock")]

    edit(running, keep={"slower_than": NEVER})
    done(running.pid, "reload")
    harness.wait_until(lambda: "not kept" in done(running.pid, "status"), "the rules have come")
    edit(running, keep=None)
    done(running.pid, "reload")
    written = len(numbers())
    harness.wait_until(lambda: len(numbers()) > written + 10, "calls are written again")
    ended = running.stop()

    harness.check_conservation(ended.events)
    assert ended.events[-1]["discardedCalls"] > 0
    assert ended.events[-1]["lost"] == {"file": 0}
