"""Medians, tables and what becomes of Ctrl-C."""

from __future__ import annotations

import pytest

from benchmarks import report


def test_spread_is_median_deviation_and_quartiles() -> None:
    """One value far off moves none of the numbers."""
    spread = report.Spread.of([1.0, 2.0, 3.0, 4.0, 1000.0])

    assert spread == (3.0, 1.0, 2.0, 4.0)


def test_table_has_its_first_column_on_the_left() -> None:
    """Names begin where the line begins, numbers end where their column ends."""
    table = report.table(["way", "ns"], [["a", "1,000"], ["longer", "5"]])

    assert table.splitlines() == ["way        ns", "------  -----", "a       1,000", "longer      5"]


def test_ctrl_c_ends_a_benchmark_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """The status is the one that shells expect, and one word says why."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        report.run(interrupted)

    assert ended.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_progress_is_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nothing is written over, and nothing is there to be cleared."""
    report.progress("round 1 of 2")
    report.progress("")

    assert capsys.readouterr().err == "round 1 of 2\n"
