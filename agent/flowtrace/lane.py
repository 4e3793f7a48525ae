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
from typing import NamedTuple

from flowtrace import threads
from flowtrace.errors import SinkError
from flowtrace.events import ENTER, STATEMENT, Batch, Record
from flowtrace.hooks import Batching, Sink
from flowtrace.late import orjson
from flowtrace.losses import Loss, Losses
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
    """What of one or several chunks waits for a sink, and the number of the last of these."""

    batch: Batch
    calls: int
    number: int

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
        self._max_bytes, self._block_s = max_bytes, block_s
        self._stuck_at = -1  # what was done when the dispatcher waited in vain
        self._new_id, self._warn, self._on_thread, self._on_failure = new_id, warn, on_thread, on_failure
        self._inbox: collections.deque[Waiting] = collections.deque()
        self._news: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._number = self._done_number = 0
        self._offered_bytes = self._done_bytes = self._offered = self.done = 0
        self._dropped: set[int] = set()  # spans of dropped calls that are open: as many as the program has
        self._dropped_and_left: dict[int, None] = {}  # the oldest first; tasks may go on below
        self._stop_at: float | None = None
        self._close_by = 0.0
        self._stopping = _thread.allocate_lock()
        self._ended = _thread.allocate_lock()
        self._is_open = self._is_over = self._is_told = False
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
        if self._dropped or self._dropped_and_left or self._is_full(size):
            batch, calls = self._admitted(chunk)
        batching: Batching | None = getattr(self.sink, "batching", None)
        if batching and len(batch.body) > batching.max_bytes and len(batch) > 1:
            for lines in _parts(batch.lines, batching.max_bytes):
                self._put(Batch(self._new_id(), lines), sum(_ENTER in line[:_HEAD] for line in lines))
        elif batch:
            self._put(batch, calls)

    def _put(self, batch: Batch, calls: int) -> None:
        self._offered_bytes += len(batch.body)
        self._offered += len(batch)
        self._number += 1
        self._inbox.append(Waiting(batch, calls, self._number))
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
        ending = getattr(self.sink, "ending", None)
        if ending is not None and self._stop_at is not None and not self._is_told:
            self._is_told = True
            try:
                ending(self._stop_at)
            except BaseException as error:  # noqa: BLE001
                self._warn(f"sink {self.name}: {_said(error)}")

    def finish(self, deadline: float, last: Callable[[], Batch] | None = None) -> None:
        """Ask the lane to close its sink, by ``deadline``, when it has delivered what it has.

        Args:
            deadline: In seconds of ``time.monotonic()``.
            last: Gives what to deliver last of all, which is in no count; called when all else is done.
        """
        if self._stop_at is None:
            self.end_by(deadline)
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
            parent = record[7]
            if parent in self._dropped or parent in self._dropped_and_left or self._is_full(size):
                self._dropped.add(record[2])
                return False
            return True
        if record[9] in self._dropped:
            self._dropped.discard(record[9])
            self._dropped_and_left[record[9]] = None
            if len(self._dropped_and_left) > MAX_LEFT_SPANS:
                del self._dropped_and_left[next(iter(self._dropped_and_left))]
            return False
        return True

    def _say_again(self, line: bytes) -> None:
        """Have what a LOSS event says in the next one: this one does not reach the sink."""
        loss = orjson.loads(line)
        if loss["sink"] in (None, self.name):
            counts = {"calls": loss["calls"], "size": loss["bytes"]}
            self.losses.add(loss["reason"], loss["events"], **counts, is_counted=True, is_quiet=True)

    # -- the lane's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_over:
                try:
                    self._on_thread()
                    while count := self._gather():
                        self._deliver(count)
                    self._close()
                    self._is_over = True
                except BaseException:  # noqa: BLE001  # whatever strikes: it goes on with what it has at hand
                    self._on_failure()
                    self._is_over = self._is_past_its_time()
                    time.sleep(POLL_S)
        finally:
            if self._is_over:
                self._ended.release()
            else:  # struck while it dealt with what had struck it
                threads.start(self._run)

    def _is_past_its_time(self) -> bool:
        return bool(self._close_by) and time.monotonic() >= self._close_by

    def _gather(self) -> int:
        """How many of those that wait are to become one batch, as the sink's ``batching`` asks; 0: the lane is to end.

        They stay in the inbox until they are counted, so that whatever strikes this thread takes none of them along.
        """
        inbox = self._inbox
        self._count_lost()
        while inbox and inbox[0].number <= self._done_number:
            inbox.popleft()
        while not inbox:
            self._is_hurried = False
            if self._is_to_close:
                return 0
            try:
                self._news.get(timeout=IDLE_FLUSH_S if self._is_open else None)
            except _queue.Empty:
                self._flush()
        batching: Batching | None = getattr(self.sink, "batching", None)
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
                waiting = Waiting(joined, sum(each.calls for each in first), first[-1].number)
            self._at_hand = waiting
        events, size, number = len(waiting.batch), waiting.size, waiting.number
        reason = self._attempt(waiting.batch)
        delivered, lost = (0, (reason, waiting)) if reason else (events, None)
        # one statement without a call, within which nothing strikes: either all of this has happened or nothing
        self._at_hand, self._lost, self._done_number, self.delivered, self._done_bytes, self.done = (
            None, lost, number, self.delivered + delivered, self._done_bytes + size, self.done + events,
        )  # fmt: skip
        self._has_news = self._has_news or (not reason and len(_losses_in(waiting.batch)) < events)
        self._count_lost()
        if self._is_open and self._inbox[-1].number <= number:
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
                problem, after = _said(error), None
                retry = tries < TRIES
                if isinstance(error, SinkError):
                    retry, after = error.retry and time.monotonic() < retry_until, error.retry_after_s
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
            delay = min(max(0.0, after_s), MAX_RETRY_AFTER_S)  # 0.0 first: so not-a-number is 0
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
            self._attempt(self._last())
            self._last = None
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


def _said(error: BaseException) -> str:
    """What an exception says; a plugin's may fail even at that."""
    try:
        text, name = str(error), type(error).__name__
        return text if isinstance(error, SinkError) else f"{name}: {text}" if text else name
    except BaseException:  # noqa: BLE001
        return type(error).__name__
