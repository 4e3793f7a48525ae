"""``python -m exploration``: test suites of well-known packages, untraced and traced; no test may differ."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from exploration import packages, report
from exploration.comparison import Result, explore
from exploration.packages import Package
from exploration.processes import Processes
from exploration.suite import PROJECT, Suite, SuiteError

QUIET_S = 30  # after that long without a line, it says what it is doing
OK, DIFFERENT, BROKEN, INTERRUPTED = 0, 1, 2, 130
WHAT = "Run test suites of well-known packages, untraced and traced, and tell which tests come out differently."
STATUS = f"""\
status: {OK} no difference, {DIFFERENT} a test differs, {BROKEN} a suite could not be run or the command is wrong, \
{INTERRUPTED} interrupted"""


def main(argv: Sequence[str]) -> int:
    """Explore, and report."""
    parser = _parser()
    options = parser.parse_args(argv)
    chosen = _chosen(options, parser)
    # A shell ignores SIGINT for what it starts in the background; the suites inherit that, and trio's waits for it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    processes = Processes()
    suites = [
        Suite(package, options.cache.resolve(), processes, _say, tests_too=options.tests_too) for package in chosen
    ]
    pool = ThreadPoolExecutor(options.jobs)
    futures = {pool.submit(explore, suite, keep=options.keep): suite for suite in suites}
    results: dict[Suite, Result] = {}
    problems: list[str] = []
    interrupted = False
    try:
        for suite, found in _collected(futures):
            if isinstance(found, Result):
                results[suite] = found
            else:
                problems.append(found)
    except KeyboardInterrupt:
        _say("interrupted")
        interrupted = True
    finally:
        processes.end()
        pool.shutdown(cancel_futures=True)
    in_order = [results[suite] for suite in suites if suite in results]
    print("", *report.table(in_order), *problems, sep="\n")
    if interrupted:
        return INTERRUPTED
    if problems:
        return BROKEN
    return DIFFERENT if any(result.differences for result in in_order) else OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exploration", description=WHAT, epilog=STATUS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of packages in packages.toml; default: all")
    parser.add_argument("--short", action="store_true", help="only the few that take little time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="packages at a time; default: %(default)s")
    parser.add_argument("--tests-too", action="store_true", help="trace the test modules besides")
    parser.add_argument("--keep", action="store_true", help="keep the trace files")
    parser.add_argument(
        "--cache", type=Path, default=PROJECT / ".cache" / "exploration", help="folder of downloads and runs"
    )
    other = parser.add_argument_group("packages that are not in packages.toml")
    other.add_argument(
        "--package",
        metavar="NAME[==VERSION]",
        action="append",
        default=[],
        help="its name on PyPI; may be repeated; what is not given below is found out",
    )
    other.add_argument("--targets", metavar="GLOBS", type=shlex.split, default=[], help="modules to trace")
    other.add_argument("--requires", metavar="NAMES", type=shlex.split, help="what its tests need")
    other.add_argument("--tests", metavar="PATHS", type=shlex.split, default=[], help="where its tests are")
    other.add_argument("--options", metavar="OPTIONS", type=shlex.split, default=[], help="more options of pytest")
    return parser


def _chosen(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Package]:
    known = {package.name: package for package in packages.listed()}
    unknown = {*options.names} - known.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not in {packages.LIST}; other packages need --package")
    chosen = [known[name] for name in options.names]
    given = {key: getattr(options, key) for key in ("targets", "requires", "tests", "options")}
    for each in options.package:
        name, _, version = each.partition("==")
        chosen.append(Package(name, version, **given))
    return chosen or [package for package in known.values() if package.short or not options.short]


def _collected(futures: Mapping[Future[Result], Suite]) -> Iterator[tuple[Suite, Result | str]]:
    """Results or problems as they come, told as they come; where none comes for a while, what is being done."""
    pending = {*futures}
    while pending:
        done, pending = wait(pending, timeout=QUIET_S, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                result = future.result()
            except SuiteError as error:
                _say(str(error))
                yield futures[future], str(error)
            else:
                _say("\n".join(report.details(result)))
                yield futures[future], result
        if not done:
            running = [suite for future, suite in futures.items() if future.running()]
            doing = (f"{suite.package.name} {suite.doing} for {suite.doing_for_s:.0f} s" for suite in running)
            waiting = len(pending) - len(running)
            _say(f"{', '.join(doing)}{f'; {waiting} more to come' if waiting else ''}")


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
