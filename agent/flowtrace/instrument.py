"""Instrumenting: the source of a module in, the code of the same program with its target functions traced out.

A traced body is the old body between an enter and a leave, in the same frame::

    try: .flow = <enter>({"a": a, ...})
    except RecursionError: .flow = None
    try:
        <body, in which `return X` is `.result = X; return .result`>
        .result = None
    except BaseException: .result = <raised>; raise
    finally:
        try: <leave>(.flow, .result)
        except RecursionError: pass

The names begin with a dot, so no program can have them. ``<...>`` are constants of the code object: the compiler
takes only plain constants, so `rewrite` puts in marks, and `link` replaces the marks in the finished code. Nothing
is added to the module's globals. New statements have no line number of their own: tracebacks, debuggers and coverage
see the lines they always saw.

Where a body suspends, the span is handed back for that time: `yield X` becomes
`<resume>(.flow, (yield <suspend>(.flow, X)))`, `yield from X` and `await X` go through `<delegate>(.flow, X)`, and the
statement around them gets `except BaseException: <resumed>(.flow); raise`, for what is thrown in.

This module knows neither config nor recorder; it is a function of its arguments.
"""

from __future__ import annotations

import ast
import contextlib
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from flowtrace.errors import InstrumentError
from flowtrace.positions import with_exit_lines

Kind: TypeAlias = Literal["function", "coroutine", "generator", "async generator"]
How: TypeAlias = Literal["instrumented", "wrapper", "not traced"]

FLOW, RESULT = ".flow", ".result"
MARK = "flowtrace \0 mark"  # the first item of a constant that `link` replaces
FILENAME = "<flowtrace instruments>"

# Reading one's own locals would show ours; so such functions keep their own code.
READS_LOCALS = frozenset({"locals", "vars", "dir", "eval", "exec"})


class Function(NamedTuple):
    """One function of a module and what becomes of it.

    Attributes:
        qualname: As in ``__qualname__``.
        line: Its first line, decorators included; with the qualname, what tells it from others.
        kind: What calling it gives.
        how: ``instrumented``, or what else becomes of it.
        reason: Why it is not instrumented; empty where it is.
    """

    qualname: str
    line: int
    kind: Kind
    how: How = "instrumented"
    reason: str = ""


class Rewritten(NamedTuple):
    """The outcome of `rewrite`: marked code, and the functions in the order of their marks."""

    code: types.CodeType
    functions: tuple[Function, ...]


class Mark(NamedTuple):
    """What a constant stands for: a ``part`` ("enter", "leave", ...) of the ``function`` with this number."""

    part: str
    function: int


