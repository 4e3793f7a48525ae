"""A traced program sees of itself what the untraced one sees: each feature of Python, crossed with each aspect."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import harness
import pytest

from flowtrace.native import native
from tests.conformance.probe import ASPECTS
from tests.conformance.runs import EXTENSION, FEATURES, Run, Runs


class Difference(NamedTuple):
    """What is known to look different.

    Attributes:
        mode: In which run.
        aspects: By their names.
        features: Likewise.
        reason: Why it does.
    """

    mode: str
    aspects: set[str]
    features: set[str]
    reason: str


OF_WRAPPERS = {"identity", "inspected", "pickles"}
OF_FRAMES = {"callers", "stacklevels", "tracebacks", "dead_frames", "local_variables", "references"}
OF_THE_STACK = {"depths", "stack_needed"}
COPIES_OF_CODE = {"cloudpickled", "coroutine", "exec_made"}
YIELD_INNERMOST, CLOSED, OFF_STACK = set[str](), set[str](), OF_THE_STACK
if sys.version_info >= (3, 12):  # a function in C takes less of the stack than one in Python
    OFF_STACK = set[str]()
if sys.version_info[:2] == (3, 12) and native is None:
    YIELD_INNERMOST = {"arithmetic", "generator", "own_locals", "recursive"}
if sys.version_info >= (3, 13):  # a generator is closed without being resumed where it handles nothing
    CLOSED = {"context_variable", "finalizer", "generator"}

DIFFERENCES = [
    Difference("on", OF_WRAPPERS | OF_FRAMES | OF_THE_STACK, {"extension"}, "functions in C get a wrapper, in Python"),
    Difference("off", OF_WRAPPERS | OFF_STACK, {"extension"}, "the wrapper stays"),
    Difference("off", {"code_digests"}, COPIES_OF_CODE, "copies that the program made of instrumented code stay"),
    Difference("on", {"stack_needed"}, YIELD_INNERMOST, "to suspend the innermost generator takes a frame more"),
    Difference("on", {"calls"}, CLOSED, "a traced generator is resumed to be closed, so that its end is seen"),
]


def cell(mode: str, aspect: str, feature: str) -> Any:
    """One cell of the matrix, marked where a difference is known."""
    known = [each for each in DIFFERENCES if each.mode == mode and aspect in each.aspects and feature in each.features]
    marks = [pytest.mark.xfail(strict=True, reason=difference.reason) for difference in known]
    return pytest.param(aspect, feature, marks=marks)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs of the probe, one of each kind for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "conformance"
    folder.mkdir(exist_ok=True)
    return Runs(folder)


@pytest.mark.parametrize(
    ("aspect", "feature"),
    [cell("on", aspect, feature) for aspect in ASPECTS if aspect != "code_digests" for feature in FEATURES],
)
def test_traced_code_looks_the_same(runs: Runs, aspect: str, feature: str) -> None:
    """What a program can see of a feature is the same with and without tracing."""  # fault C1, C4, C6, C10, C11, U18
    assert runs["on"].report[feature][aspect] == runs["plain"].report[feature][aspect]


@pytest.mark.parametrize(
    ("aspect", "feature"),
    [cell("off", aspect, feature) for aspect in ASPECTS for feature in FEATURES if feature != "spawned"],
)
def test_code_that_is_switched_off_is_the_same(runs: Runs, aspect: str, feature: str) -> None:
    """Switched off, a feature looks as untraced, and its functions have the very code that Python compiled."""
    # a spawned process is not switched off with the one that starts it
    assert runs["off"].report[feature][aspect] == runs["plain"].report[feature][aspect]


def called(run: Run, feature: str) -> set[str]:
    """The functions that a profiler has seen called, lambdas and the like left out."""
    names = {name for event, name in run.report[feature]["calls"] if event == "call"}
    return {name for name in names if not name.rpartition(".")[2].startswith("<")}


def entered(run: Run, module: str) -> set[str]:
    """The functions of a module whose calls are in the trace."""
    calls = [event for event in run.events if event["event"] == "ENTER" and event["module"] == module]
    return {f"{event['class']}.{event['function']}".removeprefix(f"{module}.") for event in calls}


def attached(run: Run, module: str) -> dict[str, str]:
    """How each function of a module is traced."""
    events = [event for event in run.events if event["event"] == "ATTACH" and event["module"] == module]
    return {function["name"]: function["how"] for event in events for function in event["functions"]}


@pytest.mark.parametrize(("aspect", "feature"), [cell("on", "recorded", feature) for feature in FEATURES])
def test_each_function_is_instrumented_and_its_calls_recorded(runs: Runs, aspect: str, feature: str) -> None:
    """What is compared was traced: a function that is called is instrumented, and its calls are in the trace."""
    names = called(runs["plain"], feature)
    hows = attached(runs["on"], FEATURES[feature])

    assert "use" in names
    assert names <= entered(runs["on"], FEATURES[feature])
    assert {name: hows.get(name) for name in names} == dict.fromkeys(names, "instrumented")


def test_functions_written_in_c_are_listed(runs: Runs) -> None:
    """An extension module's functions are wrapped or not traced, with a reason."""  # fault F7
    (attach,) = [event for event in runs["on"].events if event["event"] == "ATTACH" and event["module"] == EXTENSION]

    assert attach["functions"]
    assert all(each["how"] in ("wrapper", "not traced") and each["reason"] for each in attach["functions"])


@pytest.mark.parametrize("feature", FEATURES)
def test_instrumented_code_differs(runs: Runs, feature: str) -> None:
    """Comparing code can tell the traced from the untraced: while it is on, there is other code."""
    assert runs["on"].report[feature]["code_digests"] != runs["plain"].report[feature]["code_digests"]


@pytest.mark.parametrize("feature", FEATURES)
def test_probe_sees_something(runs: Runs, feature: str) -> None:
    """No comparison is of nothing: each feature works, calls back, can be used inside itself and raised in."""
    report = runs["plain"].report[feature]
    results, again, seen = report["results"]

    assert "Error: " not in f"{results} {again}"
    assert seen
    assert report["callers"][0]
    assert report["tracebacks"]
    assert report["stacklevels"]
    assert all(depth > 10 and is_over for depth, is_over, _ in report["depths"])
    assert report["local_variables"][0]
    assert "end of value" in report["finalizers"]
    assert report["leftovers"] == 0


def test_nothing_is_lost_or_said(runs: Runs) -> None:
    """The trace balances, the recursion limits it met included, and the program wrote what it writes untraced."""
    # fault C7: what the agent cannot do so near the limit it counts, and each call is made all the same
    harness.check_conservation(runs["on"].events, failures=10_000)
    assert runs["on"].said == runs["plain"].said


def test_nothing_is_recorded_of_what_is_switched_off(runs: Runs) -> None:
    """Calls made while the modules were imported are in the trace, and none after that."""
    events = harness.by_process(runs["off"].events)[runs["off"].ended.pid]
    calls = [event for event in events if event["event"] == "ENTER"]

    assert calls
    assert [event["module"] for event in calls if event["function"] == "use"] == []
    harness.check_conservation(runs["off"].events, failures=10_000)
