"""Instrumented source is the same program: compared with its plain twin, case by case of the samples."""

from __future__ import annotations

import ast
import importlib
import itertools
import opcode
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowtrace.instrument import instrument, nested, pairs
from tests.agent.engine import Engine, Shown, plain, sample

MODULES = ("functions", "classes", "syntax", "suspended")
CASES = [
    (module, node.name)
    for module in MODULES
    for node in ast.parse(sample(module)[0]).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("case_")
]
# what a function looks like from outside, beside its code
LOOKS = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__")

VISIBLE = ["co_name", "co_qualname", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags"]
VISIBLE += ["co_firstlineno", "co_filename", "co_names", "co_varnames", "co_cellvars", "co_freevars", "co_nlocals"]


def twins(module: str) -> tuple[Any, Any, Engine]:
    source, path = sample(module)
    engine = Engine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the samples are odd on purpose
        return plain(source, filename=path), engine.load(source, filename=path), engine


TWINS = {module: twins(module) for module in MODULES}


def outcome(case: Callable[[], object]) -> str:
    """What a person sees of a run: its result, or the whole text of its traceback, columns included."""
    try:
        return f"returned {case()!r}"
    except BaseException:
        return traceback.format_exc()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "case"), CASES)
def test_cases_end_as_untraced(module: str, case: str) -> None:
    """Results, exceptions with causes and contexts, frames, lines and columns of tracebacks are the same."""
    # fault C1
    before, after, engine = TWINS[module]

    expected, traced = outcome(getattr(before, case)), outcome(getattr(after, case))

    assert traced == expected
    assert engine.here() is None
    assert all(len(span.ends) == 1 for span in engine.spans())
    assert any(span.name == case for span in engine.spans())
    engine.recorder.queue.clear()


def steps(case: Callable[[], object], path: str) -> list[tuple[str, str, int | None]]:
    """What a debugger sees of a run: calls, lines, exceptions and returns, and where the frame then stands."""
    seen: list[tuple[str, str, int | None]] = []

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != path:
            return None
        seen.append((event, frame.f_code.co_name, frame.f_lineno))
        return trace

    debugger = sys.gettrace()
    sys.settrace(trace)
    try:
        case()
    except BaseException:
        pass
    finally:
        sys.settrace(debugger)
    return seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "case"), CASES)
def test_a_debugger_sees_the_same_steps(module: str, case: str) -> None:
    """Calls, lines, exceptions and returns come in the same order as untraced, at the same lines."""  # fault C10
    before, after, engine = TWINS[module]
    path = sample(module)[1]

    expected, traced = steps(getattr(before, case), path), steps(getattr(after, case), path)

    engine.recorder.queue.clear()
    assert traced == expected


@pytest.mark.parametrize("module", MODULES)
def test_functions_look_the_same(module: str) -> None:
    """Names, docstrings, defaults, annotations, signatures, flags and first lines are kept."""  # fault C11
    before, after, _ = TWINS[module]

    for name, function in vars(before).items():
        if isinstance(function, types.FunctionType):
            traced = getattr(after, name)
            assert [repr(getattr(traced, look)) for look in LOOKS] == [repr(getattr(function, look)) for look in LOOKS]


@pytest.mark.parametrize("module", MODULES)
def test_code_looks_the_same(module: str) -> None:
    """Of code objects everything is kept but instructions, room on the stack, and constants behind the old ones."""
    source, path = sample(module)
    before = compile(source, path, "exec", dont_inherit=True)
    after = Engine().instrument(before)

    for old, new in pairs(before, after):
        assert [getattr(new, look) for look in VISIBLE] == [getattr(old, look) for look in VISIBLE]
        plain_consts = [const for const in old.co_consts if not isinstance(const, types.CodeType)]
        new_consts = [const for const in new.co_consts if not isinstance(const, types.CodeType)]
        assert new_consts[: len(plain_consts)] == plain_consts


@pytest.mark.parametrize("module", MODULES)
def test_lines_stay(module: str) -> None:
    """Instrumented code has the lines that the plain code has, in the same order, and no others."""
    source, path = sample(module)
    before = compile(source, path, "exec", dont_inherit=True)

    for old, new in pairs(before, Engine().instrument(before)):
        lines = [[line for _, _, line in code.co_lines() if line] for code in (old, new)]
        assert [line for line, _ in itertools.groupby(lines[1])] == [line for line, _ in itertools.groupby(lines[0])]


