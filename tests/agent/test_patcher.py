"""Wrappers for what has no code, and finding a module's functions."""

from __future__ import annotations

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

from flowtrace.patcher import assign, functions, outermost, places
from tests.agent.program import Program, program

SHELF = """
import sys
items = [1]
pop, insert, sort = items.pop, items.insert, items.sort  # written in C

for function in (pop, insert, sort):
    function.__module__ = __name__

def put(x):
    insert(0, x)

class Shelf:
    add = insert
    take = pop
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[tuple[Program, Any]]:
    """A traced module that holds functions written in C, and a fresh list of calls."""
    with program(tmp_path, {"modules": ["shelf"], "exclude": ["sort"]}) as running:
        module = running.load("shelf", SHELF)
        yield running, module


def test_functions_written_in_c_are_wrapped(shelf: tuple[Program, Any]) -> None:
    """Their calls are recorded with arguments and result, below the calls that make them."""
    running, module = shelf

    module.put(5)
    assert module.pop(0) == 5

    enter, inner, *_ = running.recorder.queue
    assert inner[7] == enter[2]  # its parent
    assert [record[8] for record in running.recorder.queue if record[0] == 0] == [
        (5,), b'{"args":[0,5]}', b'{"args":[0]}'
    ]  # fmt: skip
    assert running.calls() == ["shelf:put", "shelf:insert", "shelf:pop"]


def test_what_becomes_of_each_function_is_told(shelf: tuple[Program, Any]) -> None:
    """The ATTACH event says how each is traced; what is no target keeps its function."""
    running, module = shelf

    assert running.how("shelf") == {"put": "instrumented", "pop": "wrapper", "insert": "wrapper"}
    assert type(module.sort) is types.BuiltinFunctionType


def test_exceptions_pass_a_wrapper(shelf: tuple[Program, Any]) -> None:
    """The exception is the same, and the pair is closed."""
    running, module = shelf

    with pytest.raises(IndexError) as caught:
        module.pop(77)

    assert caught.value.__context__ is None
    assert [record[0] for record in running.recorder.queue] == [0, 2]


def test_a_wrapper_looks_like_the_function(shelf: tuple[Program, Any]) -> None:
    """Name, docstring, signature, kind and equality are those of the function."""  # fault C11
    _, module = shelf
    plain = module.items.pop

    assert (module.pop.__name__, module.pop.__doc__, module.pop.__module__) == ("pop", plain.__doc__, "shelf")
    assert inspect.signature(module.pop) == inspect.signature(plain)
    assert isinstance(module.pop, types.BuiltinFunctionType)
    assert module.pop == plain


def test_a_wrapper_is_no_method(shelf: tuple[Program, Any]) -> None:
    """What is written in C gets no instance when a class holds it, and so its wrapper gets none."""
    running, module = shelf

    assert module.Shelf().take() == 1
    assert running.calls() == []  # by that name it is not the module's function


def test_a_wrapper_is_pickled_and_copied_by_name(shelf: tuple[Program, Any]) -> None:
    """As for functions: the same object comes out."""
    _, module = shelf

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(module.pop, protocol)) is module.pop
    assert copy.copy(module.pop) is module.pop
    assert copy.deepcopy([module.pop])[0] is module.pop


def test_a_pickled_wrapper_loads_without_the_agent(shelf: tuple[Program, Any], tmp_path: Path) -> None:
    """Another process, untraced and without flowtrace, gets its plain function."""
    _, module = shelf
    text = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())(), 'flowtrace' in sys.modules)"

    ended = subprocess.run(
        [sys.executable, "-S", "-c", text], input=pickle.dumps(module.pop, 0), capture_output=True,
        check=False, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip

    assert ended.stdout.decode().split() == ["1", "False"], ended.stderr.decode()


def test_switching_off_takes_wrappers_along(shelf: tuple[Program, Any]) -> None:
    """Switched off, wrapped functions are called as they are; switched on, recorded again."""
    running, module = shelf

    running.attachment.switch(on=False)
    module.insert(0, 1)
    off = running.calls()
    running.attachment.switch(on=True)
    module.insert(0, 1)

    assert off == []
    assert running.calls() == ["shelf:insert"]


def test_living_functions_are_found_wherever_they_are() -> None:
    """Those of a module's namespace, in closures, lists and classes; none of other modules."""
    module = types.ModuleType("m")
    exec(
        "from os.path import join\ndef make(x):\n  def inner(): return x\n  return inner\n"
        "class A:\n  def f(self): pass\nheld = [make(1), make(2)]\n",
        vars(module),
    )

    found = [function for function in functions() if function.__globals__ is vars(module)]

    assert sorted(function.__qualname__ for function in found) == ["A.f", "make", *["make.<locals>.inner"] * 2]
    assert sorted(code.co_qualname for code in outermost(found)) == ["A.f", "make"]


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
