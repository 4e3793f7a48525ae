"""Tail rules: calls wait here, in bounded memory, until it is known whether they were slow or have failed.

A *tree* is a call below no open one, with all that is called below it. When all its calls have ended and none has
followed for a moment, it is decided: delivered whole, or discarded and counted. One that takes too long, or for which
there is no room, is *split*: its open calls become *stems*, and what has ended below them is decided part by part; from
then on, each call that begins directly below a stem begins a tree of its own.

This is a state machine of one thread, the dispatcher's. An error may strike it anywhere, as the recursion limit of the
program or its memory does: a record is taken by one statement that stores all that it changes, and a decision is worked
out first, as a `_Plan`, and carried out by steps that may be repeated.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable

from flowtrace.events import ENTER, EXCEPTION, STATEMENT, Record
from flowtrace.lane import MAX_LEFT_SPANS
from flowtrace.typed import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from flowtrace.config import Keep

LINGER_NS = 100_000_000  # a task that was made last in a request begins when the request is over
HELD_BYTES = 300  # of a record that waits, beside what it counted for on the queue; measured with tracemalloc


class Terms(NamedTuple):
    """What is to be delivered, and how much may wait for how long: `flowtrace.config.Keep` in plain numbers."""

    slower_than_ns: int | None
    errors: bool
    max_wait_ns: int
    max_bytes: int


EVERYTHING = Terms(-1, True, 0, 0)  # at once


def terms(keep: Keep | None) -> Terms:
    """The terms of a configuration."""
    return Terms(keep.slower_than, keep.errors, keep.max_wait, keep.max_bytes) if keep else EVERYTHING


@final
class Stem:
    """A call of a tree that was split: it was open then, or a call that it led to.

    Attributes:
        above: The stem that it is directly below; one that stands for nothing, if there is none.
        below: How many stems and trees are directly below.
        held: Its ENTER, and its EXIT if it has left; empty as soon as it is delivered.
        has_left: Whether its EXIT has come.
    """

    __slots__ = ("above", "below", "has_left", "held", "span")

    def __init__(self, span: int, above: Stem | None, held: tuple[Record, ...], *, has_left: bool) -> None:
        self.span, self.held, self.has_left = span, held, has_left
        self.above = above or self
        self.below = 0


@final
class Tree:
    """Calls that are decided together.

    Attributes:
        root: The span of the first call.
        above: The stem that this is directly below, or one that stands for nothing.
        is_cut: The call above was not delivered, and will not be: the root is shown without it.
        records: By number.
        open: How many calls have not left.
        took_ns: The duration of the root, when it has left.
        ended_ns: When the last call has left.
    """

    __slots__ = ("above", "ended_ns", "failed", "is_cut", "open", "records", "root", "since_ns", "took_ns")

    def __init__(self, root: int, since_ns: int, above: Stem, *, is_cut: bool) -> None:
        self.root, self.since_ns, self.above, self.is_cut = root, since_ns, above, is_cut
        self.records: dict[int, Record] = {}
        self.open = self.ended_ns = 0
        self.failed = False
        self.took_ns: int | None = None


class Keeper:
    """Holds records back, and decides.

    Args:
        terms: What is to be delivered; may be set anew at any time.
        first: Calls with a smaller number are known elsewhere: in another process, or before there were any terms.

    Attributes:
        held_bytes: The size of what waits for a decision.
        discarded_calls: How many calls are discarded.
        discarded_events: How many records.
    """

    def __init__(self, terms: Terms, *, first: int) -> None:
        self.terms = terms
        self.held_bytes = self.discarded_calls = self.discarded_events = 0
        self._first = first
        self._ground = Stem(-1, None, (), has_left=False)  # below all trees that are below no call
        self._places: dict[int, Tree | Stem] = {}  # of each call that waits, is open, or has something open below
        self._trees: OrderedDict[int, Tree] = OrderedDict()  # by root, as all these
        self._ended: OrderedDict[int, Tree] = OrderedDict()  # those of them in which nothing is open
        self._stems: OrderedDict[int, Stem] = OrderedDict()  # those that are not delivered
        self._delivered: OrderedDict[int, None] = OrderedDict()  # calls that have left: tasks may go on below
        self._ready: dict[int, Record] = {}  # to be delivered in this order
        self._batch: list[Record] = []
        self._taken = 0  # of these
        self._plan: _Plan | None = None

    def take(self, records: list[Record]) -> None:
        """Take records in the order of the queue; after an error, the same list once more takes the rest."""
        self._carry_out()
        if records is not self._batch:
            self._batch, self._taken = records, 0
        while self._taken < len(records):
            if self.held_bytes > self.terms.max_bytes:
                self._make_room()
            record = records[self._taken]
            if record[0] == STATEMENT:
                self._pass(record)
            elif record[0] == ENTER:
                self._enter(record)
            else:
                self._leave(record)
        self._make_room()

    def settle(self, now_ns: int) -> None:
        """Decide what is due. All that was recorded before ``now_ns`` has been taken."""
        self._carry_out()
        self._batch, self._taken = [], 0
        self._make_room()
        while self._ended:
            tree = next(iter(self._ended.values()))
            if tree.open:
                self._ended.pop(tree.root, None)
            elif now_ns - tree.ended_ns < LINGER_NS:
                break
            else:
                self._decide(tree)
        while self._trees:
            tree = next(iter(self._trees.values()))
            if now_ns - tree.since_ns < self.terms.max_wait_ns:
                break
            self._decide(tree)

    def end(self, now_ns: int) -> None:
        """Decide everything, as if what is open ended now."""
        self._carry_out()
        while self._trees:
            self._decide(next(iter(self._trees.values())), now_ns)
        while self._stems:
            stem = next(reversed(self._stems.values()))  # before those above, which may go with it
            plan = _Plan()
            if not stem.has_left and self._is_wanted(now_ns - stem.held[0][3], failed=False):
                plan.deliver_stem(stem)
            else:
                plan.discarded += stem.held
                plan.gone.append(stem.span)
                plan.relieve(stem.above)
            self._carry_out(plan)

    def batch(self, most: int) -> list[Record]:
        """What is to be delivered next; the same until it is `sent`."""
        self._carry_out()
        return list(itertools.islice(self._ready.values(), most))

    def sent(self, records: Iterable[Record]) -> None:
        """These have been delivered."""
        for record in records:
            self._ready.pop(record[2], None)
        if not self._ready:
            self._ready.clear()  # gives the memory back, too

    # -- one record ----------------------------------------------------------------------------------------------

    def _pass(self, record: Record) -> None:
        self._ready[record[2]], self._taken = record, self._taken + 1

    def _enter(self, record: Record) -> None:
        span, parent = record[2], record[7]
        place = self._places.get(parent)
        if type(place) is Tree:
            self._places[span] = place
            place.records[span], place.open, self.held_bytes, self._taken = (
                record, place.open + 1, self.held_bytes + _size(record), self._taken + 1,
            )  # fmt: skip
        elif span < self._first:
            self._pass(record)
        else:
            self._enter_root(record, place or self._ground)

    def _enter_root(self, record: Record, above: Stem) -> None:
        span, parent = record[2], record[7]
        is_late = above is self._ground and type(parent) is int and parent >= self._first
        is_cut = is_late and parent not in self._delivered
        if is_cut:
            record = _cut(record)
        elif is_late:
            self._delivered.move_to_end(parent)
        tree = Tree(span, record[3], above, is_cut=is_cut)
        self._trees[span] = self._places[span] = tree
        tree.records[span], tree.open, above.below, self.held_bytes, self._taken = (
            record, 1, above.below + 1, self.held_bytes + _size(record), self._taken + 1,
        )  # fmt: skip

    def _leave(self, record: Record) -> None:
        span = record[9]
        place = self._places.get(span)
        if type(place) is Tree:
            if span == place.root:
                place.took_ns = record[10]
                record = _cut(record) if place.is_cut else record
            if record[0] == EXCEPTION:
                place.failed = True
            if place.open == 1:
                place.ended_ns = record[3]
                self._ended[place.root] = place
                self._ended.move_to_end(place.root)
            place.records[record[2]], place.open, self.held_bytes, self._taken = (
                record, place.open - 1, self.held_bytes + _size(record), self._taken + 1,
            )  # fmt: skip
        elif type(place) is Stem:
            self._leave_stem(place, record)
        elif span < self._first:
            self._pass(record)
        else:  # discarded when the process was about to end
            self.discarded_events, self._taken = self.discarded_events + 1, self._taken + 1

    def _leave_stem(self, stem: Stem, record: Record) -> None:
        plan = _Plan()
        plan.arrived = record
        if not stem.held or self._is_wanted(record[10], failed=record[0] == EXCEPTION):
            plan.deliver_stem(stem)
            plan.delivered.append(record)
        elif not stem.below:
            plan.discarded += (*stem.held, record)
        plan.left = stem, (*stem.held, record) if stem.below and not plan.delivered else ()
        if not stem.below:
            plan.gone.append(stem.span)
            if plan.delivered:
                plan.left_delivered.append(stem.span)
            plan.relieve(stem.above)
        self._carry_out(plan)

    # -- decisions -----------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """What is decided anyway goes first, then the oldest."""
        while self.held_bytes > self.terms.max_bytes and (self._trees or self._stems):
            tree: Tree | None = next(iter(self._ended.values()), None)
            if tree and tree.open:
                self._ended.pop(tree.root, None)
                continue
            tree = tree or next(iter(self._trees.values()), None)
            stem = next(iter(self._stems.values()), None)
            if tree and not (stem and tree.open and stem.span < tree.root):
                self._decide(tree)
            elif stem:
                plan = _Plan()  # it can neither be decided nor wait
                plan.deliver_stem(stem)
                self._carry_out(plan)

    def _is_wanted(self, took_ns: int | None, *, failed: bool) -> bool:
        slower_than_ns = self.terms.slower_than_ns
        is_slow = slower_than_ns is not None and took_ns is not None and took_ns > slower_than_ns
        return is_slow or (failed and self.terms.errors)

    def _decide(self, tree: Tree, now_ns: int | None = None) -> None:
        """Deliver or discard a tree, or split it; with ``now_ns``, its root counts as ended then."""
        took_ns = tree.took_ns if now_ns is None or tree.took_ns is not None else now_ns - tree.since_ns
        is_wanted = self._is_wanted(took_ns, failed=tree.failed)
        plan = _Plan()
        plan.tree = tree
        if tree.open:
            self._split(tree, plan, is_whole=is_wanted and now_ns is not None)
        else:
            plan.gone += [seq for seq, record in tree.records.items() if record[0] == ENTER]
            if is_wanted:
                plan.deliver_stem(tree.above)
                plan.delivered += tree.records.values()
                plan.left_delivered += plan.gone
            else:
                plan.discarded += tree.records.values()
            plan.relieve(tree.above)
        self._carry_out(plan)

    def _split(self, tree: Tree, plan: _Plan, *, is_whole: bool) -> None:
        """Make stems of the open calls and of those that led to them, decide the parts; or deliver all that is there.

        A part is a call that has left, with all calls below it that no open one is between.
        """
        enters = {seq: record for seq, record in sorted(tree.records.items()) if record[0] == ENTER}
        leaves = {record[9]: record for record in tree.records.values() if record[0] != ENTER}
        onward: set[int] = set()
        parts: dict[int, int] = {}  # to its first call, for each call that has left
        wanted: set[int] = set()
        for span, enter in enters.items():  # a call has a greater number than the one above it
            if span in leaves:
                leave = leaves[span]
                part = parts[span] = parts.get(enter[7], span)
                if self._is_wanted(leave[10] if part == span else None, failed=leave[0] == EXCEPTION):
                    wanted.add(part)
            else:
                above: int | str | None = span
                while above in enters and above not in onward:
                    onward.add(int(above))
                    above = enters[int(above)][7]
        stems: dict[int, Stem] = {}
        for span, enter in enters.items():
            records = (enter, leaves[span]) if span in leaves else (enter,)
            is_wanted = is_whole or parts.get(span) in wanted
            stem = tree.above if span == tree.root else stems.get(enter[7])
            if span in onward:
                stem = stems[span] = Stem(span, stem, records, has_left=span in leaves)
                plan.stems.append(stem)
                stem.above.below += span != tree.root  # as which it counts already
            elif is_wanted:
                plan.delivered += records
                plan.left_delivered.append(span)
            else:
                plan.discarded += records
            if span not in onward:
                plan.gone.append(span)
            if is_wanted and stem is not None:
                plan.deliver_stem(stem)

    def _carry_out(self, plan: _Plan | None = None) -> None:
        """Do what was decided; without ``plan``, what an error has kept from being done."""
        if plan is not None:
            self._plan = plan
        plan = self._plan
        if plan is None:
            return
        for record in sorted(plan.delivered, key=_seq):
            self._ready[record[2]] = record
        for span in plan.gone:
            self._places.pop(span, None)
            self._stems.pop(span, None)
        for span, stem in plan.told.items():
            stem.held = ()
            self._stems.pop(span, None)
        for stem in plan.stems:
            self._places[stem.span] = stem
            if stem.held:
                self._stems[stem.span] = stem
        for span in plan.left_delivered:
            self._delivered[span] = None
        while len(self._delivered) > MAX_LEFT_SPANS:
            self._delivered.popitem(last=False)
        if plan.left:
            plan.left[0].has_left, plan.left[0].held = True, plan.left[1]
        if plan.relieved:
            plan.relieved.below = plan.below
        if plan.tree:
            self._trees.pop(plan.tree.root, None)
            self._ended.pop(plan.tree.root, None)
        held_bytes = self.held_bytes - sum(map(_size, plan.delivered)) - sum(map(_size, plan.discarded))
        taken = self._taken
        if plan.arrived:
            held_bytes, taken = held_bytes + _size(plan.arrived), taken + 1
        calls = sum(record[0] == ENTER for record in plan.discarded)
        self.held_bytes, self.discarded_calls, self.discarded_events, self._taken, self._plan = (
            held_bytes, self.discarded_calls + calls, self.discarded_events + len(plan.discarded), taken, None,
        )  # fmt: skip


class _Plan:
    """What a decision changes.

    Attributes:
        tree: What was decided.
        delivered: Records that are to be delivered.
        discarded: Records that are not.
        gone: The calls that need no place any more.
        left_delivered: Those that are delivered among them.
        told: The stems all of whose records are among the delivered ones.
        stems: New stems.
        left: A stem that has left, and what is held of it from now on.
        relieved: The stem that has ``below`` stems and trees below it from now on.
        arrived: The record that caused the decision, if it was not held yet.
    """

    __slots__ = (
        "arrived", "below", "delivered", "discarded", "gone", "left", "left_delivered", "relieved", "stems", "told",
        "tree",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tree: Tree | None = None
        self.delivered: list[Record] = []
        self.discarded: list[Record] = []
        self.gone: list[int] = []
        self.left_delivered: list[int] = []
        self.told: dict[int, Stem] = {}
        self.stems: list[Stem] = []
        self.left: tuple[Stem, tuple[Record, ...]] | None = None
        self.relieved: Stem | None = None
        self.below = 0
        self.arrived: Record | None = None

    def deliver_stem(self, stem: Stem) -> None:
        """Deliver what is held of a stem, and of those above it."""
        while stem.held and stem.span not in self.told:
            self.told[stem.span] = stem
            self.delivered += stem.held
            stem = stem.above

    def relieve(self, stem: Stem) -> None:
        """One of those below ``stem`` is gone; if it was the last and the stem has left, the stem goes too."""
        while stem.has_left and stem.below == 1:
            self.gone.append(stem.span)
            if stem.held and stem.span not in self.told:
                self.discarded += stem.held
            else:
                self.left_delivered.append(stem.span)
            stem = stem.above
        self.relieved, self.below = stem, stem.below - 1


def _seq(record: Record) -> int:
    number: int = record[2]
    return number


def _size(record: Record) -> int:
    size: int = record[-1]
    return size + HELD_BYTES


def _cut(record: Record) -> Record:
    """The record of a call without the one above it."""
    return (*record[:7], None, *record[8:])
