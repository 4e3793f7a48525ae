"""Instrumented source is the same program: compared with its plain twin, case by case of the samples."""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowtrace.errors import InstrumentError
from flowtrace.instrument import link, pairs, rewrite
from tests.agent.engine import Engine, codes, plain, sample

MODULES = ("functions", "classes", "syntax", "suspended")
CASES = [
    (module, node.name)
    for module in MODULES
    for node in ast.parse(sample(module)[0]).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("case_")
]
EVERY = lambda qualname: True  # noqa: E731

# what a function looks like from outside, beside its code
LOOKS = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__")

VISIBLE = ["co_name", "co_qualname", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags"]
VISIBLE += ["co_firstlineno", "co_filename"]


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
    """What a debugger sees of a run: calls, changes of the line, and returns."""
    seen: list[tuple[str, str, int | None]] = []
    lines: dict[int, int | None] = {}  # by the frame's id: a reference would put off finalizers

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != path:
            return None
        # a frame that an exception left stands at its first line; one that awaits has fewer "exception" events
        line = frame.f_lineno if event in ("call", "line") else None
        if event == "line" and line == frame.f_code.co_firstlineno:
            return trace
        if event in ("call", "return") or (event == "line" and lines.get(id(frame)) != line):
            seen.append((event, frame.f_code.co_name, line))
        lines[id(frame)] = line if event == "line" else None
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


# their bodies have no code at all; Python gives what is left to the line of ``def``
STEP_ELSEWHERE = {"case_smallest_bodies"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "case"), [each for each in CASES if each[1] not in STEP_ELSEWHERE])
def test_a_debugger_sees_the_same_steps(module: str, case: str) -> None:
    """Calls, lines and returns come in the same order as untraced."""  # fault C10
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
    """Flags, arguments, free variables, first lines and docstrings of code objects are kept."""
    source, path = sample(module)
    before = compile(source, path, "exec", dont_inherit=True)
    after = Engine().link(rewrite(source, path, EVERY))

    for old, new in pairs(before, after):
        assert [getattr(new, look) for look in VISIBLE] == [getattr(old, look) for look in VISIBLE]
        assert [name for name in new.co_freevars if name != ".flow"] == list(old.co_freevars)  # 3.11's comprehensions
        arguments = old.co_argcount + old.co_kwonlyargcount + (old.co_flags >> 2 & 1) + (old.co_flags >> 3 & 1)
        assert new.co_varnames[:arguments] == old.co_varnames[:arguments]
        assert new.co_consts[:1] == old.co_consts[:1] or not isinstance(old.co_consts[0], str)
        assert set(new.co_varnames) - set(old.co_varnames) <= {".flow", ".result"}


@pytest.mark.parametrize("module", MODULES)
def test_lines_stay(module: str) -> None:
    """Instrumented code has the lines that the plain code has, but for declarations, and no others."""
    source, path = sample(module)
    before = compile(source, path, "exec", dont_inherit=True)
    after = Engine().link(rewrite(source, path, EVERY))

    for old, new in pairs(before, after):
        lines = [{line for _, _, line in code.co_lines() if line} for code in (old, new)]
        assert lines[0] - {old.co_firstlineno} <= lines[1]
        assert len(lines[1] - lines[0]) <= 1


@pytest.mark.parametrize("module", MODULES)
def test_functions_not_selected_compile_to_the_same_code(module: str) -> None:
    """Without a selected function the code equals that of the compiler, and so do neighbours of selected ones."""
    source, path = sample(module)
    before = compile(source, path, "exec", dont_inherit=True)

    untouched = rewrite(source, path, lambda qualname: False)
    some = Engine().link(rewrite(source, path, lambda qualname: len(qualname) % 2 == 0))

    assert untouched == (before, ())
    for old, new in pairs(before, some):
        if len(old.co_qualname) % 2 and not any(isinstance(const, types.CodeType) for const in old.co_consts):
            assert new == old
            assert list(new.co_positions()) == list(old.co_positions())


def test_a_selected_function_leaves_the_others_alone() -> None:
    """Of two functions only the one that is selected changes."""
    source = "def a(x):\n    return x\ndef b(x):\n    return x\n"

    module = Engine().load(source, select=lambda qualname: qualname == "a")

    assert module.b.__code__ == plain(source).b.__code__
    assert module.a.__code__ != plain(source).a.__code__


