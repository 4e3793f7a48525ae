"""Tail rules: what is delivered and what is discarded, by part where it must be, within its bounds, come what may."""

from __future__ import annotations

import random
import sys
import tracemalloc
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtrace import keeping
from flowtrace.config import Keep
from flowtrace.events import ENTER, EXCEPTION, EXIT, STATEMENT, Record
from flowtrace.keeping import EVERYTHING, HELD_BYTES, LINGER_NS, Keeper, Terms, Tree, terms
from flowtrace.quantities import Duration, Size

MS = 1_000_000
REMOTE = "00f067aa0ba902b7"
AMPLE = 1 << 40
SLOW_OR_FAILED = Terms(50 * MS, True, AMPLE, AMPLE)


class Program:
    """Calls that come and go, a keeper that takes them in turns, and what it gives to be delivered."""

    def __init__(self, terms: Terms = SLOW_OR_FAILED, *, first: int = 0) -> None:
        self.keeper = Keeper(terms, first=first)
        self.now = 0
        self.recorded: list[Record] = []
        self.delivered: list[Record] = []
        self.open: dict[int, Record] = {}
        self.left: list[int] = []
        self.first = first
        self._queued: list[Record] = []
        self._taken: list[Record] = []
        self._sending: list[Record] = []
        self._is_offered = False

    def enter(self, parent: int | str | None = None) -> int:
        """A call begins; returns its number."""
        span = self._number()
        above = self.recorded[parent - self.first] if type(parent) is int and parent >= self.first else None
        record = (ENTER, 0, span, self.now, 7, None, above[6] if above else span, parent, b"{}", None, (), 2)
        self.open[span] = record
        self._record(record)
        return span

    def leave(self, span: int, kind: int = EXIT) -> None:
        """It ends."""
        _, _, _, since, _, _, trace, parent, *_ = self.open.pop(span)
        self.left.append(span)
        took = self.now - since
        self._record((kind, 0, self._number(), self.now, 7, None, trace, parent, b"null", span, took, None, None, 4))

    def call(self, parent: int | str | None = None, took: int = 0, kind: int = EXIT) -> int:
        """A call without any inside."""
        span = self.enter(parent)
        self.now += took
        self.leave(span, kind)
        return span

    def state(self) -> None:
        """The agent itself has something to say."""
        self._record((STATEMENT, "LIMIT", self._number(), self.now, 7, b"", 0))

    def turn(self, *, is_last: bool = False) -> None:
        """What the dispatcher does: after an error, the next turn goes on with what was at hand."""
        self._send()
        self._taken, self._queued = [*self._taken, *self._queued], []
        self._send()
        decide = self.keeper.end if is_last else self.keeper.settle
        decide(self.now)
        self._send()

    def rest(self) -> None:
        """A moment in which nothing happens, and a turn."""
        self.now += LINGER_NS
        self.turn()

    def end(self) -> None:
        """The last turn."""
        self.turn(is_last=True)

    def shown(self) -> list[tuple[int, int]]:
        """Kind and call of what is delivered, in order."""
        calls = [record for record in self.delivered if record[0] != STATEMENT]
        return [(record[0], record[2] if record[0] == ENTER else record[9]) for record in calls]

    @property
    def balance(self) -> tuple[int, int]:
        """Calls and events that were recorded, and are neither delivered nor discarded."""
        keeper, missing = self.keeper, len(self.recorded) - len(self.delivered)
        calls = sum(r[0] == ENTER for r in self.recorded) - sum(r[0] == ENTER for r in self.delivered)
        return calls - keeper.discarded_calls, missing - keeper.discarded_events

    def _number(self) -> int:
        return len(self.recorded) + self.first

    def _record(self, record: Record) -> None:
        self.recorded.append(record)
        self._queued.append(record)

    def _send(self) -> None:
        if self._taken:
            self.keeper.take(self._taken)
            self._taken = []
        while self._sending or (batch := self.keeper.batch(3)):
            self._sending = self._sending or batch
            if not self._is_offered:
                self.delivered += self._sending
                self._is_offered = True
            self.keeper.sent(self._sending)
            self._sending, self._is_offered = [], False


