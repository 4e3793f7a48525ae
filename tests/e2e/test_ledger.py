"""The reader of traces finds whatever is wrong with them, and nothing wrong with those that are right."""

from __future__ import annotations

import gzip
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import Audit, assert_balanced, audit

Event = dict[str, Any]

CALL = {"traceId": "t", "parentId": None, "thread": "1", "pid": 1}
START: Event = {"event": "START", "thread": "1", "seq": 0, "pid": 1}
ENTER: Event = {"event": "ENTER", **CALL, "spanId": "a", "seq": 1}
EXIT: Event = {"event": "EXIT", **CALL, "spanId": "a", "seq": 2}


def stop(
    seq: int, *, lost: int = 0, lost_elsewhere: int = 0, discarded: int = 0, open_calls: int = 0, pid: int = 1
) -> Event:
    """A STOP with this number, of a process whose START has the number 0; with a second sink, if that has lost any."""
    of_sinks = {"file": lost} | ({"http": lost_elsewhere} if lost_elsewhere else {})
    delivered = {name: seq - events - discarded for name, events in of_sinks.items()}
    totals = {"recorded": seq, "delivered": delivered, "lost": of_sinks}
    rest = {"discardedEvents": discarded, "openCalls": open_calls}
    return {"event": "STOP", "thread": "9", "seq": seq, "pid": pid, **totals, **rest}


def loss(seq: int, events: int, *, sink: str | None = None, repeated: bool = False) -> Event:
    """A LOSS."""
    said = {"sink": sink, "events": events, "repeated": repeated}
    return {"event": "LOSS", "thread": "9", **said, "seq": seq, "pid": 1}


def lines(*events: Event) -> list[bytes]:
    """Events as lines."""
    return [orjson.dumps(event) + b"\n" for event in events]


def audited(*events: Event, **options: Any) -> Audit:
    """The audit of one file."""
    return audit({"f": lines(*events)}, **options)


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_complete_trace_is_balanced() -> None:
    """One call between START and STOP: nothing wrong, and counted."""
    result = audited(START, ENTER, EXIT, stop(3))

    assert (result.problems, result.calls, result.torn) == ([], 1, [])
    assert (result.accounts[0].missing, result.accounts[0].lost) == (0, 0)


def test_loss_that_is_counted_is_balanced() -> None:
    """Two numbers are missing, which LOSS and STOP both say."""
    result = audited(START, ENTER, EXIT, loss(5, 2), stop(6, lost=2))

    assert result.problems == []
    assert result.accounts[0].missing == 2


def test_loss_of_another_sink_that_is_repeated_counts_once() -> None:
    """It did not reach that sink the first time, and was heard here both times."""
    first, second = loss(3, 2, sink="http"), loss(4, 2, sink="http", repeated=True)

    assert audited(START, ENTER, EXIT, first, second, stop(5, lost_elsewhere=3)).problems == []


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([ENTER, EXIT, stop(3)], "f:1: process 1 begins with ENTER, not with START"),
        ([START, ENTER, EXIT], "f:1: process 1 has no STOP"),
        ([START, ENTER, EXIT, EXIT, stop(3)], "f:4: 2 of process 1 is there twice"),
        ([START, EXIT, stop(3)], "f:2: a is left, and was not entered or was left before"),
        ([START, ENTER, stop(3)], "f:1: process 1: 1 calls are never left, such as ['a']"),
        ([START, ENTER, EXIT, stop(5)], "f:1: process 1: STOP has lost and discarded 0, missing are 2"),
        ([START, ENTER, EXIT, stop(5, lost=2)], "f:1: process 1: LOSS and discarded are 0, missing are 2"),
        (
            [START, ENTER, EXIT, loss(5, 2, sink="http"), stop(6, lost=2)],
            "f:1: process 1: LOSS and discarded are 0, missing are 2",
        ),
        (
            [START, ENTER, EXIT, loss(3, 2, sink="http"), loss(4, 2, sink="http"), stop(5, lost_elsewhere=3)],
            "f:1: process 1: LOSS events of http are 4, STOP has lost 3",
        ),
        ([START, ENTER, stop(3), EXIT], "f:4: EXIT 2 of process 1 comes after its STOP"),
        (
            [START, ENTER | {"parentId": "z"}, EXIT | {"parentId": "z"}, stop(3)],
            "f:2: below z, which was never entered",
        ),
        ([START, ENTER | {"seq": 2}, EXIT | {"seq": 1}, stop(3)], "f:3: 1 comes after 2 in thread 1 of process 1"),
        (
            [START, ENTER, EXIT | {"traceId": "u"}, stop(3)],
            "f:3: a is left below another parent or in another trace than it was entered",
        ),
        (
            [START | {"seq": 1}, ENTER | {"seq": 0}, EXIT, stop(3)],
            "f:2: 0 is less than the 1 that process 1 began with",
        ),
    ],
)  # fmt: skip
def test_problem_is_said_with_its_place(events: list[Event], problem: str) -> None:
    """What is wrong is among the problems, with the name of the file and the number of the line."""
    assert problem in audited(*events).problems


