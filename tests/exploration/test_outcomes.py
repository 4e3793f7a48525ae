"""Comparing the outcomes of runs of a test suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exploration.outcomes import Difference, Outcome, differences, read

PASSED, FAILED = Outcome("passed"), Outcome("failed", "assert 1 == 2")


def _write(tmp_path: Path, *lines: dict[str, object]) -> Path:
    report = tmp_path / "report.jsonl"
    report.write_text("".join(json.dumps({"$report_type": "TestReport", **line}) + "\n" for line in lines))
    return report


def _phases(
    test: str, setup: str = "passed", call: str = "passed", teardown: str = "passed"
) -> list[dict[str, object]]:
    phases = {"setup": setup, "call": call, "teardown": teardown}
    return [{"nodeid": test, "when": when, "outcome": how, "longrepr": "no"} for when, how in phases.items()]


def test_outcomes_are_read_by_test_id(tmp_path: Path) -> None:
    """A test has passed when all its phases have; a failure outside of the test itself is an error."""
    xfailed = {"nodeid": "t.py::x", "when": "call", "outcome": "skipped", "wasxfail": "known", "longrepr": "no"}
    tests = [*_phases("t.py::a"), *_phases("t.py::b", call="failed", teardown="failed")]
    report = _write(tmp_path, *tests, *_phases("t.py::c", setup="failed")[:1], *_phases("t.py::d", "skipped"), xfailed)

    kinds = {test: outcome.kind for test, outcome in read(report).items()}

    assert kinds == {
        "t.py::a": "passed",
        "t.py::b": "error+failed",
        "t.py::c": "error",
        "t.py::d": "skipped",
        "t.py::x": "xfailed",
    }


def test_file_that_cannot_be_collected_is_an_error(tmp_path: Path) -> None:
    """Its tests are missing, so the file stands for them; files that can be collected are no tests."""
    good, bad = (
        {"$report_type": "CollectReport", "nodeid": name, "outcome": outcome, "longrepr": "no"}
        for name, outcome in (("good.py", "passed"), ("bad.py", "failed"))
    )

    assert read(_write(tmp_path, good, bad)) == {"bad.py": Outcome("error", "no\n", "bad.py")}


def test_ids_lose_what_changes_from_run_to_run(tmp_path: Path) -> None:
    """Addresses, times and the place of installed tests do not make them other tests."""
    file = "../venv/lib/python3.11/site-packages/p/t.py"
    lines = _phases("t.py::a[<X at 0x7f3a2b1c>-12:30:59]")
    outcomes = read(_write(tmp_path, *({**line, "location": [file, 1, "a"]} for line in lines)))

    assert list(outcomes) == ["p/t.py::a[<X at 0x>-]"]
    assert [each.file for each in outcomes.values()] == [file]


def test_report_is_read_as_far_as_the_run_came(tmp_path: Path) -> None:
    """A crash leaves no file, or a torn last line; the tests that it prevented are missing."""
    report = _write(tmp_path, *_phases("t.py::a"))
    with open(report, "a") as file:
        file.write('{"$report_type": "TestRep')

    assert list(read(report)) == ["t.py::a"]
    assert read(tmp_path / "none.jsonl") == {}


def test_differences_name_the_outcomes_of_all_runs_and_the_message() -> None:
    """What is equal in the first two runs is not told; what only one of them has is."""
    before = {"same": PASSED, "worse": PASSED, "gone": PASSED}
    after = {"same": PASSED, "worse": FAILED, "new": PASSED}
    again = {"same": FAILED, "worse": PASSED}

    found = differences([before, before], [after, again])

    assert found == [
        Difference("gone", ["passed", "passed"], ["absent", "absent"], ""),
        Difference("new", ["absent", "absent"], ["passed", "absent"], ""),
        Difference("worse", ["passed", "passed"], ["failed", "passed"], "assert 1 == 2"),
    ]


@pytest.mark.parametrize(
    ("untraced", "traced", "flaky"),
    [
        ("PPPP", "FFFF", False),  # a difference
        ("PPPP", "FPPP", False),  # seen traced only: nothing shows that it is not tracing
        ("PFPP", "FPPP", True),
        ("FPPP", "PPPP", True),
        ("PFPP", "FFFF", False),  # fails now and then untraced, but always traced
        ("PFPP", "EPPP", False),  # fails otherwise when it is traced
    ],
)
def test_flaky_is_what_comes_out_the_same_ways_untraced(untraced: str, traced: str, flaky: bool) -> None:
    """No difference that tracing makes passes for flaky."""
    assert Difference("t", untraced, traced, "").is_flaky is flaky


DEADLINE = "test_it.py:1: DeadlineExceeded('Test took 755.06ms, which exceeds the deadline of 400.00ms.')"


@pytest.mark.parametrize(
    ("traced", "message", "by_time"),
    [
        (["failed", "passed"], DEADLINE, True),
        (["failed", "failed"], DEADLINE, False),
        (["failed", "passed"], "assert 1 == 2", False),
    ],
)
def test_deadlines_that_are_met_once_are_time(traced: list[str], message: str, by_time: bool) -> None:
    """A test that always takes too long when it is traced is a difference all the same."""
    assert Difference("t", ["passed", "passed"], traced, message).is_by_time is by_time
