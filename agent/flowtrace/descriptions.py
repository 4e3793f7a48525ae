"""Descriptions: how plugins want instances of their types to be shown. The only foreign code that capturing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from flowtrace.introspection import title_of
from flowtrace.typed import Any, Protocol
from flowtrace.unpatched import time

SLOW_NS = 10_000_000  # for a description; and for those of one capture together
_TRIES = 3


class Patient(Protocol):
    """A capture, as far as descriptions are concerned: they may take so much longer, all together."""

    patience_ns: int


class Descriptions:
    """How plugins want instances of exactly these types to be shown; shared by all encoders and threads.

    The only foreign code that capturing values runs. What has raised three times is dropped, and so is what has been
    slow three times in a row: for once may be a thread that had to wait for its turn.

    Args:
        functions: By the type; each returns plain data.
        warn: Says one line to the person at the terminal, once for what is dropped.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self,
        functions: Mapping[type, Callable[[Any], object]],
        *,
        warn: Callable[[str], object] = lambda text: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        # By id: looking a type up in a dict would call __hash__ and __eq__ of its metaclass.
        self._described = {id(kind): _Described(kind, function) for kind, function in functions.items()}
        self._warn, self._clock = warn, clock

    def __contains__(self, kind: int) -> bool:
        return kind in self._described

    def __iter__(self) -> Iterator[int]:
        """The ids of the types."""
        return iter(list(self._described))

    def ask(self, value: object, call: Patient, name: str) -> tuple[object, bool]:
        """What the type's description says, and whether it failed, so that only ``name`` can be shown."""
        entry = self._described.get(id(type(value)))
        if entry is None or call.patience_ns <= 0:
            return name, False
        began = self._clock()
        plain: object = name
        failure = ""
        try:
            plain = entry.function(value)
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001
            failure = f"raised {title_of(type(error))}"
            entry.raised += 1
        took = self._clock() - began
        call.patience_ns -= took
        entry.slow = entry.slow + 1 if took > SLOW_NS else 0
        if max(entry.raised, entry.slow) >= _TRIES and self._described.pop(id(entry.kind), None) is not None:
            problem = failure or f"took more than {SLOW_NS // 1_000_000} ms"
            self._warn(f"a plugin's description of {name} {problem} for the third time; it is used no more")
        return plain, bool(failure)


class _Described:
    __slots__ = ("function", "kind", "raised", "slow")

    def __init__(self, kind: type, function: Callable[[Any], object]) -> None:
        self.kind, self.function = kind, function  # the type too: while it lives no other has its id
        self.raised = self.slow = 0
