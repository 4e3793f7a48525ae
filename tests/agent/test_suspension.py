"""Generators, coroutines and async generators: driven step by step beside their untraced twins."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent.engine import Engine, plain, sample, shown

SOURCE, PATH = sample("scripted")
ASYNC_SOURCE, ASYNC_PATH = sample("scripted_async")
LIBRARY = contextlib.__file__
PLAIN = plain(SOURCE, filename=PATH)
BODIES = [name for name in vars(PLAIN) if name.startswith("body_")]

ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("sent"),
    lambda: KeyError("sent"),
    lambda: GeneratorExit("sent"),
    lambda: StopIteration("sent"),
    lambda: KeyboardInterrupt(),
]
STEPS: list[tuple[Any, ...]] = [("next",), ("send", 1), ("send", "stop"), ("close",)]
STEPS += [("throw", index) for index in range(len(ERRORS))]
scripts = st.lists(st.sampled_from([("next",), ("next",), *STEPS]), max_size=8)


def traced(source: str = SOURCE) -> tuple[Any, Engine]:
    engine = Engine()
    return engine.load(source, filename=PATH, select=lambda name: name != "untraced" and "." not in name), engine


def described(error: BaseException | None) -> Any:
    """An exception with all that can be seen of it, what it hides included."""
    if error is None:
        return None
    frames = [
        (frame.name, frame.lineno, frame.colno)
        for frame in traceback.extract_tb(error.__traceback__)
        # 3.11 itself leaves out frames where a body that handles an exception is thrown another
        if frame.filename != __file__
        and (sys.version_info >= (3, 12) or frame.filename not in (PATH, ASYNC_PATH, LIBRARY))
    ]
    chain = described(error.__cause__), described(error.__context__), error.__suppress_context__
    return type(error), repr(error.args), frames, chain


def step(generator: Any, action: tuple[Any, ...]) -> Any:
    """What one step gives."""
    try:
        match action:
            case ("next",):
                return shown(next(generator))
            case ("send", value):
                return shown(generator.send(value))
            case ("throw", index):
                return shown(generator.throw(ERRORS[index]()))
        return generator.close()
    except BaseException as error:
        return described(error)


def drive(body: Any, script: list[tuple[Any, ...]], *, here: Callable[[], str | None]) -> list[Any]:
    """The course of a script: results of the steps, and what the body notes in between."""
    seen: list[Any] = []

    def note(text: object, where: str | None = None) -> object:
        seen.append((str(text), where or body.__name__))
        inside.append((where or body.__name__, here()))
        return text

    inside: list[tuple[str, str | None]] = []
    generator = body(note)
    for action in [*script, *[("close",)] * 8]:
        seen.append((action, step(generator, action), generator.gi_yieldfrom is None, here()))
        if generator.gi_frame is None and action == ("close",):
            break
    # an untraced body is run by the traced one that delegates to it
    assert all(there in (None, where) or where == "untraced" for where, there in inside), inside
    return seen


TRACED = traced()


@given(name=st.sampled_from(BODIES), script=scripts)
@settings(max_examples=600, deadline=None)
def test_generators_take_any_course_as_untraced(name: str, script: list[tuple[Any, ...]]) -> None:
    """Values, exceptions with chain and traceback, and order are the same; one end each."""  # fault C4
    module, engine = TRACED

    expected = drive(getattr(PLAIN, name), script, here=lambda: None)
    course = drive(getattr(module, name), script, here=engine.here)

    spans = engine.spans()
    engine.recorder.queue.clear()
    assert course == expected
    assert [span.name for span in spans if len(span.ends) != 1] == []
    assert all(span.end[11] <= span.end[10] for span in spans)


ASYNC_PLAIN = plain(ASYNC_SOURCE, filename=ASYNC_PATH)
COROUTINES = [name for name in vars(ASYNC_PLAIN) if name.startswith("body_")]
AGENS = [name for name in vars(ASYNC_PLAIN) if name.startswith("agen_")]


def traced_async() -> tuple[Any, Engine]:
    engine = Engine()
    untraced = ("untraced", "untraced_agen", "pause", "Pause.__await__")
    return engine.load(ASYNC_SOURCE, filename=ASYNC_PATH, select=lambda name: name not in untraced), engine


TRACED_ASYNC = traced_async()


class Course:
    """What is seen of a script, in the body and by its consumer."""

    def __init__(self, body: Any, here: Callable[[], str | None]) -> None:
        self.seen: list[Any] = []
        self.wrong: list[Any] = []
        self.here, self.name = here, body.__name__

    def note(self, text: object, where: str | None = None) -> object:
        where, there = where or self.name, self.here()
        self.seen.append((str(text), where))
        if there not in (None, where) and where != "untraced":
            self.wrong.append((text, where, there))
        return text

    def add(self, *what: object) -> None:
        self.seen.append((*what, self.here() or "consumer"))


async_scripts = st.lists(st.sampled_from([("next",), ("next",), ("next",), *STEPS]), max_size=8)


@given(name=st.sampled_from(COROUTINES), script=async_scripts)
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_coroutines_take_any_course_as_untraced(name: str, script: list[tuple[Any, ...]]) -> None:
    """Results, exceptions and order are the same, whatever is sent and thrown in, and one end each."""  # fault C5
    module, engine = TRACED_ASYNC
    courses = []
    for twin, here in ((ASYNC_PLAIN, lambda: None), (module, engine.here)):
        course = Course(getattr(twin, name), here)
        coroutine = getattr(twin, name)(course.note)
        for action in [*script, *[("close",)] * 8]:
            course.add(action, step(coroutine, ("send", None) if action == ("next",) else action))
            if coroutine.cr_frame is None and action == ("close",):
                break
        courses.append(course)

    spans = engine.spans()
    engine.recorder.queue.clear()
    assert courses[1].seen == courses[0].seen
    assert courses[1].wrong == []
    assert [span.name for span in spans if len(span.ends) != 1] == []
    assert all(span.end[11] is None or 0 <= span.end[11] <= span.end[10] for span in spans)


@given(
    name=st.sampled_from(AGENS),
    script=st.lists(
        st.tuples(st.sampled_from([("next",), ("next",), *STEPS]), st.sampled_from([None, None, 0, 1, 4])), max_size=8
    ),
)
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_async_generators_take_any_course_as_untraced(name: str, script: list[tuple[Any, ...]]) -> None:
    """Results, exceptions and order are the same, also when a step is interrupted where it awaits; one end each."""
    module, engine = TRACED_ASYNC
    courses = []
    for twin, here in ((ASYNC_PLAIN, lambda: None), (module, engine.here)):
        course = Course(getattr(twin, name), here)
        agen = getattr(twin, name)(course.note)
        for action, interrupt in [*script, *[(("close",), None)] * 8]:
            course.add(action, interrupt, async_step(agen, action, interrupt, course))
            if agen.ag_frame is None and action == ("close",):
                break
        courses.append(course)

    spans = engine.spans()
    engine.recorder.queue.clear()
    assert courses[1].seen == courses[0].seen
    assert courses[1].wrong == []
    assert [span.name for span in spans if len(span.ends) != 1] == []
    assert all(span.end[11] is None or 0 <= span.end[11] <= span.end[10] for span in spans)


def async_step(agen: Any, action: tuple[Any, ...], interrupt: int | None, course: Course) -> Any:
    """Runs one awaitable of an async generator to its end, or throws into it where it is suspended first."""
    try:
        match action:
            case ("next",):
                awaitable = agen.__anext__()
            case ("send", value):
                awaitable = agen.asend(value)
            case ("throw", index):
                awaitable = agen.athrow(ERRORS[index]())
            case _:
                awaitable = agen.aclose()
        course.add(awaitable.send(None))
        for _ in range(20):
            course.add(awaitable.send("sent") if interrupt is None else awaitable.throw(ERRORS[interrupt]()))
            interrupt = None
    except BaseException as error:
        return described(error)
    return "never ends"


def traced_module(source: str, *, untraced: tuple[str, ...] = ()) -> tuple[Any, Engine]:
    engine = Engine()
    return engine.load(source, select=lambda name: name not in untraced), engine


def test_what_is_thrown_in_dies_at_once() -> None:
    """An exception thrown through an untraced generator is in no cycle: finalizers run when they always ran."""
    source = (
        "def inner(log):\n  try: yield 1\n  finally: log.append('ended')\n"
        "def keeps(log):\n  it = inner(log)\n  next(it)\n  yield from (x for x in [1, 2])\n"
    )
    for module in (plain(source), traced_module(source)[0]):
        log: list[str] = []
        generator = module.keeps(log)
        next(generator)
        gc.disable()
        try:
            with pytest.raises(KeyError):
                generator.throw(KeyError())
            del generator
            assert log == ["ended"]
        finally:
            gc.enable()


def test_an_abandoned_generator_ends_when_it_is_collected() -> None:
    """A generator that nobody finishes is recorded as abandoned, one that is closed as closed."""
    module, engine = traced_module("def g():\n  yield 1\n  yield 2\n")

    abandoned, closed = module.g(), module.g()
    next(abandoned), next(closed)
    del abandoned
    closed.close()
    for _ in module.g():
        break

    assert [span.outcome for span in engine.spans()] == ["abandoned", "closed", "abandoned"]
    assert engine.here() is None


def test_a_generator_never_begun_is_no_call() -> None:
    """What is made but never run has no span, as it runs nothing."""
    module, engine = traced_module("def g():\n  yield 1\nasync def c(): pass\n")

    module.g()
    module.c().close()

    assert engine.spans() == []


@pytest.mark.parametrize("finish", [lambda g: g.close(), lambda g: list(g), next])
def test_a_generator_may_go_on_in_another_thread(finish: Callable[[Any], object]) -> None:
    """It takes its span with it and leaves the other thread's as it was."""  # fault C4
    module, engine = traced_module("def g():\n  yield 1\n  inner()\n  yield 2\ndef inner(): pass\ndef outer(f): f()\n")
    generator = module.g()
    next(generator)
    seen: list[str | None] = []

    def go_on() -> None:
        finish(generator)
        seen.append(engine.here())

    thread = threading.Thread(target=module.outer, args=(go_on,))
    thread.start()
    thread.join()
    generator.close()

    assert seen == ["outer"]
    assert engine.here() is None
    assert {span.name: span.trace for span in engine.spans() if span.name == "inner"} in ({}, {"inner": 0})
    assert all(len(span.ends) == 1 for span in engine.spans())