@pytest.mark.parametrize("module", MODULES)
def test_functions_not_selected_keep_their_very_code(module: str) -> None:
    """Without a selected function the code is the same object, and so is that of neighbours of selected ones."""
    source, path = sample(module)
    before = compile(source, path, "exec", dont_inherit=True)

    some = Engine().instrument(before, select=lambda qualname: qualname.startswith("case_"))

    assert Engine().instrument(before, select=lambda qualname: False) is before
    for old, new in zip(nested(before), nested(some), strict=True):
        is_changed = any(each.co_name.startswith("case_") for each in (old, *nested(old)))
        assert (new is old) != is_changed


def test_a_selected_function_leaves_the_others_alone() -> None:
    """Of two functions only the one that is selected changes."""
    source = "def a(x):\n    return x\ndef b(x):\n    return x\n"

    module = Engine().load(source, select=lambda qualname: qualname == "a")

    assert module.b.__code__ == plain(source).b.__code__
    assert module.a.__code__ != plain(source).a.__code__


@pytest.mark.parametrize("reads", ["locals()", "vars()", "eval('locals()')", "sys._getframe().f_locals.copy()"])
def test_a_function_sees_its_own_variables_only(reads: str) -> None:
    """Whatever way a body looks at its local variables, nothing of ours is among them."""
    module = Engine().load(f"import sys\ndef f(a):\n    b = 2\n    return {reads}\n")

    assert module.f(1) == {"a": 1, "b": 2}


def test_a_frame_stands_where_its_exception_came_from() -> None:
    """When an exception has left a frame, its line and instruction are those of the place that raised."""
    engine = Engine()
    module = engine.load("def f(x):\n    y = x\n    y / 0\n    return y\n")

    with pytest.raises(ZeroDivisionError) as caught:
        module.f(1)

    frame = caught.tb.tb_next.tb_frame
    assert (frame.f_lineno, frame.f_lasti) == (3, caught.tb.tb_next.tb_lasti)
    assert frame.f_locals == {"x": 1, "y": 1}


def test_kinds_and_lines_are_told() -> None:
    """Each function is described by its qualified name, first line with decorators, and what calling it gives."""
    source = (
        "class A:\n    @staticmethod\n    @f\n    def s(): pass\n    async def c(self): await x\n"
        "def g():\n    yield\nasync def a():\n    yield\ndef lazy():\n    return (lambda: (yield)), [i for i in g()]\n"
        "async def comprehends():\n    return [i async for i in a()]\n"
    )

    functions = instrument(compile(source, "m.py", "exec"), Engine().parts).functions

    assert [(f.qualname, f.line, f.kind) for f in functions] == [
        ("A.s", 2, "function"),
        ("A.c", 5, "coroutine"),
        ("g", 6, "generator"),
        ("a", 8, "async generator"),
        ("lazy", 10, "function"),
        ("comprehends", 12, "coroutine"),
    ]


@pytest.mark.parametrize("part", ["arguments", "result", "exception"])
def test_what_strikes_in_our_calls_shows_the_programs_frames(part: str) -> None:
    """An exception of a signal handler, as Ctrl-C raises it, comes from the body that was under way."""
    # fault C3

    class Struck(Shown):
        pass

    def strike(*_: object) -> bytes:
        raise KeyboardInterrupt

    setattr(Struck, part, strike)
    engine = Engine(encoder=Struck())
    module = engine.load("def f(x):\n    x = 1 / x\n    return x\n")

    with pytest.raises(KeyboardInterrupt) as caught:
        module.f(0 if part == "exception" else 1)

    [_, entry, own] = traceback.extract_tb(caught.tb)
    lines = {"arguments": 1, "result": 3, "exception": None}
    assert (entry.name, own.name) == ("f", "strike")
    assert lines[part] in (None, entry.lineno)


def test_code_of_an_unknown_form_is_left_alone() -> None:
    """A function whose code has no beginning as a function has one keeps it, and the reason is given."""
    inner = compile("def f(): return 1", "m.py", "exec").co_consts[0]
    odd = inner.replace(co_code=bytes((opcode.opmap["NOP"], 0)) + inner.co_code[2:])
    code = compile("def f(): return 1", "m.py", "exec")
    code = code.replace(co_consts=(odd, *code.co_consts[1:]))

    after, functions = instrument(code, Engine().parts)

    assert after is code
    assert [(each.how, each.reason) for each in functions] == [
        ("not traced", "its code does not begin as that of a function")
    ]


