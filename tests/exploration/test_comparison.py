"""Exploring a package, with a suite whose runs come out as the test says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from exploration import report
from exploration.__main__ import main
from exploration.comparison import ROUNDS, explore
from exploration.outcomes import Outcome
from exploration.packages import Package
from exploration.suite import Run, SuiteError


class FakeSuite:
    """Its tests ``t.py::a``, ``t.py::b``, ... come out as the letters of each run say: P, F, or . for a missing one."""

    package = Package("shop", "1.0", targets=["shop.*"])
    calls = 1

    def __init__(self, folder: Path, untraced: Sequence[str], traced: Sequence[str], status: int = 0) -> None:
        self.folder, self._untraced, self._traced, self._status = folder, iter(untraced), iter(traced), status
        self.files: list[Sequence[str]] = []

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """There is nothing to prepare."""
        yield

    def run(self, name: str, *, traced: bool, files: Sequence[str] = ()) -> Run:
        """What the next letters say."""
        letters = next(self._traced if traced else self._untraced)
        if traced:
            trace = self.folder / name / "trace"
            trace.mkdir(parents=True)
            (trace / "1.jsonl").write_text('{"timestamp":1,"event":"ENTER"}\n' * self.calls)
        self.files.append(files)
        kinds = {"P": "passed", "F": "failed"}
        outcomes = {
            f"t.py::{chr(97 + at)}": Outcome(kinds[each], "", "t.py") for at, each in enumerate(letters) if each != "."
        }
        return Run(self.folder / name, self._status if traced else int("F" in letters), 1.0, outcomes)


def test_equal_runs_are_not_repeated(tmp_path: Path) -> None:
    """One run untraced and one traced are enough where nothing differs; a test may fail in both."""
    suite = FakeSuite(tmp_path, ["PF"], ["PF"], status=1)

    result = explore(suite, keep=False)

    assert (result.differences, result.flaky, len(result.tests)) == ([], [], 2)


def test_files_of_tests_that_differ_run_again_both_ways(tmp_path: Path) -> None:
    """What is flaky is told apart from what differs by what all runs say."""
    suite = FakeSuite(tmp_path, ["PPP", "PPF", "PPP", "PPP"], ["PFF", "PFP", "PFP", "PFP"], status=1)

    result = explore(suite, keep=False)

    assert suite.files == [(), (), *[["t.py"]] * (2 * ROUNDS)]
    assert [each.test for each in result.differences] == ["t.py::b"]
    assert [each.test for each in result.flaky] == ["t.py::c"]
    assert list(report.details(result))[:3] == [
        "shop: 3 tests, 1 difference",
        "  flaky untraced: t.py::c: 3 × passed, 1 × failed; traced: 1 × failed, 3 × passed",
        "  t.py::b: 4 × passed; traced: 4 × failed",
    ]


def test_crash_after_the_last_test_is_a_difference(tmp_path: Path) -> None:
    """The status of the process counts too, where no test explains it."""
    (difference,) = explore(FakeSuite(tmp_path, ["PP"], ["PP"], status=-11), keep=False).differences

    assert (difference.untraced, difference.traced) == (["0"], ["-11"])


def test_suite_that_does_not_run_untraced_says_nothing(tmp_path: Path) -> None:
    """No test at all is no success."""
    with pytest.raises(SuiteError, match="shop: does not run, even untraced: status 0, 0 tests"):
        explore(FakeSuite(tmp_path, [""], [""]), keep=False)


def test_suite_of_which_nothing_is_traced_says_nothing(tmp_path: Path) -> None:
    """That nothing differs then shows nothing."""
    suite = FakeSuite(tmp_path, ["P"], ["P"])
    suite.calls = 0

    with pytest.raises(SuiteError, match=r"shop: no call of shop\.\* was traced"):
        explore(suite, keep=False)


def test_table_has_a_row_for_each_package(tmp_path: Path) -> None:
    """All its lines are equally long, as Markdown is best read."""
    result = explore(FakeSuite(tmp_path, ["PFP"], ["PFP"], status=1), keep=False)

    heading, rule, row, *_ = report.table([result])

    assert [cell.strip() for cell in row.split("|")[1:4]] == ["shop 1.0", "3", "1"]
    assert len(heading) == len(rule) == len(row)


def test_unknown_package_is_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is downloaded that the list does not name; the message says how to."""
    with pytest.raises(SystemExit) as caught:
        main(["no-such-package"])

    assert caught.value.code == 2
    assert "no-such-package: not in" in (told := capsys.readouterr().err)
    assert "--package" in told
