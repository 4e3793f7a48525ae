"""A lane: one sink, its thread, and the batches that wait for it.

Each sink has a thread of its own, so one that is slow, hangs or fails delays nobody else. What waits for it is bounded
in bytes. When the bound is reached, calls are dropped as the recorder drops them: a whole subtree from its ENTER on,
so that what the sink gets stays closed; each is counted, per sink.

Threads are raw ones: `threading.enumerate` does not show them, gevent does not turn them into greenlets, and the
interpreter does not wait for them. A lane is told to finish, and given a deadline.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

from flowtrace import threads
from flowtrace.errors import SinkError
from flowtrace.events import ENTER, STATEMENT, Batch, Record
from flowtrace.hooks import Batching, Sink
from flowtrace.late import orjson
from flowtrace.losses import Loss, Losses
from flowtrace.typed import Any, NamedTuple
from flowtrace.unpatched import _queue, _thread, chance, time

MAX_LEFT_SPANS = 16_384  # of dropped calls that have ended, remembered per lane for what tasks still do below them
TRIES = 3  # of a batch that a sink fails to take for no stated reason
FAILED_BATCHES = 5  # in a row, then the sink is left out for a while
LEFT_OUT_S = 30.0
IDLE_FLUSH_S = 1.0
MAX_RETRY_AFTER_S = 300.0
MAX_RETRY_S = 300.0  # after so long, a batch that the sink still hopes to take is given up: those behind it wait
POLL_S = 0.002
LOSS_SHARE = 16  # of the bound, so much more is for LOSS events
_LOSS, _ENTER, _HEAD = b'"event":"LOSS"', b'"event":"ENTER"', 60  # so near to its beginning a line says what it is
STARVED = (RecursionError, MemoryError)  # in a thread of ours: what the program leaves it is too little at the moment
MAX_STARVED_S = 10.0  # then such an error is the sink's own
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.1, 30.0


class Chunk(NamedTuple):
    """What the dispatcher hands to all lanes: a batch, its records, and how many of these are ENTERs."""

    batch: Batch
    records: list[Record]
    calls: int


class Waiting(NamedTuple):
    """What of a chunk waits for a sink, and how many events had been offered to it with the last of these."""

    batch: Batch
    calls: int
    upto: int

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.batch.body)


class Lane:
    """Delivers to one sink.

    Args:
        name: What the config calls the sink, with its position where there are several of one type.
        max_bytes: How much may wait.
        new_id: Gives an id for a batch.
        warn: Says one line to the person at the terminal.
        on_thread: Is called first on the lane's thread.
        on_failure: Counts what has struck this lane's own code.
        block_s: Above 0, the dispatcher waits for room instead of dropping, unless the sink takes nothing for so long.

    Attributes:
        delivered: Events that the sink's ``write`` has accepted.
        losses: Those that it did not get.
        while_full: What the one who offers does again and again, while he waits for room.
        done: Events that were offered and are delivered or lost; grows.
        threads: How many it has.
    """

    def __init__(
        self, name: str, sink: Sink, *, max_bytes: int, new_id: Callable[[], str],
        warn: Callable[[str], None], on_thread: Callable[[], None], on_failure: Callable[[], None] = lambda: None,
        block_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.name, self.sink = name, sink
        self.delivered = 0
        self.losses = Losses()
        self.while_full: Callable[[], None] = lambda: None
        self.threads = 1
        self._max_bytes, self._block_s = max_bytes, block_s
        self._stuck_at = -1  # what was done when the dispatcher waited in vain
        self._new_id, self._warn, self._on_thread, self._on_failure = new_id, warn, on_thread, on_failure
        self._inbox: collections.deque[Waiting] = collections.deque()
        self._news: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._offered_bytes = self._done_bytes = self._offered = self.done = 0
        self._dropped: set[int] = set()  # spans of dropped calls that are open: as many as the program has
        self._dropped_and_left: dict[int, None] = {}  # the oldest first; tasks may go on below
        self._forgotten = range(0)  # from the first that was dropped to the last that is not remembered any more
        self._first_dropped: int | None = None
        self._open: set[int] = set()  # spans that were let pass since, as many as the program has
        self._stop_at: float | None = None
        self._close_by = 0.0
        self._stopping = _thread.allocate_lock()
        self._ended = _thread.allocate_lock()
        self._told, self._heard = _thread.allocate_lock(), _thread.allocate_lock()  # of the end, and done with it
        self._batching: Batching | None = None
        self._is_open = self._is_over = self._is_told = self._is_known = False
        self._failed_in_a_row, self._left_out_until = 0, 0.0
        self._at_hand: Waiting | None = None  # made of the first of the inbox
        self._lost: tuple[str, Waiting] | None = None  # and not counted yet
        self._is_to_close = self._is_hurried = False
        self._has_news = False  # since a LOSS was said, the sink has accepted anything else
        self._last: Callable[[], Batch] | None = None

    def start(self) -> None:
        """Start the lane's thread.

        Raises:
            RuntimeError: no thread can be started.
        """
        self._stopping.acquire()
        self._told.acquire()
        self._ended.acquire()
        threads.start(self._run)

    # -- the dispatcher's side -----------------------------------------------------------------------------------

    def limit(self, *, max_bytes: int, block_s: float) -> None:
        """Hold to other limits from now on: the configuration was reloaded."""
        self._max_bytes, self._block_s = max_bytes, block_s

    def offer(self, chunk: Chunk) -> None:
        """Queue ``chunk`` for the sink, or as much of it as there is room for."""
        size = len(chunk.batch.body)
        self._wait_for_room(size)
        batch, calls = chunk.batch, chunk.calls
        if self._first_dropped is not None or self._is_full(size):
            batch, calls = self._admitted(chunk)
        if batch:
            self._put(Waiting(batch, calls, self._offered + len(batch)))

    def _put(self, waiting: Waiting) -> None:
        self._offered_bytes, self._offered = self._offered_bytes + waiting.size, waiting.upto
        self._inbox.append(waiting)
        self._news.put(None)

    def _wait_for_room(self, size: int) -> None:
        """Under ``overflow: block``, for as long as the sink takes something now and then."""
        done, since = self.done, time.monotonic()
        while self._block_s and self._is_full(size) and self._stuck_at != self.done:
            now = time.monotonic()
            if self._stop_at is not None and now >= self._stop_at:
                break
            if done != self.done:
                done, since = self.done, now
            elif now - since >= self._block_s:
                self._stuck_at = done
                self._warn(f"sink {self.name}: took nothing for {self._block_s:.3g} s and is not waited for")
            self.while_full()
            time.sleep(POLL_S)

    def end_by(self, deadline: float) -> None:
        """From now on neither wait for room nor between tries longer than until ``deadline`` (``time.monotonic()``)."""
        wakes = self._stop_at is None
        self._stop_at = deadline
        if wakes:
            self._stopping.release()

    def tell_ending(self) -> None:
        """Tell a sink that wants to know that the process is about to end, and when; see `flowtrace.hooks.Sink`."""
        if self._stop_at is not None and not self._is_told:
            self._is_told = True
            self._told.release()

    def finish(self, deadline: float, last: Callable[[], Batch] | None = None) -> None:
        """Ask the lane to close its sink, by ``deadline``, when it has delivered what it has.

        Args:
            deadline: In seconds of ``time.monotonic()``.
            last: Gives what to deliver last of all, which is in no count; called when all else is done.
        """
        if self._stop_at is None:
            self.end_by(deadline)
        self.tell_ending()
        self._close_by, self._last = deadline, last
        self._is_to_close = True
        self._news.put(None)

    def wait_idle(self, deadline: float) -> bool:
        """Wait until all that was offered is delivered or counted as lost."""
        self._is_hurried = True
        self._news.put(None)
        while self.waiting and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return not self.waiting

    def wait_ended(self, deadline: float) -> bool:
        """Wait until the sink is closed and the thread gone."""
        has_ended = self._ended.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if has_ended:
            self._ended.release()
        return has_ended

    @property
    def is_running(self) -> bool:
        """Whether the lane was started and its sink is not closed yet."""
        return self._ended.locked()

    def lose(self, reason: str, events: int) -> None:
        """Take back ``events`` events that the sink had accepted: it lost them after all."""
        self.delivered -= events
        self.losses.add(reason, events, is_quiet=not self._has_news)

    def take_losses(self, *, is_last: bool = False) -> list[Loss]:
        """What is to be said in LOSS events now, for which there is room."""
        taken = self.losses.take(is_last=is_last) if self.takes_losses else []
        if taken:
            self._has_news = False
        return taken

    @property
    def waiting(self) -> int:
        """Events that were offered and are neither delivered nor lost yet."""
        return self._offered - self.done

    @property
    def takes_losses(self) -> bool:
        """Whether there is room for a LOSS event, for which some is kept."""
        return self._offered_bytes - self._done_bytes <= self._max_bytes + self._max_bytes // LOSS_SHARE

    def _is_full(self, size: int) -> bool:
        waiting = self._offered_bytes - self._done_bytes
        return waiting > 0 and waiting + size > self._max_bytes

    def _admitted(self, chunk: Chunk) -> tuple[Batch, int]:
        """The part of a chunk that may pass: no ENTER while there is no room, nothing below one that was dropped."""
        lines: list[bytes] = []
        size = calls = events = lost_size = 0
        for line, record in zip(chunk.batch.lines, chunk.records, strict=True):
            if self._passes(record, size + len(line)):
                lines.append(line)
                size += len(line) + 1
            elif record[0] == STATEMENT:
                self._say_again(line)
                self.losses.add("the sink is too slow", 1, size=len(line) + 1, is_quiet=True)
            else:
                events += 1
                calls += record[0] == ENTER
                lost_size += len(line) + 1
        if events:
            self.losses.add("the sink is too slow", events, calls=calls, size=lost_size)
            self._warn(f"sink {self.name}: takes less than is recorded; what does not fit is left out and counted")
        return Batch(self._new_id() if lines else "", lines), chunk.calls - calls

    def _passes(self, record: Record, size: int) -> bool:
        kind = record[0]
        if kind == STATEMENT:
            return record[1] != "LOSS" or self.takes_losses  # or a sink that hangs would make its lane grow
        if kind == ENTER:
            span, parent = record[2], record[7]
            if parent in self._dropped or parent in self._dropped_and_left or self._is_full(size) or (
                type(parent) is int and parent in self._forgotten and parent not in self._open
            ):  # fmt: skip
                self._first_dropped = span if self._first_dropped is None else min(span, self._first_dropped)
                self._dropped.add(span)
                return False
            if self._first_dropped is not None:
                self._open.add(span)
            return True
        if record[9] in self._dropped:
            self._dropped.discard(record[9])
            self._dropped_and_left[record[9]] = None
            if len(self._dropped_and_left) > MAX_LEFT_SPANS:
                self._forget(next(iter(self._dropped_and_left)))
            return False
        self._open.discard(record[9])
        return True

    def _forget(self, span: int) -> None:
        """What comes below spans from here on back may be below one that was dropped, and is left out as well."""
        del self._dropped_and_left[span]
        assert self._first_dropped is not None
        self._forgotten = range(self._first_dropped, max(span + 1, self._forgotten.stop))

    def _say_again(self, line: bytes) -> None:
        """Have what a LOSS event says repeated, for this sink alone: the others may have got this one."""
        loss = orjson.loads(line)
        if loss["sink"] in (None, self.name):
            counts = {"calls": loss["calls"], "size": loss["bytes"]}
            self.losses.add(loss["reason"], loss["events"], **counts, is_counted=True, is_quiet=True)

    # -- the lane's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._work()
            except BaseException:  # noqa: BLE001  # struck while it dealt with what had struck it
                continue
        self._ended.release()

    def _work(self) -> None:
        while not self._is_over:
            try:
                self._on_thread()
                self._know_sink()
                while count := self._gather():
                    self._deliver(count)
                self._close()
                self._is_over = True
            except BaseException:  # noqa: BLE001  # whatever strikes: it goes on with what it has at hand
                self._on_failure()
                self._is_over = self._is_past_its_time()
                time.sleep(POLL_S)

    def _know_sink(self) -> None:
        """Look what the sink has beside its methods: once, and here, where code of a plugin's holds up no other."""
        if self._is_known:
            return
        try:
            self._batching = _usable(getattr(self.sink, "batching", None))
        except BaseException as error:  # noqa: BLE001
            self._warn(f"sink {self.name}: its batching cannot be used: {_said(error)}")
        ending: Callable[[float], object] | None = None
        try:
            ending = getattr(self.sink, "ending", None)
        except BaseException as error:  # noqa: BLE001
            self._warn(f"sink {self.name}: {_said(error)}")
        self._is_known = True
        if ending is not None:
            self._start_herald(ending)

    def _start_herald(self, ending: Callable[[float], object]) -> None:
        """Have a thread ready that tells the sink of the end: this one may be in a ``write``, and then none can start.

        Where there can be none, the sink is not told.
        """

        def herald() -> None:
            self._on_thread()
            self._told.acquire()
            try:
                ending(self._stop_at or 0.0)
            except BaseException as error:  # noqa: BLE001
                self._warn(f"sink {self.name}: {_said(error)}")
            self.threads = 1
            self._heard.release()

        self._heard.acquire()
        self.threads = 2
        try:
            threads.start(herald)
        except RuntimeError:
            self.threads = 1
            self._heard.release()

    def _is_past_its_time(self) -> bool:
        return bool(self._close_by) and time.monotonic() >= self._close_by

    def _gather(self) -> int:
        """How many of those that wait are to become one batch, as the sink's ``batching`` asks; 0: the lane is to end.

        They stay in the inbox until they are counted, so that whatever strikes this thread takes none of them along.
        """
        inbox = self._inbox
        self._count_lost()
        while inbox and inbox[0].upto <= self.done:
            inbox.popleft()
        while not inbox:
            self._is_hurried = False
            if self._is_to_close:
                return 0
            try:
                self._news.get(timeout=IDLE_FLUSH_S if self._is_open else None)
            except _queue.Empty:
                self._flush()
        batching = self._batching
        if batching and self._at_hand is None and inbox[0].size > batching.max_bytes:
            self._split(batching.max_bytes)
        count, size = 1, inbox[0].size
        until = time.monotonic() + (batching.max_wait_s if batching else 0)
        while batching and self._at_hand is None and size < batching.max_bytes:
            if len(inbox) > count:
                size += inbox[count].size
                if size > batching.max_bytes:
                    break
                count += 1
            elif self._is_hurried or self._is_to_close or (wait := until - time.monotonic()) <= 0:
                break
            else:
                with contextlib.suppress(_queue.Empty):
                    self._news.get(timeout=wait)
        return count

    def _split(self, max_bytes: int) -> None:
        """Put parts in the place of the first of the inbox, which is larger than the sink wants its batches."""
        whole, parts = self._inbox[0], list[Waiting]()
        upto = whole.upto - len(whole.batch)
        for lines in _parts(whole.batch.lines, max_bytes):
            upto += len(lines)
            calls = sum(_ENTER in line[:_HEAD] for line in lines)
            parts.append(Waiting(Batch(self._new_id(), lines), calls, upto))
        if len(parts) > 1:
            *others, last = parts
            others.reverse()
            # between these two nothing strikes
            self._inbox[0] = last
            self._inbox.extendleft(others)

    def _flush(self) -> None:
        try:
            self.sink.flush()
        except BaseException as error:  # noqa: BLE001
            self._warn(f"sink {self.name}: {_said(error)}")

    def _deliver(self, count: int) -> None:
        """Deliver the first of the inbox, or count them as lost."""
        waiting = self._at_hand
        if waiting is None:
            first = [self._inbox[index] for index in range(count)]
            waiting = first[0]
            if count > 1:
                joined = Batch.joined(self._new_id(), [each.batch for each in first])
                waiting = Waiting(joined, sum(each.calls for each in first), first[-1].upto)
            self._at_hand = waiting
        events, size, upto = len(waiting.batch), waiting.size, waiting.upto
        reason = self._attempt(waiting.batch)
        delivered, lost = (0, (reason, waiting)) if reason else (events, None)
        # one statement without a call, within which nothing strikes: either all of this has happened or nothing
        self._at_hand, self._lost, self.delivered, self._done_bytes, self.done = (
            None, lost, self.delivered + delivered, self._done_bytes + size, upto,
        )  # fmt: skip
        self._has_news = self._has_news or (not reason and len(_losses_in(waiting.batch)) < events)
        self._count_lost()
        if self._is_open and self._inbox[-1].upto <= upto:
            self._flush()

    def _count_lost(self) -> None:
        if self._lost is not None:
            reason, waiting = self._lost
            self._lost = None
            said = _losses_in(waiting.batch)
            is_quiet = len(said) == len(waiting.batch)
            self.losses.add(reason, len(waiting.batch), calls=waiting.calls, size=waiting.size, is_quiet=is_quiet)
            for line in said:
                self._say_again(line)

    def _attempt(self, batch: Batch) -> str:
        """Deliver ``batch``, with retries; returns why it was given up, or nothing."""
        now = time.monotonic()
        if now < self._left_out_until:
            return "the sink is left out after failures"
        starved_until, retry_until = now + MAX_STARVED_S, now + MAX_RETRY_S
        tries = 0
        while True:
            try:
                if not self._is_open:
                    self.sink.open()
                    self._is_open = True
                self.sink.write(batch)
            except BaseException as error:  # noqa: BLE001  # a plugin may raise anything, SystemExit included
                if isinstance(error, STARVED) and time.monotonic() < min(starved_until, self._stop_at or math.inf):
                    time.sleep(POLL_S)
                    continue
                tries += 1
                problem, wishes = _said(error), _wishes(error)
                retry, after = tries < TRIES, None
                if wishes is not None:
                    retry, after = wishes[0] and time.monotonic() < retry_until, wishes[1]
            else:
                self._failed_in_a_row = 0
                return ""
            self._warn(f"sink {self.name}: {problem}")
            if not retry:
                return self._gave_up()
            if not self._may_try_again(tries, after):
                return "the process ended"

    def _may_try_again(self, tries: int, after_s: float | None) -> bool:
        """Wait before the next try, with full jitter; False when the time for retries is over."""
        if after_s is None:
            delay = chance() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(tries, 10))
        else:
            delay = min(after_s, MAX_RETRY_AFTER_S)
        if self._stop_at is None:
            if self._stopping.acquire(timeout=delay):
                self._stopping.release()
            return True
        if delay > self._stop_at - time.monotonic():
            return False
        time.sleep(delay)
        return True

    def _gave_up(self) -> str:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILED_BATCHES:
            self._failed_in_a_row = 0
            self._left_out_until = time.monotonic() + LEFT_OUT_S
            self._warn(f"sink {self.name}: left out for {LEFT_OUT_S:.0f} s after {FAILED_BATCHES} failures in a row")
        return "the sink failed"

    def _close(self) -> None:
        if self._last is not None:
            reason = self._attempt(self._last())
            self._last = None
            if not reason:
                self._flush()
        if self._heard.acquire(timeout=max(0.0, self._close_by - time.monotonic())):  # not both at once
            self._heard.release()
        try:
            self.sink.close(self._close_by)
        except BaseException as error:  # noqa: BLE001
            self._warn(f"sink {self.name}: did not close: {_said(error)}")


