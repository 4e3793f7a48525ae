"""Functions of libraries with parts of ours in them, and that nothing else of them changes."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtrace.instrument import instrument
from flowtrace.splices import Splice
from tests.agent.engine import Engine, Shown, plain, run, sample
from tests.agent.program import Program, config, program
from tests.agent.test_instrument import CASES, outcome

LIBRARY = """
import contextlib, functools

def keep(function):
    @functools.wraps(function)
    def kept(*args): return function(*args)
    return kept

class Client:
    def send(self, what, *, twice=False):
        what = None
        return twice

    @classmethod
    def made(cls, what): return cls()

    @staticmethod
    def stated(what): return what

    @property
    def state(self): return "idle"

    async def receive(self, count):
        for _ in range(count):
            await Pause()
        return count

@keep
def kept(x): return x

def outer():
    def inner(x): return x
    return inner

def fail(): raise KeyError("x")

class Pause:
    def __await__(self): yield
"""


class Seen:
    """A splice that writes down what it is told."""

    def __init__(self) -> None:
        self.entered: list[dict[str, Any]] = []
        self.left: list[Any] = []
        self.steps: list[str] = []

    def splice(self, **options: Any) -> Splice:
        def enter(values: dict[str, Any]) -> int:
            self.entered.append(values)
            return len(self.entered)

        return Splice(
            enter,
            lambda flow, result: self.left.append((flow, result)),
            suspend=lambda flow: self.steps.append("suspend"),
            resumed=lambda flow: self.steps.append("resumed"),
            **options,
        )


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Program]:
    """A program in which no rule selects ``library``."""
    with program(tmp_path, {"modules": ["shop"]}) as running:
        yield running


@pytest.mark.parametrize("is_imported_before", [False, True])
def test_functions_of_every_kind_are_spliced(shop: Program, is_imported_before: bool) -> None:
    """Methods, decorated and inner functions: the parts get the arguments by name, and the result."""
    names = ["Client.send", "Client.made", "Client.stated", "Client.state", "kept", "outer.<locals>.inner"]
    seen = {name: Seen() for name in names}
    module = shop.load("library", LIBRARY) if is_imported_before else None
    for name in names:
        shop.splices.add("library", name, seen[name].splice())
    if is_imported_before:
        shop.splices.imported()
        shop.splices.imported()  # once is enough
    module = module or shop.load("library", LIBRARY)

    client = module.Client()
    assert (client.send("a", twice=True), client.stated(2), client.state) == (True, 2, "idle")
    assert (type(client.made(1)), module.kept(3), module.outer()(4)) == (module.Client, 3, 4)

    assert seen["Client.send"].entered == [{"what": "a", "twice": True}]
    assert seen["Client.send"].left == [(1, True)]
    assert [s.entered for s in seen.values()][1:] == [[{"what": 1}], [{"what": 2}], [{}], [{"x": 3}], [{"x": 4}]]


def test_self_is_given_where_it_is_wanted(shop: Program) -> None:
    """With ``wants_self`` it is among the arguments."""
    seen = Seen()
    shop.splices.add("library", "Client.send", seen.splice(wants_self=True))
    client = shop.load("library", LIBRARY).Client()

    client.send("a")

    assert seen.entered == [{"self": client, "what": "a", "twice": False}]


def test_a_coroutine_tells_where_it_is_suspended(shop: Program) -> None:
    """Its parts are called each time that it stops and goes on."""
    seen = Seen()
    shop.splices.add("library", "Client.receive", seen.splice())
    coroutine = shop.load("library", LIBRARY).Client().receive(2)

    coroutine.send(None)
    assert seen.steps == ["suspend"]
    coroutine.send(None)
    with pytest.raises(StopIteration):
        coroutine.send(None)

    assert seen.steps == ["suspend", "resumed"] * 2
    assert seen.left == [(1, 2)]


def test_nothing_is_left_where_nothing_was_entered(shop: Program) -> None:
    """A part that gives None for a flow is not asked again."""
    left: list[Any] = []
    shop.splices.add("library", "kept", Splice(lambda values: None, lambda flow, result: left.append(result)))

    assert shop.load("library", LIBRARY).kept(1) == 1

    assert left == []


@pytest.mark.parametrize("part", ["enter", "leave"])
def test_a_part_that_fails_is_counted(shop: Program, part: str) -> None:
    """The library's function runs as ever."""
    shop.recorder.state.strict = False

    def fail(*_: object) -> None:
        raise ValueError("broken on purpose")

    # as a part of ours it would stand in a file of ours
    fail.__code__ = fail.__code__.replace(co_filename=shop.splices.add.__code__.co_filename)
    parts: dict[str, Any] = {"enter": lambda values: 1, part: fail}
    shop.splices.add("library", "kept", Splice(**parts))

    assert shop.load("library", LIBRARY).kept(1) == 1

    assert shop.recorder.state.failures == 1


@pytest.mark.parametrize("part", ["enter", "leave"])
def test_what_a_signal_handler_raises_in_a_part_goes_on(shop: Program, part: str) -> None:
    """Ctrl-C reaches the program, and the thread is not left blind."""  # fault C3

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    parts: dict[str, Any] = {"enter": lambda values: 1, part: interrupted}
    shop.splices.add("library", "kept", Splice(**parts))
    module = shop.load("library", LIBRARY)

    with pytest.raises(KeyboardInterrupt):
        module.kept(1)

    assert not shop.recorder.thread().busy


