"""Calls are below those that have caused them, across tasks, threads, executors and processes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from harness import Ended, Tracer, check_conservation

FAMILY = Path(__file__).with_name("family.py")
METHODS = ("fork", "spawn", "forkserver")
WAYS = [
    "thread", "service", "executor", "own_executor", "thread_pool", "fork", "program", "tasks", "off_the_loop",
    *(f"{way}:{method}" for way in ("process", "process_executor", "process_pool") for method in METHODS),
]  # fmt: skip
TARGETS = [{"modules": ["__main__", "__mp_main__", "family"], "exclude": ["_*", "Worker.__init__"]}]
ROOM = {"queue": {"max_events": 1 << 20, "max_bytes": "512MiB"}, "flush": {"shutdown_timeout": "60s"}}


def run(tracer: Tracer, *args: str) -> Ended:
    """Run the family."""
    config = {"targets": TARGETS, **ROOM}
    ended = tracer.run([sys.executable, str(FAMILY), *args], config=config, timeout=110)
    assert ended.returncode == 0, ended.stderr
    return ended


def check_family(ended: Ended) -> int:
    """Assert that each call's parent in the trace is the one that the program has named; returns how many calls."""
    enters = [event for event in ended.events if event["event"] == "ENTER" and event["function"] != "run"]
    told = {event["spanId"]: json.loads(event["args"]) for event in enters}
    spans = {args["name"]: event for event, args in zip(enters, told.values(), strict=True)}
    runs = {event["spanId"]: event["parentId"] for event in ended.events if event.get("function") == "run"}
    for event in enters:
        args = told[event["spanId"]]
        parent = runs.get(event["parentId"], event["parentId"])  # a thread's own `run` stands in between
        found = told[parent]["name"] if parent else "nobody"
        assert found == args["parent"], f"{event} is below {parent and spans[found]}"
        if parent:
            assert event["traceId"] == spans[found]["traceId"]
    return len(enters)


@pytest.mark.parametrize("way", WAYS)
def test_children_are_below_those_who_called_them(way: str, tracer: Tracer) -> None:
    """Whichever way they were called: each root has a trace of its own, with all that it has caused in it."""
    ended = run(tracer, way)

    assert check_family(ended) > 8
    check_conservation(ended.events)
    roots = {event["traceId"] for event in ended.events if event["event"] == "ENTER" and not event["parentId"]}
    assert len({event["traceId"] for event in ended.events if event["event"] == "ENTER"}) == len(roots)


def test_all_ways_in_one_program(tracer: Tracer) -> None:
    """What one way leaves behind in threads and pools does not mislead the next."""
    ended = run(tracer, *WAYS[:9], "process_executor:fork", "process_pool:spawn")

    assert check_family(ended) > 300
    check_conservation(ended.events)


@pytest.mark.parametrize("seed", [1, 2])
def test_thousand_tasks_at_once(seed: int, tracer: Tracer) -> None:
    """No child has a wrong parent, however they are interleaved."""
    ended = run(tracer, "many", "1000", str(seed * 1_000_000))

    assert check_family(ended) > 10_000
    check_conservation(ended.events)


def test_program_sees_nothing_of_it(tracer: Tracer) -> None:
    """Same frames, tracebacks, context variables, attributes, depth of recursion; other programs get one variable."""
    command = [sys.executable, str(FAMILY.with_name("handed_over.py"))]
    env = {"PYTHONPATH": str(FAMILY.parent)}

    traced = tracer.run(command, config={"targets": [{"modules": ["__main__", "__mp_main__"]}]}, env=env)
    plain = tracer.run_plain(command, env=env)

    def comparable(text: str) -> list[str]:
        text = text.replace("'_posix_spawn', ", "")  # the environment goes another way
        return re.sub(r"'FLOWTRACE_\w+', ", "", text).splitlines()

    assert plain.returncode == 0, plain.stderr
    assert comparable(traced.stdout) == comparable(plain.stdout)
    assert len(plain.stdout.splitlines()) > 15


@pytest.mark.parametrize(("send", "accept"), [(True, True), (False, True), (True, False)])
def test_other_programs_are_told_as_configured(send: bool, accept: bool, tracer: Tracer) -> None:
    """With `send` off they get no TRACEPARENT, with `accept` off they begin traces of their own."""
    propagation = {"send": send, "accept": accept}
    command = [sys.executable, str(FAMILY), "program"]
    events = tracer.run(command, config={"targets": TARGETS, "propagation": propagation}).events

    inside = [event["parentId"] for event in events if event["event"] == "ENTER" and event["function"] == "child"]
    assert len(inside) == 8
    assert all(inside) if send and accept else not any(inside)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_trace_goes_on_from_the_environment(flags: str, tracer: Tracer) -> None:
    """Whoever starts a program with TRACEPARENT is its parent, and has decided whether it is recorded."""
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    env = {"TRACEPARENT": f"00-{trace}-{span}-{flags}"}
    events = tracer.run([sys.executable, str(FAMILY), "tasks"], config={"targets": TARGETS}, env=env).events

    enters = [event for event in events if event["event"] == "ENTER"]
    if flags == "00":
        assert not enters
        assert events[-1]["skippedCalls"] > 10
    else:
        assert {event["traceId"] for event in enters} == {trace}
        assert [event["parentId"] for event in enters if event["function"] == "async_root"] == [span] * 2
