"""The hot path: what is recorded, what is dropped, and that nothing of it reaches the program."""

from __future__ import annotations

import collections
import contextvars
import gc
import itertools
import json
import math
import random
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtrace import recorder as recorder_module
from flowtrace.events import ENTER, EXCEPTION, EXIT, Described, Ids, Lines
from flowtrace.recorder import CALL_BYTES, RECORD_BYTES, SCALAR_BYTES, SKIPPED, Entry, Functions, Recorder, Target
from flowtrace.redaction import Redactor
from flowtrace.tracecontext import Remote
from flowtrace.values import Encoder, Limits
from tests.agent.engine import Engine, Shown, Span, plain

TREE = "def node(children):\n    for child in children:\n        node(child)\n"
trees: st.SearchStrategy[Any] = st.recursive(
    st.just([]), lambda children: st.lists(children, max_size=4), max_leaves=30
)


def size(tree: Any) -> int:
    return 1 + sum(map(size, tree))


def test_a_call_is_recorded_with_its_place_and_times() -> None:
    """ENTER and EXIT say who called, in which trace, when, and how long it took."""
    engine = Engine(clock=itertools.count(100, 50).__next__)
    module = engine.load("def outer():\n  return inner(1)\ndef inner(x):\n  return x + 1\n")

    module.outer()

    outer, inner = engine.spans()
    assert (outer.parent, outer.trace, inner.parent, inner.trace) == (None, outer.seq, outer.seq, outer.seq)
    assert inner.args == {"x": "1"}
    assert inner.outcome == "returned 2"
    assert (inner.end[10], outer.end[10]) == (50, 150)
    assert [record[2] for record in engine.recorder.queue] == [0, 1, 2, 3]


def test_records_are_plain_data() -> None:
    """No user object is on the queue, and the collector need not look at what is."""  # fault U18
    engine = Engine()
    module = engine.load("def f(x):\n  return x\n")
    gc.collect()  # of the names of its arguments, once for all

    module.f(object())
    gc.collect()

    for record in engine.recorder.queue:
        assert {type(item) for item in record} <= {int, str, bytes, tuple, type(None)}
        assert all(type(name) is str for item in record if type(item) is tuple for name in item)
        assert not gc.is_tracked(record)


SCALARS = [
    None, True, 0, -1, 10**12 - 1, 10**12, 4111111111111111, 1 << 70, 0.5, -0.0, 1e300, math.nan, math.inf,
    "", "word", "two words", "é", "\u2028", "\x1b", '"\\', "\ud800", "x" * 256, "x" * 257, "AKIAIOSFODNN7EXAMPLE",
    "password=hunter2", "token: abcdefghijk", b"bytes", [1], (1, "a"), {"a": 1},
]  # fmt: skip
values_of_arguments = st.sampled_from(SCALARS) | st.integers() | st.floats() | st.text(max_size=300)
names_of_arguments = st.sampled_from(["a", "number", "text", "name", "value", "key", "password", "naïve", "x" * 200])


@given(
    arguments=st.dictionaries(names_of_arguments, values_of_arguments, max_size=8),
    result=values_of_arguments,
    max_string=st.sampled_from([1, 20, 256]),
    max_bytes=st.sampled_from([2, 30, 200, 8192]),
    redactor=st.sampled_from([Redactor(), Redactor(patterns=["[a-z]{3}"]), Redactor(defaults=False)]),
)
def test_what_is_queued_as_it_is_shows_as_if_it_had_been_encoded(
    arguments: dict[str, Any], result: Any, max_string: int, max_bytes: int, redactor: Redactor
) -> None:
    """Whether small values are encoded in the call or later: the bytes of the line are the same."""
    encoder = Encoder(limits=Limits(max_string=max_string, max_bytes=max_bytes), redactor=redactor)
    recorder = Recorder()
    enter, leave = recorder.functions(Target("m", "f", 1, encoder))
    for _ in range(2):  # the first time, the names are looked at
        recorder.queue.clear()
        leave(enter(tuple(arguments), tuple(arguments.values())), result)
        lines = Lines(
            describe=lambda _: Described("m", "f"), ids=Ids(bytes), pid=1, wall_offset_ns=0, values_as_text=False
        )

        entered, left = map(lines.line, recorder.queue)

        assert b'"args":%b,"module"' % encoder.arguments(arguments) in entered
        assert b'"result":%b,"durationMicros"' % encoder.result(result) in left


