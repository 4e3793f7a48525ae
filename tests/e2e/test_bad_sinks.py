"""Sinks that do what a sink must not do, fifty of them in one process: only they lose something, and it is counted."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import odd_sinks
import pytest
from harness import ENDURANCE, Ended, Tracer, check_conservation
from ledger import Account, Audit, audit

from flowtrace.lane import FAILED_BATCHES, LEFT_OUT_S, TRIES

PROGRAM = str(Path(__file__).with_name("zoo.py"))
SECONDS = 3
SHUTDOWN_S = 8  # an eighth of it is for STOP in all of them
SLACK_S = 10.0  # for a machine that has other things to do
ALWAYS = 1_000_000
BACK_S = 1.0
FAIR = 5  # threads have to wait for the processor, one after the other, before something arrives

RAISED = ("Exception", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "Unsayable", "MemoryError")


class Odd(NamedTuple):
    """What a sink does, in which method, how often."""

    does: str
    method: str
    times: int


COMPLETE = [
    *(Odd(f"raise {error}", "write", 2) for error in RAISED),
    *(Odd(f"raise {error}", "open", 2) for error in RAISED),
    *(Odd(f"raise {error}", method, ALWAYS) for error in RAISED[:5] for method in ("flush", "close")),
    *(Odd(f"raise {error}", method, 1) for error in RAISED for method in ("batching", "ending")),
    Odd("be a text", "batching", 1),
    Odd("hang", "ending", 1),
    Odd("change the batch", "write", ALWAYS),
    Odd("leak threads", "write", 3),
    Odd("handle signals", "write", ALWAYS),
    Odd("call the program", "write", ALWAYS),
    Odd("exhaust the stack", "write", 2),
    Odd("kill its thread", "write", 2),
    Odd("hang", "close", 1),
]
NOTHING = [
    *(Odd(f"raise {error}", method, ALWAYS) for error in RAISED[:5] for method in ("write", "open")),
    Odd("hang", "write", ALWAYS),
    Odd("hang", "open", ALWAYS),
    Odd("hang", "batching", 1),
    Odd("lock up", "write", ALWAYS),
]
OTHERS = [Odd("hang", "flush", ALWAYS), Odd("delete its file", "write", ALWAYS)]
ZOO = [*COMPLETE, *NOTHING, *OTHERS]


class Run(NamedTuple):
    """What is left of a run: how it ended, how many calls it has made, and how long its end took at most.

    And what was struck how often, how long nothing arrived at most, and how late a thread was that had nothing to do.
    """

    ended: Ended
    made: int
    struck: int
    gap_s: float
    late_s: float
    took_s: float

    def audit(self, sink: str) -> Audit:
        """Of what this sink has got of the process itself; children of a sink are not looked at."""
        path = self.ended.traces / ("file.jsonl" if sink == "file" else f"{sink}.jsonl")
        with path.open("rb") as lines:
            found = [line for line in lines if json.loads(line)["pid"] == self.ended.pid]
        return audit({path.name: found}, sink=sink)

    @property
    def stop(self) -> dict[str, Any]:
        """STOP, as the file sink has it."""
        stop: dict[str, Any] = json.loads((self.ended.traces / "file.jsonl").read_bytes().splitlines()[-1])
        assert stop["event"] == "STOP"
        return stop


def run_zoo(folder: Path, odds: list[Odd], *args: str, seconds: float = SECONDS) -> Run:
    """Run the program with a file sink and these, for so long."""
    tracer, made = Tracer(folder), folder / "made"
    path = odd_sinks.install(folder / "site")
    tracer.traces.mkdir()
    sinks = [
        {"type": "odd", "does": odd.does, "methods": [odd.method], "times": odd.times}
        | {"path": f"{tracer.traces}/{name(number)}.jsonl"}
        for number, odd in enumerate(odds)
    ]
    config = {
        "targets": [{"modules": ["__main__"], "include": ["used"]}],
        "flush": {"interval": "50ms", "shutdown_timeout": f"{SHUTDOWN_S}s"},
        "queue": {"max_bytes": "256MiB"},  # divided by all
        "sinks": [{"type": "file", "path": f"{tracer.traces}/file.jsonl"}, *sinks],
    }
    began = time.monotonic()
    # not FLOWTRACE_STRICT: it would end the dispatcher at what is not the agent's own error
    env = {"PYTHONPATH": path, "FLOWTRACE_STRICT": None}
    command = [sys.executable, PROGRAM, str(made), str(seconds), *args]
    ended = tracer.run(command, config=config, env=env, timeout=seconds + 60)
    took_s = time.monotonic() - began
    assert made.exists(), ended.stderr
    calls, struck, gap_s, late_s = made.read_text().split()
    return Run(ended, int(calls), int(struck), float(gap_s), float(late_s), took_s)


def name(number: int) -> str:
    """What the configuration calls a sink of the zoo."""
    return f"odd-{number + 1}" if number else "odd"


def told(number: int) -> str:
    """How a sink of the zoo is named as a test."""
    return "-".join(map(str, ZOO[number])).replace(" ", "_")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A process with all of them."""
    return run_zoo(tmp_path_factory.mktemp("zoo"), ZOO)


