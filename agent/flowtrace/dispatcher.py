"""The dispatcher: one thread that takes records off the queue, makes lines of them and offers these to every lane.

It looks at the queue every ``flush.interval``, or as soon as the recorder says that the queue is getting full. Its own
calls are not recorded. Nothing that goes wrong with one record or one lane ends it.
"""

from __future__ import annotations

import _queue
import _thread
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from flowtrace.events import ENTER, EXCEPTION, EXIT, STATEMENT, Batch, Lines, Record
from flowtrace.lane import Chunk, Lane, Loss, Losses
from flowtrace.recorder import RECORD_BYTES, Recorder

MOST_TURN_S = 0.5  # however rarely events are flushed, requests from outside are looked for
BATCH_EVENTS = 2_048  # a batch is handed on when it has so many events
RESERVE_S = 0.25  # of the time for shutdown, kept for the STOP event and for closing the sinks


class Dispatcher:
    """Moves records from a recorder's queue to lanes.

    Args:
        recorder: Whose queue to drain.
        lines: Makes a line of a record.
        run: The id of this run; batch ids begin with it.
        interval_ns: How long a record may wait on the queue.
    """

    def __init__(self, recorder: Recorder, lines: Lines, *, run: str, interval_ns: int) -> None:
        self._recorder, self._lines = recorder, lines
        self._interval_s = min(interval_ns / 1e9, MOST_TURN_S)
        self._name = f"{run}-{os.getpid()}-"
        self._numbers = itertools.count()
        self._wakeup: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._ended = _thread.allocate_lock()
        self._stop_at: float | None = None
        self._is_running = False
        self._reported_loss = (0, 0, time.monotonic_ns())
        self._losses = Losses()  # common to all lanes
        self._open_calls = 0
        self.lanes: Sequence[Lane] = ()
        self.after_turn: Callable[[], None] = lambda: None

    def new_batch(self, lines: list[bytes]) -> Batch:
        """A batch with the next number of this process."""
        return Batch(f"{self._name}{next(self._numbers)}", lines)

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
        for lane in lanes:
            lane.start()
        self._ended.acquire()
        self._is_running = True
        _thread.start_new_thread(self._run, ())

    @property
    def threads(self) -> int:
        """How many threads this process has because of the agent."""
        return len(self.lanes) + 1 if self._is_running else 0

    def state(self, name: str, **fields: Any) -> None:
        """Put one of the agent's own events on the queue, from any thread.

        Args:
            name: START, ATTACH, LOSS or STOP.
            fields: What it says, in this order, as JSON values.
        """
        self._push(name, None, **fields)

    def stop(self, timeout_s: float) -> None:
        """Deliver what is there, tell each sink the totals in a STOP event, and close the sinks.

        Args:
            timeout_s: For everything together; what is not delivered then is counted as lost in STOP.
        """
        if not self._is_running:
            return
        self._is_running = False
        self._stop_at = time.monotonic() + timeout_s
        state = self._recorder.state
        state.max_events, state.rate = -1, -1.0  # what is called from here on is not recorded
        for lane in self.lanes:
            lane.end_by(self._stop_at - min(RESERVE_S, timeout_s / 4))
        self._wakeup.put(None)
        self._ended.acquire(timeout=timeout_s)

    def _run(self) -> None:
        self.guard_thread()
        try:
            while self._stop_at is None:
                with contextlib.suppress(_queue.Empty):
                    self._wakeup.get(timeout=self._interval_s)
                self._guarded(self._turn)
            self._guarded(self._finish)
        finally:
            self._ended.release()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            self._recorder.state.failures += 1
            if self._recorder.state.strict:
                raise

    def _turn(self) -> None:
        self._recorder.state.woken = False
        self._drain()
        self._report_losses()
        self.after_turn()

    def _drain(self) -> None:
        queue = self._recorder.queue
        waiting = len(queue)  # and no more: a program that records as fast as this thread encodes must not keep it here
        for done in range(0, waiting, BATCH_EVENTS):
            self._send([queue.popleft() for _ in range(min(waiting - done, BATCH_EVENTS))])

    def _send(self, records: list[Record]) -> None:
        lines: list[bytes] = []
        sent: list[Record] = []
        for record in records:
            try:
                lines.append(self._lines.line(record))
                sent.append(record)
                self._open_calls += _OPENS[record[0]]
            except Exception:
                self._losses.add("could not be encoded", 1, calls=record[0] == ENTER)
                if self._recorder.state.strict:
                    raise
        if lines:
            chunk = Chunk(self.new_batch(lines), sent, sum(map(len, lines)))
            for lane in self.lanes:
                lane.offer(chunk)
        # only now there is room again: the bound covers what is being encoded, and what `overflow: block` holds back
        self._recorder.state.drained_bytes += sum(map(_size, records))

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
            for loss in lane.losses.take():
                self._report(lane.name, loss)

    def _report(self, sink: str | None, loss: Loss) -> None:
        since, until = (self._lines.millis(time_ns) for time_ns in (loss.since_ns, loss.until_ns))
        counts = {"calls": loss.calls, "events": loss.events, "bytes": loss.size}
        self.state("LOSS", sink=sink, reason=loss.reason, **counts, **{"from": since, "to": until})

    def _finish(self) -> None:
        deadline = self._stop_at or time.monotonic()
        reserve = min(RESERVE_S, (deadline - time.monotonic()) / 4)
        for rest in (reserve, reserve / 2):  # again for calls that ended while a slow sink was waited for
            self._turn()
            self._drain()  # the LOSS events of that turn
            for lane in self.lanes:
                lane.wait_idle(deadline - rest)
        self._say_stop()
        self._drain()
        for lane in self.lanes:
            lane.finish(deadline)
        for lane in self.lanes:
            lane.wait_ended(deadline)

    def _say_stop(self) -> None:
        """STOP: for each sink, all events recorded before this one are either delivered or lost."""
        recorder, state = self._recorder, self._recorder.state
        seq = next(recorder.seq)
        recorded = seq - state.first
        delivered = {lane.name: lane.delivered for lane in self.lanes}
        self._push(
            "STOP",
            seq,
            recorded=recorded,
            delivered=delivered,
            lost={name: recorded - events for name, events in delivered.items()},
            openCalls=self._open_calls,
            skippedCalls=state.skipped_calls,
            suppressedCalls=state.suppressed_calls,
            failures=state.failures,
        )

    def _push(self, name: str, seq: int | None, **fields: Any) -> None:
        recorder = self._recorder
        text = _json(fields)[1:-1]
        recorder.state.queued_bytes += len(text) + RECORD_BYTES
        seq = next(recorder.seq) if seq is None else seq
        recorder.queue.append((STATEMENT, name, seq, recorder.clock(), recorder.thread().id, text))


def _json(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields, default=str)
    except TypeError:  # lone surrogates, as in the name of a file that is not UTF-8
        return json.dumps(fields, default=str, ensure_ascii=False).encode("utf-8", "replace")


_OPENS = {ENTER: 1, EXIT: -1, EXCEPTION: -1, STATEMENT: 0}


def _size(record: Record) -> int:
    return len(record[5] if record[0] == STATEMENT else record[8]) + RECORD_BYTES
