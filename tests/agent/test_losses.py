"""Losses: counted by reason, and told when there is something to tell."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from flowtrace.losses import Losses

added = st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 9), st.integers(0, 99))


def test_each_reason_has_its_sums_and_times() -> None:
    """From the first to the last time that something was lost for it."""
    losses, before = Losses(), time.monotonic_ns()
    losses.add("slow", 4, calls=2, size=40)
    losses.add("failed", 1)
    losses.add("slow", 2, calls=1, size=20)
    slow, failed = losses.take()

    assert (slow.reason, slow.calls, slow.events, slow.size) == ("slow", 3, 6, 60)
    assert (failed.reason, failed.events) == ("failed", 1)
    assert before <= slow.since_ns <= failed.since_ns <= slow.until_ns <= time.monotonic_ns()
    assert losses.take() == []


def test_what_is_quiet_waits_for_something_else() -> None:
    """Or for the end."""
    losses = Losses()
    losses.add("slow", 1, is_quiet=True)
    first = losses.take()
    losses.add("failed", 2)
    second = losses.take()
    losses.add("slow", 3, is_quiet=True)

    assert first == []
    assert {loss.reason: loss.events for loss in second} == {"slow": 1, "failed": 2}
    assert [loss.events for loss in losses.take(is_last=True)] == [3]


@given(st.lists(st.tuples(added, st.booleans(), st.booleans(), st.booleans()), max_size=30))
def test_all_is_told_in_the_end(script: list[tuple[tuple[str, int, int, int], bool, bool, bool]]) -> None:
    """Whatever comes in whatever order: each event is in one report, and in the total unless it was counted before."""
    losses = Losses()
    told: list[tuple[int, int, int]] = []
    for (reason, events, calls, size), is_counted, is_quiet, is_asked in script:
        losses.add(reason, events, calls=calls, size=size, is_counted=is_counted, is_quiet=is_quiet)
        if is_asked:
            told += [(loss.events, loss.calls, loss.size) for loss in losses.take()]
    told += [(loss.events, loss.calls, loss.size) for loss in losses.take(is_last=True)]

    assert [sum(column) for column in zip(*told, strict=True)] == [
        sum(each[0][index] for each in script) for index in ((1, 2, 3) if told else ())
    ]
    assert losses.events == sum(each[0][1] for each in script if not each[1])


def test_what_was_counted_before_is_told_apart() -> None:
    """Readers of several sinks would count it twice."""
    losses = Losses()
    losses.add("slow", 4)
    losses.add("slow", 3, is_counted=True)

    assert [(loss.events, loss.is_repeated) for loss in losses.take()] == [(4, False), (3, True)]
