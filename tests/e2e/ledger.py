"""Audits trace files: whether everything is there once, in order and in closed trees, or counted as lost.

It reads the files as streams and trusts only ``seq``: what is missing between START and STOP has to be what the LOSS
events say and what STOP says. Files of any size and number, rotated or not: it keeps a byte for each event, and besides
only the calls that are open and the parents that are not. For traces with `keep`, which are written tree by tree, there
is no order to look at.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson

MOST_PROBLEMS = 50  # that are remembered: one mistake may make a million
NO_THREAD = "0"  # of a call that was closed for want of better

Event = dict[str, Any]


class Line(NamedTuple):
    """A line of a trace: where it stands, as ``name:number``, and its bytes with the newline, if it has one."""

    place: str
    text: bytes


class Call(NamedTuple):
    """A call that was entered and not left."""

    seq: int
    thread: str
    trace: str
    parent: str | None
    is_within: bool  # its parent was open, and in the same thread, when it was entered


class Orphan(NamedTuple):
    """The first call below a parent that was not open then: another process, another thread, or a mistake."""

    place: str
    pid: int
    thread: str
    task: str | None


@dataclass
class Account:
    """What is known of one process from its START to its STOP.

    Attributes:
        place: Where it begins.
        lines: How many, START and STOP included.
        calls: How many were entered.
        reported: Events that LOSS events count for this sink.
        elsewhere: The same for each sink, and under None for all, without what is repeated.
        missing: Numbers that stand on no line, up to STOP or to the greatest.
        stop: The STOP event; None where the process was killed.
        open: Calls that were entered and not left, by span id.
    """

    pid: int
    place: str
    first: int
    lines: int = 0
    calls: int = 0
    reported: int = 0
    missing: int = 0
    stop: Event | None = None
    open: dict[str, Call] = field(default_factory=dict)
    numbers: bytearray = field(default_factory=bytearray, repr=False)
    last_of: dict[str, int] = field(default_factory=dict, repr=False)
    elsewhere: dict[str | None, int] = field(default_factory=dict, repr=False)

    @property
    def lost(self) -> int:
        """Events that STOP, or without one the LOSS events, say are lost."""
        return sum(self.stop["lost"].values()) if self.stop else self.reported


@dataclass
class Audit:
    """What was found.

    Attributes:
        accounts: One for each process, in the order of their START.
        problems: What is wrong, each with its place; the first `MOST_PROBLEMS` of ``found`` ones.
        torn: Places of lines that are no JSON, as a crash leaves at the end of a file: one for each crash.
    """

    accounts: list[Account] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    found: int = 0
    torn: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Calls of all processes."""
        return sum(account.calls for account in self.accounts)

    def add(self, place: str, what: str) -> None:
        """One more problem."""
        self.found += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{place}: {what}")


def audit(
    traces: Path | Mapping[str, Iterable[bytes]], *, sink: str = "file", ordered: bool = True, ended: bool = True,
    carried: bool = False, elsewhere: Iterable[str] = (),
) -> Audit:  # fmt: skip
    """Read traces and find what is wrong with them.

    Args:
        traces: A folder with the files of one sink (``*.jsonl``, rotated ones included), or lines by a file's name.
        sink: The name of that sink.
        ordered: Whether lines of a thread must be in order of ``seq``: not with `keep`.
        ended: Whether each process must have its STOP.
        carried: Whether a call may come after its parent's end in the same thread without being in a task: so in
            programs that run functions in copied contexts, and in callbacks of an event loop.
        elsewhere: Ids of spans that are in none of these files, and may be parents all the same.
    """
    result = Audit()
    orphans: dict[str, Orphan] = {}
    for name in _names(traces):
        _File(result, orphans, sink=sink, ordered=ordered).read(_lines(traces, name))
    for account in result.accounts:
        _balance(account, sink, result, ended=ended)
    for span in elsewhere:
        orphans.pop(span, None)
    _find_parents(traces, orphans, result, carried=carried)
    return result


