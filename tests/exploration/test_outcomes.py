"""Comparing the outcomes of two runs of a test suite."""

from __future__ import annotations

from pathlib import Path

from exploration.outcomes import Difference, differences, read

PASSED, FAILED = (("passed", ""),), (("failed", "assert 1 == 2"),)


def test_outcomes_are_read_by_test_id(tmp_path: Path) -> None:
    """A case without a child has passed; others are what their child says, an expected failure included."""
    report = tmp_path / "junit.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase classname="t.A" name="a"/>
        <testcase classname="t.A" name="b"><failure message="no">trace</failure></testcase>
        <testcase classname="t.A" name="c"><skipped type="pytest.xfail" message="known"/></testcase>
        <testcase classname="t.A" name="d"><skipped type="pytest.skip" message="later"/></testcase>
        </testsuite></testsuites>"""
    )

    kinds = {test: [kind for kind, _ in told] for test, told in read(report).items()}

    assert kinds == {"t.A::a": ["passed"], "t.A::b": ["failed"], "t.A::c": ["xfailed"], "t.A::d": ["skipped"]}


def test_ids_lose_what_changes_from_run_to_run(tmp_path: Path) -> None:
    """Addresses and times in the ids of parametrized tests do not make them other tests."""
    report = tmp_path / "junit.xml"
    case = '<testcase classname="t" name="a[&lt;X at 0x7f3a2b1c&gt;-12:30:59]"/>'
    report.write_text(f"<testsuite>{case}</testsuite>")

    assert list(read(report)) == ["t::a[<X at 0x>-]"]


def test_a_report_that_a_crash_prevented_holds_no_outcome(tmp_path: Path) -> None:
    """Then every test of the other run is missing from this one."""
    assert read(tmp_path / "junit.xml") == {}


def test_differences_name_both_outcomes_and_the_message() -> None:
    """What is equal in both runs is not told; what only one of them has is."""
    before = {"same": PASSED, "worse": PASSED, "gone": PASSED}
    after = {"same": PASSED, "worse": FAILED, "new": PASSED}

    found = differences(before, after)

    assert found == [
        Difference("gone", "passed", "absent", ""),
        Difference("new", "absent", "passed", ""),
        Difference("worse", "passed", "failed", "assert 1 == 2"),
    ]


def test_a_failure_and_an_error_in_its_teardown_are_two() -> None:
    """A test that fails as before, but whose teardown now fails as well, differs."""
    both = (*FAILED, ("error", "teardown"))

    assert [each.traced for each in differences({"t": FAILED}, {"t": both})] == ["error+failed"]
