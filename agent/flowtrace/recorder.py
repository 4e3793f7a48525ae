"""The hot path: a call becomes an ENTER record on the queue, its end an EXIT or EXCEPTION record.

Everything here runs in the traced program's own threads, between two of its instructions. So: no lock, no logging,
no plugin, no thread start; nothing raises; what goes on the queue is a flat tuple of ints, str and bytes. What can be
decided once is decided in `Recorder.functions`, when a function is instrumented.

A span's number is the ``seq`` of its ENTER. The current span is a tuple ``(trace, span)`` in a ContextVar, or None
outside any; LOST and SKIPPED stand for a span that is not recorded, and no call below such a one is. An `Entry`
without a span stands there where a request has begun, and no call of a target yet.

Counters are plain ints: with the GIL, CPython switches threads and runs signal handlers only at calls and
backward jumps, never inside ``state.lost_calls += 1``.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import itertools
import mmap
import sys
import types
from collections.abc import Callable, Iterator

from flowtrace.constants import ENTRY, FOLDER, Raised, name_of, named
from flowtrace.events import ENTER, EXCEPTION, EXIT, NO_RESULT, NOT_CAPTURED, Record, by_name
from flowtrace.introspection import module_of, traceback_of
from flowtrace.native import native
from flowtrace.tracecontext import Remote
from flowtrace.typed import Any, NamedTuple, Protocol, TypeAlias
from flowtrace.unpatched import _thread, chance, new_chances, time
from flowtrace.values import LOST_EXCEPTION, LOST_MEMORY_ERROR, LOST_RECURSION_ERROR, PLAIN_INT, Scalars

Current: TypeAlias = "tuple[int | str, int | str] | tuple[Entry, None]"
Flow: TypeAlias = tuple[Any, ...]

LOST: Current = ("lost", 0)
SKIPPED: Current = ("skipped", 0)

MAX_UNTRACED_FRAMES = 16  # between two traced ones, for an exception to be known again
RECORD_BYTES = 300  # of a record beside its payload: the tuple, its ints and the head of its bytes, as allocated
CALL_BYTES = 2 * RECORD_BYTES  # an ENTER counts for its end as well, which is sure to come; that counts for its payload
SCALAR_BYTES = 64  # of a scalar on the queue, beside the characters of a text
MADV_WIPEONFORK = 18


class Encodes(Protocol):
    """What the recorder asks of `flowtrace.values.Encoder`."""

    def arguments(self, values: dict[str, object]) -> bytes:
        """A JSON object of the arguments, by name."""

    def result(self, value: object) -> bytes:
        """What the call returned, as JSON."""

    def exception(self, error: BaseException) -> bytes:
        """Type, message and place of an exception, as a JSON object; empty where that fails."""

    @property
    def scalar_arguments(self) -> Scalars | None:
        """Which arguments may be queued as they are; None: none."""

    @property
    def scalar_results(self) -> Scalars | None:
        """Which results may be queued as they are; None: none."""


class HidesResult:
    """Encodes as another does, but for the results."""

    def __init__(self, encoder: Encodes, result: Callable[[object], bytes]) -> None:
        self.arguments, self.exception, self.result = encoder.arguments, encoder.exception, result
        self.scalar_arguments, self.scalar_results = encoder.scalar_arguments, None


class Target(NamedTuple):
    """A function that is traced: its static data, how its values are encoded, and how often it is recorded.

    Attributes:
        rate: The share that is recorded of the traces that begin with it; None: that of all.
        max_per_second: How many of its calls are recorded in a second; None: all.
    """

    module: str
    qualname: str
    line: int
    encoder: Encodes
    args: bool = True
    result: bool = True
    rate: float | None = None
    max_per_second: int | None = None


class Entry:
    """Where a trace begins, or goes on from elsewhere: its first call is yet to come. All its calls are of one trace.

    Args:
        remote: The call in another process that this is below.
        describe: Gives a JSON object about the request, for events of calls that are below no other; must not raise.
    """

    __slots__ = ("describe", "is_sampled", "parent", "remote", "trace")

    def __init__(self, remote: Remote | None = None, describe: Callable[[], bytes | None] = lambda: None) -> None:
        self.remote, self.describe = remote, describe
        self.trace: int | str | None = remote.trace if remote else None
        self.parent = remote.span if remote else None
        self.is_sampled = remote.is_sampled if remote else None  # None: its first call decides


class Limit:
    """How many calls of a function are recorded in a second; those beyond are left out with all below them."""

    def __init__(self, target: Target, per_second: int) -> None:
        self.target, self.per_second = target, per_second
        self._second = self._used = 0
        self.left_out = 0  # ever growing

    def admits(self, now_ns: int) -> bool:
        """Whether one more may be recorded now."""
        second = now_ns // 1_000_000_000
        if second != self._second:
            self._second, self._used = second, 0
        self._used += 1
        return self._used <= self.per_second


class Functions(NamedTuple):
    """What a traced body calls; constants of its code."""

    enter: Callable[[tuple[str, ...], tuple[object, ...]], Any]  # names, the same tuple each time, and values
    leave: Callable[..., None]  # (flow, result), and for bodies that can be suspended (active_ns, ended)


class _Bound:
    """A number that a call is held to; what calls look at first is made of all of them."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._slot = "_" + name

    def __get__(self, state: State, owner: type) -> int:
        number: int = getattr(state, self._slot)
        return number

    def __set__(self, state: State, number: int) -> None:
        setattr(state, self._slot, number)
        state.look_at = min(state._max_events, state._wake_at)
        state.full_at = state._drained_bytes + state._max_bytes