def rewrite(source: bytes | str, filename: str, select: Callable[[str], bool]) -> Rewritten:
    """Compile ``source`` with its selected functions instrumented.

    Args:
        source: The text of a module, or its bytes with whatever encoding it declares.
        filename: What the code objects name as their file.
        select: Whether the function with this qualified name is a target.

    Returns:
        Code whose marks wait to be linked, and what became of each selected function. Code of functions that
        are not selected equals what ``compile`` gives.

    Raises:
        InstrumentError: the source does not compile.
    """
    rewriter = _Rewriter(select)
    try:
        with _silence():
            code = _compile(rewriter.visit(ast.parse(source, FILENAME)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InstrumentError(f"{filename}: cannot be instrumented: {type(error).__name__}: {error}") from error
    return Rewritten(_renamed(code, filename), tuple(rewriter.functions))


def link(code: types.CodeType, constant: Callable[[Mark], object]) -> types.CodeType:
    """``code`` with each mark replaced by ``constant(mark)``, nested code included.

    The last constant of an instrumented function's code is its enter function: so it can be told from other code.
    """
    consts: list[object] = []
    enters: list[object] = []
    for value in code.co_consts:
        if type(value) is types.CodeType:
            value = link(value, constant)
        elif type(value) is tuple and len(value) == 3 and value[0] == MARK:
            mark = Mark(value[1], value[2])
            value = constant(mark)
            if mark.part == "enter":
                enters.append(value)
        consts.append(value)
    linked = code.replace(co_consts=(*consts, *enters))
    return with_exit_lines(linked) if enters else linked


def graft(plain: types.CodeType, code: types.CodeType) -> types.CodeType:
    """``code`` in which every function that equals its plain twin is that very object.

    Raises:
        InstrumentError: they are not versions of the same source.
    """
    if plain == code:
        return plain
    twins = iter(_inner(plain, code))
    consts = (graft(*next(twins)) if type(value) is types.CodeType else value for value in code.co_consts)
    return code.replace(co_consts=tuple(consts))


def call(filename: str) -> types.CodeType:
    """Marked code of a module that is one call of the mark ``run``, on a line of its own."""
    statement = _at(ast.Expr(_call("run", 0)), 1)
    with _silence():
        return _renamed(_compile(ast.Module(body=[statement], type_ignores=[])), filename)


def pairs(one: types.CodeType, other: types.CodeType) -> Iterator[tuple[types.CodeType, types.CodeType]]:
    """The code objects of two versions of a module, matched: (of ``one``, of ``other``), modules themselves included.

    Raises:
        InstrumentError: they are not versions of the same source.
    """
    yield one, other
    for first, second in _inner(one, other):
        yield from pairs(first, second)


def _inner(one: types.CodeType, other: types.CodeType) -> list[tuple[types.CodeType, types.CodeType]]:
    inner = [[value for value in code.co_consts if type(value) is types.CodeType] for code in (one, other)]
    names = [[(code.co_name, code.co_firstlineno) for code in codes] for codes in inner]
    if names[0] != names[1]:
        raise InstrumentError(f"{one.co_filename}: the functions in {one.co_name} differ from those of its source")
    return list(zip(*inner, strict=True))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Compile without a warning: those of the source were given when it was compiled plainly.

    A filter that can match nothing but our file name goes to the front of the list for this long. Unlike
    ``catch_warnings`` that harms no other thread, and since the filters' version does not change, "once"
    warnings that were shown stay shown.
    """
    silence: Any = ("ignore", None, Warning, _FileNamed(), 0)
    filters: Any = warnings.filters
    filters.insert(0, silence)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # another thread has reset the filters
            filters.remove(silence)


def _compile(tree: ast.Module) -> types.CodeType:
    code: types.CodeType = compile(tree, FILENAME, "exec", dont_inherit=True)
    return code


class _FileNamed:
    """What a warnings filter uses as its pattern for modules."""

    def match(self, module: str) -> bool:
        return module == FILENAME


def _renamed(code: types.CodeType, filename: str) -> types.CodeType:
    consts = tuple(_renamed(value, filename) if type(value) is types.CodeType else value for value in code.co_consts)
    return code.replace(co_filename=filename, co_consts=consts)


_FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_Node = TypeVar("_Node", bound=ast.AST)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_SUSPENDS = (ast.Yield, ast.YieldFrom, ast.Await)


class _Scope(NamedTuple):
    """Where the rewriter is.

    ``reachable``: a name bound here is an attribute of the module or of a class in it.
    """

    prefix: str
    reachable: bool
    is_class: bool = False
    globals: frozenset[str] = frozenset()

    def within(self, name: str) -> str:
        return name if name in self.globals else self.prefix + name


class _Rewriter(ast.NodeTransformer):
    """Walks the scopes of a module and instruments the functions that are selected."""

    def __init__(self, select: Callable[[str], bool]) -> None:
        self._select = select
        self._scope = _Scope("", reachable=True)
        self.functions: list[Function] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        qualname = self._scope.within(node.name)
        return self._visit_inside(node, _Scope(qualname + ".", self._scope.reachable, is_class=True))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return self._visit_inside(node, _Scope(self._scope.prefix + "<lambda>.<locals>.", reachable=False))

    def _visit_inside(self, node: ast.AST, scope: _Scope) -> ast.AST:
        outer, self._scope = self._scope, scope
        self.generic_visit(node)
        self._scope = outer
        return node

    def _visit_function(self, node: _FunctionNode) -> ast.AST:
        qualname, reachable = self._scope.within(node.name), self._scope.reachable
        own = list(_own_nodes(node.body))
        declared = (name for each in own if isinstance(each, ast.Global) for name in each.names)
        chosen = self._select(qualname)
        kind = _kind(node, own)
        function = Function(qualname, min([node.lineno, *(d.lineno for d in node.decorator_list)]), kind)
        reason = _obstacle(own) if chosen else ""
        if chosen:
            how: How = "instrumented" if not reason else "wrapper" if reachable else "not traced"
            self.functions.append(function._replace(how=how, reason=reason))
        index = len(self.functions) - 1
        self._visit_inside(node, _Scope(qualname + ".<locals>.", reachable=False, globals=frozenset(declared)))
        if chosen and not reason:
            _instrument(node, index, kind, is_method=self._scope.is_class)
        return node


def _own_nodes(body: list[Any]) -> Iterator[ast.AST]:
    """All nodes that run in the frame of this body or in its comprehensions."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, _SCOPES):
            waiting.extend(_evaluated_outside(node))
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _evaluated_outside(node: ast.AST) -> Iterator[ast.AST]:
    """Of a nested scope, the parts that are evaluated where it stands: decorators, defaults, bases."""
    if isinstance(node, ast.ClassDef):
        yield from (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords))
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from (*node.decorator_list, *_defaults(node.args))
    elif isinstance(node, ast.Lambda):
        yield from _defaults(node.args)


def _defaults(args: ast.arguments) -> Iterator[ast.AST]:
    yield from args.defaults
    yield from (default for default in args.kw_defaults if default is not None)


def _kind(node: _FunctionNode, own: list[ast.AST]) -> Kind:
    yields = any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in own)
    if isinstance(node, ast.AsyncFunctionDef):
        return "async generator" if yields else "coroutine"
    return "generator" if yields else "function"


