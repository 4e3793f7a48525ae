"""A sink that takes a tenth of what is called: memory has a bound, and what is missing is counted, or nothing is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import odd_sinks
import pytest
from harness import ENDURANCE, Ended, Tracer
from ledger import Audit, assert_balanced, audit

PROGRAM = str(Path(__file__).with_name("burst.py"))
SECONDS = 60 if ENDURANCE else 5
PER_SECOND = 5_000  # events that the slow sink takes; the program makes ten times as many, and more
MIB = 1 << 20
CONSTANT = 6 * MIB  # what an agent needs that has nothing to deliver: measured at 4 MiB
NO_END = "10000000"


Run = Callable[..., Ended]


def odd_runner(folder: Path, run_traced: Run) -> Run:
    """``run(args, queue=..., sink=..., shutdown=..., timeout=..., **options)``: traced to a sink of that type."""
    path = odd_sinks.install(folder / "site")
    traces = folder / "traces"
    traces.mkdir()

    def run(
        args: list[str],
        *,
        queue: dict[str, Any],
        sink: str = "odd",
        timeout: float = 110,
        shutdown: str = "60s",
        **options: Any,
    ) -> Ended:
        config = {
            "targets": [{"modules": ["__main__", "slowly_imported"]}],
            "queue": queue,
            "flush": {"shutdown_timeout": shutdown},
            "sinks": [{"type": sink, "path": f"{traces}/all.jsonl", **options}],
        }
        return run_traced([sys.executable, *args], config=config, env={"PYTHONPATH": path}, timeout=timeout)

    return run


@pytest.fixture
def run_odd(tmp_path: Path, run_traced: Run) -> Run:
    """See `odd_runner`."""
    return odd_runner(tmp_path, run_traced)


def balanced(ended: Ended) -> Audit:
    """The audit of what the odd sink has got, from a program that went as it should."""
    assert ended.returncode == 0, ended.stderr
    return assert_balanced(ended.traces, sink="odd")


# -- overflow: drop --------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A queue that is too small for what is called, the sink behind it, and how many bytes may wait altogether."""

    queue: dict[str, Any]
    sink: str = "odd"
    max_bytes: int | None = 32 * MIB
    least: int = 9 * PER_SECOND * SECONDS  # events that are lost, or there was no overload

    @property
    def options(self) -> dict[str, Any]:
        """Of the sink: the odd one is slow; the other is as fast as it can be, which is not fast enough."""
        return {"per_second": PER_SECOND} if self.sink == "odd" else {"rotate": {"max_size": "64GiB"}}


CASES = {
    "1MiB": Case({"max_bytes": "1MiB", "max_events": 1 << 24}, max_bytes=MIB),
    "16MiB": Case({"max_bytes": "16MiB", "max_events": 1 << 24}, max_bytes=16 * MIB),
    "defaults": Case({}, sink="file", least=PER_SECOND),
    "events": Case({"max_bytes": "64GiB"}, sink="file", max_bytes=None, least=PER_SECOND),  # 65,536 of them, that is
}


@dataclass(frozen=True)
class Overloaded:
    """A run with a sink that is too slow: its audit, and what the program has said."""

    case: Case
    audit: Audit
    told: dict[str, int]

    @property
    def stop(self) -> dict[str, Any]:
        """Its STOP."""
        stop = self.audit.accounts[0].stop
        assert stop is not None
        return stop


@pytest.fixture(scope="module", params=CASES)
def overloaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Overloaded:
    """Eight threads that call without end, for some seconds."""
    folder, case = tmp_path_factory.mktemp("overloaded"), CASES[request.param]
    run = odd_runner(folder, Tracer(folder).run)
    args = [PROGRAM, "8", NO_END, str(SECONDS)]
    ended = run(args, queue=case.queue, sink=case.sink, timeout=150, **case.options)
    assert ended.returncode == 0, ended.stderr
    result = audit(ended.traces, sink=case.sink)
    shutil.rmtree(ended.traces)  # which pytest would keep
    return Overloaded(case, result, json.loads(ended.stdout))


def test_what_arrives_of_too_much_is_closed_trees(overloaded: Overloaded) -> None:
    """No call without its end, no end without its call, no child without its parent, nothing twice; STOP adds up."""
    # fault T12
    assert [problem for problem in overloaded.audit.problems if "LOSS" not in problem] == []
    assert overloaded.audit.calls > PER_SECOND * SECONDS / 10
    assert overloaded.audit.accounts[0].lost > overloaded.case.least, "there was no overload"