def whole(*spans: int) -> list[tuple[int, int]]:
    """Calls one after another, as `Program.shown` has them."""
    return [(kind, span) for span in spans for kind in (ENTER, EXIT)]


# -- whole trees -----------------------------------------------------------------------------------------------------


def test_slow_tree_is_delivered_whole() -> None:
    """With all its calls, when it has ended and nothing followed; the others are counted."""
    program = Program()
    program.call()
    root = program.enter()
    fast = program.call(root)
    program.turn()
    assert program.delivered == []
    program.now += 50 * MS + 1
    program.leave(root)
    program.turn()
    assert program.delivered == []

    program.rest()

    assert program.shown() == [(ENTER, root), (ENTER, fast), (EXIT, fast), (EXIT, root)]
    assert (program.keeper.discarded_calls, program.keeper.discarded_events) == (1, 2)


@pytest.mark.parametrize(
    ("slower_than", "errors", "took", "kind", "is_delivered"),
    [
        (50, True, 51, EXIT, True),
        (50, True, 50, EXIT, False),
        (50, True, 0, EXCEPTION, True),
        (50, False, 0, EXCEPTION, False),
        (50, False, 51, EXCEPTION, True),
        (None, True, 10_000, EXIT, False),
        (None, True, 0, EXCEPTION, True),
        (None, False, 10_000, EXCEPTION, False),
        (0, False, 1, EXIT, True),
    ],
)
def test_rules(slower_than: int | None, errors: bool, took: int, kind: int, is_delivered: bool) -> None:
    """Longer than, not as long as; errors if asked; without any rule nothing."""
    program = Program(Terms(None if slower_than is None else slower_than * MS, errors, AMPLE, AMPLE))
    program.call(took=took * MS, kind=kind)
    program.rest()
    assert bool(program.delivered) == is_delivered
    assert program.balance == (0, 0)


def test_error_below_is_enough() -> None:
    """An exception that is caught halfway delivers the tree that it was in, and no other."""
    program = Program()
    first, second = program.enter(), program.enter()
    program.call(program.enter(first), kind=EXCEPTION)
    program.call(second)
    for span in [*program.open]:
        program.leave(span)
    program.rest()
    assert {span for _, span in program.shown()} == {0, 2, 3}


def test_slow_call_in_a_fast_tree_is_no_reason() -> None:
    """A task that outlives its root and is slow: the root's time counts."""
    program = Program()
    root = program.enter()
    task = program.enter(root)
    program.leave(root)
    program.now += 60 * MS
    program.leave(task)
    program.rest()
    assert program.delivered == []


def test_tree_ends_with_its_last_call() -> None:
    """A task that outlives its root and fails brings the whole tree with it."""
    program = Program()
    root = program.enter()
    task = program.enter(root)
    program.leave(root)
    program.rest()
    program.leave(task, EXCEPTION)
    program.rest()
    assert program.shown() == [(ENTER, root), (ENTER, task), (EXIT, root), (EXCEPTION, task)]


def test_task_that_begins_when_its_root_has_ended_belongs_to_it() -> None:
    """``create_task(...); return``: the tree is not over yet."""
    program = Program()
    root = program.call()
    program.now += LINGER_NS - 1
    program.turn()
    task = program.enter(root)
    program.rest()
    program.leave(task, EXCEPTION)
    program.rest()
    assert {span for _, span in program.shown()} == {root, task}


def test_tree_that_goes_on_keeps_no_other_waiting() -> None:
    """One that had ended before another and then went on is due after it."""
    program = Program()
    first = program.call(kind=EXCEPTION)
    program.now += LINGER_NS // 2
    second = program.call(kind=EXCEPTION)
    program.now += LINGER_NS // 4
    task = program.call(first)
    program.now += LINGER_NS // 4 * 3
    program.turn()
    assert program.shown() == [(ENTER, second), (EXCEPTION, second)]

    program.rest()
    assert program.shown()[2:] == [(ENTER, first), (EXCEPTION, first), *whole(task)]