def test_most_calls_have_nothing_to_encode() -> None:
    """Short plain values go on the queue as they are, and count there with their text."""
    recorder = Recorder()
    enter, leave = recorder.functions(Target("m", "f", 1, Encoder(limits=Limits(), redactor=Redactor())))
    names, values = (
        ("number", "text", "rate", "flag", "nothing"),
        (7, "a plain sentence of some words", 0.5, True, None),
    )

    leave(enter(names, values), "done")

    entered, left = recorder.queue
    assert entered[8] is values
    assert left[8] == "done"
    assert recorder.state.queued_bytes == entered[-1] + left[-1] == CALL_BYTES + 6 * SCALAR_BYTES + 34


LIFE = """
import weakref
class Thing: pass
def takes(thing): return None
def gives(): return Thing()
def fails(thing): raise ValueError(thing)
def generates(thing):
    yield thing
    yield
def keeps(thing):
    return [thing]
"""


def observed_life(module: Any) -> list[Any]:
    """Reference counts and deaths that a program can see around calls."""
    seen: list[Any] = []
    thing = module.Thing()
    weakref.finalize(thing, seen.append, "dead")
    module.takes(thing)
    seen.append(sys.getrefcount(thing))
    try:
        module.fails(thing)
    except ValueError:
        seen.append(sys.getrefcount(thing))
    seen.append(sys.getrefcount(thing))
    generator = module.generates(thing)
    next(generator)
    seen.append(sys.getrefcount(thing))
    del generator
    seen.append(sys.getrefcount(thing))
    seen.append(sys.getrefcount(module.keeps(thing)))
    module.takes(module.gives())
    weakref.finalize(module.gives(), seen.append, "result dead")
    del thing
    seen.append("after")
    return seen


def test_objects_live_and_die_as_untraced() -> None:
    """Reference counts after each call, and the moment of finalizers, are the same."""  # fault U18
    gc.disable()
    try:
        expected, traced = observed_life(plain(LIFE)), observed_life(Engine().load(LIFE))
    finally:
        gc.enable()

    assert "dead" in expected
    assert traced == expected


DEEP = "def down(n):\n    return n if n == 0 else 1 + down(n - 1)\ndef endless():\n    endless()\n"


def deepest(module: Any) -> int:
    """How deep `down` goes under the recursion limit."""
    low, high = 1, sys.getrecursionlimit() + 100
    while low < high - 1:
        middle = (low + high) // 2
        try:
            module.down(middle)
            low = middle
        except RecursionError:
            high = middle
    return low


def test_recursion_goes_as_deep_as_untraced() -> None:
    """The limit is reached at the same depth, and every call that was recorded has an end."""  # fault C6
    engine = Engine()
    engine.recorder.state.strict = False
    module = engine.load(DEEP)

    assert deepest(module) == deepest(plain(DEEP))
    assert all(len(span.ends) == 1 for span in engine.spans())
    assert engine.here() is None


def test_endless_recursion_ends_as_untraced() -> None:
    """RecursionError comes out, whatever the recorder could still do; the records are closed."""  # fault C7
    engine = Engine()
    engine.recorder.state.strict = False
    module = engine.load(DEEP)

    for _ in range(3):
        with pytest.raises(RecursionError):
            module.endless()

    assert all(len(span.ends) == 1 for span in engine.spans())
    assert engine.here() is None


