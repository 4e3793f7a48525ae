"""The http sink: posts batches to a server as newline-delimited JSON.

What goes over the network is done by a courier, a thread that nobody has to wait for. Without a spool, a try that fails
is the lane's to repeat. With one, ``write`` returns once the batch is delivered or on disk; what is on disk the courier
delivers before anything newer, with the same ids, so the server can drop what it has: docs/delivery.md.
"""

from __future__ import annotations

import collections
import contextlib
import math

from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import Batching, SinkContext
from flowtrace.unpatched import _thread, chance, time
from flowtrace_plugins.courier import Courier, Errand
from flowtrace_plugins.endpoint import Endpoint
from flowtrace_plugins.handover import Handover
from flowtrace_plugins.options import HttpOptions
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.receiver import within
from flowtrace_plugins.spool import DiskSpool, Entry

_LAST_TRY_S = 0.15  # for what is under way when the process ends, and there is a spool for it
_PATIENCE_S = 0.5  # then a request under way gets its place in the spool, and what comes after it too
_GRACE_S = 0.1  # for a request to notice by itself that its time is over
_PAUSE_S = 0.5  # at least, where the server is away, another process delivers, or a file cannot be used
_INLINE_S = 0.5  # of delivering from the spool where there is no thread for it
_BACKOFF_BASE_S, _BACKOFF_CAP_S = 0.5, 5.0  # a receiver that is back is to be found soon


