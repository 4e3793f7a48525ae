"""Wrappers for what cannot be instrumented, and finding a module's functions."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtrace.patcher import assign, places
from tests.agent.program import Program, program

READERS = '''
import functools

def reads(a, b=2, *rest, c=3, **more):
    """Docstring."""
    return sorted(locals())

async def awaits(a):
    return vars()["a"]

def generates(n):
    for i in range(n):
        got = yield locals()["i"]
    return got

async def streams(n):
    yield locals()["n"]

def fails(x):
    eval("1/x")

class Shelf:
    def method(self, x):
        return locals()["x"]

    @staticmethod
    def static(x):
        return locals()["x"]

    @classmethod
    def klass(cls, x):
        return cls.__name__, locals()["x"]

    @property
    def prop(self):
        return len(locals())

    @prop.setter
    def prop(self, value):
        self.set = value

    class Inner:
        def deep(self):
            return list(locals())

    def __call__(self):
        return dir()

    def __repr__(self):
        return f"<{len(locals())}>"

alias = reads

def outer():
    def local():
        return locals()
    return local()
'''


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[tuple[Program, Any]]:
    """A traced module of functions that read their locals, and a fresh list of calls."""
    with program(tmp_path, {"modules": ["shelf"]}) as running:
        module = running.load("shelf", READERS)
        yield running, module


def test_readers_of_locals_are_wrapped(shelf: tuple[Program, Any]) -> None:
    """Functions and methods that read their locals see their own only, and are recorded."""
    running, module = shelf
    one = module.Shelf()

    seen = [module.reads(1), one.method(2), one.static(3), module.Shelf.static(3), module.Shelf.klass(4), one.klass(4)]
    seen += [one.prop, module.Shelf.Inner().deep(), one()]

    assert seen[0] == ["a", "b", "c", "more", "rest"]
    assert seen[1:] == [2, 3, 3, ("Shelf", 4), ("Shelf", 4), 1, ["self"], ["self"]]
    names = [call.partition(":")[2] for call in running.calls()]
    assert names == [
        "reads", "Shelf.method", "Shelf.static", "Shelf.static", "Shelf.klass", "Shelf.klass", "Shelf.prop",
        "Shelf.Inner.deep", "Shelf.__call__",
    ]  # fmt: skip


def test_what_becomes_of_each_function_is_told(shelf: tuple[Program, Any]) -> None:
    """The ATTACH event says how each is traced, or that it is not."""
    running, _ = shelf

    how = running.how("shelf")

    assert how["reads"] == how["Shelf.method"] == how["awaits"] == how["generates"] == "wrapper"
    assert how["outer"] == "instrumented"
    assert how["outer.<locals>.local"] == how["streams"] == how["Shelf.__repr__"] == "not traced"
    assert set(how.values()) == {"wrapper", "instrumented", "not traced"}


def test_wrapped_coroutines_and_generators_run_as_ever(shelf: tuple[Program, Any]) -> None:
    """Their results, sent values and exceptions pass through, and each is one call."""
    running, module = shelf

    generator = module.generates(2)
    steps = [next(generator), generator.send("x")]
    with pytest.raises(StopIteration) as stopped:
        generator.send("last")

    assert asyncio.run(module.awaits(5)) == 5
    assert (steps, stopped.value.value) == ([0, 1], "last")
    assert running.calls() == ["shelf:generates", "shelf:awaits"]
    assert running.recorder.current.get() is None


def test_exceptions_pass_a_wrapper(shelf: tuple[Program, Any]) -> None:
    """The exception is the same, and the pair is closed."""
    running, module = shelf

    with pytest.raises(ZeroDivisionError) as caught:
        module.fails(0)

    assert caught.value.__context__ is None
    assert [record[0] for record in running.recorder.queue] == [0, 2]


def test_a_wrapper_looks_like_the_function(shelf: tuple[Program, Any]) -> None:
    """Name, docstring, signature, kind and equality are those of the function."""  # fault C11
    _, module = shelf

    assert (module.reads.__name__, module.reads.__doc__, module.reads.__module__) == ("reads", "Docstring.", "shelf")
    assert str(inspect.signature(module.reads)) == "(a, b=2, *rest, c=3, **more)"
    assert inspect.isfunction(module.reads) or isinstance(module.reads, types.FunctionType)
    assert inspect.iscoroutinefunction(module.awaits)
    assert inspect.isgeneratorfunction(module.generates)
    assert isinstance(module.Shelf.__dict__["static"], staticmethod)
    assert isinstance(module.Shelf.__dict__["klass"], classmethod)
    assert str(inspect.signature(module.Shelf().method)) == "(x)"


@pytest.mark.parametrize("name", ["reads", "Shelf.method", "Shelf.static", "Shelf.klass", "awaits"])
def test_a_wrapper_is_pickled_and_copied_by_name(shelf: tuple[Program, Any], name: str) -> None:
    """As for functions: the same object comes out."""
    _, module = shelf
    owner: Any = module
    for part in name.split("."):
        owner = getattr(owner, part)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(owner, protocol))
        assert again == owner
    assert copy.copy(owner) == owner
    assert copy.deepcopy([owner])[0] == owner


def test_a_pickled_wrapper_loads_without_the_agent(shelf: tuple[Program, Any], tmp_path: Path) -> None:
    """Another process, untraced and without flowtrace, gets its plain function."""
    _, module = shelf
    text = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())(1), 'flowtrace' in sys.modules)"

    ended = subprocess.run(
        [sys.executable, "-S", "-c", text], input=pickle.dumps(module.reads, 0), capture_output=True,
        check=False, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip

    assert ended.stdout.decode().split("]")[1].split() == ["False"], ended.stderr.decode()


def test_a_setter_survives_wrapping_the_getter(shelf: tuple[Program, Any]) -> None:
    """A property keeps what is not wrapped."""
    _, module = shelf
    one = module.Shelf()

    one.prop = 5

    assert one.set == 5
    assert module.Shelf.prop.fset is not None


def test_switching_off_takes_wrappers_along(shelf: tuple[Program, Any]) -> None:
    """Switched off, wrapped functions are called as they are; switched on, recorded again."""
    running, module = shelf

    running.attachment.switch(on=False)
    module.reads(1)
    off = running.calls()
    running.attachment.switch(on=True)
    module.reads(1)

    assert off == []
    assert running.calls() == ["shelf:reads"]


def test_places_are_the_functions_that_a_module_defines() -> None:
    """Its own functions and methods, also those of nested classes; none from elsewhere, none twice."""
    module = types.ModuleType("m")
    exec(
        "from os.path import join\nclass A:\n  def f(self): pass\n  @property\n  def p(self): pass\n"
        "  class B:\n    @staticmethod\n    def s(): pass\n  C = B\ndef g(): pass\nh = g\nlist_of = [g]\nA2 = A\n",
        vars(module),
    )

    assert [place.qualname for place in places(module)] == ["A.f", "A.p", "A.B.s", "g"]


def test_assigning_code_changes_every_function_that_has_it() -> None:
    """All functions made of a code object get the other, wherever they are; calls under way go on."""
    namespace: dict[str, Any] = {}
    exec("def make(): \n  def f(): return 'old'\n  return f\ndef other(): return 'new'", namespace)
    made = [namespace["make"]() for _ in range(3)]

    changed = assign([(made[0].__code__, namespace["other"].__code__)])

    assert changed == 3
    assert [f() for f in made] == ["new"] * 3
    gc.collect()
