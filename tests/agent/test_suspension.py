"""Generators, coroutines and async generators: driven step by step beside their untraced twins."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import sys
import threading
import traceback
import types
from collections.abc import Callable, Coroutine, Generator
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
        if frame.filename != __file__ and (sys.version_info >= (3, 12) or frame.filename not in (PATH, ASYNC_PATH, LIBRARY))
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
    assert all(len(span.ends) == 1 for span in spans)
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
    assert all(len(span.ends) == 1 for span in spans)
    assert all(span.end[11] is None or 0 <= span.end[11] <= span.end[10] for span in spans)


@given(
    name=st.sampled_from(AGENS),
    script=st.lists(st.tuples(st.sampled_from([("next",), ("next",), *STEPS]), st.sampled_from([None, None, 0, 1, 4])), max_size=8),
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
    assert all(len(span.ends) == 1 for span in spans)
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