def assert_balanced(traces: Path | Mapping[str, Iterable[bytes]], *, torn: int = 0, **options: Any) -> Audit:
    """`audit`, and fail with all that it found; at most ``torn`` lines may be torn."""
    result = audit(traces, **options)
    told = "\n".join(result.problems)
    assert result.accounts, f"nothing was traced in {traces}"
    assert not result.found, f"{result.found} problems, among them:\n{told}"
    assert len(result.torn) <= torn, f"torn lines: {result.torn}"
    return result


class _File:
    """Reads the lines of one path, and takes the accounts of the processes that wrote there."""

    def __init__(self, audit: Audit, orphans: dict[str, Orphan], *, sink: str, ordered: bool) -> None:
        self._audit, self._orphans, self._sink, self._ordered = audit, orphans, sink, ordered
        self._of: dict[int, Account] = {}

    def read(self, lines: Iterable[Line]) -> None:
        for place, text in lines:
            event = _event(text)
            if event is None:
                self._audit.torn.append(place)
            else:
                self._take(event, place)

    def _take(self, event: Event, place: str) -> None:
        kind, pid = event["event"], event["pid"]
        if kind == "START":
            self._of[pid] = Account(pid, place, event["seq"])
            self._audit.accounts.append(self._of[pid])
        account = self._of.get(pid)
        if account is None:
            self._audit.add(place, f"process {pid} begins with {kind}, not with START")
            account = self._of[pid] = Account(pid, place, event["seq"])
            self._audit.accounts.append(account)
        if account.stop is not None:
            self._audit.add(place, f"{kind} {event['seq']} of process {pid} comes after its STOP")
        account.lines += 1
        self._count(account, event, place)
        if kind == "ENTER":
            self._enter(account, event, place)
        elif kind in ("EXIT", "EXCEPTION"):
            self._leave(account, event, place)
        elif kind == "LOSS":
            of, events = event["sink"], event["events"]
            account.reported += events if of in (None, self._sink) else 0
            account.elsewhere[of] = account.elsewhere.get(of, 0) + (0 if event["repeated"] else events)
        elif kind == "STOP":
            account.stop = event

    def _count(self, account: Account, event: Event, place: str) -> None:
        seq, thread, numbers = event["seq"], event["thread"], account.numbers
        index = seq - account.first
        if index < 0:
            self._audit.add(place, f"{seq} is less than the {account.first} that process {account.pid} began with")
            return
        if index >= len(numbers):
            numbers.extend(bytes(max(index + 1 - len(numbers), len(numbers) // 8)))
        if numbers[index]:
            self._audit.add(place, f"{seq} of process {account.pid} is there twice")
        numbers[index] = 1
        last = account.last_of.get(thread, -1)
        if self._ordered and seq < last and thread != NO_THREAD:
            self._audit.add(place, f"{seq} comes after {last} in thread {thread} of process {account.pid}")
        account.last_of[thread] = seq

    def _enter(self, account: Account, event: Event, place: str) -> None:
        span, parent, thread = event["spanId"], event["parentId"], event["thread"]
        above = account.open.get(parent)
        if above is None and parent is not None:
            self._orphans.setdefault(parent, Orphan(place, account.pid, thread, event.get("task")))
        elif above is not None and above.trace != event["traceId"]:
            self._audit.add(place, f"{span} is of trace {event['traceId']}, its parent {parent} of {above.trace}")
        if span in account.open:
            self._audit.add(place, f"{span} is entered twice")
        is_within = above is not None and above.thread == thread
        account.open[span] = Call(event["seq"], thread, event["traceId"], parent, is_within)
        account.calls += 1

    def _leave(self, account: Account, event: Event, place: str) -> None:
        span, thread = event["spanId"], event["thread"]
        call = account.open.pop(span, None)
        if call is None:
            self._audit.add(place, f"{span} is left, and was not entered or was left before")
            return
        if (call.parent, call.trace) != (event["parentId"], event["traceId"]):
            self._audit.add(place, f"{span} is left below another parent or in another trace than it was entered")
        if event["seq"] < call.seq:
            self._audit.add(place, f"{span} is left with number {event['seq']}, entered with {call.seq}")
        is_plain = "activeMicros" not in event and call.thread == thread
        if self._ordered and is_plain and call.is_within and call.parent not in account.open:
            self._audit.add(place, f"{span} is left after its parent {call.parent}")


def _balance(account: Account, sink: str, audit: Audit, *, ended: bool) -> None:
    """Compare what is missing with what is said to be."""

    def want(what: str, value: int, other: str, wanted: int) -> None:
        if value != wanted:
            audit.add(account.place, f"process {account.pid}: {what} {value}, {other} {wanted}")

    stop = account.stop
    if stop is None:
        account.missing = account.numbers.rstrip(b"\0").count(0)
        if ended:
            audit.add(account.place, f"process {account.pid} has no STOP")
        return
    size = stop["seq"] - account.first
    account.missing = account.numbers[:size].count(0)
    if len(account.numbers.rstrip(b"\0")) > size + 1:
        audit.add(account.place, f"process {account.pid}: STOP has not the greatest number")
    delivered, lost, discarded = stop["delivered"].get(sink, -1), stop["lost"].get(sink, -1), stop["discardedEvents"]
    want("STOP has recorded", stop["recorded"], "numbers from START to STOP are", size)
    want("STOP has recorded", stop["recorded"], "delivered + lost + discarded are", delivered + lost + discarded)
    want("STOP has delivered", delivered, "lines before it are", account.lines - 1)
    want("STOP has lost and discarded", lost + discarded, "missing are", account.missing)
    want("LOSS and discarded are", account.reported + discarded, "missing are", account.missing)
    for other, events in stop["lost"].items():
        told = account.elsewhere.get(None, 0) + account.elsewhere.get(other, 0)
        if told > events and other != sink:
            audit.add(
                account.place, f"process {account.pid}: LOSS events of {other} are {told}, STOP has lost {events}"
            )
    if len(account.open) > stop["openCalls"]:
        some = list(account.open)[:3]
        audit.add(account.place, f"process {account.pid}: {len(account.open)} calls are never left, such as {some}")


def _find_parents(
    traces: Path | Mapping[str, Iterable[bytes]], orphans: dict[str, Orphan], audit: Audit, *, carried: bool
) -> None:
    """A second reading, where it is needed: were the parents that were not open entered elsewhere, or before?"""
    lines = (line for name in _names(traces) for line in _lines(traces, name)) if orphans else ()
    for place, text in lines:
        event = _event(text)
        if event is None or event["event"] != "ENTER" or event["spanId"] not in orphans:
            continue
        orphan = orphans.pop(event["spanId"])
        together = (event["pid"], event["thread"], None) == (orphan.pid, orphan.thread, orphan.task)
        if together and not carried:
            audit.add(orphan.place, f"below {event['spanId']} of {place}, in the same thread, which was not open")
    for span, orphan in orphans.items():
        audit.add(orphan.place, f"below {span}, which was never entered")


# -- files -----------------------------------------------------------------------------------------------------------

_ROTATED = re.compile(r"(?P<path>.*\.jsonl)(\.(?P<number>\d+))?(?P<packed>\.gz)?")


def _event(text: bytes) -> Event | None:
    """The event of a line; None where it is torn."""
    try:
        event = orjson.loads(text) if text.endswith(b"\n") else None
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _names(traces: Path | Mapping[str, Iterable[bytes]]) -> list[str]:
    """The paths that were written to, without those that rotation has made of them."""
    if isinstance(traces, Path):
        found = (_ROTATED.fullmatch(path.name) for path in traces.iterdir())
        return sorted({match["path"] for match in found if match})
    return list(traces)


def _lines(traces: Path | Mapping[str, Iterable[bytes]], name: str) -> Iterator[Line]:
    if not isinstance(traces, Path):
        for number, text in enumerate(traces[name], 1):
            yield Line(f"{name}:{number}", text)
        return
    for path in _oldest_first(traces, name):
        with _open(path) as file:
            for number, text in enumerate(file, 1):
                yield Line(f"{path.name}:{number}", text)


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _oldest_first(folder: Path, name: str) -> list[Path]:
    """All files that were once ``name``: the greater the number, the older."""
    found = [(path, _ROTATED.fullmatch(path.name)) for path in folder.iterdir()]
    own = [(int(match["number"] or 0), path) for path, match in found if match and match["path"] == name]
    return [path for _, path in sorted(own, reverse=True)]
