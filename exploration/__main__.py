"""``python -m exploration``: runs the suites, prints a table, and fails where a test came out differently."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from exploration import outcomes, traces
from exploration.outcomes import Difference
from exploration.suite import HERE, PROJECT, Package, Run, Suite, SuiteError, packages

COLUMNS = (
    "package",
    "tests",
    "instrumented",
    "wrapper",
    "not",
    "calls",
    "failures",
    "flaky",
    "differences",
    "slowdown",
)


class Result(NamedTuple):
    """What is to be said of one package."""

    package: Package
    tests: int
    traced: traces.Traced
    flaky: list[str]
    excused: list[Difference]
    differences: list[Difference]
    slowdown: float
    log: Path


def main(argv: Sequence[str]) -> int:
    """Explore, and report."""
    options = _parser().parse_args(argv)
    # A shell ignores SIGINT for what it starts in the background; the suites inherit that, and trio's waits for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = [each for each in packages() if _is_chosen(each, options)]
    unknown = {*options.packages} - {each.name for each in chosen}
    if unknown:
        _parser().error(f"{', '.join(sorted(unknown))}: not in {HERE / 'packages.toml'}")
    results: dict[str, Result] = {}
    problems = []
    with ThreadPoolExecutor(options.jobs) as pool:
        suites = [Suite(package, Path(options.cache), tests_too=options.tests_too) for package in chosen]
        futures = [pool.submit(explore, suite, keep=options.keep) for suite in suites]
        for future in as_completed(futures):
            try:
                result = future.result()
                results[result.package.name] = result
                print("\n".join(_told(result)), flush=True)
            except SuiteError as error:
                problems.append(str(error))
                print(error, flush=True)
    in_order = [results[package.name] for package in chosen if package.name in results]
    print("", *_table(in_order), *_reasons(in_order), sep="\n")
    return 1 if problems or any(result.differences for result in in_order) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exploration", description=__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="only these; default: all")
    parser.add_argument("--short", action="store_true", help="only the few packages that take little time")
    parser.add_argument("--jobs", type=int, default=2, help="how many packages at a time; default: 2")
    parser.add_argument("--tests-too", action="store_true", help="trace the test modules besides")
    parser.add_argument("--keep", action="store_true", help="keep the trace files")
    parser.add_argument("--cache", default=PROJECT / ".cache" / "exploration", help="folder of downloads and runs")
    return parser


def _is_chosen(package: Package, options: argparse.Namespace) -> bool:
    return package.name in options.packages if options.packages else package.short or not options.short


def explore(suite: Suite, *, keep: bool) -> Result:
    """Run the suite of one package: untraced twice, to know which tests are flaky, then traced.

    Raises:
        SuiteError: the suite could not be prepared, or does not run untraced.
    """
    package = suite.package
    suite.prepare()
    first, second = (suite.run(name, traced=False) for name in ("untraced", "untraced-again"))
    before = outcomes.read(first.report)
    if first.status not in (0, 1) or not before:  # pytest has other numbers where it could not run all tests
        raise SuiteError(f"{package.name}: does not run, even untraced: status {first.status}, see {first.log}")
    after = suite.run("traced", traced=True)
    traced = traces.read(after.folder / "trace")
    if not keep:
        shutil.rmtree(after.folder / "trace", ignore_errors=True)
    flaky = [each.test for each in outcomes.differences(before, outcomes.read(second.report))]
    found = [each for each in outcomes.differences(before, outcomes.read(after.report)) if each.test not in flaky]
    excuses = _excuses(package.name)
    excused = [each for each in found if each.test in excuses]
    found = [each for each in found if each.test not in excuses]
    found += _of_process(first, after, explained=bool(found or excused or flaky))
    untraced_s = min(first.cpu_s, second.cpu_s)
    return Result(package, len(before), traced, flaky, excused, found, after.cpu_s / untraced_s, after.log)


def _of_process(untraced: Run, traced: Run, *, explained: bool) -> Iterator[Difference]:
    """The status of the process as a whole, unless the outcome of a test explains it."""
    if untraced.status != traced.status and not explained:
        message = f"see {traced.log}"
        yield Difference("(status of the process)", str(untraced.status), str(traced.status), message)


def _excuses(package: str) -> dict[str, str]:
    with open(HERE / "excused.toml", "rb") as file:
        excuses: dict[str, str] = tomllib.load(file).get(package, {})
    return excuses


def _told(result: Result) -> Iterator[str]:
    name = result.package.name
    yield f"{name}: {result.tests} tests, {len(result.differences)} differences"
    for test in result.flaky:
        yield f"  flaky untraced: {test}"
    excuses = _excuses(name)
    for each in result.excused:
        yield f"  excused: {each.test}: {excuses[each.test]}"
    for each in result.differences:
        yield f"  {each.test}: {each.untraced}, traced: {each.traced}"
        yield f"    {each.message.strip().partition(chr(10))[0][:200]}"
    if result.differences:
        yield f"  see {result.log}"


def _table(results: Sequence[Result]) -> Iterator[str]:
    rows = [COLUMNS, *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((row[0].ljust(widths[0]), *rest))


def _row(result: Result) -> tuple[str, ...]:
    functions, traced = result.traced.functions, result.traced
    return (
        f"{result.package.name} {result.package.version}",
        f"{result.tests:,}",
        f"{functions['instrumented']:,}",
        f"{functions['wrapper']:,}",
        f"{functions['not traced']:,}",
        f"{traced.calls:,}",
        f"{traced.failures:,}",
        f"{len(result.flaky):,}",
        f"{len(result.differences):,}" + (f" (+{len(result.excused)} by time)" if result.excused else ""),
        f"{result.slowdown:.1f}",
    )


def _reasons(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        for reason, count in result.traced.reasons.most_common():
            yield f"{result.package.name}: {count} not traced: {reason}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