def _obstacle(own: list[ast.AST]) -> str:
    for node in own:
        if isinstance(node, ast.Name) and node.id in READS_LOCALS and isinstance(node.ctx, ast.Load):
            return f"reads its local variables through {node.id}"
    return ""


def _instrument(node: _FunctionNode, index: int, kind: Kind, *, is_method: bool) -> None:
    """Put the body of ``node`` between an enter and a leave."""
    has_docstring = ast.get_docstring(node, clean=False) is not None
    docstring, body = node.body[:has_docstring], node.body[has_docstring:]
    line = _first_line(next((each for each in body if not _is_declaration(each)), node.body[0]))
    returning = _Returns(index)
    body = [statement for each in body for statement in returning.rewrite(each)]
    if kind != "function":
        suspending = _Suspensions(index)
        body = [suspending.visit(each) for each in body]
    node.body = [
        *docstring,
        _guarded(_at(_enter(node, index, is_method=is_method), line), _assign(FLOW, ast.Constant(None)), index),
        ast.Try(
            body=[*body, _assign(RESULT, ast.Constant(None))],
            handlers=[_handler([_assign(RESULT, _mark("raised", index)), ast.Raise()], index)],
            orelse=[],
            finalbody=[_guarded(ast.Expr(_call("leave", index, _load(FLOW), _load(RESULT))), ast.Pass(), index)],
        ),
    ]
    for statement in node.body[has_docstring:]:
        _without_lines(statement)


def _enter(node: _FunctionNode, index: int, *, is_method: bool) -> ast.stmt:
    args = node.args
    named = [*args.posonlyargs, *args.args]
    if named and (named[0].arg in ("self", "cls") or (is_method and not _is_static(node))):
        del named[0]
    recorded = [*named, *args.kwonlyargs, *(arg for arg in (args.vararg, args.kwarg) if arg)]
    keys: list[ast.expr | None] = [ast.Constant(arg.arg) for arg in recorded]
    values = ast.Dict(keys=keys, values=[_load(arg.arg) for arg in recorded])
    return _assign(FLOW, _call("enter", index, values))


def _is_static(node: _FunctionNode) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)


class _Returns(ast.NodeTransformer):
    """`return X` binds X to `.result` first, so that leave sees it after the user's own `finally` blocks."""

    def __init__(self, index: int) -> None:
        self._index = index

    def rewrite(self, statement: ast.stmt) -> list[ast.stmt]:
        outcome = self.visit(statement)
        return outcome if isinstance(outcome, list) else [outcome]

    def visit(self, node: ast.AST) -> Any:
        # expressions hold no statements of this scope
        return node if isinstance(node, (*_SCOPES, ast.expr)) else super().visit(node)

    def visit_Return(self, node: ast.Return) -> list[ast.stmt]:
        kept = ast.copy_location(_assign(RESULT, node.value or ast.Constant(None)), node)
        again = ast.Return(_load(RESULT)) if node.value else ast.Return()
        return [kept, ast.copy_location(again, node)]