@pytest.mark.parametrize("name", ["locals", "vars", "dir", "eval", "exec"])
def test_functions_that_read_their_locals_are_left_alone(name: str) -> None:
    """They keep their code, and the reason is given: in a class or module they can be wrapped, elsewhere not."""
    source = f"def f():\n    x = 1\n    def g(): return {name}\n    return [{name}, g]\n"

    rewritten = rewrite(source, "m.py", EVERY)

    assert [(f.qualname, f.how) for f in rewritten.functions] == [("f", "wrapper"), ("f.<locals>.g", "not traced")]
    assert name in rewritten.functions[0].reason
    assert rewritten.code == compile(source, "m.py", "exec", dont_inherit=True)


def test_kinds_and_lines_are_told() -> None:
    """Each function is described by its qualified name, first line with decorators, and what calling it gives."""
    source = (
        "class A:\n    @staticmethod\n    @f\n    def s(): pass\n    async def c(self): await x\n"
        "def g():\n    yield\nasync def a():\n    yield\ndef lazy():\n    return (lambda: (yield)), [i for i in g()]\n"
        "async def comprehends():\n    return [i async for i in a()]\n"
    )

    functions = rewrite(source, "m.py", EVERY).functions

    assert [(f.qualname, f.line, f.kind) for f in functions] == [
        ("A.s", 2, "function"),
        ("A.c", 5, "coroutine"),
        ("g", 6, "generator"),
        ("a", 8, "async generator"),
        ("lazy", 10, "function"),
        ("comprehends", 12, "coroutine"),
    ]


@pytest.mark.parametrize(
    "source", [b"def f(:", b"\xff", b"# coding: nonsense\n", b"x = 1\x00", b"(" * 500, b"def f():\n  return\n x"]
)
def test_bad_source_is_an_instrument_error(source: bytes) -> None:
    """Whatever does not compile is refused in one line that names the file."""
    with pytest.raises(InstrumentError, match="^m.py: cannot be instrumented") as caught:
        rewrite(source, "m.py", EVERY)

    assert "\n" not in str(caught.value)


def test_encoding_and_newlines_are_those_of_the_source() -> None:
    """A coding cookie, a byte order mark and Windows newlines mean what they mean to Python."""
    latin = "# coding: latin-1\r\ndef f():\r\n    return '\xe9'\r\n".encode("latin-1")
    marked = b"\xef\xbb\xbfdef f():\n    return '\xc3\xa9'\n"

    for source in (latin, marked):
        engine = Engine()
        namespace: dict[str, Any] = {}
        exec(engine.link(rewrite(source, "m.py", EVERY)), namespace)
        assert namespace["f"]() == "\xe9"


def test_future_statements_are_kept_and_not_inherited() -> None:
    """Annotations stay text only where the module itself asks for it."""
    annotated = "def f(a: undefined): pass\n"

    module = Engine().load("'''doc'''\nfrom __future__ import annotations\n" + annotated)

    assert module.f.__annotations__ == {"a": "undefined"}
    assert module.__doc__ == "doc"
    with pytest.raises(NameError):
        Engine().load(annotated)


def test_compiling_gives_no_warning_and_leaves_the_filters() -> None:
    """Source that Python warns about is instrumented in silence, and `warnings` is as it was."""
    source = "def f():\n    return 1 is 1, '\\d', 1or 0\n\ndef g():\n    assert (1, 'x')\n    x = 1()\n"
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as plainly:
        warnings.simplefilter("always")
        compile(source, "m.py", "exec")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Engine().link(rewrite(source, "m.py", EVERY))

    assert plainly
    assert [str(warning.message) for warning in caught] == []
    assert list(warnings.filters) == filters


def test_warnings_that_are_errors_do_not_stop_it() -> None:
    """Under ``-W error`` instrumenting still succeeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewritten = rewrite("def f():\n    return 1 is 1, '\\d'\n", "m.py", EVERY)

    assert rewritten.functions


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


def test_the_standard_library_compiles_with_everything_selected() -> None:
    """Modules of all kinds are instrumented, matched with their plain code and linked."""
    count = 0
    for path, source in standard_sources():
        rewritten = rewrite(source, path, EVERY)
        linked = link(rewritten.code, lambda mark: None)
        count += len(list(pairs(linked, compile(source, path, "exec", dont_inherit=True))))

    assert count > 3_000


def test_pairs_of_different_sources_are_refused() -> None:
    """Code of another program is not taken for a version of this one."""
    one, other = (compile(source, "m.py", "exec") for source in ("def a(): pass", "def b(): pass"))

    with pytest.raises(InstrumentError, match="differ"):
        list(pairs(one, other))


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
    assert len(codes(module.first.__code__)) == 1