@pytest.mark.parametrize("is_slow", [False, True])
def test_late_call_is_a_tree_of_its_own(is_slow: bool) -> None:
    """It names the call above if that was delivered; else it is shown as a root, and what is delivered is closed."""
    program = Program()
    root = program.call(took=60 * MS if is_slow else 0)
    program.rest()
    late = program.enter(root)
    below = program.call(late, kind=EXCEPTION)
    program.leave(late)
    program.call(root)
    program.rest()

    of_late = program.delivered[-4:]
    assert [(r[0], r[2] if r[0] == ENTER else r[9]) for r in of_late] == [
        (ENTER, late), (ENTER, below), (EXCEPTION, below), (EXIT, late),
    ]  # fmt: skip
    parent = root if is_slow else None
    assert [record[7] for record in of_late] == [parent, late, late, parent]
    assert {record[6] for record in of_late} == {root}
    assert program.balance == (0, 0)


@pytest.mark.parametrize("parent", [None, REMOTE, 4])
def test_parent_elsewhere_counts_as_delivered(parent: int | str | None) -> None:
    """A call below one of another process, or of the one that this was forked from, is a root."""
    program = Program(first=5)
    program.call(parent, took=60 * MS)
    program.rest()
    assert [record[7] for record in program.delivered] == [parent, parent]


def test_calls_that_began_before_the_keeper_pass() -> None:
    """What was entered before there were any rules is delivered with its end; what is below it is decided."""
    program = Program(first=5)
    before = (ENTER, 0, 4, 0, 7, None, 4, None, b"{}", None, (), 2)
    after = (EXIT, 0, 5, 0, 7, None, 4, None, b"null", 3, 0, None, None, 4)
    program.keeper.take([before, after])
    assert program.keeper.batch(9) == [before, after]


def test_statements_pass_at_once() -> None:
    """What the agent says waits for nothing."""
    program = Program()
    program.enter()
    program.state()
    program.turn()
    assert [record[0] for record in program.delivered] == [STATEMENT]


def test_batches_are_in_order_and_bounded() -> None:
    """A tree is delivered in order of numbers, whatever the order in the queue, in batches that stay until sent."""
    keeper = Keeper(Terms(None, True, AMPLE, AMPLE), first=0)
    enters = [(ENTER, 0, seq, 0, 7, None, 0, 0 if seq else None, b"", None, (), 0) for seq in range(3)]
    leaves = [(EXCEPTION, 0, 5 - span, 0, 7, None, 0, 0, b"", span, 0, None, None, 0) for span in range(3)]
    keeper.take([enters[0], enters[2], enters[1], *leaves])
    keeper.settle(LINGER_NS)

    first = keeper.batch(4)
    assert keeper.batch(4) == first
    keeper.sent(first)
    second = keeper.batch(4)
    keeper.sent(second)

    assert [record[2] for record in first + second] == [*range(6)]
    assert keeper.batch(4) == []


# -- by part ---------------------------------------------------------------------------------------------------------

BY_PART = Terms(50 * MS, True, 1_000 * MS, AMPLE)


def test_long_tree_is_decided_by_part() -> None:
    """A connection that lives on: what happens in it is delivered if it is slow or fails, and the open calls once."""
    program = Program(BY_PART)
    connection = program.enter()
    loop = program.enter(connection)
    early = program.call(loop, kind=EXCEPTION)
    program.call(loop)
    program.now += 1_000 * MS
    program.turn()
    assert program.shown() == [(ENTER, connection), (ENTER, loop), (ENTER, early), (EXCEPTION, early)]

    program.call(loop)
    slow = program.call(loop, took=51 * MS)
    program.call(connection)
    program.rest()
    assert program.shown()[4:] == whole(slow)

    program.leave(loop)
    program.leave(connection, EXCEPTION)
    program.turn()
    assert program.shown()[6:] == [(EXIT, loop), (EXCEPTION, connection)]
    assert program.keeper.discarded_calls == 3
    assert program.keeper.held_bytes == 0


def test_late_call_below_a_part() -> None:
    """It names the call above, which was delivered as a part."""
    program = Program(BY_PART)
    connection = program.enter()
    part = program.call(connection, kind=EXCEPTION)
    program.now += 1_000 * MS
    program.turn()
    program.call(part, kind=EXCEPTION)
    program.rest()
    assert [record[7] for record in program.delivered[-2:]] == [part, part]