def test_a_generator_may_go_on_in_another_context() -> None:
    """Each context keeps its own current span."""
    module, engine = traced_module("def g():\n  for i in range(3):\n    yield here()\n")
    module.here = engine.here
    generator, context = module.g(), contextvars.copy_context()

    steps = [next(generator), context.run(next, generator), next(generator)]

    assert steps == ["g", "g", "g"]
    assert engine.here() is None
    assert context.run(engine.here) is None


def test_generators_that_take_turns_keep_their_own_parents() -> None:
    """Calls from two generators driven in turns are children of the one that made them."""
    module, engine = traced_module(
        "def leaf(x): pass\ndef g(x):\n  while True:\n    leaf(x)\n    yield x\n"
        "def drive():\n  a, b = g('a'), g('b')\n  return [next(x) for x in (a, b, a, b)]\n"
    )

    assert module.drive() == ["a", "b", "a", "b"]

    names = {span.seq: span.args.get("x", span.name) for span in engine.spans()}
    leaves = [(span.args["x"], names[span.parent]) for span in engine.spans() if span.name == "leaf"]  # type: ignore[index]
    assert leaves == [("'a'", "'a'"), ("'b'", "'b'")] * 2


def test_tasks_keep_their_own_parents() -> None:
    """Calls in concurrent tasks belong to the coroutine that made them, whatever runs in between."""
    module, engine = traced_module(
        "import asyncio\nasync def leaf(n): await asyncio.sleep(0)\n"
        "async def task(n):\n  for _ in range(3):\n    await leaf(n)\n"
        "async def main():\n  await asyncio.gather(*map(task, range(4)))\n"
    )

    asyncio.run(module.main())

    names = {span.seq: span for span in engine.spans()}
    leaves = [span for span in names.values() if span.name == "leaf"]
    assert len(leaves) == 12
    assert all(names[span.parent].args == span.args for span in leaves)  # type: ignore[index]