def test_endless_recursion_is_told_with_message_and_place() -> None:
    """By each call that it leaves, as soon as there is stack enough; by the few further in, with its type."""
    engine = Engine(encoder=Encoder(limits=Limits(), redactor=Redactor()))
    engine.recorder.state.strict = False
    module = engine.load(DEEP)

    with pytest.raises(RecursionError) as caught:
        module.endless()

    told = [json.loads(record[8]) for record in engine.recorder.queue if record[0] == EXCEPTION]
    whole = {"type": "RecursionError", "message": str(caught.value), "at": "m.py:4"}
    lost = told.index(whole)
    assert told[:lost] == [{"type": "RecursionError", "message": "", "at": None}] * lost
    assert told[lost:] == [whole] * (len(told) - lost)
    assert 0 < lost < 20 < len(told)
    assert sum(record[-1] for record in engine.recorder.queue) == engine.recorder.state.queued_bytes


@pytest.mark.parametrize(
    ("error", "told"),
    [("RecursionError", "RecursionError"), ("MemoryError", "MemoryError"), ("KeyError", "<uncapturable>")],
)
def test_an_exception_that_cannot_be_captured_is_tried_again_further_out(error: str, told: str) -> None:
    """What stands for it is an object, with its type where that needs nothing, and it is not taken for what it says."""
    tries = itertools.count()

    class Recovers(Shown):
        def exception(self, error: BaseException) -> bytes:
            return super().exception(error) if next(tries) >= 2 else b""

    engine = Engine(encoder=Recovers())
    module = engine.load(f"def down(n):\n  if n: down(n - 1)\n  else: raise {error}(n)\n")

    with pytest.raises((RecursionError, MemoryError, KeyError)):
        module.down(4)

    lost = {"type": told, "message": "", "at": None}
    assert [json.loads(span.end[8]) for span in engine.spans()] == [f"{error}tuple(0)"] * 3 + [lost] * 2
    assert next(tries) == 3


@given(tree=trees, room=st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_loss_is_by_subtree(tree: Any, room: int) -> None:
    """With little room, what is recorded is closed: parents before children, an end for each; the rest is counted."""
    engine = Engine()
    engine.recorder.state.max_events = room
    module = engine.load(TREE)

    module.node(tree)

    spans, state = engine.spans(), engine.recorder.state
    known = {span.seq for span in spans} | {None}
    assert all(span.parent in known and len(span.ends) == 1 for span in spans)
    assert len(spans) + state.lost_calls == size(tree)
    assert state.lost_events == 2 * state.lost_calls
    assert next(engine.recorder.seq) == 2 * size(tree)
    assert engine.here() is None


def test_the_bound_is_in_bytes_too() -> None:
    """Records are admitted until their size reaches the bound, and again when some were taken away."""  # fault T12
    engine = Engine()
    state, queue = engine.recorder.state, engine.recorder.queue
    state.max_bytes = 100_000
    module = engine.load("def f(x): pass\n")

    for _ in range(1_000):
        module.f("x" * 1_000)

    assert 0 < len(queue) < 200
    assert state.queued_bytes <= 100_000 + 2 * (RECORD_BYTES + 1_100)
    assert state.queued_bytes == sum(record[-1] for record in queue)
    lost, state.drained_bytes = state.lost_calls, state.queued_bytes
    module.f("room again")
    assert state.lost_calls == lost


def test_an_end_is_recorded_though_there_is_no_room() -> None:
    """A call whose beginning was admitted always gets its end."""
    engine = Engine()
    module = engine.load("def outer():\n  fill()\n  inner()\ndef inner(): pass\n", select=lambda name: True)
    module.fill = lambda: setattr(engine.recorder.state, "max_events", 0)

    module.outer()

    assert engine.outcomes() == [("outer", "returned None")]
    assert engine.recorder.state.lost_calls == 1


def test_waiting_for_room_ends_when_there_is_some() -> None:
    """Under ``overflow: block`` a call waits, and goes on when records were taken."""
    engine = Engine()
    state, queue = engine.recorder.state, engine.recorder.queue
    state.max_events, state.block_ns, state.moved_ns = 2, 10**10, engine.recorder.clock()
    module = engine.load("def f(): pass\n")

    def turn() -> None:
        queue.clear()
        state.woken = False

    state.wake = turn
    for _ in range(5):
        module.f()

    assert state.lost_calls == 0


def test_nothing_that_moves_ends_the_waiting_for_room() -> None:
    """Where no sink takes anything for the time, the call is lost, and those after it wait no more, until one does."""
    now, naps = [0], list[float]()
    engine = Engine(clock=lambda: now[0])
    state = engine.recorder.state
    state.max_events, state.block_ns = 2, 20_000_000
    module = engine.load("def f(): return 1\n")

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += round(seconds * 1e9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder_module, "_sleep", sleep)
        assert [module.f() for _ in range(4)] == [1] * 4
        assert (state.lost_calls, sum(naps)) == (3, pytest.approx(0.02))
        state.moved_ns = now[0]
        module.f()

    assert (state.lost_calls, sum(naps)) == (4, pytest.approx(0.04))


def test_slow_sink_is_waited_for_as_long_as_it_takes() -> None:
    """What moves now and then is not stuck, however long room takes to come."""
    now = [0]
    engine = Engine(clock=lambda: now[0])
    state, queue = engine.recorder.state, engine.recorder.queue
    state.max_events, state.block_ns = 2, 20_000_000
    module = engine.load("def f(): return 1\n")

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9)
        state.moved_ns = now[0] // 10**7 * 10**7
        if now[0] > 10**9:
            queue.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder_module, "_sleep", sleep)
        module.f()
        module.f()

    assert (state.lost_calls, len(queue)) == (0, 2)


