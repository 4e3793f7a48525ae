"""The dispatcher: one thread that takes records off the queue, makes lines of them and offers these to every lane.

It looks at the queue every ``flush.interval``, or as soon as the recorder says that the queue is getting full. Its own
calls are not recorded. Nothing that goes wrong with one record or one lane ends it; where the program's recursion limit
or its memory leaves this thread no room, it goes on later with what it had at hand.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
from collections.abc import Callable, Sequence

from flowtrace import threads
from flowtrace.events import STATEMENT, Batch, Lines, Record, counts, size_of
from flowtrace.lane import POLL_S, STARVED, Chunk, Lane
from flowtrace.late import orjson
from flowtrace.losses import Loss, Losses
from flowtrace.recorder import RECORD_BYTES, Recorder
from flowtrace.typed import TYPE_CHECKING, Any
from flowtrace.unpatched import _queue, _thread, time

if TYPE_CHECKING:
    from flowtrace.config import Keep
    from flowtrace.keeping import Keeper, Terms

MOST_TURN_S = 0.5  # however rarely events are flushed, requests from outside are looked for
BATCH_EVENTS = 2_048  # a batch is handed on when it has so many events,
BATCH_BYTES = 1 << 20  # or about so many bytes
LIMIT_REPORT_NS = 1_000_000_000
RESERVE_S = (0.25, 1.0)  # of the time for shutdown, an eighth is kept for STOP and for closing the sinks, within these
UNDER_WAY_S = 0.05  # so long, at the end, threads that have taken a number have to put its record on the queue


class Dispatcher:
    """Moves records from a recorder's queue to lanes.

    Args:
        recorder: Whose queue to drain.
        lines: Makes a line of a record.
        run: The id of this run; batch ids begin with it.
        interval_ns: How long a record may wait on the queue.
        keep: Which calls are delivered; None: all.
    """

    def __init__(
        self, recorder: Recorder, lines: Lines, *, run: str, interval_ns: int, keep: Keep | None = None
    ) -> None:
        self._recorder, self._lines = recorder, lines
        self._interval_s = min(interval_ns / 1e9, MOST_TURN_S)
        self._name = f"{run}-{os.getpid()}-"
        self._numbers = itertools.count()
        self._wakeup: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._ended = _thread.allocate_lock()
        self._stop_at: float | None = None
        self._turn_at = 0.0
        self._is_running = self._is_over = self._has_ended = False
        self._reported_loss = (0, 0, time.monotonic_ns())
        self._reported_limits: dict[int, tuple[int, int]] = {}  # calls left out so far, and when that was
        self._losses = Losses()  # common to all lanes
        self._open_calls = 0
        self._keeper: Keeper | None = None
        self._terms: Terms | None = None  # for the keeper from the next turn on
        self._taken: list[Record] = []  # off the queue, and neither offered to all lanes nor taken by the keeper
        self._kept: list[Record] = []  # by the keeper, and not yet offered to all lanes
        self._chunk: Chunk | None = None  # made of one of these
        self._offered_to = 0  # so many lanes
        self._end: tuple[int, int] | None = None  # the first number that is not taken any more; what was lost before
        self._stopped: Record | None = None  # STOP, but for what it says
        self._sinks_threads = self._released = 0
        self.lanes: Sequence[Lane] = ()
        self.was_full = False  # the queue, before the end began
        self.after_turn: Callable[[], None] = lambda: None
        self.while_full: Callable[[], None] = lambda: None
        self.uncaptured: Callable[[], int] = lambda: 0
        if keep:
            self.keep(keep)
            self._renew_terms(first=recorder.state.first)

    def new_id(self) -> str:
        """For a batch: the next number of this process."""
        return f"{self._name}{next(self._numbers)}"

    def count_failure(self) -> None:
        """Something has struck a thread of the agent's."""
        self._recorder.state.failures += 1

    def guard_thread(self) -> None:
        """Make the recorder blind to the calling thread, which is one of the agent's own."""
        self._recorder.thread().busy = True

    def start(self, lanes: Sequence[Lane]) -> None:
        """Start the lanes' threads and the dispatcher's.

        Raises:
            RuntimeError: no thread can be started.
        """
        self.lanes = lanes
        self._recorder.state.wake = lambda: self._wakeup.put(None)
        self._recorder.state.moved_ns = self._recorder.clock()
        for lane in lanes:
            lane.while_full = self._while_full
            lane.start()
        self._ended.acquire()
        self._is_running = True
        self._turn_at = time.monotonic() + self._interval_s
        threads.start(self._run)

    def start_thread(self, function: Callable[[], None]) -> None:
        """Run a function of a sink's on a thread of the agent's own.

        Raises:
            RuntimeError: no thread can be started.
        """

        def run() -> None:
            self.guard_thread()
            try:
                function()
            finally:
                self._sinks_threads -= 1

        self._sinks_threads += 1
        try:
            threads.start(run)
        except RuntimeError:
            self._sinks_threads -= 1
            raise

    @property
    def threads(self) -> int:
        """How many threads this process has because of the agent."""
        return sum(lane.threads for lane in self.lanes) + 1 + self._sinks_threads if self._is_running else 0

    @property
    def discarded(self) -> tuple[int, int]:
        """Calls and events that `keep` has discarded."""
        return (self._keeper.discarded_calls, self._keeper.discarded_events) if self._keeper else (0, 0)

    def state(self, name: str, **fields: Any) -> None:
        """Put one of the agent's own events on the queue, from any thread.

        Args:
            name: START, ATTACH, LIMIT or LOSS.
            fields: What it says, in this order, as JSON values.
        """
        recorder, text = self._recorder, _text(**fields)
        size = len(text) + RECORD_BYTES
        recorder.state.queued_bytes += size
        recorder.queue.append((STATEMENT, name, next(recorder.seq), recorder.clock(), recorder.thread().id, text, size))

    def keep(self, keep: Keep | None) -> None:
        """Deliver by these rules from the next turn on; what waits is decided by them."""
        from flowtrace.keeping import terms  # as below: few processes need it

        self._terms = terms(keep)

    def stop(self, timeout_s: float) -> None:
        """Deliver what is there, tell each sink the totals in a STOP event, and close the sinks.

        Args:
            timeout_s: For everything together; what is not delivered then is counted as lost in STOP.
        """
        if self._stop_at is not None:  # the same end is waited for, as where a signal strikes in the midst of it
            self._wait_ended()
        if not self._is_running:
            return
        self._is_running = False
        self._stop_at = time.monotonic() + timeout_s
        state = self._recorder.state
        self.was_full = state.lost_events > 0
        state.max_events, state.wake_at, state.rate = -1, 0, -1.0  # what is called from here on is not recorded
        for lane in self.lanes:
            lane.end_by(self._stop_at - _reserve(timeout_s))
        self._wakeup.put(None)
        self._wait_ended()

    def _wait_ended(self) -> None:
        # a signal handler may have struck right behind the lock, and comes here again
        if not self._has_ended and self._ended.acquire(timeout=max(0.0, (self._stop_at or 0.0) - time.monotonic())):
            self._ended.release()

    def deliver(self, timeout_s: float) -> None:
        """Wait until what is on the queue now is delivered or lost, but no longer than this."""
        state, deadline = self._recorder.state, time.monotonic() + timeout_s
        queued = state.queued_bytes
        while self._is_running and state.drained_bytes < queued and time.monotonic() < deadline:
            if self._wakeup.empty():
                self._wakeup.put(None)
            time.sleep(POLL_S)
        for lane in self.lanes:
            lane.wait_idle(deadline)

    def _run(self) -> None:
        try:
            while not self._is_over:
                try:
                    self._take_turns()
                except BaseException:
                    if self._is_over:
                        raise
                    self._recorder.state.failures += 1  # struck while it dealt with what had struck it
        finally:
            self._has_ended = True
            self._ended.release()

    def _take_turns(self) -> None:
        state = self._recorder.state
        while not self._is_over:
            try:
                self.guard_thread()
                self._is_over = self._step()
            except BaseException as error:
                state.failures += 1
                is_starved = isinstance(error, STARVED)
                is_late = self._stop_at is not None and time.monotonic() >= self._stop_at
                self._is_over = is_late or (state.strict and not is_starved)
                if state.strict and not is_starved:
                    raise
                time.sleep(POLL_S)

    def _step(self) -> bool:
        """A turn, or the end; says whether it was the end."""
        if self._stop_at is not None:
            self._finish(self._stop_at)
            return True
        # from the first turn on, too: a child that was forked to become another program has none; and what strikes
        # the waiting does not put the turn off
        wait_s = self._turn_at - time.monotonic()
        if wait_s > 0:
            with contextlib.suppress(_queue.Empty):
                self._wakeup.get(timeout=wait_s)
                for _ in range(self._wakeup.qsize()):  # however often it was woken, one turn is due
                    self._wakeup.get_nowait()
        if self._stop_at is None:
            self._turn_at = time.monotonic() + self._interval_s
            self._turn()
        return False

    def _turn(self) -> None:
        state = self._recorder.state
        state.woken, state.moved_ns = False, self._recorder.clock()
        self._report_losses()  # first of all: what has become free since is soon taken
        self._drain()
        self._report_limits()
        self.after_turn()

    def _drain(self) -> None:
        queue, now = self._recorder.queue, self._recorder.clock()
        waiting = len(queue)  # and no more: a program that records as fast as this thread encodes must not keep it here
        if self._stopped is not None:
            waiting = 0
        most = min(BATCH_EVENTS, waiting * BATCH_BYTES // max(1, self._queued_bytes) + 1)
        self._send()  # what an error has kept from being sent
        self._renew_terms(first=_next_of(self._recorder.seq))
        while waiting:
            taken = self._taken
            before = len(taken)
            taken.extend(itertools.islice(iter(queue.popleft, None), min(waiting, most - before)))
            waiting -= len(taken) - before
            self._send()
        if self._keeper is not None:
            decide = self._keeper.settle if self._stop_at is None else self._keeper.end
            decide(now)
            self._send()

    @property
    def _queued_bytes(self) -> int:
        return self._recorder.state.queued_bytes - self._recorder.state.drained_bytes

    def _while_full(self) -> None:
        """Called again and again while this thread waits for a lane, under ``overflow: block``."""
        self._recorder.state.moved_ns = self._recorder.clock()  # the lane knows how long to wait
        self.while_full()

    def _renew_terms(self, *, first: int) -> None:
        new = self._terms
        if new is None:
            return
        if self._keeper is not None:
            self._keeper.terms = new
        else:
            from flowtrace.keeping import EVERYTHING, Keeper

            if new is not EVERYTHING:
                self._keeper = Keeper(new, first=first)
        self._terms = None

    def _send(self) -> None:
        """Send what was taken on its way; goes on where an error has stopped it."""
        keeper = self._keeper
        if self._end is not None and self._stopped is None:
            self._drop_late(self._end[0])
        if keeper is None:
            if self._taken:
                self._offer(self._taken)
                # only now there is room again: the bound covers what is encoded, and what `overflow: block` holds back
                self._release()
            return
        if self._taken:
            keeper.take(self._taken)
            self._release()  # what the keeper holds has a bound of its own
        while self._kept or (kept := keeper.batch(BATCH_EVENTS)):
            self._kept = self._kept or kept
            self._offer(self._kept)
            keeper.sent(self._kept)
            self._kept, self._chunk, self._offered_to = [], None, 0

    def _drop_late(self, end: int) -> None:
        """Of what was taken, what was recorded after the end is in no count."""
        late = [record for record in self._taken if record[2] >= end]
        if late:
            rest = [record for record in self._taken if record[2] < end]
            state = self._recorder.state
            state.drained_bytes, self._taken = state.drained_bytes + size_of(late), rest

    def _offer(self, records: list[Record]) -> None:
        if self._chunk is None:
            self._chunk = self._encoded(records)
        while self._chunk.records and self._offered_to < len(self.lanes):
            self.lanes[self._offered_to].offer(self._chunk)
            self._offered_to += 1

    def _release(self) -> None:
        state = self._recorder.state
        self._released += len(self._taken)
        state.drained_bytes, state.moved_ns, self._taken, self._chunk, self._offered_to = (
            state.drained_bytes + size_of(self._taken), self._recorder.clock(), [], None, 0,
        )  # fmt: skip

    def _encoded(self, records: list[Record]) -> Chunk:
        sent = records
        try:
            body, calls, ends = self._lines.body(records)
        except Exception:  # noqa: BLE001  # which of them is it
            body, sent = self._encoded_singly(records)
            calls, ends = counts(sent)
            if len(sent) < len(records):
                lost_calls = counts(records)[0] - calls
                self._losses.add("could not be encoded", len(records) - len(sent), calls=lost_calls)
        self._open_calls += calls - ends
        return Chunk(Batch.of(self.new_id() if sent else "", body, len(sent)), sent, calls)

    def _encoded_singly(self, records: list[Record]) -> tuple[bytes, list[Record]]:
        """The lines that can be made, and their records."""
        lines: list[bytes] = []
        sent: list[Record] = []
        rest = collections.deque(records)
        while rest:
            try:
                lines.append(self._lines.line(rest[0]))
                sent.append(rest[0])
            except STARVED:
                if self._stop_at is not None and time.monotonic() >= self._stop_at:
                    raise
                time.sleep(POLL_S)
                continue
            except Exception:
                if self._recorder.state.strict:
                    raise
            rest.popleft()
        return b"\n".join([*lines, b""]), sent

    def _report_losses(self) -> None:
        state = self._recorder.state
        calls, events, since = self._reported_loss
        now = time.monotonic_ns()
        if state.lost_events > events:
            new_calls, new_events = state.lost_calls, state.lost_events
            self._report(None, Loss("the queue is full", new_calls - calls, new_events - events, 0, since, now))
            calls, events = new_calls, new_events
        self._reported_loss = (calls, events, now)
        for loss in self._losses.take():
            self._report(None, loss)
        for lane in self.lanes:
            is_last = self._stop_at is not None
            for loss in lane.take_losses(is_last=is_last):
                self._report(lane.name, loss)

    def _report_limits(self) -> None:
        """What functions were called more often than their rules let be recorded: once a second for each."""
        now = self._recorder.clock()
        for number, limit in enumerate(self._recorder.limits):
            reported, since = self._reported_limits.setdefault(number, (0, now))
            calls = limit.left_out - reported
            if not calls:
                self._reported_limits[number] = (reported, now)
            elif now - since >= LIMIT_REPORT_NS or self._stop_at is not None:
                self._reported_limits[number] = (limit.left_out, now)
                place = {"module": limit.target.module, "function": limit.target.qualname}
                times = {"from": self._lines.millis(since), "to": self._lines.millis(now)}
                self.state("LIMIT", **place, perSecond=limit.per_second, calls=calls, **times)

    def _report(self, sink: str | None, loss: Loss) -> None:
        self.state("LOSS", **self._fields(sink, loss))

    def _fields(self, sink: str | None, loss: Loss) -> dict[str, Any]:
        since, until = (self._lines.millis(time_ns) for time_ns in (loss.since_ns, loss.until_ns))
        counts = {"calls": loss.calls, "events": loss.events, "bytes": loss.size}
        times = {"from": since, "to": until}
        return {"sink": sink, "reason": loss.reason, **counts, **times, "repeated": loss.is_repeated}

    def _finish(self, deadline: float) -> None:
        reserve, settled = _reserve(deadline - time.monotonic()), list(self.lanes)
        for lane in self.lanes:
            lane.tell_ending()
        # again for calls that ended while a slow sink was waited for, and for what it has lost meanwhile
        for rest in (reserve, reserve / 2, reserve / 4):
            self._turn()
            settled = [lane for lane in settled if lane.wait_idle(deadline - rest)]  # what hangs is waited for once
        if self._stopped is None:
            self._decide_stop(time.monotonic() + min(UNDER_WAY_S, reserve / 4))
        self._drain()
        for lane in self.lanes:
            lane.finish(deadline, self._stop_batch)
        for lane in self.lanes:
            lane.wait_ended(deadline)

    def _decide_stop(self, until: float) -> None:
        """Give STOP its number: all below it is sent or counted, and nothing else, whatever threads still record.

        Numbers from there on are ours, though other threads may take them: their records go nowhere. A thread that has
        taken a number before has until ``until`` to put its record on the queue; what strikes in the recorder keeps it
        from ever doing so.
        """
        recorder, state = self._recorder, self._recorder.state
        if self._end is None:
            lost = state.lost_events
            self._end = _next_of(recorder.seq), lost
        number, lost = self._end
        while True:
            self._drain()
            missing = number - state.first - lost - self._released
            if missing <= 0 or time.monotonic() >= until:
                break
            time.sleep(POLL_S)
        now, thread = recorder.clock(), recorder.thread().id
        losses: list[Record] = []
        if missing > 0:
            loss = Loss("interrupted by signals", 0, missing, 0, time.monotonic_ns(), time.monotonic_ns())
            losses.append((STATEMENT, "LOSS", number, now, thread, _text(**self._fields(None, loss)), 0))
            number += 1
        else:  # counted as lost before their number was taken
            number -= missing
        self._taken, self._stopped = losses, (STATEMENT, "STOP", number, now, thread)

    def lost(self, lane: Lane, delivered: int | None = None) -> int:
        """Events that a lane's sink did not get, as STOP counts them; all that waits is lost, too.

        Args:
            lane: One of `lanes`.
            delivered: What it has delivered, if that was looked up already.
        """
        state = self._recorder.state
        if self._stopped is None:
            return lane.losses.events + lane.waiting + state.lost_events
        recorded: int = self._stopped[2] - state.first
        return recorded - self.discarded[1] - (lane.delivered if delivered is None else delivered)

    def _stop_batch(self) -> Batch:
        """STOP, for a lane that is at its end: all that was recorded before is delivered, lost or discarded."""
        state = self._recorder.state
        assert self._stopped
        discarded = self.discarded
        delivered = [(lane, lane.delivered) for lane in self.lanes]
        text = _text(
            recorded=self._stopped[2] - state.first,
            delivered={lane.name: events for lane, events in delivered},
            lost={lane.name: self.lost(lane, events) for lane, events in delivered},
            discardedCalls=discarded[0],
            discardedEvents=discarded[1],
            openCalls=self._open_calls,
            skippedCalls=state.skipped_calls,
            suppressedCalls=state.suppressed_calls,
            uncapturedValues=self.uncaptured(),
            failures=state.failures,
        )
        return Batch(self.new_id(), [self._lines.line((*self._stopped, text, 0))])


def _reserve(timeout_s: float) -> float:
    least, most = RESERVE_S
    return min(timeout_s / 4, max(least, min(most, timeout_s / 8)))


def _text(**fields: Any) -> bytes:
    """The members of a JSON object."""
    try:
        return orjson.dumps(fields, default=str)[1:-1]
    except TypeError:  # lone surrogates, as in the name of a file that is not UTF-8
        return json.dumps(fields, default=str, ensure_ascii=False).encode("utf-8", "replace")[1:-1]


def _next_of(numbers: itertools.count[int]) -> int:
    """What ``numbers`` will give next; to take it would leave a gap that no event accounts for."""
    return int(repr(numbers).removeprefix("count(").removesuffix(")"))