def test_each_call_of_too_much_is_recorded_or_counted(overloaded: Overloaded) -> None:
    """STOP knows of two events for each call that the program says it has made."""
    others = 4 + SECONDS * 30  # START, ATTACH, the module itself, and LOSS as often as it is said

    assert 0 <= overloaded.stop["recorded"] - 2 * overloaded.told["calls"] <= others


def test_loss_events_count_all_that_is_missing(overloaded: Overloaded) -> None:
    """The gaps in `seq` are as large as the LOSS events say that have arrived."""
    account = overloaded.audit.accounts[0]

    assert account.reported == account.missing > 0


def test_memory_has_a_bound(overloaded: Overloaded) -> None:
    """The process is no larger than without tracing plus `queue.max_bytes`, and a tenth."""
    told = overloaded.told
    if overloaded.case.max_bytes is None:
        pytest.skip("only the number of events has a bound")

    assert told["most"] - told["before"] <= 1.1 * overloaded.case.max_bytes + CONSTANT


# -- overflow: block -------------------------------------------------------------------------------------------------


def test_blocking_loses_nothing(run_odd: Run) -> None:
    """The program goes as slowly as the sink, and each call arrives."""
    # fault T12
    queue = {"max_bytes": "1MiB", "overflow": "block", "block_timeout": "1h"}
    calls = PER_SECOND * SECONDS // 2

    ended = run_odd([PROGRAM, "8", str(calls // 8)], queue=queue, per_second=PER_SECOND)

    result = balanced(ended)
    assert (result.accounts[0].missing, result.calls) == (0, json.loads(ended.stdout)["calls"])


BLOCKED_ANYWHERE = """
import gc, os, signal, sys, threading

def used(number):
    return number

def in_handler(number, frame):
    used("handler")

class Dying:
    def __del__(self):
        used("del")

def ring():
    one, other = Dying(), Dying()
    one.other, other.other = other, one

def main():
    signal.signal(signal.SIGALRM, in_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    gc.set_threshold(50, 2, 2)
    for number in range(int(sys.argv[1])):
        used(number)
        ring()
    signal.setitimer(signal.ITIMER_REAL, 0)

main()
print("done")
"""


def test_blocking_within_handlers_and_finalizers_ends(run_odd: Run, write: Callable[[str, str], Path]) -> None:
    """Calls that wait for room are made by signal handlers and by the collector too; all arrive."""
    # fault T2, T3
    script = write("anywhere.py", BLOCKED_ANYWHERE)
    queue = {"max_bytes": "128KiB", "overflow": "block", "block_timeout": "1h"}

    ended = run_odd([str(script), "3000"], queue=queue, per_second=5 * PER_SECOND)

    assert ended.stdout == "done\n"
    assert balanced(ended).accounts[0].missing == 0


SLOWLY_IMPORTED = """
def used(number):
    return number

for number in range(5_000):
    used(number)
"""


def test_blocking_while_the_sink_imports_what_is_being_imported_ends(
    run_odd: Run, write: Callable[[str, str], Path]
) -> None:
    """The sink waits for a module whose import waits for the sink: calls are left out and counted, then it goes on."""
    # fault S18
    write("slowly_imported.py", SLOWLY_IMPORTED)
    script = write("importing.py", "import slowly_imported\nprint(slowly_imported.used('done'))\n")
    queue = {"max_bytes": "128KiB", "overflow": "block", "block_timeout": "1s"}

    ended = run_odd([str(script)], queue=queue, does="import", methods=["open"], times=1, timeout=30)

    assert ended.stdout == "done\n"
    balanced(ended)


def test_blocking_on_a_hung_sink_ends(run_odd: Run) -> None:
    """A sink that takes nothing more holds the program for `block_timeout`, not for each call, and then no longer."""
    queue = {"max_bytes": "128KiB", "overflow": "block", "block_timeout": "500ms"}

    ended = run_odd([PROGRAM, "4", "5000"], queue=queue, does="hang", timeout=30, shutdown="1s")

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["calls"] >= 20_000
    assert "did not reach odd" in ended.stderr