@pytest.mark.parametrize("change", [{"max_events": -1}, {"rate": -1.0}], ids=["stopped", "off"])
def test_what_waits_for_room_is_let_go_when_tracing_ends(change: dict[str, Any]) -> None:
    """The end of the process, and `off`, hold nobody up."""
    engine = Engine()
    state = engine.recorder.state
    state.max_events, state.block_ns, state.moved_ns = 2, 10**12, engine.recorder.clock()
    module = engine.load("def f(): return 1\n")
    module.f()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder_module, "_sleep", lambda _: [setattr(state, *item) for item in change.items()])
        assert module.f() == 1

    assert state.lost_calls == 1


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_sampling_is_decided_at_roots(rate: float) -> None:
    """A trace is recorded whole or not at all, and what is skipped is counted."""
    engine = Engine()
    engine.recorder.state.rate = rate
    module = engine.load(TREE)

    for _ in range(200):
        module.node([[], [[]]])

    traces = collections.Counter(span.trace for span in engine.spans())
    assert set(traces.values()) <= {4}
    assert len(traces) * 4 + engine.recorder.state.skipped_calls == 800
    assert (rate == 0.3) == (0 < len(traces) < 200)
    assert engine.here() is None


class Calling(Shown):
    """An encoder that calls traced code, as a ``__repr__`` might."""

    module: Any = None

    def arguments(self, values: dict[str, object]) -> bytes:
        if self.module:
            self.module.f(1)
        return super().arguments(values)


def test_calls_made_while_capturing_are_suppressed() -> None:
    """They are counted and not recorded, and the guard is lifted after."""  # fault T4
    encoder = Calling()
    engine = Engine(encoder=encoder)
    encoder.module = engine.load("def f(x): return x\n")

    assert [encoder.module.f(2), encoder.module.f(3)] == [2, 3]

    assert [span.args for span in engine.spans()] == [{"x": "2"}, {"x": "3"}]
    assert engine.recorder.state.suppressed_calls == 2
    assert engine.recorder.thread().busy is False


