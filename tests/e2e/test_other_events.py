"""What Python's tracing interfaces tell of a program is the same with flowtrace and without: event by event."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from other_tools import SAMPLES, TRACE_SAMPLES, cases, copy_samples, differences

from flowtrace.native import native

Run = Callable[..., harness.Ended]

INTERFACES = ["settrace", "threading.settrace", "setprofile"]
if sys.version_info >= (3, 12):
    INTERFACES += ["monitoring", "monitoring once", "monitoring of functions", "monitoring of calls"]


@pytest.fixture
def watch(tmp_path: Path, run_traced: Run, run_plain: Run) -> Callable[[str], tuple[dict, dict, harness.Ended]]:
    """``watch(interface)``: the events of each case, untraced and traced, and the traced run."""
    copy_samples(tmp_path)

    def watch(interface: str) -> tuple[dict, dict, harness.Ended]:
        command = [sys.executable, "watcher.py", interface, *SAMPLES]
        plain = run_plain(command)
        traced = run_traced(command, config=TRACE_SAMPLES)
        return json.loads(plain.stdout), json.loads(traced.stdout), traced

    return watch


NOWHERE = [None] * 4
OURS = ("enter:", "leave:", "suspend", "resum", "native_")  # functions that only instrumented code calls
SEEN_TWICE = (
    {("monitoring once", (3, 13)): {"watched.case_loops_in_finally"}} if native is None else {}
)  # one line of it


def of_the_program(event: list) -> bool:
    """Whether an event is not flowtrace's: it has no position, or is a call of a function of flowtrace."""
    if event[0] in ("CALL", "C_RETURN", "C_RAISE"):
        return event[2] != NOWHERE and not str(event[3]).startswith(OURS)
    return not (event[0] in ("EXCEPTION_HANDLED", "RERAISE") and event[2] == NOWHERE)


def as_documented(events: list[list]) -> list[list]:
    """The events without those of `sys.monitoring` that docs/other-tools.md says are added, or have no position."""
    own = [event for event in events if of_the_program(event)]
    return [[*event[:2], NOWHERE, *event[3:]] if event[0] == "PY_UNWIND" else event for event in own]


@pytest.mark.parametrize("interface", INTERFACES)
def test_tracing_functions_are_told_the_same(interface: str, watch: Callable, tmp_path: Path) -> None:
    """Calls, lines, returns, exceptions and branches of the program come as untraced, and the program is traced."""
    # fault C10
    plain, traced, ended = watch(interface)

    assert ended.returncode == 0, ended.stderr
    assert list(traced) == list(plain)
    if interface.startswith("monitoring"):
        plain = {case: as_documented(events) for case, events in plain.items()}
        traced = {case: as_documented(events) for case, events in traced.items()}
    found = {case: diff for case in plain if (diff := differences(plain[case], traced[case]))}
    assert found.keys() == SEEN_TWICE.get((interface, sys.version_info[:2]), set()), found
    harness.check_conservation(ended.events)
    assert cases(tmp_path) <= set(ended.calls)