_Counters: Any = native.Counters if native else object  # what calls look at, where C code finds it
_Thread: Any = native.Thread if native else object
_COUNTERS = (
    "_max_events", "_wake_at", "current_task", "elsewhere", "first", "full_at", "in_loop", "look_at", "lost_calls",
    "lost_events", "name_of", "queued_bytes", "rate", "skipped_calls", "suppressed_calls", "task_name", "wake", "woken",
)  # fmt: skip


class State(_Counters):  # type: ignore[misc]
    """Counters and limits that the recorder and the dispatcher share; each field has one kind of writer.

    Attributes:
        look_at: Events waiting, from which on a call looks closer, and
        full_at: ``queued_bytes`` from which on it does.
    """

    __slots__ = (
        "_drained_bytes", "_max_bytes", "block_ns", "failures", "moved_ns", "strict", *(() if native else _COUNTERS),
    )  # fmt: skip
    drained_bytes, max_events, max_bytes, wake_at = _Bound(), _Bound(), _Bound(), _Bound()
    _drained_bytes: int
    _max_events: int
    _max_bytes: int
    _wake_at: int
    look_at: int
    full_at: int

    def __init__(self) -> None:
        self.queued_bytes = 0  # recorder; ever growing
        self._drained_bytes = 0  # dispatcher; ever growing
        self._max_events = 65_536
        self._max_bytes = 32 << 20
        self.first = 0  # calls entered earlier were entered in the process that this one was forked from
        self.block_ns = 0  # how long calls wait for room while nothing moves; 0: not at all
        self.moved_ns = 0  # dispatcher; when it last had a turn, or a look at the sink it waits for
        self.rate = 1.0  # share of traces that is recorded; below 0: no call at all, with a `wake_at` of 0
        self.lost_calls = self.lost_events = 0
        self.skipped_calls = self.suppressed_calls = self.failures = 0
        self.in_loop: Callable[[], object] | None = None  # where the program uses asyncio: the loop that runs, or None
        self.task_name: Callable[[], str | None] = lambda: None
        self.elsewhere: Callable[[], Remote | None] | None = None  # where another tracer of this process is
        self.wake: Callable[[], object] = lambda: None
        self._wake_at = 1 << 60  # events waiting, from which on the dispatcher is woken early
        self.wake_at = self._wake_at
        self.woken = False
        self.strict = False  # our own tests: internal errors are raised


class Unwinding(NamedTuple):
    """An exception that has left a traced call: ids of it and of its traceback, the code it left, and its JSON."""

    error: int
    traceback: int
    code: types.CodeType
    payload: bytes


class Thread(_Thread):  # type: ignore[misc]
    """What the recorder knows of one thread."""

    __slots__ = () if native else ("busy", "id", "raised")

    def __init__(self) -> None:
        self.id = _thread.get_native_id()
        self.busy = False  # true while the agent's own code runs: calls made then are not recorded
        self.raised: Unwinding | None = None  # the exception that is leaving calls