def test_exceptions_pass_as_unspliced(shop: Program) -> None:
    """The traceback has the program's frames only, and the part gets no result."""  # fault C1
    seen, texts = Seen(), []
    path = shop.write("library.py", LIBRARY)
    for module in (plain(LIBRARY, filename=str(path)), None):
        if module is None:
            shop.splices.add("library", "fail", seen.splice())
            module = shop.load("library", LIBRARY)
        try:
            module.fail()
        except KeyError:
            texts.append(traceback.format_exc())

    assert "def fail(): raise" in texts[0]
    assert texts[0] == texts[1]
    assert [flow for flow, _ in seen.left] == [1]


def test_the_agents_own_calls_are_none_of_the_programs(shop: Program) -> None:
    """A sink that uses a spliced library enters nothing; what was entered before is left all the same."""
    seen = Seen()
    shop.splices.add("library", "kept", seen.splice())
    module = shop.load("library", LIBRARY)

    with shop.recorder.blind():
        assert module.kept(1) == 1

    assert seen.entered == []


def test_calls_made_by_parts_are_not_recorded(shop: Program) -> None:
    """Whatever a part calls, it is not the program that does."""
    helper = shop.load("shop", "def f(x): return x\n")
    shop.splices.add("library", "kept", Splice(lambda values: helper.f(1), lambda flow, result: helper.f(2)))

    shop.load("library", LIBRARY).kept(1)

    assert shop.calls() == []


def test_what_is_missing_or_another_is_left_alone(shop: Program) -> None:
    """Names that do not exist, lead through no class, or belong to another module's function."""
    module = shop.load("library", LIBRARY)
    module.Client.send = inspect.getsource
    names = ["nothing", "Client.nothing", "kept.nothing", "Client.send", "contextlib.suppress", "Client"]
    for name in names:
        shop.splices.add("library", name, Seen().splice())
    shop.splices.add("nothing_like_it", "f", Seen().splice())
    before = inspect.getsource.__code__

    shop.splices.imported()

    assert inspect.getsource.__code__ is before
    assert shop.splices._codes == []


def test_switched_off_functions_have_the_code_of_python(shop: Program) -> None:
    """Off and on again, for functions that were there before and for those of modules imported meanwhile."""
    seen = Seen()
    early = shop.load("early", LIBRARY)
    code = early.kept.__wrapped__.__code__
    for name in ("early", "late"):
        shop.splices.add(name, "kept", seen.splice())
    shop.splices.imported()

    shop.splices.switch(on=False)
    late = shop.load("late", LIBRARY)
    assert early.kept.__wrapped__.__code__ is code
    assert (early.kept(1), late.kept(2)) == (1, 2)
    assert seen.entered == []

    shop.splices.switch(on=True)
    assert (early.kept(1), late.kept(2)) == (1, 2)
    assert seen.entered == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("comes_first", ["import", "rule"])
def test_a_spliced_function_may_be_a_target(tmp_path: Path, is_on: bool, comes_first: str) -> None:
    """Both work, whatever came first and however they were switched in between."""
    rule = {"modules": ["library"]}
    with program(tmp_path, {"modules": ["nothing"]} if comes_first == "import" else rule) as running:
        seen = Seen()
        running.splices.add("library", "kept", seen.splice())
        if not is_on:
            running.attachment.switch(on=False)
            running.splices.switch(on=False)
        module = running.load("library", LIBRARY)
        with running.splices.in_place():
            running.attachment.reload(config(rule), project=str(tmp_path))
        if not is_on:
            module.kept(0)
            assert (seen.entered, running.calls()) == ([], [])
            running.splices.switch(on=True)
            running.attachment.switch(on=True)
        running.calls()

        module.kept(1)
        assert (seen.entered, running.calls()) == ([{"x": 1}], ["library:keep.<locals>.kept", "library:kept"])

        running.attachment.switch(on=False)
        running.splices.switch(on=False)
        module.kept(2)
        assert (len(seen.entered), running.calls()) == (1, [])


def test_a_module_that_cannot_be_spliced_is_as_it_was(shop: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong, it is imported; the failure is counted."""
    shop.recorder.state.strict = False

    def broken(*_: object) -> None:
        raise ValueError("broken on purpose")

    broken.__code__ = broken.__code__.replace(co_filename=shop.splices.add.__code__.co_filename)
    monkeypatch.setattr("flowtrace.splices.instrument", broken)
    shop.splices.add("library", "kept", Seen().splice())

    assert shop.load("library", LIBRARY).kept(1) == 1
    assert shop.recorder.state.failures == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "case"), CASES)
def test_code_may_be_instrumented_twice(module: str, case: str) -> None:
    """A splice inside, a target's parts around it: cases end as they do with the latter alone."""
    source, path = sample(module)
    code = compile(source, path, "exec", dont_inherit=True)
    engine, seen = Engine(encoder=Shown()), Seen()
    splice = seen.splice()
    parts = splice._replace(enter=lambda names, values: splice.enter(dict(zip(names, values, strict=True))))
    twice = run(engine.instrument(instrument(code, lambda function: parts).code))
    once = run(Engine(encoder=Shown()).instrument(code))

    assert outcome(getattr(twice, case)) == outcome(getattr(once, case))
    assert len(seen.entered) == len(seen.left)