def of(zoo: Run, number: int) -> Account:
    """The account of a sink of the zoo, which must be right."""
    result = zoo.audit(name(number))
    assert result.problems == []
    (account,) = result.accounts
    return account


def test_file_beside_them_has_everything(zoo: Run) -> None:
    """Each call is in the file, and the program ended as it does untraced, in no more time than the timeout."""
    # fault S18, T5
    result = zoo.audit("file")

    assert (zoo.ended.returncode, zoo.ended.stdout) == (0, "")
    assert result.problems == []
    assert (result.calls, result.accounts[0].missing) == (zoo.made, 0)
    assert zoo.stop["lost"]["file"] == 0
    assert zoo.took_s < SECONDS + SHUTDOWN_S + SLACK_S


@pytest.mark.parametrize("number", range(len(COMPLETE)), ids=told)
def test_sink_that_recovers_loses_nothing(zoo: Run, number: int) -> None:
    """What it has refused comes again; what it does when there is nothing to write costs nothing."""
    account = of(zoo, number)

    assert (account.calls, account.missing) == (zoo.made, 0)


@pytest.mark.parametrize("number", range(len(COMPLETE), len(COMPLETE) + len(NOTHING)), ids=told)
def test_sink_that_takes_nothing_has_all_counted_as_lost(zoo: Run, number: int) -> None:
    """STOP in the file beside it says that it has got nothing."""
    sink = name(number)

    assert (zoo.stop["delivered"][sink], zoo.stop["lost"][sink]) == (0, zoo.stop["recorded"])


def test_person_at_the_terminal_is_told_of_each_once(zoo: Run) -> None:
    """A warning names the sink; the same text is not said again."""
    lines = zoo.ended.stderr.splitlines()

    assert len(set(lines)) == len(lines)
    for number, odd in enumerate(NOTHING, len(COMPLETE)):
        if odd.does.startswith("raise"):
            assert any(f"sink {name(number)}: " in line for line in lines), odd


def test_calls_that_a_sink_makes_are_not_recorded(zoo: Run) -> None:
    """They are the agent's own doing, and counted as such."""
    # fault T5
    assert zoo.stop["suppressedCalls"] > 0


@pytest.mark.parametrize("does", ["close stdout", "fork"])
def test_process_that_a_sink_changes_keeps_its_file(tmp_path: Path, does: str) -> None:
    """A sink that closes descriptors of the program or forks harms what it harms; the file beside it is whole."""
    # fault S18
    run = run_zoo(tmp_path, [Odd(does, "write", 3), Odd("raise Exception", "open", 2)])

    result = run.audit("file")
    assert run.ended.returncode == 0, run.ended.stderr
    assert result.problems == []
    assert (result.calls, result.accounts[0].missing) == (run.made, 0)