class Failing(Shown):
    """An encoder that raises where it is told to."""

    def __init__(self, where: str, error: Callable[[], BaseException]) -> None:
        self.where, self.error = where, error

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise self.error()

    def arguments(self, values: dict[str, object]) -> bytes:
        self._fail("arguments")
        return super().arguments(values)

    def result(self, value: object) -> bytes:
        self._fail("result")
        return super().result(value)

    def exception(self, error: BaseException) -> bytes:
        self._fail("exception")
        return super().exception(error)


BOTH = "def f(x):\n  CALLED.append(x)\n  return x\ndef g(x):\n  CALLED.append(x)\n  raise KeyError(x)\nCALLED = []\n"


@pytest.mark.parametrize("where", ["arguments", "result", "exception"])
@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_failures_of_the_agent_are_swallowed(where: str, error: type[Exception]) -> None:
    """The function runs once, its result or exception wins, the pair is closed and the failure counted."""
    # fault C7, C8
    engine = Engine(encoder=Failing(where, error))
    engine.recorder.state.strict = False
    module = engine.load(BOTH)

    assert module.f(1) == 1
    with pytest.raises(KeyError, match="2") as caught:
        module.g(2)

    assert module.CALLED == [1, 2]
    assert caught.value.__context__ is None
    assert all(len(span.ends) == 1 for span in engine.spans())
    if where == "exception":
        assert json.loads(engine.spans()[-1].end[8]) == {"type": "<uncapturable>", "message": "", "at": None}
    assert engine.recorder.state.failures in (1, 2)
    assert engine.here() is None
    assert engine.recorder.thread().busy is False


@pytest.mark.parametrize("where", ["arguments", "result", "exception"])
def test_what_signals_raise_inside_the_agent_reaches_the_program(where: str) -> None:
    """KeyboardInterrupt goes on to the program, the pair is closed and the guard lifted."""  # fault C3
    engine = Engine(encoder=Failing(where, KeyboardInterrupt))
    module = engine.load(BOTH)

    with pytest.raises(KeyboardInterrupt):
        module.g(1) if where == "exception" else module.f(1)

    assert all(len(span.ends) == 1 for span in engine.spans())
    assert engine.here() is None
    assert engine.recorder.thread().busy is False


@pytest.mark.parametrize("way", ["recorded", "not sampled", "over the limit", "no room"])
def test_what_is_raised_between_any_two_calls_leaves_nothing_behind(way: str) -> None:
    """Wherever Python runs a signal handler: no open pair, no guard, no current span, and no failure is counted."""
    # fault C3
    recorder = Recorder()
    recorder.state.rate = 0.0 if way == "not sampled" else 1.0
    recorder.state.max_events = -1 if way == "no room" else 1_000
    limit = {"over the limit": 0, "no room": None}.get(way, 1_000)
    enter, leave = recorder.functions(Target("m", "f", 1, Shown(), max_per_second=limit))
    struck = 0
    for moment in range(100):
        moments = itertools.count()

        def strike(frame: types.FrameType, event: str, function: object, at: int = moment, n: Any = moments) -> None:
            if event == "c_return" and next(n) == at:
                raise KeyboardInterrupt

        try:
            sys.setprofile(strike)
            leave(enter(("x",), (1,)), 2)
        except KeyboardInterrupt:
            struck += 1
        finally:
            sys.setprofile(None)
        assert recorder.current.get() is None, moment
        assert recorder.thread().busy is False, moment

    kinds = [record[0] for record in recorder.queue]
    assert (0 if type(leave) is not types.FunctionType else 3) < struck < 90  # in C there are few such moments
    assert kinds.count(ENTER) == kinds.count(EXIT)
    assert recorder.state.failures == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer signal")
