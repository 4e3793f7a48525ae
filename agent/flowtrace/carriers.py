"""Carriers: the current span goes along to where plain Python loses it, and nothing else does.

asyncio hands the context on by itself; threads, executors and other processes begin without. So parts are spliced into
a few functions of the standard library (see `flowtrace.splices`) which note the span where work is handed over, and
take it up where it is done. In another process, and for other programs, a span goes by its W3C ``traceparent``.

Work that a thread or process does on its own account, between two tasks that were given to it, is below no span.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
from collections.abc import Callable, Iterator

from flowtrace import constants
from flowtrace.constants import Raised, without_our_frames
from flowtrace.events import Ids
from flowtrace.recorder import LOST, SKIPPED, Current, Entry
from flowtrace.splices import Splice, Splices
from flowtrace.tracecontext import VARIABLE, Remote, parse
from flowtrace.typed import Any

_SPAN = "_flowtrace"  # the attribute of objects of the standard library that are on their way
_NAME = VARIABLE.encode() + b"="
_ENVIRONMENT, _BEFORE_EXEC = 5, -2  # arguments of `_posixsubprocess.fork_exec`

Values = dict[str, Any]


def remote(current: Current | None, ids: Ids) -> Remote | None:
    """The current span as other processes are told of it; None where there is none.

    What is not recorded here is not recorded there either: it goes under an id of its own, with the flag that says so.
    """
    if current is None:
        return None
    if current is LOST or current is SKIPPED:
        return Remote(os.urandom(16).hex(), os.urandom(8).hex(), is_sampled=False)
    trace, span = current
    if isinstance(trace, Entry):
        return trace.remote
    return Remote(ids.trace(trace), ids.span(span or 0))


class Carriers:
    """The splices for the functions of the standard library.

    Args:
        current: Holds the current span.
        ids: Turns numbers into ids.
        sends: Whether other programs are told in their environment.
    """

    def __init__(self, current: contextvars.ContextVar[Current | None], ids: Ids, *, sends: Callable[[], bool]) -> None:
        self._current, self._ids, self._sends = current, ids, sends
        self._threads: dict[int, Current] = {}  # by id, from `start` until it runs
        self._calls: dict[int, str | None] = {}  # by id of their keywords, from `submit` until they are sent off
        given = os.environb.get(VARIABLE.encode())
        self._given = None if given is None else _NAME + given  # what this process was told itself

    def install(self, splices: Splices) -> None:
        """Have the functions spliced."""
        note_job = Splice(_self, self._note_job)
        wanted = {
            "threading": {
                "Thread.start": Splice(self._start_thread, self._end_of_start),
                "Thread._bootstrap_inner": Splice(self._begin_thread),
            },
            "concurrent.futures.thread": {
                "_WorkItem.__init__": Splice(self._note),
                "_WorkItem.run": Splice(self._take_up, self._put_back),
            },
            "concurrent.futures.process": {
                "_WorkItem.__init__": Splice(self._note_call),
                "_CallItem.__init__": Splice(_self, self._send_call),
            },
            "multiprocessing.pool": {
                "ApplyResult.__init__": note_job,
                "IMapIterator.__init__": note_job,
                "ThreadPool._setup_queues": Splice(_self, self._watch_queue),
            },
            "multiprocessing.spawn": {  # a fork has it anyway
                "get_preparation_data": Splice(_all, self._prepare_process),
                "prepare": Splice(self._begin_process),
            },
            "subprocess": {"Popen._execute_child": Splice(self._begin_program, _end_of_program)},
        }
        for module, functions in wanted.items():
            for qualname, splice in functions.items():
                splices.add(module, qualname, splice._replace(wants_self=True))

    def arrive(self, text: str | None) -> None:
        """Go on below a call in another process; with None, below none."""
        place = parse(text) if text else None
        self._current.set((Entry(place), None) if place else None)

    def _text(self) -> str | None:
        place = remote(self._current.get(), self._ids)
        return str(place) if place else None

    # -- threads -------------------------------------------------------------------------------------------------

    def _start_thread(self, values: Values) -> int:
        thread, current = id(values["self"]), self._current.get()
        if current is not None:
            self._threads[thread] = current
        return thread

    def _end_of_start(self, thread: int, result: object) -> None:
        self._threads.pop(thread, None)  # it could not be started

    def _begin_thread(self, values: Values) -> None:
        current = self._threads.pop(id(values["self"]), None)
        if current is not None:
            self._current.set(current)

    def _note(self, values: Values) -> None:
        setattr(values["self"], _SPAN, self._current.get())

    def _take_up(self, values: Values) -> tuple[Current | None]:
        before = self._current.get()
        self._current.set(getattr(values["self"], _SPAN, None))
        return (before,)

    def _put_back(self, before: tuple[Current | None] | None, result: object) -> None:
        if before is not None:
            self._current.set(before[0])

    # -- processes -----------------------------------------------------------------------------------------------

    def _note_call(self, values: Values) -> None:
        # the keywords are the one thing that both kinds of items have and no other call does
        self._calls[id(values["kwargs"])] = self._text()
        while len(self._calls) > _MAX_CALLS:  # they were cancelled
            self._calls.pop(next(iter(self._calls)), None)

    def _send_call(self, item: Any, result: object) -> None:
        text = self._calls.pop(id(item.kwargs), None)
        if _is_traced_there():
            item.work_id = _Number(item.work_id, None, text)

    def _note_job(self, job: Any, result: object) -> None:
        is_here = issubclass(type(job._pool), sys.modules["multiprocessing.pool"].ThreadPool)
        if is_here or _is_traced_there():
            job._job = _Number(job._job, self._current.get(), self._text())

    def _watch_queue(self, pool: Any, result: object) -> None:
        put, carry = pool._quick_put, self._current.set

        def put_with_span(task: Any) -> None:
            put(_TaskHere(task, carry) if type(task) is tuple else task)

        pool._quick_put = put_with_span

    def _prepare_process(self, flow: object, data: object) -> None:
        text = self._text()
        if text is not None and type(data) is dict:
            data[_SPAN] = text  # what `prepare` does not know it passes by

    def _begin_process(self, values: Values) -> None:
        text = values["data"].get(_SPAN)
        if text is not None:
            self.arrive(text)

    # -- other programs ------------------------------------------------------------------------------------------

    def _begin_program(self, values: Values) -> tuple[Any, bool]:
        subprocess: Any = sys.modules["subprocess"]
        if getattr(subprocess._fork_exec, "__module__", None) != __name__:
            subprocess._fork_exec = self._with_span(subprocess._fork_exec)
        is_spawned = self._current.get() is not None and subprocess._USE_POSIX_SPAWN
        if is_spawned:
            subprocess._USE_POSIX_SPAWN = False  # which would take the environment past us
        return subprocess, is_spawned

    def _with_span(self, fork_exec: Callable[..., Any]) -> Callable[..., Any]:
        def with_span(*args: Any) -> Any:
            with contextlib.suppress(Exception):
                args = self._told(args)
            return fork_exec(*args)

        return with_span

    def _told(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of ``fork_exec`` with the span in the environment."""
        text = self._text() if self._sends() else None
        if text is None:
            return args
        given = args[_ENVIRONMENT]
        if given is None and args[_BEFORE_EXEC] is not None:
            return args  # it may change the environment that is inherited
        environment = _environment() if given is None else list(given)
        own = [entry for entry in environment if entry.startswith(_NAME)]
        if own not in ([], [self._given]):
            return args  # the program says itself where that belongs
        others = [entry for entry in environment if entry not in own]
        return (*args[:_ENVIRONMENT], [*others, _NAME + text.encode()], *args[_ENVIRONMENT + 1 :])