def test_open_calls_are_not_delivered_for_nothing() -> None:
    """Nothing is heard of a connection in which nothing happens, until it ends: then it was slow."""
    program = Program(BY_PART)
    connection = program.enter()
    for _ in range(5):
        program.now += 500 * MS
        program.call(connection)
        program.turn()
    assert program.delivered == []

    program.leave(connection)
    program.turn()
    assert program.shown() == whole(connection)


def test_open_calls_are_discarded_with_errors_only() -> None:
    """Where time is no reason, a long call that did not fail, and in which nothing did, is no reason either."""
    program = Program(Terms(None, True, 1_000 * MS, AMPLE))
    connection = program.enter()
    loop = program.enter(connection)
    program.now += 1_000 * MS
    program.turn()
    program.call(loop)
    program.leave(loop)
    program.leave(connection)
    program.rest()
    assert program.delivered == []
    assert program.balance == (0, 0)
    assert program.keeper.held_bytes == 0


def test_part_that_takes_long_is_split_in_turn() -> None:
    """``asyncio.run(main())``: requests are parts, and a connection among them is decided by part too."""
    program = Program(Terms(None, True, 1_000 * MS, AMPLE))
    main = program.enter()
    program.now += 1_000 * MS
    program.turn()
    connection = program.enter(main)
    program.now += 1_000 * MS
    program.turn()
    program.call(connection)
    bad = program.call(connection, kind=EXCEPTION)
    program.call(main)
    program.rest()
    assert program.shown() == [(ENTER, main), (ENTER, connection), (ENTER, bad), (EXCEPTION, bad)]


def test_part_below_a_call_that_has_left() -> None:
    """A task goes on, what started it is over and was fast: both wait, and are delivered when the task fails."""
    program = Program(BY_PART)
    start = program.enter()
    program.call(start)
    task = program.enter(start)
    program.leave(start)
    program.now += 1_000 * MS
    program.turn()
    assert (program.delivered, program.keeper.discarded_calls) == ([], 1)

    bad = program.call(task, kind=EXCEPTION)
    program.rest()
    assert program.shown() == [(ENTER, start), (ENTER, task), (EXIT, start), (ENTER, bad), (EXCEPTION, bad)]
    program.leave(task)
    program.rest()
    assert program.balance == (0, 0)


def test_part_that_has_left_and_was_slow_brings_what_is_below() -> None:
    """The request was slow and is over, its task goes on: the request is delivered, and the task by part."""
    program = Program(BY_PART)
    root = program.enter()
    inner = program.call(root)
    task = program.enter(root)
    program.call(task)
    program.now += 60 * MS
    program.leave(root)
    program.now += 1_000 * MS
    program.turn()
    assert program.shown() == [(ENTER, root), *whole(inner), (EXIT, root)]

    program.leave(task)
    program.rest()
    assert program.shown()[4:] == whole(task)
    assert program.balance == (0, 0)


def test_late_call_below_an_open_call_that_was_discarded() -> None:
    """When the last task below a call that has left is over, and nothing was wrong, all of it is discarded."""
    program = Program(Terms(None, True, 1_000 * MS, AMPLE))
    start = program.enter()
    task = program.enter(start)
    program.leave(start)
    program.now += 1_000 * MS
    program.turn()
    child = program.enter(task)
    program.leave(task)
    program.turn()
    program.leave(child)
    program.rest()
    assert (program.delivered, program.balance, program.keeper.discarded_calls) == ([], (0, 0), 3)
    assert program.keeper.held_bytes == 0


# -- memory ----------------------------------------------------------------------------------------------------------


def test_oldest_tree_goes_first() -> None:
    """Beyond the bound, the tree that began first is split, and the others stay whole."""
    program = Program(SLOW_OR_FAILED._replace(max_bytes=7 * (HELD_BYTES + 4)))
    old = program.enter()
    for _ in range(2):
        program.call(old)
    young = program.enter()
    inside = program.call(young)
    program.turn()
    assert program.keeper.discarded_calls == 2

    program.leave(young, EXCEPTION)
    program.rest()
    assert program.shown() == [(ENTER, young), *whole(inside), (EXCEPTION, young)]