class HttpSink:
    """Delivers each batch with one request, or several where the server asks for smaller ones."""

    def __init__(self, options: HttpOptions, context: SinkContext) -> None:
        self.batching = Batching(max_bytes=options.batch.max_size, max_wait_s=options.batch.max_wait / 1e9)
        self._context = context
        self._timeout_s = options.timeout / 1e9
        place = Endpoint.parse(options.url).place
        self._spool = DiskSpool(options.spool, place, context, self._lose) if options.spool else None
        self._handover = Handover(options, context)
        self._courier = Courier(context.start_thread)
        self._request: Errand[int] | None = None  # for the batch that is being written
        self._failures, self._not_before = 0, 0.0
        self._losses: collections.deque[tuple[str, int]] = collections.deque()  # to be told on the lane's thread
        self._of_others: collections.Counter[str] = collections.Counter()  # events that were lost, by reason
        self._own_ids = f"{context.run}-{context.pid}-"
        self._ended_at, self._deadline = math.inf, math.inf
        self._ending = _thread.allocate_lock()
        self._ending.acquire()
        self._courier.start()  # not when it is first needed: 3.12.1 starts no thread once the main thread is at its end

    # -- the lane's thread ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Prepare the connection and the spool; a spool that cannot be used is done without.

        Raises:
            SinkError: the proxy that the environment names cannot be used.
        """
        self._handover.open()
        try:
            if self._spool:
                self._spool.open()
        except SinkError as error:
            self._context.warn(f"{error}; going on without it")
            self._spool = None
        self._courier.start()
        self._deliver_what_waits()

    def write(self, batch: Batch) -> None:
        """Deliver a batch, or put it into the spool.

        Raises:
            SinkError: neither was possible now, or (``retry=False``) the server refused all of it.
        """
        parcel = Parcel.of(batch)
        try:
            if self._spool is None:
                self._post(parcel)
            else:
                self._post_or_put(parcel, self._spool)
                self._deliver_what_waits()
        finally:
            self._tell_losses()

    def flush(self) -> None:
        """Look for what is in the spool; another process may have left it there."""
        if self._spool:
            self._spool.tidy()
        self._deliver_what_waits()
        self._tell_losses()

    def ending(self, deadline: float) -> None:
        """The process begins to end, by ``deadline``; called on another thread.

        With a spool, what is under way has ``_LAST_TRY_S`` more, and what is not delivered then the next run delivers.
        """
        if self._ended_at == math.inf:
            self._deadline, self._ended_at = deadline, time.monotonic()
            self._ending.release()
            if request := self._request:
                request.look()

    def close(self, deadline: float) -> None:
        """Release everything; what is in the spool stays there."""
        self.ending(deadline)
        is_free = self._courier.wait_free(self._end_by if self._spool else time.monotonic)
        self._say_what_waits()
        closing = self._courier.send(lambda: self._handover.close(deadline))
        if is_free:
            closing.wait(lambda: deadline)
        self._courier.stop()
        self._tell_losses()
        for reason, events in self._of_others.items():
            self._context.warn(f"{reason}: {events} events of other processes are lost")

    def _end_by(self) -> float:
        """Until when what goes over the network is waited for; without a thread, a try cannot be left."""
        last_try_s = _LAST_TRY_S if self._courier.has_thread else 0.0
        return min(self._deadline, self._ended_at + last_try_s) if self._spool else self._deadline

    def _post(self, parcel: Parcel) -> None:
        """Have a batch delivered, and wait for it, or for the try of it that was given up and is still under way."""
        request = self._request
        if request is None or (request.is_done and (request.name != parcel.id or request.has_failed)):
            request = self._begin(parcel)
        elif request.name != parcel.id:
            raise self._unanswered()
        until = time.monotonic() + self._timeout_s + _GRACE_S
        request.wait(lambda: min(until, self._end_by()))
        self._account(request, parcel)

    def _post_or_put(self, parcel: Parcel, spool: DiskSpool) -> None:
        request = self._request
        if request is None or request.name != parcel.id or request.has_failed:
            if not (self._may_try() and self._courier.is_free and spool.is_empty()):
                self._put(parcel, spool)
                return
            request = self._begin(parcel)
        patience = time.monotonic() + _PATIENCE_S
        if not request.wait(lambda: min(patience, self._end_by())) and self._leave_to_courier(request, parcel, spool):
            return
        until = time.monotonic() + self._timeout_s
        request.wait(lambda: min(until, self._end_by()))
        try:
            self._account(request, parcel)
        except SinkError as error:
            if not error.retry:
                raise
            self._back_off(error)
            self._put(parcel, spool)

    def _leave_to_courier(self, request: Errand[int], parcel: Parcel, spool: DiskSpool) -> bool:
        """Put a batch whose request is under way into the spool, with the lease until the request is done.

        Returns:
            False where another process has the lease: it might deliver the batch a second time.
        """
        try:
            lease = spool.lease()
        except (OSError, SinkError):
            return False
        if lease is None:
            return False
        try:
            entry = self._put(parcel, spool)
        except BaseException:
            lease.release()
            raise

        def settle() -> None:
            try:
                self._has_delivered(parcel, request.result())
                spool.remove(entry)
            except Exception as error:  # noqa: BLE001  # what it is, the next try will show
                self._back_off(error)
            finally:
                lease.release()

        self._request = None
        request.when_done(settle)
        return True

    def _begin(self, parcel: Parcel) -> Errand[int]:
        self._request = self._courier.send(lambda: self._handover.hand_over(parcel), name=parcel.id)
        return self._request

    def _account(self, request: Errand[int], parcel: Parcel) -> None:
        if not request.is_done:
            raise self._unanswered()
        self._request = None
        self._has_delivered(parcel, request.result())

    def _unanswered(self) -> SinkError:
        """In the same words for the batches behind it, so that they are said once."""
        return self._handover.unanswered("before the end" if self._is_over() else within(self._timeout_s))

    def _put(self, parcel: Parcel, spool: DiskSpool) -> Entry:
        return spool.put(parcel, durably=self._ended_at == math.inf)

    def _deliver_what_waits(self) -> None:
        """Have the courier deliver from the spool, if there is something and he is free."""
        spool = self._spool
        if spool is None or not self._courier.is_free or self._is_over() or spool.is_empty():
            return
        if self._courier.has_thread:
            self._courier.send(lambda: self._drain(spool))
        elif self._may_try():
            until = time.monotonic() + _INLINE_S
            self._courier.send(lambda: self._drain_once(spool, until))

    def _say_what_waits(self) -> None:
        """Of all processes that share the spool."""
        with contextlib.suppress(OSError):
            if self._spool and (events := sum(entry.events for entry in self._spool.entries())):
                what = "1 event waits" if events == 1 else f"{events} events wait"
                self._context.warn(f"{what} in the spool {self._spool.directory} for the next run")

    def _tell_losses(self) -> None:
        while self._losses:
            self._context.lost(*self._losses.popleft())

    # -- the courier's thread ------------------------------------------------------------------------------------

    def _drain(self, spool: DiskSpool) -> None:
        """Deliver from the spool until it is empty, with pauses while the server is away."""
        while not self._is_over() and not spool.is_empty():
            if self._may_try() and self._drain_once(spool, math.inf):
                continue
            if self._ended_at != math.inf:
                return
            self._pause(max(self._not_before - time.monotonic(), _PAUSE_S))

    def _drain_once(self, spool: DiskSpool, until: float) -> bool:
        """Deliver from the spool what is there now, oldest first; says whether any of it was."""
        has_delivered = False
        try:
            lease = spool.lease()
            if lease is None:
                return False
            try:
                for entry in spool.entries():
                    if self._is_over() or time.monotonic() >= until or not lease.is_held:
                        break
                    if parcel := spool.take(entry):
                        self._has_delivered(parcel, self._handover.hand_over(parcel))
                        spool.remove(entry)
                        has_delivered = True
            finally:
                lease.release()
        except Exception as error:  # noqa: BLE001  # it stays on disk, and the thread is needed
            self._back_off(error)
        return has_delivered

    # -- both ----------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return time.monotonic() >= self._end_by()

    def _may_try(self) -> bool:
        return self._not_before <= time.monotonic() and not self._is_over()

    def _pause(self, pause_s: float) -> None:
        if self._ending.acquire(timeout=pause_s):
            self._ending.release()

    def _back_off(self, error: Exception) -> None:
        problem = error if isinstance(error, SinkError) else type(error).__name__  # the text may hold what is secret
        self._context.warn(f"events wait on disk: {problem}")
        # by hand: urllib3's Retry and tenacity draw from `random`, and so would change what a seeded program does
        ceiling = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(self._failures, 10))
        asked_s = error.retry_after_s if isinstance(error, SinkError) else None
        delay = chance() * ceiling if asked_s is None else asked_s
        self._failures += 1
        self._not_before = time.monotonic() + delay

    def _has_delivered(self, parcel: Parcel, lost: int) -> None:
        self._failures = 0
        self._lose(parcel.id, "refused by the server", lost)

    def _lose(self, id: str, reason: str, events: int) -> None:
        """Count events as lost if they are this process's; those of others were in their totals, not in ours."""
        if events and id.startswith(self._own_ids):
            self._losses.append((reason, events))
        elif events:
            self._of_others[reason] += events
            self._context.warn(f"{reason}: events that another process has put into the spool are lost")
