"""Splices: functions of libraries with parts of ours in them, so that traces go where a library takes the program.

A splice is instrumented into the code of one function, as a target's enter and leave are: no wrapper, no frame, nothing
that the program could meet. Modules get their splices on the way in, through the importer's door; what is imported
already, by its name. `Splices.switch` gives back the very code that Python compiled.

A function may be spliced and a target besides. Then the target's parts stand around those of the splice: the code
that the attachment takes for plain is the spliced one.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator

from flowtrace.instrument import IS_FUNCTION, Function, instrument, pairs
from flowtrace.patcher import assign
from flowtrace.recorder import Recorder
from flowtrace.typed import Any, NamedTuple


def _nothing(_: object) -> None: ...


class Splice(NamedTuple):
    """What a spliced function does besides what it does.

    Both run in the program's thread, blind and behind a gate: no call made in there is recorded, and what they raise
    is counted and goes no further.

    Attributes:
        enter: Called with the arguments by name; gives a flow. None: there is nothing to leave.
        leave: Called with the flow and the result, or `Raised`.
        wants_self: Whether ``self`` or ``cls`` is among the arguments.
        suspend, resumed: Called with the flow each time that a coroutine or generator stops and goes on.
    """

    enter: Callable[[dict[str, Any]], Any]
    leave: Callable[[Any, Any], None] = lambda flow, result: None
    wants_self: bool = False
    suspend: Callable[[Any], None] = _nothing
    resumed: Callable[[Any], None] = _nothing


class Splices:
    """The splices of a process.

    Args:
        recorder: Whose guard makes the splices blind, and who counts what fails.

    Attributes:
        is_on: Whether spliced functions have their spliced code.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._wanted: dict[str, dict[str, Splice]] = {}  # by module and qualified name
        self._codes: list[tuple[types.CodeType, types.CodeType]] = []
        self.is_on = True

    def add(self, module: str, qualname: str, splice: Splice) -> None:
        """Splice a function, which need not exist: from now on, or from when `imported` is called.

        Args:
            module: Where it is defined.
            qualname: As in ``__qualname__``, ``<locals>`` included.
            splice: What it is to do; one for each function.
        """
        self._wanted.setdefault(module, {})[qualname] = splice._replace(
            enter=_gated_enter(self._recorder, splice.enter),
            leave=_gated(self._recorder, splice.leave),
            suspend=_gated(self._recorder, splice.suspend) if splice.suspend is not _nothing else _nothing,
            resumed=_gated(self._recorder, splice.resumed) if splice.resumed is not _nothing else _nothing,
        )

    def code(self, module: str, plain: types.CodeType) -> types.CodeType:
        """``plain``, the code of a module or of a function in it, with splices; it is itself where there are none."""
        wanted = self._wanted.get(module)
        if wanted is None:
            return plain

        def parts(function: Function) -> Splice | None:
            return wanted.get(function.qualname)

        try:
            code = instrument(plain, parts).code
        except Exception as error:  # noqa: BLE001  # the gate decides
            self._recorder._failed(error)
            return plain
        self._codes.extend(pair for pair in pairs(plain, code) if pair[0].co_flags & IS_FUNCTION)
        return code

    def imported(self) -> None:
        """Splice what is imported already."""
        spliced = {id(code) for _, code in self._codes}
        for name, wanted in self._wanted.items():
            module = sys.modules.get(name)
            outermost = {qualname.partition(".<locals>.")[0] for qualname in wanted}
            for function in filter(None, (_function(module, qualname) for qualname in outermost)):
                if id(function.__code__) not in spliced:
                    code = self.code(name, function.__code__)
                    if self.is_on:
                        function.__code__ = code

    def switch(self, *, on: bool) -> None:
        """Give all spliced functions their spliced code, or the very code that Python compiled.

        What the attachment has put around them has to be taken off before, and put on afterwards.
        """
        self.is_on = on
        assign(self._codes if on else [pair[::-1] for pair in self._codes])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the splices switched on for a while, so that what is attached newly stands around them."""
        is_on = self.is_on
        if not is_on:
            self.switch(on=True)
        try:
            yield
        finally:
            if not is_on:
                self.switch(on=False)


def _function(module: types.ModuleType | None, qualname: str) -> types.FunctionType | None:
    """The function of this name, where it is the module's own; no code runs."""
    value: Any = module
    for name in qualname.split("."):
        if not isinstance(value, types.ModuleType | type):
            return None
        value = vars(value).get(name)
    while type(value) is not types.FunctionType or value.__code__.co_qualname != qualname:
        held = _HELD_AS.get(type(value), "__wrapped__")
        value = getattr(value, held, None) if type(value) in (types.FunctionType, *_HELD_AS) else None
        if value is None:
            return None
    return value if module is not None and value.__globals__ is vars(module) else None


_HELD_AS: dict[type, str] = {staticmethod: "__func__", classmethod: "__func__", property: "fget"}


def _gated_enter(recorder: Recorder, part: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """``part``, as a traced body calls it; done without where the agent's own code makes the call."""
    gated = _gated(recorder, part)
    thread = recorder.thread

    def enter(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
        return None if thread().busy else gated(dict(zip(names, values, strict=True)))

    return enter


def _gated(recorder: Recorder, part: Callable[..., Any]) -> Callable[..., Any]:
    """``part``, blind, and done without where it fails or where the flow that it is called with is None."""
    thread, failed = recorder.thread, recorder._failed

    def gated(flow: Any, *result: Any) -> Any:
        if flow is None:
            return None
        me, busy = None, False
        try:
            me = thread()
            busy, me.busy = me.busy, True
            return part(flow, *result)
        except BaseException as error:  # noqa: BLE001
            failed(error)
            return None
        finally:
            if me is not None:
                me.busy = busy

    return gated
