"""Exploring one package: its suite untraced and traced, and what differs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from exploration import outcomes, traces
from exploration.outcomes import ABSENT, Difference, Outcomes
from exploration.packages import Package, excuses
from exploration.suite import RAN, Run, Suite, SuiteError

ROUNDS = 3  # how often the files of tests that differ run again, both ways


class Result(NamedTuple):
    """What is to be said of one package.

    Attributes:
        package: Which one.
        tests: By id, what became of them untraced.
        traced: What was traced.
        differences: Tests that came out otherwise, for no known reason.
        excused: Tests that came out otherwise because of time, as ``excused.toml`` or a deadline of hypothesis's says.
        flaky: Tests that come out otherwise untraced as well.
        slowdown: CPU time traced by CPU time untraced.
        log: What the traced run printed.
    """

    package: Package
    tests: Outcomes
    traced: traces.Traced
    differences: Sequence[Difference]
    excused: Sequence[Difference]
    flaky: Sequence[Difference]
    slowdown: float
    log: Path


def explore(suite: Suite, *, keep: bool) -> Result:
    """Run the suite of one package untraced and traced, and the tests that differ some more times.

    Raises:
        SuiteError: the suite could not be prepared, does not run untraced, or nothing of it is traced.
    """
    with suite.prepared():
        untraced = suite.run("untraced", traced=False)
        if untraced.status not in RAN or not untraced.outcomes:
            reason = f"status {untraced.status}, {len(untraced.outcomes)} tests"
            raise SuiteError(f"{suite.package.name}: does not run, even untraced: {reason}, see {untraced.log}")
        traced = suite.run("traced", traced=True)
        recorded = traces.read(traced.folder / "trace")
        if not recorded.calls:
            raise SuiteError(f"{suite.package.name}: no call of {' '.join(suite.package.targets)} was traced")
        differences = [*_of_tests(suite, untraced, traced), *_of_process(untraced, traced)]
        if not keep:
            for folder in suite.folder.glob("*/trace"):
                shutil.rmtree(folder, ignore_errors=True)
    known = excuses(suite.package.name)
    firm = [each for each in differences if not each.is_flaky]
    excused = [each for each in firm if each.test in known or each.is_by_time]
    return Result(
        package=suite.package,
        tests=untraced.outcomes,
        traced=recorded,
        differences=[each for each in firm if each not in excused],
        excused=excused,
        flaky=[each for each in differences if each.is_flaky],
        slowdown=traced.cpu_s / untraced.cpu_s,
        log=traced.log,
    )


def _of_tests(suite: Suite, untraced: Run, traced: Run) -> list[Difference]:
    before, after = [untraced.outcomes], [traced.outcomes]
    different = outcomes.different(*before, *after)
    if not different:
        return []
    known = {**traced.outcomes, **untraced.outcomes}
    files = sorted({known[test].file for test in different})
    for number in range(1, ROUNDS + 1):
        before.append(suite.run(f"untraced-again-{number}", traced=False, files=files).outcomes)
        after.append(suite.run(f"traced-again-{number}", traced=True, files=files).outcomes)
    return outcomes.differences(before, after)


def _of_process(untraced: Run, traced: Run) -> Iterator[Difference]:
    """The status of the process as a whole, unless it is one that the outcomes of the tests explain."""
    if untraced.status != traced.status and traced.status not in RAN:
        message = f"{len(traced.outcomes)} of {len(untraced.outcomes)} tests"
        yield Difference("(status of the process)", [str(untraced.status)], [str(traced.status)], message)
    elif untraced.status != traced.status and not outcomes.different(untraced.outcomes, traced.outcomes):
        yield Difference("(status of the process)", [str(untraced.status)], [str(traced.status)], ABSENT)