def test_signals_at_any_moment_leave_the_records_closed() -> None:
    """Exceptions from a signal handler, wherever they strike, leave no open pair, guard or current span."""  # fault C3

    class Struck(Exception):
        pass

    def strike(*_: object) -> None:
        raise Struck

    engine = Engine()
    module = engine.load("def f(x):\n  return g(x)\ndef g(x):\n  return x\n")
    before = signal.signal(signal.SIGALRM, strike)
    struck = 0
    try:
        gc.disable()
        for n in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + n % 50 * 0.00001)
                for _ in range(500):  # not for ever: what strikes inside a callback of the collector is lost
                    module.f(n)
            except Struck:
                struck += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert engine.recorder.thread().busy is False
            assert engine.recorder.current.get() is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()

    assert struck > 100
    assert all(len(span.ends) == 1 for span in engine.spans())


def test_an_exception_is_described_once_while_it_unwinds() -> None:
    """The frames it passes share what was encoded; another exception of the same object's id does not."""
    described = []

    class Counting(Shown):
        def exception(self, error: BaseException) -> bytes:
            described.append(error.args)
            return super().exception(error)

    engine = Engine(encoder=Counting())
    module = engine.load(
        "def down(n):\n  if n: down(n - 1)\n  else: raise KeyError(n)\n"
        "def many():\n  for n in range(3):\n    try: one(n)\n    except ValueError: pass\n"
        "def one(n): raise ValueError(n)\n"
    )

    with pytest.raises(KeyError):
        module.down(5)
    module.many()

    assert described == [(0,), (0,), (1,), (2,)]
    ends = [json.loads(span.end[8]) for span in engine.spans() if span.name == "one"]
    assert ends == [f"ValueErrortuple({n})" for n in range(3)]


def test_another_exception_is_not_taken_for_the_one_before() -> None:
    """An exception that lies where a freed one lay is described for itself."""
    engine = Engine()
    module = engine.load(
        "def outer():\n  try: inner()\n  except ValueError: pass\n  helper()\n"
        "def inner(): raise ValueError('a')\ndef helper(): raise ValueError('b')\n"
        "def direct():\n  try: inner()\n  except ValueError: pass\n  raise ValueError('c')\n",
        select=lambda name: name != "helper",
    )

    for call in (module.outer, module.direct) * 20:
        with pytest.raises(ValueError, match="b|c"):
            call()

    assert {outcome for name, outcome in engine.outcomes() if name == "outer"} == {"raised ValueErrortuple('b')"}
    assert {outcome for name, outcome in engine.outcomes() if name == "direct"} == {"raised ValueErrortuple('c')"}