_MAX_CALLS = 65_536


def _self(values: Values) -> Any:
    return values["self"]


def _all(values: Values) -> Values:
    return values


def _end_of_program(begun: tuple[Any, bool], result: object) -> None:
    subprocess, is_spawned = begun
    if is_spawned:
        subprocess._USE_POSIX_SPAWN = True
    error = sys.exception()
    if result is Raised and error is not None:
        without_our_frames(error)


def _is_traced_there() -> bool:
    """Whether child processes run an agent, which has to be there for what is sent to them in disguise."""
    return "FLOWTRACE_RESOLVED" in os.environ and constants.resolve is not None


class _Number(int):
    """The number of a task, and the span with it: in another process a plain number arrives, and the span is taken up.

    A task has its number first: so what comes behind it is unpickled below the span.
    """

    current: Current | None
    _span: str | None

    def __new__(cls, number: int, current: Current | None, span: str | None) -> Any:
        self = super().__new__(cls, number)
        self.current, self._span = current, span
        return self

    def __reduce__(self) -> Any:
        return constants.arrived, (int(self), self._span)


class _TaskHere(tuple[Any, ...]):
    """A task for a pool of threads: the one who unpacks it takes up its span."""

    _carry: Callable[[Current | None], object]

    def __new__(cls, task: tuple[Any, ...], carry: Callable[[Current | None], object]) -> Any:
        self = super().__new__(cls, task)
        self._carry = carry
        return self

    def __iter__(self) -> Iterator[Any]:
        self._carry(getattr(self[0], "current", None))
        return super().__iter__()


def _environment() -> list[bytes]:
    """What a program would inherit: that of the process, which may know more than ``os.environ``."""
    import ctypes

    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    found: list[bytes] = []
    while (entry := entries[len(found)]) is not None:
        found.append(entry)
    return found