def _losses_in(batch: Batch) -> list[bytes]:
    """The LOSS events."""
    return [line for line in batch.lines if _LOSS in line[:_HEAD]] if _LOSS in batch.body else []


def _parts(lines: Sequence[bytes], max_bytes: int) -> Iterator[list[bytes]]:
    """Lines in pieces of at most ``max_bytes``, but for single lines that are larger."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) + 1 > max_bytes:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    yield part


def _usable(batching: Any) -> Batching | None:
    """What a sink says of its batches, in numbers; raises whatever comes of what is none."""
    if batching is None:
        return None
    max_bytes, max_wait_s = int(batching.max_bytes), float(batching.max_wait_s)
    if not (max_bytes > 0 and 0 <= max_wait_s <= _thread.TIMEOUT_MAX):
        raise ValueError(f"{max_bytes} bytes within {max_wait_s} s")
    return Batching(max_bytes, max_wait_s)


def _wishes(error: BaseException) -> tuple[bool, float | None] | None:
    """Whether a SinkError wants its batch tried again, and after how many seconds, if it says; None where it is odd.

    What is no time to wait, as it is over, says nothing: to try at once and at once again would keep a processor busy.
    """
    if not isinstance(error, SinkError):
        return None
    try:
        retry, after_s = bool(error.retry), error.retry_after_s
        return retry, float(after_s) if after_s is not None and after_s > 0 else None
    except BaseException:  # noqa: BLE001  # a plugin's own class may lack both, or have made anything of them
        return None


def _said(error: BaseException) -> str:
    """What an exception says; a plugin's may fail even at that."""
    try:
        text, name = str(error), type(error).__name__
        return text if isinstance(error, SinkError) else f"{name}: {text}" if text else name
    except BaseException:  # noqa: BLE001
        return type(error).__name__