def test_what_has_ended_makes_room_first() -> None:
    """A tree that is decided anyway is not waited for when there is no room."""
    program = Program(SLOW_OR_FAILED._replace(max_bytes=5 * (HELD_BYTES + 4)))
    old = program.enter()
    inside = program.call(old)
    program.call()
    program.call()
    program.turn()
    assert program.keeper.discarded_calls == 1
    program.leave(old, EXCEPTION)
    program.end()
    assert program.shown() == [(ENTER, old), *whole(inside), (EXCEPTION, old)]


def test_oldest_goes_first_be_it_a_tree_or_an_open_call() -> None:
    """A connection that has waited for long does not crowd out requests, nor does a younger one an older request."""
    program = Program(Terms(None, True, 1_000 * MS, 4 * (HELD_BYTES + 4)))
    connection = program.enter()
    program.now += 500 * MS
    request = program.enter()
    program.enter(connection)
    program.now += 500 * MS
    program.turn()
    assert (program.delivered, program.keeper.discarded_calls) == ([], 0)

    program.call(request)
    program.turn()
    assert (program.shown(), program.keeper.discarded_calls) == ([(ENTER, connection)], 0)

    program.enter(request)
    program.turn()
    assert (program.shown(), program.keeper.discarded_calls) == ([(ENTER, connection)], 1)


def test_tree_that_goes_on_has_not_ended() -> None:
    """Where there is no room, it is the oldest, but not decided as one that is over."""
    program = Program(SLOW_OR_FAILED._replace(max_bytes=4 * (HELD_BYTES + 4)))
    root = program.call()
    task = program.enter(root)
    program.enter(program.enter())
    program.turn()
    assert (program.shown(), program.keeper.discarded_calls) == (whole(root), 0)
    program.leave(task, EXCEPTION)
    program.rest()
    assert program.shown()[2:] == [(ENTER, task), (EXCEPTION, task)]


def test_open_calls_that_do_not_fit_are_delivered() -> None:
    """They may not be discarded, for what is below could fail, and they may not wait."""
    program = Program(SLOW_OR_FAILED._replace(max_bytes=10 * (HELD_BYTES + 2)))
    span = None
    for _ in range(100):
        span = program.enter(span)
    program.turn()
    assert program.shown() == [(ENTER, number) for number in range(90)]
    assert program.keeper.held_bytes <= program.keeper.terms.max_bytes


def test_size_of_what_is_held_is_true() -> None:
    """Trees of one call, which need most beside their records, take no more memory than is counted."""
    keeper = Keeper(SLOW_OR_FAILED, first=0)
    tracemalloc.start()
    try:
        for span in range(10_000, 30_000, 2):  # no number that Python has at hand
            enter = (ENTER, 0, span, span << 30, 7, None, span + 0, None, b"%d" % span, None, (), 300)
            leave = (
                EXIT,
                0,
                span + 1,
                span << 30,
                7,
                None,
                enter[6],
                None,
                b"%d" % span,
                span + 0,
                1_000,
                None,
                None,
                300,
            )
            keeper.take([enter, leave])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 * keeper.held_bytes < taken < keeper.held_bytes


