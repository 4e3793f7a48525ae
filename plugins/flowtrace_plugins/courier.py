"""The courier: one thread that carries out what may take long, so that nobody has to wait for it longer than he wants.

What looks up a name, connects, or sends to a server that does not read cannot be stopped from outside. So it is done on
a thread of its own, and who wanted it done looks whether it is done. There is one errand at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from flowtrace.unpatched import _queue, _thread, time

T = TypeVar("T")


class Errand(Generic[T]):
    """Something that is done once.

    Args:
        do: What is to be done.
        name: What it is about.
    """

    def __init__(self, do: Callable[[], T], name: str) -> None:
        self.name = name
        self._do = do
        self._news: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._lock = _thread.allocate_lock()
        self._result: T
        self._error: BaseException | None = None
        self._is_done = False
        self._follow: Callable[[], None] = lambda: None

    @property
    def is_done(self) -> bool:
        """True once there is a result or an error."""
        return self._is_done

    @property
    def has_failed(self) -> bool:
        """True once there is an error."""
        return self._error is not None

    def carry_out(self) -> None:
        """Do it, on whatever thread this is."""
        try:
            self._result = self._do()
        except BaseException as error:  # noqa: BLE001  # raised by `result`
            self._error = error
        with self._lock:
            self._is_done = True
        self._news.put(None)
        self._follow()

    def wait(self, until: Callable[[], float]) -> bool:
        """Wait until it is done, or until the time that ``until()`` gives; `look` makes that be asked again.

        Args:
            until: Returns seconds of ``time.monotonic()``.
        """
        while not self._is_done and (left := until() - time.monotonic()) > 0:
            try:
                self._news.get(timeout=min(left, _thread.TIMEOUT_MAX))
            except _queue.Empty:
                break
        return self._is_done

    def look(self) -> None:
        """Make whoever waits look again how long to wait; may be called in a signal handler."""
        self._news.put(None)

    def result(self) -> T:
        """What came of it, once it is done; raises what it has raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def when_done(self, follow: Callable[[], None]) -> None:
        """Do this as soon as it is done: at once on this thread, or later on the courier's."""
        with self._lock:
            if not self._is_done:
                self._follow = follow
                return
        follow()


class Courier:
    """Carries out errands, one at a time; where there can be no thread, on the thread of who wants them done.

    Args:
        start_thread: Runs a function on a thread; raises RuntimeError where none can be started.
    """

    def __init__(self, start_thread: Callable[[Callable[[], None]], object]) -> None:
        self._start_thread = start_thread
        self._inbox: _queue.SimpleQueue[Errand[Any] | None] = _queue.SimpleQueue()
        self._last: Errand[Any] | None = None
        self.has_thread = False

    def start(self) -> None:
        """Start the thread, unless it runs."""
        if not self.has_thread:
            try:
                self._start_thread(self._run)
            except RuntimeError:
                return
            self.has_thread = True

    def stop(self) -> None:
        """End the thread, once it is free."""
        self._inbox.put(None)

    @property
    def is_free(self) -> bool:
        """True where nothing is being done."""
        return self._last is None or self._last.is_done

    def wait_free(self, until: Callable[[], float]) -> bool:
        """Wait until nothing is being done, or as `Errand.wait` until a time."""
        return self._last is None or self._last.wait(until)

    def send(self, do: Callable[[], T], *, name: str = "") -> Errand[T]:
        """Have something done; without a thread it is done on return."""
        errand = Errand(do, name)
        self._last = errand
        if self.has_thread:
            self._inbox.put(errand)
        else:
            errand.carry_out()
        return errand

    def _run(self) -> None:
        is_over = False
        while not is_over:
            with contextlib.suppress(BaseException):  # what strikes here, or in what follows an errand, ends no thread
                errand = self._inbox.get()
                is_over = errand is None
                if errand:
                    errand.carry_out()
