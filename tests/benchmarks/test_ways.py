"""What the ways of tracing say that they have recorded, by which a benchmark knows that it measured what it says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import ways

LINES = """\
{"event":"START","sinks":["file"]}
{"event":"ENTER","function":"fib","args":{"number":1}}
{"event":"ENTER","function":"fib","args":{"number":0}}
{"event":"EXIT","function":"fib","result":0}
"""


class Splitting(ways.Way):
    """Records each part of a call that is suspended as a call, whether it is a target or not."""

    selects, splits = False, True


class NoGenerators(ways.Way):
    """Has no means to record generators."""

    leaves_out = ("generator",)


def workload(function: str, *, pauses: int = 0, target: bool = True) -> SimpleNamespace:
    """As much of a workload as is asked for."""
    return SimpleNamespace(function=function, pauses=pauses, target=target)


def test_calls_are_counted_where_they_end(tmp_path: Path) -> None:
    """A call under way is an event, and no call yet; what is no call of a function does not count."""
    path = tmp_path / "trace.jsonl"
    path.write_text(LINES)

    recorded = ways.count_lines(path)

    assert (recorded.calls, recorded.events) == ({"fib": 1}, {"fib": 3})
    assert recorded.bytes["fib"] == len(LINES) - LINES.index("\n") - 1


def test_text_is_that_of_the_last_call() -> None:
    """It says what was recorded of arguments and of results, of one function only."""
    recorded = ways.Recorded()

    for number, event in enumerate(["ENTER", "EXIT", "ENTER", "EXIT"]):
        recorded.add("method", event, f"{event} {number}")
    recorded.add("other", "EXIT", "another")

    assert recorded.text("method") == "ENTER 2 EXIT 3"


@pytest.mark.parametrize(
    ("way", "asked", "records"),
    [
        (ways.Flowtrace, workload("method"), 1),
        (ways.Flowtrace, workload("generator", pauses=10), 1),
        (ways.Flowtrace, workload("untouched", target=False), 0),
        (ways.Untraced, workload("method"), 0),
        (Splitting, workload("generator", pauses=10), 11),
        (Splitting, workload("untouched", target=False), 1),
        (NoGenerators, workload("generator", pauses=10), 0),
    ],
)
def test_each_way_knows_how_often_it_records_a_call(
    tmp_path: Path, way: type[ways.Way], asked: SimpleNamespace, records: int
) -> None:
    """So that too many calls are an error as well as too few."""
    assert way(tmp_path).records(asked) == records  # type: ignore[arg-type]


def test_functions_get_the_wrapper_of_their_kind() -> None:
    """A coroutine that is wrapped as a plain function would be over before it begins."""

    async def coroutine() -> None: ...

    def generator() -> object:
        yield

    def call() -> None: ...

    wrappers = [lambda number=number: number for number in range(3)]

    assert [ways.for_its_kind(function, *wrappers)() for function in (call, coroutine, generator)] == [0, 1, 2]
