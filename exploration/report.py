"""What an exploration says: a few lines for each package, and a table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from exploration.comparison import Result
from exploration.outcomes import Difference
from exploration.packages import excuses

COLUMNS = (
    *("package", "tests", "fail untraced", "functions", "by wrapper", "not traced", "calls", "differences", "by time"),
    *("flaky untraced", "slowdown"),
)
_SHOWN = 200  # characters of a message


def details(result: Result) -> Iterator[str]:
    """What is to be known of one package as soon as it is."""
    count = len(result.differences)
    yield f"{result.package.name}: {len(result.tests):,} tests, {count or 'no'} difference{'' if count == 1 else 's'}"
    for each in result.flaky:
        yield f"  flaky untraced: {_line(each)}"
    reasons = excuses(result.package.name)
    for each in result.excused:
        yield f"  excused: {_line(each)}: {reasons[each.test]}"
    for each in result.differences:
        yield f"  {_line(each)}"
        yield f"    {each.message.strip().partition(chr(10))[0][:_SHOWN]}"
    if red := _red(result):
        yield f"  {red:,} tests fail untraced already"
    if result.traced.failures:
        yield f"  the agent counted {result.traced.failures} errors of its own"
    if result.traced.lost:
        yield f"  {result.traced.lost:,} events were recorded, but are not in the files"
    if result.differences or result.traced.failures:
        yield f"  see {result.log}"


def _line(difference: Difference) -> str:
    return f"{difference.test}: {_counted(difference.untraced)}; traced: {_counted(difference.traced)}"


def _counted(kinds: Sequence[str]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in Counter(kinds).items())


def table(results: Sequence[Result]) -> Iterator[str]:
    """All packages, as Markdown, and below it what is not instrumented, and why."""
    rows = [COLUMNS, *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    rule = [f"{'-' * (width - 1)}:" for width in widths]
    rows.insert(1, ("-" * widths[0], *rule[1:]))
    for row in rows:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield f"| {' | '.join((row[0].ljust(widths[0]), *rest))} |"
    yield ""
    for result in results:
        for (how, reason), count in result.traced.reasons.most_common():
            yield f"{result.package.name}: {count} {'by ' if how == 'wrapper' else ''}{how}: {reason}"


def _row(result: Result) -> tuple[str, ...]:
    functions = result.traced.functions
    counts = (
        *(len(result.tests), _red(result), functions["instrumented"], functions["wrapper"], functions["not traced"]),
        *(result.traced.calls, len(result.differences), len(result.excused), len(result.flaky)),
    )
    name = f"{result.package.name} {result.package.version}"
    return (name, *(f"{count:,}" for count in counts), f"{result.slowdown:.1f}")


def _red(result: Result) -> int:
    return sum(not {"failed", "error"}.isdisjoint(each.kind.split("+")) for each in result.tests.values())