def test_calls_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of calls that were delivered and have left, the last are known; below others, a late call is shown as a root."""
    monkeypatch.setattr(keeping, "MAX_LEFT_SPANS", 3)
    program = Program()
    roots = [program.call(took=60 * MS) for _ in range(4)]
    program.rest()
    for parent in (roots[1], roots[1], roots[1], roots[1], roots[2]):
        program.call(parent, kind=EXCEPTION)
        program.rest()
    parents = [record[7] for record in program.delivered[8:]]
    assert parents == [*[roots[1]] * 8, None, None]
    assert len(program.keeper._delivered) == 3


# -- the end, and other terms ----------------------------------------------------------------------------------------


def test_end_decides_what_is_open_by_what_is_known() -> None:
    """What has been open for long enough, or has failed inside, is delivered as it stands; its end may yet come."""
    program = Program()
    slow = program.enter()
    inside = program.call(slow)
    program.now += 60 * MS
    failed, fast = program.enter(), program.enter()
    bad = program.call(failed, kind=EXCEPTION)
    program.end()
    assert program.shown() == [(ENTER, slow), *whole(inside), (ENTER, failed), (ENTER, bad), (EXCEPTION, bad)]

    for span in (slow, failed, fast):
        program.leave(span)
    program.end()
    assert program.shown()[6:] == [(EXIT, slow), (EXIT, failed)]
    assert program.balance == (0, 0)
    assert program.keeper.discarded_calls == 1


def test_end_of_a_long_tree() -> None:
    """The open calls of a tree that was split have been open for long: they are delivered, if time is a reason."""
    for slower_than_ns, expected in ((50 * MS, 2), (None, 0)):
        program = Program(Terms(slower_than_ns, True, 1_000 * MS, AMPLE))
        program.enter(program.enter())
        program.now += 1_000 * MS
        program.turn()
        program.end()
        assert len(program.delivered) == expected
        for span in (1, 0):
            program.leave(span)
        program.end()
        assert program.balance == (0, 0)


def test_terms_may_change() -> None:
    """Without a rule any more, what waits is delivered, and then everything at once and in order."""
    program = Program()
    gone = program.call()
    program.rest()
    root = program.enter()
    inside = program.call(root)
    program.turn()
    assert program.delivered == []

    program.keeper.terms = terms(None)
    program.turn()
    assert program.shown() == [(ENTER, root), *whole(inside)]
    program.call(inside)
    program.call(gone)
    program.leave(root)
    program.turn()
    assert [record[2] for record in program.delivered] == [*range(2, len(program.recorded))]


def test_terms_of_a_configuration() -> None:
    """In nanoseconds and bytes; without `keep`, everything."""
    keep = Keep(slower_than=Duration("20ms"), errors=False, max_wait=Duration("2s"), max_bytes=Size("1MiB"))
    assert terms(keep) == (20 * MS, False, 2_000 * MS, 1 << 20)
    assert terms(None) == EVERYTHING


# -- whatever happens ------------------------------------------------------------------------------------------------

Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(0, 9)),
        st.tuples(st.just("below"), st.integers(0, 99)),
        st.tuples(st.just("late"), st.integers(0, 99)),
        st.tuples(st.just("leave"), st.integers(0, 99)),
        st.tuples(st.just("leave"), st.integers(0, 99)),
        st.tuples(st.just("raise"), st.integers(0, 99)),
        st.tuples(st.just("wait"), st.sampled_from([1, 20, 60, 100, 400])),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("state"), st.just(0)),
    ),
    max_size=60,
)


def do(program: Program, step: Step, turn: Callable[[], None]) -> None:
    """One step of a random program; numbers choose among what there is."""
    name, number = step
    open_ = [*program.open]
    if name == "enter":
        program.enter(REMOTE if number == 9 else None)
    elif name == "below" and open_:
        program.enter(open_[-1 - number % len(open_)])
    elif name == "late" and program.left:
        program.enter(program.left[-1 - number % len(program.left)])
    elif name in ("leave", "raise") and open_:
        program.leave(open_[-1 - number % len(open_)], EXCEPTION if name == "raise" else EXIT)
    elif name == "wait":
        program.now += number * MS
    elif name == "turn":
        turn()
    elif name == "state":
        program.state()


def assert_closed(program: Program) -> None:
    """No EXIT without its ENTER before it, no call without the one above; each ENTER has its end if there is one.

    A call is shown as a root only if it is one, or if the one above is not delivered at all.
    """
    entered: set[int] = set()
    left: set[int] = set()
    for record in program.delivered:
        if record[0] == ENTER:
            assert record[2] not in entered
            assert record[7] is None or record[7] == REMOTE or record[7] in entered, record
            entered.add(record[2])
        elif record[0] != STATEMENT:
            assert record[9] in entered, record
            left.add(record[9])
    assert left == entered & {*program.left}
    for record in program.delivered:
        if record[0] == ENTER and record[7] is None:
            assert program.recorded[record[2] - program.first][7] not in entered


def assert_consistent(keeper: Keeper) -> None:
    """What is counted as held is held, within the bound; what is remembered beside is of open calls or of held ones."""
    held = [record for tree in keeper._trees.values() for record in tree.records.values()]
    held += [record for stem in keeper._stems.values() for record in stem.held]
    assert keeper.held_bytes == sum(record[-1] + HELD_BYTES for record in held)
    assert keeper.held_bytes <= keeper.terms.max_bytes
    assert keeper._ended.keys() <= keeper._trees.keys() <= keeper._places.keys()
    for span, place in keeper._places.items():
        is_needed = span in place.records if isinstance(place, Tree) else place.below or not place.has_left
        assert is_needed, f"call {span} is remembered for nothing"


def wanted(program: Program, terms: Terms) -> set[int]:
    """Calls that are delivered whatever becomes of their trees: those that failed, and slow ones below no other."""
    enters = {record[2]: record for record in program.recorded if record[0] == ENTER}
    leaves = {record[9]: record for record in program.recorded if record[0] in (EXIT, EXCEPTION)}
    limit = terms.slower_than_ns
    failed = {span for span, record in leaves.items() if record[0] == EXCEPTION and terms.errors}
    took = {span: leaves[span][10] if span in leaves else program.now - enter[3] for span, enter in enters.items()}
    roots = {span for span, enter in enters.items() if type(enter[7]) is not int}
    return failed | {span for span in roots if limit is not None and took[span] > limit}


@given(
    steps=steps,
    slower_than_ns=st.sampled_from([None, 0, 50 * MS]),
    errors=st.booleans(),
    max_wait_ns=st.sampled_from([0, 30 * MS, 150 * MS, AMPLE]),
    max_records=st.sampled_from([0, 3, 8, 20, AMPLE]),
)
@settings(deadline=None, max_examples=400)
def test_any_program(
    steps: list[Step], slower_than_ns: int | None, errors: bool, max_wait_ns: int, max_records: int
) -> None:
    """What is delivered is closed, all that must be is there, the bound holds, and the counts balance exactly."""
    rules = Terms(slower_than_ns, errors, max_wait_ns, max_records * (HELD_BYTES + 4))
    program = Program(rules)

    def turn() -> None:
        program.turn()
        assert_consistent(program.keeper)

    for step in steps:
        do(program, step, turn)
    program.end()

    assert program.balance == (0, 0)
    assert_closed(program)
    assert wanted(program, rules) <= {span for _, span in program.shown()}
    assert program.keeper.held_bytes == 0

    for span in [*program.open]:
        program.leave(span)
    program.end()
    assert program.balance == (0, 0)
    assert_closed(program)
    keeper = program.keeper
    assert [*keeper._places, *keeper._trees, *keeper._ended, *keeper._stems] == []
    assert keeper._ground.below == 0


class Reference:
    """The trees of a program, worked out the plain way: a call joins that of its parent, unless this is over."""

    def __init__(self) -> None:
        self.trees: list[list[Record]] = []
        self._tree_of: dict[int, list[Record]] = {}
        self._over: list[list[Record]] = []
        self._taken = 0

    def turn(self, program: Program) -> None:
        """Take what was recorded since, and see which trees have been over for long enough."""
        for record in program.recorded[self._taken :]:
            if record[0] == ENTER:
                tree = self._tree_of.get(record[7])
                if tree is None or any(tree is other for other in self._over):
                    tree = []
                    self.trees.append(tree)
                self._tree_of[record[2]] = tree
                tree.append(record)
            elif record[0] != STATEMENT:
                self._tree_of[record[9]].append(record)
        self._taken = len(program.recorded)
        for tree in self.trees:
            is_open = any(record[0] == ENTER and record[2] in program.open for record in tree)
            if not is_open and program.now - tree[-1][3] >= LINGER_NS:
                self._over.append(tree)

    def wanted(self, rules: Terms) -> list[list[int]]:
        """The trees that are to be delivered, as the numbers of their records."""
        return [[record[2] for record in tree] for tree in self.trees if self._is_wanted(tree, rules)]

    @staticmethod
    def _is_wanted(tree: list[Record], rules: Terms) -> bool:
        took = next(record[10] for record in tree if record[0] != ENTER and record[9] == tree[0][2])
        is_slow = rules.slower_than_ns is not None and took > rules.slower_than_ns
        return is_slow or any(record[0] == EXCEPTION for record in tree)


@given(steps=steps, rules=st.sampled_from([SLOW_OR_FAILED, Terms(None, True, AMPLE, AMPLE)]))
@settings(deadline=None, max_examples=300)
def test_trees_are_whole_where_nothing_forces_a_split(steps: list[Step], rules: Terms) -> None:
    """Each tree that is slow or has failed is delivered in one piece, in order; nothing else is."""
    program, reference = Program(rules), Reference()

    def turn() -> None:
        program.turn()
        reference.turn(program)

    for step in steps:
        do(program, step, turn)
    for span in [*program.open]:
        program.leave(span)
    program.end()
    reference.turn(program)

    delivered = [record[2] for record in program.delivered if record[0] != STATEMENT]
    trees = reference.wanted(rules)
    assert {number for tree in trees for number in tree} == {*delivered}
    trees.sort(key=lambda tree: delivered.index(tree[0]))
    assert delivered == [number for tree in trees for number in tree]


class Strike:
    """Raises RecursionError once, at the line of `flowtrace.keeping` that is executed as the ``at``-th.

    Attributes:
        lines: The numbers of the lines that were executed.
    """

    def __init__(self, at: int = -1) -> None:
        self.at, self.lines = at, list[int]()

    def during(self, turn: Callable[[], None]) -> None:
        """Make a turn, and where it is struck another."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            turn()
        except RecursionError:
            sys.settrace(before)
            turn()
        finally:
            sys.settrace(before)

    def _trace(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != keeping.__file__:
            return None
        if event == "line":
            self.lines.append(frame.f_lineno)
            if len(self.lines) == self.at:
                raise RecursionError
        return self._trace


def run(steps: list[Step], max_records: int, strike: Strike) -> Program:
    """A program to its end, in which an error may strike."""
    program = Program(Terms(50 * MS, True, 150 * MS, max_records * (HELD_BYTES + 4)))
    for step in steps:
        do(program, step, lambda: strike.during(program.turn))
    strike.during(program.end)
    for span in [*program.open]:
        program.leave(span)
    program.end()
    return program


def assert_same(struck: Program, unharmed: Program) -> None:
    """What is delivered in the end is the same, and once."""
    assert sorted(map(repr, struck.delivered)) == sorted(map(repr, unharmed.delivered))
    assert struck.balance == unharmed.balance == (0, 0)
    assert_closed(struck)
    assert_consistent(struck.keeper)


@given(steps=steps, max_records=st.sampled_from([3, 8, AMPLE]), share=st.floats(0, 1))
@settings(deadline=None, max_examples=200)
def test_error_in_the_midst_loses_and_doubles_nothing(steps: list[Step], max_records: int, share: float) -> None:
    """It may strike at any line, as when the program leaves no room: what is delivered is the same."""  # fault C7
    everywhere = Strike()
    unharmed = run(steps, max_records, everywhere)
    struck = run(steps, max_records, Strike(round(1 + share * (len(everywhere.lines) - 1))))
    assert_same(struck, unharmed)


def test_error_may_strike_each_line() -> None:
    """In a program that leads through almost all of the keeper, at each line there, the first time and the last."""
    choose = random.Random(7)
    names = ["enter", "below", "below", "late", "leave", "leave", "leave", "raise", "wait", "turn", "turn", "state"]
    steps = [(name, choose.randrange(1, 100)) for name in choose.choices(names, k=150)]
    everywhere = Strike()
    unharmed = run(steps, 12, everywhere)
    lines = everywhere.lines
    assert len({*lines}) > 150

    first = {line: at for at, line in reversed([*enumerate(lines, 1)])}
    last = {line: at for at, line in enumerate(lines, 1)}
    for at in sorted({*first.values(), *last.values()}):
        assert_same(run(steps, 12, Strike(at)), unharmed)