class Recorder:
    """Makes the enter and leave functions of targets, and holds the queue they append to.

    Args:
        clock: Monotonic nanoseconds.
        is_native: Whether the functions are those written in C, where these are there.
    """

    def __init__(self, *, clock: Callable[[], int] = time.monotonic_ns, is_native: bool = True) -> None:
        self.clock, self._is_native = clock, is_native and native is not None
        self.state = State()
        self.queue: collections.deque[Record] = collections.deque()
        self.seq = itertools.count()
        self.current: contextvars.ContextVar[Current | None] = contextvars.ContextVar("flowtrace", default=None)
        self.targets: list[Target] = []
        self.limits: list[Limit] = []
        self._makers: dict[tuple[int, bool], Callable[[Target, int], Functions]] = {}
        self.forked: Callable[[], object] = self.reset  # makes a child its own that was forked past Python's hooks
        self._here = _wiped_on_fork()
        self.stuck_since = -1  # the `moved_ns` after which nothing moved for too long
        self._local = _thread._local()

    @property
    def is_here(self) -> bool:
        """False in a child that was forked past Python's hooks, until its first call."""
        return bool(self._here[0])

    def thread(self) -> Thread:
        """The calling thread's state, made at its first call."""
        try:
            me: Thread = self._local.me
        except AttributeError:
            me = self._local.me = Thread()
        return me

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Record no call that the calling thread makes in here: it is the agent's own doing."""
        me = self.thread()
        busy, me.busy = me.busy, True
        try:
            yield
        finally:
            me.busy = busy

    def reset(self) -> None:
        """Start anew in a forked child: what is queued and what is under way belongs to the parent."""
        self._here[0] = 1
        new_chances()
        self.queue.clear()
        state = self.state
        state.drained_bytes = state.queued_bytes
        state.lost_calls = state.lost_events = state.skipped_calls = state.suppressed_calls = state.failures = 0
        state.woken = False
        state.first = next(self.seq) + 1
        me = self.thread()
        me.id, me.raised = _thread.get_native_id(), None

    def functions(self, target: Target) -> Functions:
        """The enter and leave functions of ``target``, which from now on is in ``targets``."""
        index = len(self.targets)
        self.targets.append(target)
        is_native = self._is_native and target.max_per_second is None
        key = id(target.encoder), is_native  # its maker keeps it alive
        if key not in self._makers:
            self._makers[key] = (self._native_maker if is_native else self._maker)(target.encoder)
        enter, leave = self._makers[key](target, index)
        if target.max_per_second is not None:
            enter = self._limited(Limit(target, target.max_per_second), enter)
        place = target.module, target.qualname, target.line
        first = name_of(ENTRY if is_native else "enter", *place)
        return Functions(named(enter, first), named(leave, name_of("leave", *place)))

    def _native_maker(self, encoder: Encodes) -> Callable[[Target, int], Functions]:
        """The same as `_maker`, of the functions in C; see ``_native.c``."""
        scalar_arguments, scalar_results = encoder.scalar_arguments, encoder.scalar_results
        max_string, unchecked, unchecked_word, is_clean, room_for = scalar_arguments or scalar_results or _NO_SCALARS
        max_result = min(max_string, room_for(("",)))
        encode_exception = encoder.exception

        def described(me: Thread, error: BaseException | None) -> bytes:
            return _same_exception(me, error) or _new_exception(me, error, encode_exception)

        core = native.Core(
            recorder=self, state=self.state, queue=self.queue, here=self._here, current=self.current, seq=self.seq,
            clock=self.clock, is_system_clock=self.clock is time.monotonic_ns and sys.platform == "linux",
            arguments=encoder.arguments, result=encoder.result, described=described, is_clean=is_clean,
            room_for=room_for, takes_scalar_arguments=scalar_arguments is not None,
            takes_scalar_results=scalar_results is not None and max_result >= unchecked, max_string=max_string,
            max_result=max_result, unchecked=unchecked, unchecked_word=unchecked_word, plain_int=PLAIN_INT,
            call_bytes=CALL_BYTES, scalar_bytes=SCALAR_BYTES, lost=LOST, skipped=SKIPPED, raised=Raised,
            lost_exception=LOST_EXCEPTION, lost_recursion_error=LOST_RECURSION_ERROR,
            lost_memory_error=LOST_MEMORY_ERROR, no_result=NO_RESULT, not_captured=NOT_CAPTURED,
        )  # fmt: skip

        def make(target: Target, index: int) -> Functions:
            enter = native.Enter(core, index, target.args, target.rate)
            return Functions(enter, native.Leave(core, index, target.result))

        return make

    def _maker(self, encoder: Encodes) -> Callable[[Target, int], Functions]:
        """Makes the functions of targets that share an encoder.

        What they have in common are the very same cells: where thousands of functions take turns, what calls touch
        has to be fetched from memory, and this halves it.
        """
        queue, push, clock, here = self.queue, self.queue.append, self.clock, self._here
        state, local, new_thread = self.state, self._local, self.thread
        current, set_current, next_seq = self.current.get, self.current.set, self.seq.__next__
        failed, wait_for_room, begin = self._failed, self._wait_for_room, self._begin
        encode_arguments, encode_result, encode_exception = encoder.arguments, encoder.result, encoder.exception
        scalar_arguments, scalar_results = encoder.scalar_arguments, encoder.scalar_results
        max_string, unchecked, unchecked_word, is_clean, room_for = scalar_arguments or scalar_results or _NO_SCALARS
        max_result = min(max_string, room_for(("",)))
        takes_scalars = scalar_results is not None and max_result >= unchecked
        high, low, highest, lowest = _COMPACT, -_COMPACT, PLAIN_INT, -PLAIN_INT

        def signature_of(names: tuple[str, ...]) -> tuple[tuple[str, ...], int, int]:
            """The names, and what arguments take on the queue: without the characters of texts, and at most."""
            room = room_for(names) if scalar_arguments is not None else -1
            size = CALL_BYTES + SCALAR_BYTES * len(names)
            return names, size, size + room

        def scalar_size(value: Any) -> int:
            """How many characters of text a result has that may be queued as it is; -1: it has to be encoded."""
            kind = type(value)
            if kind is str and value.isascii():
                length = len(value)
                if length > unchecked and (
                    length > max_result or not ((length <= unchecked_word and value.isalnum()) or is_clean(value))
                ):
                    return -1
                return length
            if kind is int:
                return 0 if lowest < value < highest else -1
            return 0 if value is None or kind is bool or (kind is float and value - value == 0.0) else -1

        def make(target: Target, index: int) -> Functions:
            takes_arguments, takes_result, rate = target.args, target.result, target.rate
            signature: tuple[tuple[str, ...] | None, int, int] = (None, 0, -1)

            def enter(names: tuple[str, ...], values: tuple[Any, ...]) -> Flow | None:
                nonlocal signature
                flow: Flow | None = None
                me = None
                try:
                    if not here[0]:  # 10 ns; os.getpid takes 180
                        self.forked()
                    try:
                        me = local.me
                    except AttributeError:
                        me = new_thread()
                    if me.busy:
                        me = None  # the guard is another's to lift
                        state.suppressed_calls += 1
                        return None
                    me.busy = True
                    me.raised = None
                    above: Any = current()
                    entry = None
                    if above is None or above[1] is None:
                        if (
                            above is not None
                            or (state.rate if rate is None else rate) < 1.0
                            or state.elsewhere is not None
                        ):
                            entry = begin(above, rate)
                            if entry is None:
                                state.skipped_calls += 1
                                flow = (above, -1, 0, None, 0, None, me)
                                set_current(SKIPPED)
                                return flow
                    elif above is LOST:
                        state.lost_calls += 1
                        state.lost_events += 2  # its EXIT will not be recorded either
                        next_seq()
                        next_seq()
                        return None
                    elif above is SKIPPED:
                        state.skipped_calls += 1
                        return None
                    waiting = len(queue)
                    if waiting >= state.look_at or state.queued_bytes >= state.full_at:
                        if waiting >= state.wake_at:
                            if state.rate < 0:  # switched off in the midst of this trace
                                state.skipped_calls += 1
                                return None
                            if not state.woken:
                                state.woken = True
                                state.wake()
                        if (waiting >= state.max_events or state.queued_bytes >= state.full_at) and not wait_for_room():
                            state.lost_calls += 1
                            state.lost_events += 2
                            next_seq()
                            next_seq()
                            flow = (above, -1, 0, None, 0, None, me)
                            set_current(LOST)
                            return flow
                    payload: Any = NOT_CAPTURED
                    size = CALL_BYTES
                    if takes_arguments:
                        known, size, most = signature
                        if known is not names:
                            signature = _, size, most = signature_of(names)
                        payload = values if size <= most else None
                        for value in values:
                            kind: Any = type(value)
                            if kind is str and value.isascii():
                                length = len(value)
                                if length > unchecked:
                                    size += length
                                    if length > max_string or not (
                                        (length <= unchecked_word and value.isalnum()) or is_clean(value)
                                    ):
                                        payload = None
                                        break
                            elif kind is int:
                                if not (low < value < high or lowest < value < highest):
                                    payload = None
                                    break
                            elif value is not None and kind is not bool and (kind is not float or value - value != 0.0):
                                payload = None
                                break
                        if payload is None or size > most:
                            payload = encode_arguments(by_name(names, values))
                            size = CALL_BYTES + len(payload)
                    task = None
                    if state.in_loop is not None and state.in_loop() is not None:
                        task = state.task_name()
                    span = next_seq()
                    trace: Any
                    parent: Any
                    request = None
                    if entry is not None:
                        if entry.trace is None:
                            entry.trace = span
                        trace, parent, request = entry.trace, entry.parent, entry.describe()
                    elif above is None:
                        trace, parent = span, None
                    else:
                        trace, parent = above
                    now = clock()
                    flow = (above, span, trace, parent, now, task, me)
                    state.queued_bytes += size
                    push((ENTER, index, span, now, me.id, task, trace, parent, payload, request, names, size))
                    set_current((trace, span))
                    return flow
                except BaseException as error:  # noqa: BLE001  # the gate decides what goes on
                    if flow is not None:
                        above, span, trace, parent, now, task, _ = flow
                        set_current(above)
                        if span >= 0:  # admitted: the pair is closed whatever happens
                            push((
                                EXIT, index, next_seq(), now, 0, task, trace, parent, NO_RESULT, span, 0, None,
                                "abandoned", 0,
                            ))  # fmt: skip
                    failed(error)
                    return None
                finally:
                    if me is not None:
                        me.busy = False

            def leave(flow: Flow | None, result: Any, active_ns: int | None = None, ended: str | None = None) -> None:
                if flow is None:
                    return
                above, span, trace, parent, started, task, me = flow
                if span < 0:
                    set_current(above)
                    return
                kind, payload = EXIT, NO_RESULT
                size, seq = 0, -1
                now, busy = started, me.busy
                try:
                    set_current(above)  # first of all: what a signal handler raises must not keep it from being done
                    now = clock()
                    me.busy = True
                    if result is Raised and not ended:
                        kind, payload = EXCEPTION, LOST_EXCEPTION
                        error = sys.exception()
                        raised = type(error)
                        if raised is RecursionError:  # for which there may be no stack, as for the other no memory
                            payload = LOST_RECURSION_ERROR
                        elif raised is MemoryError:
                            payload = LOST_MEMORY_ERROR
                        text = _same_exception(me, error) or _new_exception(me, error, encode_exception)
                        if text:
                            payload, size = text, len(text)  # both or neither
                    elif not takes_result:
                        payload = NOT_CAPTURED
                    elif result is not None and not ended and span >= state.first:
                        length = scalar_size(result) if takes_scalars else -1
                        if length >= 0:
                            payload, size = result, length + SCALAR_BYTES
                        else:
                            text = encode_result(result)
                            payload, size = text, len(text)
                    if span >= state.first:
                        seq = next_seq()
                except BaseException as error:  # noqa: BLE001
                    failed(error)
                finally:  # after each call a signal handler may raise: the guard goes first, one call does the rest
                    me.busy = busy
                    if span >= state.first:
                        if size:
                            state.queued_bytes += size
                        push((
                            kind, index, next_seq() if seq < 0 else seq, now, me.id, task, trace, parent,
                            payload, span, now - started, active_ns, ended, size,
                        ))  # fmt: skip

            return Functions(enter, leave)

        return make

    def _limited(self, limit: Limit, enter: Callable[..., Any]) -> Callable[..., Any]:
        """``enter``, for calls that the limit admits."""
        state, clock, current, set_current = self.state, self.clock, self.current.get, self.current.set
        failed = self._failed
        self.limits.append(limit)

        def enter_within(names: tuple[str, ...], values: tuple[object, ...]) -> Flow | None:
            flow: Flow | None = None
            try:
                above = current()
                if above is LOST or above is SKIPPED or limit.admits(clock()):
                    result: Flow | None = enter(names, values)
                    return result
                limit.left_out += 1
                state.skipped_calls += 1
                flow = (above, -1, 0, None, 0, None, None)
                set_current(SKIPPED)
                return flow
            except BaseException as error:  # noqa: BLE001
                if flow is not None:
                    set_current(flow[0])
                failed(error)
                return None

        return enter_within

    def _begin(self, above: Any, rate: float | None) -> Entry | None:
        """What a call below no other is part of; None where its trace is not recorded."""
        state = self.state
        entry: Entry = Entry() if above is None else above[0]
        remote = state.elsewhere() if state.elsewhere is not None else None
        if remote is not None:
            entry = Entry(remote, entry.describe)
        if entry.is_sampled is None:
            rate = state.rate if rate is None else rate
            entry.is_sampled = rate >= 1.0 or chance() < rate
        return entry if entry.is_sampled else None

    def _wait_for_room(self) -> bool:
        """Under ``overflow: block``: sleep until there is room, as long as the dispatcher does its work.

        The guard is on all the while. Where nothing has moved for too long, only the first to find out has waited.
        """
        state, queue = self.state, self.queue
        while state.block_ns and self.stuck_since != state.moved_ns and state.max_events >= 0 and state.rate >= 0:
            if len(queue) < state.max_events and state.queued_bytes - state.drained_bytes < state.max_bytes:
                return True
            if self.clock() - state.moved_ns >= state.block_ns:
                self.stuck_since = state.moved_ns
                break
            if not state.woken:
                state.woken = True
                state.wake()
            _sleep(0.001)
        return False

    def _failed(self, error: BaseException) -> None:
        """The gate for everything that goes wrong in here: ours is counted, the program's own goes on to it."""
        self.state.failures += 1
        if not _is_internal(error):
            self.state.failures -= 1
            raise error
        if self.state.strict:
            raise error