FORKING = """
import os

def used(number):
    pass

used(1)
pid = os.fork()
used(2)
if pid:
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("error", ["SystemExit", "GeneratorExit"])
def test_sink_that_cannot_be_built_does_not_end_the_program(tmp_path: Path, error: str) -> None:
    """Whatever its factory raises, in the process and in a child, it is left out, and the file beside it is whole."""
    # fault S18
    tracer = Tracer(tmp_path)
    program = tmp_path / "forking.py"
    program.write_text(FORKING)
    file = {"type": "file", "path": f"{tracer.traces}/file.jsonl"}
    odd = {"type": "odd", "does": f"raise {error}", "methods": ["factory"]}
    config = {"targets": [{"modules": ["__main__"]}], "sinks": [odd, file]}

    ended = tracer.run([sys.executable, str(program)], config=config, env={"PYTHONPATH": odd_sinks.install(tmp_path)})

    assert (ended.returncode, ended.calls.count("__main__.used")) == (0, 3)
    assert len(ended.processes) == 2
    assert ended.stderr.count(f"flowtrace: sink odd: left out: {error}") == 2  # each process says so
    check_conservation(ended.events)


def test_interrupt_while_a_sink_is_built_ends_the_program(tmp_path: Path) -> None:
    """A Ctrl-C during the start is the user's: it is not taken for a mistake of the sink's."""
    tracer = Tracer(tmp_path)
    odd = {"type": "odd", "does": "interrupt", "methods": ["factory"]}
    path = odd_sinks.install(tmp_path)

    ended = tracer.run([sys.executable, "-c", "print('on')"], config={"sinks": [odd]}, env={"PYTHONPATH": path})

    assert ended.returncode != 0
    assert ended.stdout == ""


@pytest.mark.parametrize("part", ["dispatcher", "lane"])
def test_thread_of_the_agent_that_is_struck_goes_on(tmp_path: Path, part: str) -> None:
    """A hundred times something is raised in it, wherever it is: nothing is lost, and STOP counts failures.

    It is back within a second, and what a thread of this process waits at the time. A lane that is struck after the
    sink has taken a batch, and before that is counted, delivers it again.
    """
    # fault T9
    run = run_zoo(tmp_path, [], part, str(tmp_path / "traces" / "file.jsonl"))

    lines = (run.ended.traces / "file.jsonl").read_bytes().splitlines(keepends=True)
    result = audit({"file.jsonl": dict.fromkeys(lines) if part == "lane" else lines})
    assert run.ended.returncode == 0, run.ended.stderr
    assert run.struck >= 100
    assert 0 < run.gap_s < BACK_S + FAIR * run.late_s
    assert result.problems == []
    assert (result.calls, result.accounts[0].missing) == (run.made, 0)
    assert run.stop["failures"] > 0


@pytest.mark.skipif(not ENDURANCE, reason="takes more than 30 s: set FLOWTRACE_ENDURANCE=1")
def test_sink_that_was_left_out_is_tried_again(tmp_path: Path) -> None:
    """After five batches that it has not taken it gets none for 30 s, and then again; what it missed is in LOSS."""
    run = run_zoo(tmp_path, [Odd("raise Exception", "write", FAILED_BATCHES * TRIES)], seconds=LEFT_OUT_S + 10)

    *events, stop = map(json.loads, (run.ended.traces / "odd.jsonl").read_bytes().splitlines())
    said = [event for event in events if event["event"] == "LOSS" and event["sink"] == "odd"]
    assert f"left out for {LEFT_OUT_S:.0f} s" in run.ended.stderr
    assert {event["reason"] for event in said} == {"the sink failed", "the sink is left out after failures"}
    assert (stop["delivered"]["odd"], stop["lost"]["odd"]) == (len(events), sum(event["events"] for event in said))
    assert sum(event["event"] == "ENTER" for event in events) > 100