def test_threads_record_everything_in_their_order() -> None:
    """Calls from many threads at once: none is lost, each thread's are in order, numbers are unique."""  # fault T1
    engine = Engine()
    module = engine.load("def f(n):\n  return g(n)\ndef g(n): return n\n")

    threads = [threading.Thread(target=lambda: [module.f(n) for n in range(2_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    records = list(engine.recorder.queue)
    assert sorted(record[2] for record in records) == list(range(8 * 2_000 * 4))
    by_thread = collections.defaultdict(list)
    for record in records:
        by_thread[record[4]].append(record)
    assert len(by_thread) == 8
    for own in by_thread.values():
        assert [r[2] for r in own] == sorted(r[2] for r in own)
        assert [json.loads(r[8])["n"] for r in own if r[0] == ENTER] == [str(n) for n in range(2_000) for _ in "fg"]


def test_a_finalizer_may_call_traced_code_anywhere() -> None:
    """Collections that strike while a call is recorded, and run traced code, neither hang nor break the records."""
    # fault T2
    engine = Engine()
    module = engine.load(
        "class Cycle:\n  def __init__(self): self.me = self\n  def __del__(self): g()\n"
        "def f(x): return Cycle()\ndef g(): pass\n"
    )
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for n in range(300):
            module.f(n)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()

    spans = [span for span in engine.spans() if span.name == "f"]
    assert all(len(span.ends) == 1 for span in engine.spans())
    assert len(spans) >= 300
    assert engine.here() is None


def test_a_forked_child_starts_anew() -> None:
    """After `reset` the queue is empty, counters are zero, and calls begun before leave no record."""  # fault P1
    engine = Engine()
    module = engine.load("def outer():\n  fork()\n  inner()\ndef inner(): pass\n")
    module.fork = engine.recorder.reset

    module.outer()

    assert [span.name for span in engine.spans()] == ["inner"]
    assert all(record[2] >= engine.recorder.state.first for record in engine.recorder.queue)
    assert engine.recorder.state.queued_bytes - engine.recorder.state.drained_bytes > 0
    assert engine.here() is None


def test_the_dispatcher_is_woken_when_the_queue_fills() -> None:
    """It is woken once, until it says that it is awake."""
    engine = Engine()
    woken: list[int] = []
    engine.recorder.state.wake_at = 4
    engine.recorder.state.wake = lambda: woken.append(1)
    module = engine.load("def f(): pass\n")

    for _ in range(10):
        module.f()

    assert woken == [1]


def test_values_are_not_captured_where_the_target_says_so() -> None:
    """Without capture the payloads are empty and the encoder is not asked."""
    from flowtrace.recorder import Target

    engine = Engine(encoder=Failing("arguments", ValueError))
    enter, leave = engine.recorder.functions(
        Target("m", "f", 1, Failing("result", ValueError), args=False, result=False)
    )

    leave(enter(("a",), (1,)), 2)

    assert [record[8] for record in engine.recorder.queue] == [b"", b""]


# -- where traces begin ----------------------------------------------------------------------------------------------

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NESTED = "def outer():\n  return inner()\ndef inner():\n  return 1\n"


def begun(engine: Engine, entry: Entry, *calls: Callable[[], object]) -> list[Span]:
    """The spans of calls made in a request."""

    def request() -> None:
        engine.recorder.current.set((entry, None))
        for call in calls:
            call()
            assert engine.recorder.current.get() == (entry, None)

    contextvars.copy_context().run(request)
    return engine.spans()


def test_trace_goes_on_from_elsewhere() -> None:
    """The first calls of a request are below the call that has sent it, in its trace, and say what it is about."""
    engine = Engine()
    module = engine.load(NESTED)
    entry = Entry(Remote(TRACE, SPAN), lambda: b'{"method":"GET"}')

    outer, inner, again, _ = begun(engine, entry, module.outer, module.outer)

    assert (outer.parent, again.parent, inner.parent) == (SPAN, SPAN, outer.seq)
    assert {outer.trace, again.trace, inner.trace} == {TRACE}
    requests = [record[9] for record in engine.recorder.queue if record[0] == ENTER]
    assert requests == [b'{"method":"GET"}', None, b'{"method":"GET"}', None]


def test_request_is_one_trace() -> None:
    """Also where it brings none, and several calls are made in it one after the other."""
    engine = Engine()
    module = engine.load(NESTED)

    outer, inner, again, _ = begun(engine, Entry(), module.outer, module.outer)

    assert (outer.parent, again.parent) == (None, None)
    assert (outer.trace, inner.trace, again.trace) == (outer.seq, outer.seq, outer.seq)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_what_was_decided_elsewhere_holds(is_sampled: bool) -> None:
    """A trace that is recorded there is recorded here, whatever the rates; one that is not, is not."""
    engine = Engine()
    engine.recorder.state.rate = 0.0 if is_sampled else 1.0
    module = engine.load(NESTED)

    spans = begun(engine, Entry(Remote(TRACE, SPAN, is_sampled)), module.outer)

    assert len(spans) == 2 * is_sampled
    assert engine.recorder.state.skipped_calls == 2 * (not is_sampled)


def test_sampling_leaves_the_programs_random_numbers_alone() -> None:
    """A program that seeds its generator gets the numbers that it gets untraced."""
    engine = Engine()
    engine.recorder.state.rate = 0.5
    module = engine.load(NESTED)
    random.seed(5)

    for _ in range(20):
        module.outer()

    assert random.random() == random.Random(5).random()


@given(rate=st.floats(0, 1))
def test_request_is_recorded_whole_or_not_at_all(rate: float) -> None:
    """Its first call decides for all."""
    engine = Engine()
    engine.recorder.state.rate = rate
    module = engine.load(NESTED)

    assert len(begun(engine, Entry(), *[module.outer] * 5)) in (0, 10)


def test_rules_have_rates_of_their_own() -> None:
    """The rate of the function that a trace begins with counts; below it, none does."""
    engine = Engine()
    engine.recorder.state.rate = 0.0
    rates = {"outer": 1.0, "inner": 0.0}
    parts = {name: engine.recorder.functions(Target("m", name, 1, Shown(), rate=rate)) for name, rate in rates.items()}

    outer = parts["outer"].enter((), ())
    inner = parts["inner"].enter((), ())
    parts["inner"].leave(inner, None)
    parts["outer"].leave(outer, None)
    parts["inner"].leave(parts["inner"].enter((), ()), None)

    assert [span.parent for span in engine.spans()] == [None, 0]
    assert engine.recorder.state.skipped_calls == 1
    assert engine.here() is None


def test_rate_of_a_rule_does_not_switch_on() -> None:
    """What is switched off stays so."""
    engine = Engine()
    engine.recorder.state.rate, engine.recorder.state.wake_at = -1.0, 0
    parts = engine.recorder.functions(Target("m", "f", 1, Shown(), rate=1.0))

    parts.leave(parts.enter((), ()), None)

    assert engine.spans() == []


@pytest.mark.parametrize("entry", [None, Entry(describe=lambda: b"{}")])
def test_trace_of_another_tracer_is_joined(entry: Entry | None) -> None:
    """What that one says is nearer than what the request brought."""
    engine = Engine()
    engine.recorder.state.elsewhere = lambda: Remote(TRACE, SPAN)
    module = engine.load(NESTED)

    outer, inner = begun(engine, entry, module.outer) if entry else (module.outer(), engine.spans())[1]

    assert (outer.trace, outer.parent, inner.parent) == (TRACE, SPAN, outer.seq)
    assert engine.recorder.queue[0][9] == (b"{}" if entry else None)


def limited(engine: Engine, per_second: int) -> Functions:
    """The functions of a target with a limit."""
    return engine.recorder.functions(Target("m", "hot", 1, Shown(), max_per_second=per_second))


def test_function_is_recorded_so_often_in_a_second() -> None:
    """Calls beyond that are left out with all below them, and counted; the next second begins anew."""
    now = [0]
    engine = Engine(clock=lambda: now[0])
    hot, module = limited(engine, 3), engine.load(NESTED)

    for second in range(2):
        now[0] = second * 1_000_000_000 + 5
        for _ in range(5):
            flow = hot.enter((), ())
            module.outer()
            hot.leave(flow, None)

    assert len(engine.spans()) == 2 * 3 * 3
    assert all(len(span.ends) == 1 for span in engine.spans())
    assert [limit.left_out for limit in engine.recorder.limits] == [4]
    assert engine.recorder.state.skipped_calls == 4 * 3
    assert engine.here() is None


def test_calls_that_are_not_recorded_anyway_use_up_no_limit() -> None:
    """Neither those below a call that was left out, nor those that the limit itself has left out."""
    engine = Engine()
    hot = limited(engine, 1)
    engine.recorder.current.set(SKIPPED)

    for _ in range(3):
        hot.leave(hot.enter((), ()), None)

    assert engine.recorder.limits[0].left_out == 0
    assert engine.recorder.limits[0].admits(engine.recorder.clock())