def test_child_after_its_parent_in_one_thread_is_a_problem() -> None:
    """A plain call cannot outlive its caller, nor begin after its end; in another thread, or a task, it may begin."""
    child = {**CALL, "spanId": "b", "parentId": "a"}

    def late(**changes: Any) -> list[str]:
        enter, leave = ({"event": kind, **child, **changes, "seq": seq} for kind, seq in (("ENTER", 3), ("EXIT", 4)))
        return audited(START, ENTER, EXIT, enter, leave, stop(5)).problems

    outlives = audited(
        START, ENTER, {"event": "ENTER", **child, "seq": 2}, EXIT | {"seq": 3}, {"event": "EXIT", **child, "seq": 4},
        stop(5),
    )  # fmt: skip

    assert late() == ["f:4: below a of f:2, in the same thread, which was not open"]
    assert late(thread="2") == late(task="Task-1") == []
    assert outlives.problems == ["f:5: b is left after its parent a"]


def test_parent_may_be_in_another_file_or_elsewhere() -> None:
    """Spans of all files may be parents, and those that are named."""
    start, end = START | {"pid": 2}, stop(3, pid=2)
    child = [event | {"pid": 2, "parentId": "a", "spanId": "b"} for event in (ENTER, EXIT)]

    both = audit({"f": lines(START, ENTER, EXIT, stop(3)), "g": lines(start, *child, end)})
    alone = audit({"g": lines(start, *child, end)}, elsewhere=["a"])

    assert both.problems == alone.problems == []


def test_torn_lines_are_counted_and_skipped() -> None:
    """Half a line at the end, or before the next process, is no event and no problem of its own."""
    half = lines(ENTER)[0][:20]
    texts = [*lines(START), half + b"\n", *lines(START | {"pid": 2}), half]

    result = audit({"f": texts}, ended=False)

    assert (result.problems, result.torn) == ([], ["f:2", "f:4"])
    with pytest.raises(AssertionError, match="torn lines: \\['f:2', 'f:4'\\]"):
        assert_balanced({"f": texts}, ended=False, torn=1)


def test_rotated_files_are_one(tmp_path: Path) -> None:
    """The oldest has the greatest number; some are compressed; locks are none."""
    parts = {"f.jsonl.10.gz": START, "f.jsonl.2": ENTER, "f.jsonl.1": EXIT, "f.jsonl": stop(3)}
    for name, event in parts.items():
        data = lines(event)[0]
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (tmp_path / "f.jsonl.lock").touch()

    assert assert_balanced(tmp_path).accounts[0].lines == 4


# -- any program -----------------------------------------------------------------------------------------------------