def _call(part: Callable[..., Any], *args: Any) -> Any:
    return part(*args)


def _subscript(part: Any, key: Any) -> Any:
    return part[key]


if native:
    native.frame(_call, _subscript)
_COMPACT = (1 << 30) - 1  # ints of one digit, which CPython compares in half the time
_sleep = time.sleep
_NO_SCALARS = Scalars(0, 0, 0, lambda text: False, lambda names: -1)


def _wiped_on_fork() -> bytearray | mmap.mmap:
    """A one that is zero in a child, where the system can do that: Linux from 4.14 on, madvise(2)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(MADV_WIPEONFORK)
            page[0] = 1
            return page
    return bytearray(b"\1")


def _same_exception(me: Thread, error: BaseException | None) -> bytes | None:
    """What was encoded for this exception when it left an inner call: a deep unwinding walks no traceback twice.

    Ids alone do not tell, for addresses are used again: the inner call's entry has to be in the traceback, behind
    that of the frame that is left now, with the same code; and no call was made in between.
    """
    raised = me.raised
    if raised is None or error is None or raised.error != id(error):
        return None
    first = traceback_of(error)
    traceback = first.tb_next if first else None
    for _ in range(MAX_UNTRACED_FRAMES):
        if traceback is None or first is None:
            return None
        if id(traceback) == raised.traceback and traceback.tb_frame.f_code is raised.code:
            me.raised = raised._replace(traceback=id(first), code=first.tb_frame.f_code)
            return raised.payload
        traceback = traceback.tb_next
    return None


def _new_exception(me: Thread, error: BaseException | None, encode: Callable[[BaseException], bytes]) -> bytes:
    """What is encoded for an exception; empty where that fails, so that the calls further out try again."""
    payload = encode(error) if error is not None else b""
    first = traceback_of(error) if payload else None
    me.raised = Unwinding(id(error), id(first), first.tb_frame.f_code, payload) if first else None
    return payload


def _is_internal(error: BaseException) -> bool:
    """Whether an exception is the agent's own failure, not one that a signal handler or another thread sent here."""
    kind = type(error)
    if issubclass(kind, (RecursionError, MemoryError)):
        return True
    traceback = traceback_of(error)
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    # none: it was raised in C, called from C; what a handler or another thread sends has the frame that it struck
    inside = traceback is None or traceback.tb_frame.f_code.co_filename.startswith(FOLDER)
    return inside and issubclass(kind, Exception) and module_of(kind) == "builtins"