class _Suspensions(ast.NodeTransformer):
    """Hands the span back at each point of this scope where the body may be suspended."""

    def __init__(self, index: int) -> None:
        self._index = index

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.GeneratorExp):
            return node  # runs who knows when
        if isinstance(node, _SCOPES):
            return self._visit_evaluated(node)
        if not isinstance(node, ast.stmt):
            return super().visit(node)  # an expression or a part of one
        suspends = _suspends(node)
        changed = super().visit(node)
        return self._caught(changed) if suspends else changed

    def _visit_evaluated(self, node: Any) -> Any:
        """Of a nested scope, only what is evaluated where it stands."""
        for field in ("decorator_list", "bases"):
            setattr(node, field, [self.visit(each) for each in getattr(node, field, [])])
        args = getattr(node, "args", None)
        if args is not None:
            args.defaults = [self.visit(each) for each in args.defaults]
            args.kw_defaults = [each and self.visit(each) for each in args.kw_defaults]
        return self._caught(node) if isinstance(node, ast.stmt) and _suspends(node) else node

    def visit_Yield(self, node: ast.Yield) -> ast.AST:
        self.generic_visit(node)
        node.value = self._call("suspend", node.value or ast.copy_location(ast.Constant(None), node))
        return self._call("resume", node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.AST:
        return self._delegated(node, "delegate")

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self._delegated(node, "delegate_await")

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        self.generic_visit(node)
        node.iter = self._call("delegate_iterable", node.iter)
        return node

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = self._call("delegate_context", item.context_expr)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        if node.is_async:
            node.iter = self._call("delegate_iterable", node.iter)
        return node

    def _delegated(self, node: ast.YieldFrom | ast.Await, part: str) -> ast.AST:
        self.generic_visit(node)
        node.value = self._call(part, node.value, place=node)  # where Python says that it cannot be awaited
        return node

    def _call(self, part: str, value: ast.expr, *, place: ast.expr | None = None) -> ast.expr:
        # at the place of its value: the compiler takes the lines of `with` exits from here, 3.13.0 fails without one
        return _located(_call(part, self._index, _load(FLOW), value), place or value)

    def _caught(self, statement: ast.stmt) -> ast.stmt:
        resumed = ast.Expr(_call("resumed", self._index, _load(FLOW)))
        return ast.Try(
            body=[statement], handlers=[_handler([resumed, ast.Raise()], self._index)], orelse=[], finalbody=[]
        )


def _suspends(statement: ast.stmt) -> bool:
    """Whether the statement itself, not one inside it, may be suspended."""
    if isinstance(statement, (ast.AsyncFor, ast.AsyncWith)):
        return True
    waiting: list[ast.AST] = [
        *(_evaluated_outside(statement) if isinstance(statement, _SCOPES) else ast.iter_child_nodes(statement))
    ]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _SUSPENDS) or (isinstance(node, ast.comprehension) and node.is_async):
            return True
        if isinstance(node, _SCOPES):
            waiting.extend(_evaluated_outside(node))
        elif not isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case, ast.GeneratorExp)):
            waiting.extend(ast.iter_child_nodes(node))
        elif isinstance(node, ast.match_case) and node.guard:
            waiting.append(node.guard)
        elif isinstance(node, ast.ExceptHandler) and node.type:
            waiting.append(node.type)
    return False


def _is_declaration(statement: ast.stmt) -> bool:
    """Whether a statement leaves no code: a place there would be one that no debugger stops at."""
    is_annotation = isinstance(statement, ast.AnnAssign) and statement.value is None
    return is_annotation or isinstance(statement, (ast.Global, ast.Nonlocal))


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _guarded(statement: ast.stmt, otherwise: ast.stmt, index: int) -> ast.stmt:
    """At the recursion limit even calling the recorder raises; the function itself would still have run."""
    handler = ast.ExceptHandler(type=_mark("recursion error", index), name=None, body=[otherwise])
    return ast.Try(body=[statement], handlers=[handler], orelse=[], finalbody=[])


def _handler(body: list[ast.stmt], index: int) -> ast.ExceptHandler:
    return ast.ExceptHandler(type=_mark("base exception", index), name=None, body=body)


def _mark(part: str, index: int) -> ast.Constant:
    value: Any = (MARK, part, index)
    return ast.Constant(value)


def _call(part: str, index: int, *args: ast.expr) -> ast.Call:
    return ast.Call(func=_mark(part, index), args=list(args), keywords=[])


def _load(name: str) -> ast.Name:
    return ast.Name(id=name, ctx=ast.Load())


def _assign(name: str, value: ast.expr) -> ast.Assign:
    return ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=value)


def _at(statement: ast.stmt, line: int) -> ast.stmt:
    place = ast.Pass(lineno=line, end_lineno=line, col_offset=0, end_col_offset=0)
    return _located(statement, place)


def _located(node: _Node, place: ast.AST) -> _Node:
    for each in ast.walk(node):
        if isinstance(each, (ast.expr, ast.stmt)) and not hasattr(each, "lineno"):
            ast.copy_location(each, place)
    return node


def _without_lines(statement: ast.stmt) -> None:
    """Give nodes without a position that of no line (PEP 626)."""
    for node in ast.walk(statement):
        if isinstance(node, (ast.expr, ast.stmt, ast.ExceptHandler)) and not hasattr(node, "lineno"):
            node.lineno = node.end_lineno = node.col_offset = node.end_col_offset = -1