STANDARD = [
    "abc",
    "argparse",
    "ast",
    "asyncio.base_events",
    "asyncio.locks",
    "asyncio.streams",
    "asyncio.tasks",
    "asyncio.windows_events",
    "bisect",
    "collections",
    "concurrent.futures.process",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "decimal",
    "dis",
    "email.message",
    "enum",
    "fractions",
    "functools",
    "gettext",
    "heapq",
    "html.parser",
    "http.client",
    "http.server",
    "importlib._bootstrap",
    "inspect",
    "ipaddress",
    "json.decoder",
    "logging",
    "logging.config",
    "mailbox",
    "multiprocessing.pool",
    "optparse",
    "pathlib",
    "pdb",
    "pickle",
    "platform",
    "posixpath",
    "pydoc",
    "queue",
    "random",
    "re",
    "shutil",
    "smtplib",
    "socket",
    "sqlite3.dump",
    "ssl",
    "statistics",
    "string",
    "subprocess",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "traceback",
    "turtle",
    "types",
    "typing",
    "unittest.mock",
    "urllib.request",
    "uuid",
    "weakref",
    "xml.dom.minidom",
    "zipfile",
]


def standard_sources() -> Iterator[tuple[str, bytes]]:
    for name in STANDARD:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            with open(spec.origin, "rb") as file:
                yield spec.origin, file.read()


def test_the_standard_library_is_instrumented() -> None:
    """Every function of modules of all kinds can be instrumented, and keeps its lines."""
    count = 0
    for path, source in standard_sources():
        plain_code = compile(source, path, "exec", dont_inherit=True)
        code, functions = instrument(plain_code, Engine().parts)
        assert {each.how for each in functions} <= {"instrumented"}
        for old, new in pairs(plain_code, code):
            assert {line for *_, line in new.co_lines()} - {None} == {line for *_, line in old.co_lines()} - {None}
        count += len(functions)

    assert count > 3_000


def test_nothing_is_added_to_the_module() -> None:
    """The globals of an instrumented module are those of the plain one."""
    source = "def f(a):\n    return a\nclass A:\n    def m(self): yield 1\n"

    assert sorted(vars(Engine().load(source))) == sorted(vars(plain(source)))


@pytest.mark.parametrize(
    ("source", "args"),
    [
        ("def f(self, a, /, b, *, c, **d): pass\nf(1, 2, 3, c=4, e=5)", {"a": "2", "b": "3", "c": "4", "d": "<dict>"}),
        ("def f(a, *rest): pass\nf(1, 2)", {"a": "1", "rest": "tuple(2)"}),
        ("class A:\n  def f(this, a): pass\nA().f(1)", {"a": "1"}),
        ("class A:\n  @classmethod\n  def f(klass, a): pass\nA.f(1)", {"a": "1"}),
        ("class A:\n  @staticmethod\n  def f(a, b): pass\nA.f(1, 2)", {"a": "1", "b": "2"}),
        ("class A:\n  def f(*args): pass\nA().f(1)", {"args": "tuple(<A>, 1)"}),
        ("class A:\n  def f(self, __x): pass\nA().f(1)", {"__x": "1"}),
        ("def f(): pass\nf()", {}),
        ("def f(a):\n  def g(): return a\n  a = 2\nf(1)", {"a": "1"}),
    ],
)
def test_arguments_are_recorded_by_name(source: str, args: dict[str, str]) -> None:
    """Each argument is recorded under its name as it was at the call, ``self`` and ``cls`` left out."""
    engine = Engine()

    engine.load(source)

    assert engine.spans()[0].args == args


def test_the_result_is_that_of_the_last_return() -> None:
    """What is recorded is what the caller got, after the function's own ``finally`` blocks."""
    *_, engine = TWINS["syntax"]
    engine.recorder.queue.clear()
    module = TWINS["syntax"][1]

    module.case_return_overridden(), module.case_exception_swallowed(), module.case_loops()

    outcomes = {span.name: span.outcome for span in engine.spans()}
    engine.recorder.queue.clear()
    assert outcomes["return_overridden"] == "returned 2"
    assert outcomes["exception_swallowed_by_finally"] == "returned 'quiet'"
    assert outcomes["loops"] == "returned 'broken'"


def test_the_end_is_recorded_after_the_functions_own_cleanup() -> None:
    """Calls made in ``finally`` and by ``with`` belong to the function: they come before its end."""
    engine = Engine()
    module = engine.load("def log(x): pass\ndef f():\n  try:\n    return 1\n  finally:\n    log(2)\n")

    module.f()

    outer, inner = engine.spans()
    assert (inner.name, inner.parent) == ("log", outer.seq)
    assert inner.end[2] < outer.end[2]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695 is of Python 3.12")
def test_type_parameters_compile() -> None:
    """Functions and classes with type parameters (PEP 695) run as untraced."""
    with open(sample("functions")[1].replace("functions.py", "type_parameters.txt"), encoding="utf-8") as file:
        source = file.read()

    engine = Engine()
    module = engine.load(source)

    assert module.case_type_parameters() == plain(source).case_type_parameters()
    assert {span.name for span in engine.spans()} >= {"first", "Box.get", "Box.map", "pairs"}
    assert not [*nested(module.first.__code__)]