def test_active_time_leaves_out_the_time_suspended() -> None:
    """What a generator and a coroutine ran is counted, what their consumers did in between is not."""
    now = [0]
    engine = Engine(clock=lambda: now[0])
    module = engine.load(
        "def g():\n  work()\n  yield 1\n  work()\ndef outer():\n  yield from g()\n", select=lambda n: n != "work"
    )
    module.work = lambda: now.__setitem__(0, now[0] + 5)

    for _ in module.outer():
        now[0] += 100

    assert [(span.name, span.end[10], span.end[11]) for span in engine.spans()] == [("outer", 110, 10), ("g", 110, 10)]


FRAMES = """
import asyncio, sys, warnings

def who():
    frames, frame = [], sys._getframe(1)
    while frame.f_code.co_filename == "m.py":
        frames.append((frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    warnings.warn("here", stacklevel=2)
    return frames

async def untraced():
    return who()

class Waits:
    def __await__(self):
        seen = who()
        yield
        return seen, who()
    async def __aenter__(self):
        return who()
    async def __aexit__(self, *error):
        LOG.append(who())
    def __aiter__(self):
        return self
    async def __anext__(self):
        if len(LOG) > 9: raise StopAsyncIteration
        LOG.append(who())

LOG = []

def generates():
    yield who()
    yield

def sync():
    return who()

def delegates():
    yield from generates()

async def awaits():
    async with Waits() as entered:
        LOG.append(entered)
        LOG.append(await Waits())
        LOG.append(await untraced())
        LOG.append(sync())
        LOG.append([x for x in delegates()])
        async for _ in Waits():
            pass
    return LOG
"""