def program(chance: random.Random, *, size: int) -> list[Event]:
    """What a program of some threads that lose some subtrees has written: a valid trace."""
    numbers = iter(range(10**9))
    stacks: dict[str, list[Event | None]] = {thread: [] for thread in ("1", "2", "3")}
    events: list[Event] = [{"event": "START", "thread": "1", "seq": next(numbers), "pid": 1}]
    lost = unreported = 0
    ended: list[Event] = []
    for _ in range(size):
        thread, stack = chance.choice(list(stacks.items()))
        if unreported and chance.random() < 0.2:
            events.append(loss(next(numbers), unreported))
            unreported = 0
        if stack and chance.random() < 0.5:
            _leave(events, stack, numbers)
            continue
        if (stack and stack[-1] is None) or chance.random() < 0.1:
            next(numbers), next(numbers)
            stack.append(None)
            lost, unreported = lost + 2, unreported + 2
            continue
        others = [event for event in ended if event["thread"] != thread]
        above = stack[-1] if stack else chance.choice([None, *others])
        seq = next(numbers)
        place = {"traceId": above["traceId"] if above else f"t{seq}", "parentId": above["spanId"] if above else None}
        enter = {"event": "ENTER", "thread": thread, "pid": 1, "spanId": f"s{seq}", **place, "seq": seq}
        events.append(enter)
        ended.append(enter)
        stack.append(enter)
    for stack in stacks.values():
        while stack:
            _leave(events, stack, numbers)
    if unreported:
        events.append(loss(next(numbers), unreported))
    return [*events, stop(next(numbers), lost=lost)]


def _leave(events: list[Event], stack: list[Event | None], numbers: Iterator[int]) -> None:
    enter = stack.pop()
    if enter is not None:
        kind = "EXIT" if enter["seq"] % 3 else "EXCEPTION"
        events.append(enter | {"event": kind, "seq": next(numbers)})


SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.integers(0, 60))
def test_valid_traces_are_balanced(seed: int, size: int) -> None:
    """Whatever the program did: nothing is wrong, and what is missing is what was lost."""
    events = program(random.Random(seed), size=size)

    result = audited(*events)

    assert result.problems == []
    assert result.accounts[0].missing == events[-1]["lost"]["file"] == result.accounts[0].lost


def drop(events: list[Event], chance: random.Random) -> None:
    """Lose any line."""
    del events[chance.randrange(len(events))]


def double(events: list[Event], chance: random.Random) -> None:
    """Write any line again, at any place after."""
    index = chance.randrange(len(events))
    events.insert(chance.randint(index + 1, len(events)), events[index])


def swap(events: list[Event], chance: random.Random) -> None:
    """Exchange two lines of the same thread; each call has two."""
    pairs = itertools.combinations(range(len(events)), 2)
    one, other = chance.choice([(i, j) for i, j in pairs if events[i]["thread"] == events[j]["thread"]])
    events[one], events[other] = events[other], events[one]


def rename_span(events: list[Event], chance: random.Random) -> None:
    """Let one line speak of another call."""
    index = chance.choice([i for i, event in enumerate(events) if "spanId" in event])
    events[index] = events[index] | {"spanId": "another"}


def rename_parent(events: list[Event], chance: random.Random) -> None:
    """Let one line name another parent."""
    index = chance.choice([i for i, event in enumerate(events) if "spanId" in event])
    events[index] = events[index] | {"parentId": "another"}


def misreport(events: list[Event], chance: random.Random) -> None:
    """Let STOP count one more as lost, and one less as delivered."""
    told = events[-1]
    told["lost"]["file"] += 1
    told["delivered"]["file"] -= 1


@pytest.mark.parametrize("mutate", [drop, double, swap, rename_span, rename_parent, misreport])
@given(seed=SEEDS, size=st.integers(12, 60))
def test_whatever_is_wrong_is_found(mutate: Callable[[list[Event], random.Random], None], seed: int, size: int) -> None:
    """A valid trace with one mistake in it is not balanced."""
    chance = random.Random(seed)
    events = program(chance, size=size)
    while not any("spanId" in event for event in events):  # all of it was lost
        events = program(chance, size=size)

    mutate(events, chance)

    assert audited(*events).problems