def run_by_hand(coroutine: Any) -> None:
    with contextlib.suppress(StopIteration):
        while True:
            coroutine.send(None)


def test_no_frame_stands_between_caller_and_called() -> None:
    """`sys._getframe` and the stacklevel of warnings see the frames and lines that they see untraced."""
    seen = []
    own = (
        "who",
        "untraced",
        "generates",
        *(f"Waits.__{name}__" for name in ("await", "aenter", "aexit", "anext", "aiter")),
    )
    for module in (plain(FRAMES), traced_module(FRAMES, untraced=own)[0]):
        with pytest.warns(UserWarning, match="here") as caught:
            run_by_hand(module.awaits())
        seen.append((module.LOG, [(warning.filename, warning.lineno) for warning in caught]))

    assert len(seen[0][0]) > 9
    assert seen[1] == seen[0]


def test_the_running_generators_frame_is_its_own() -> None:
    """``gi_frame``, ``gi_code`` and the state of a generator are those of the function itself."""
    module, _ = traced_module("def g(a):\n  x = yield a\n")
    generator = module.g(5)
    next(generator)

    assert generator.gi_code is module.g.__code__
    assert generator.gi_frame.f_lineno == 2
    assert generator.gi_frame.f_locals["a"] == 5
    assert generator.gi_suspended


def test_a_cancelled_task_ends_its_spans_once() -> None:
    """Cancelling a chain of coroutines ends each with CancelledError, innermost first."""  # fault C2
    module, engine = traced_module(
        "import asyncio\nasync def inner(): await asyncio.sleep(9)\nasync def outer(): await inner()\n"
    )

    async def main() -> None:
        task = asyncio.create_task(module.outer())
        await asyncio.sleep(0)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task

    asyncio.run(main())
    inner, outer = (next(span for span in engine.spans() if span.name == name) for name in ("inner", "outer"))
    assert inner.outcome == outer.outcome == "raised CancelledErrortuple('why')"
    assert inner.end[2] < outer.end[2]


def test_an_async_generator_left_early_ends_with_the_loop() -> None:
    """What is left of an async generator is closed by the loop, and its span ends."""  # fault C5
    module, engine = traced_module("async def ticks():\n  for i in range(9):\n    yield i\n")

    async def main() -> None:
        kept.append(module.ticks())
        async for _ in kept[0]:
            break

    kept: list[Any] = []
    asyncio.run(main())

    assert [len(span.ends) for span in engine.spans()] == [1]
    assert engine.spans()[0].outcome == "abandoned"


def test_untraced_code_may_await_and_iterate_traced_code() -> None:
    """Traced coroutines and generators work under consumers that know nothing of tracing."""
    module, engine = traced_module("async def c(): return 1\ndef g(): yield from [1, 2]\nasync def a():\n  yield 3\n")

    async def main() -> list[Any]:
        return [await module.c(), *module.g(), *[x async for x in module.a()], await asyncio.wait_for(module.c(), 1)]

    assert asyncio.run(main()) == [1, 1, 2, 3, 1]
    assert [span.outcome for span in engine.spans()] == ["returned 1", "returned None", "returned None", "returned 1"]


def test_a_deep_chain_of_generators_works() -> None:
    """Delegating goes as deep as untraced."""  # fault C6
    source = "def g(n):\n  if n:\n    yield from g(n - 1)\n  else:\n    yield 'deep'\n"
    module, engine = traced_module(source)

    depth = deepest(lambda n: list(plain(source).g(n)))

    assert list(module.g(depth - 20)) == ["deep"]
    assert all(len(span.ends) == 1 for span in engine.spans())


def deepest(call: Callable[[int], object]) -> int:
    """The greatest argument with which ``call`` does not exceed the recursion limit."""
    low, high = 1, 10_000
    while low < high - 1:
        middle = (low + high) // 2
        try:
            call(middle)
            low = middle
        except RecursionError:
            high = middle
    return low
