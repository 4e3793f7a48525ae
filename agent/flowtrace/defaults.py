"""Defaults: which arguments of a call have the value that the function's signature gives them.

Only where the configuration asks for it (`capture.mark_defaults`): whether an argument was passed is not to be seen
from inside a call. So what is looked at is identity: an argument that *is* the default object counts as one that was
not passed, whoever put it there.
"""

from __future__ import annotations

import gc
import json
import sys
import types
import weakref
from collections.abc import Iterator

from flowtrace.constants import FOLDER
from flowtrace.typed import Any, Protocol
from flowtrace.values import Scalars

KEY = "@defaults"
_MAX_LOOKS = 3  # at the heap, for the function that has a code


class Encodes(Protocol):
    """What is asked of `flowtrace.values.Encoder`."""

    def arguments(self, values: dict[str, object]) -> bytes:
        """A JSON object of the arguments, by name."""

    def result(self, value: object) -> bytes:
        """What the call returned, as JSON."""

    def exception(self, error: BaseException) -> bytes:
        """An exception, as a JSON object."""

    @property
    def scalar_results(self) -> Scalars | None:
        """Which results may be queued as they are."""


class MarksDefaults:
    """Encodes for one function as ``encoder`` does, and adds which arguments are its defaults, as ``@defaults``.

    Args:
        encoder: For the values themselves.
        max_bytes: What arguments may take; where there is no room for the mark, it is left out.
    """

    def __init__(self, encoder: Encodes, max_bytes: int) -> None:
        self._encoder, self._max_bytes = encoder, max_bytes
        self.result, self.exception = encoder.result, encoder.exception
        self.scalar_arguments, self.scalar_results = None, encoder.scalar_results
        self._function: weakref.ref[types.FunctionType] | None = None
        self._looks = 0

    def arguments(self, values: dict[str, object]) -> bytes:
        """The arguments as JSON, those marked that are defaults."""
        text = self._encoder.arguments(values)
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(FOLDER):
            frame = frame.f_back
        function = self._known(frame.f_code) if frame is not None else None
        if function is None:
            return text
        names = [name for name, default in _defaults(function) if values.get(name, _ABSENT) is default]
        mark = b',"%b":%b}' % (KEY.encode(), json.dumps(names).encode())
        return text[:-1] + mark if names and len(text) + len(mark) <= self._max_bytes else text

    def _known(self, code: types.CodeType) -> types.FunctionType | None:
        """The one function that has this code; None where there are several, as of functions made in a loop."""
        function = self._function() if self._function else None
        if function is not None and function.__code__ is code:
            return function
        if self._looks >= _MAX_LOOKS:
            return None
        self._looks += 1
        found = [each for each in gc.get_referrers(code) if type(each) is types.FunctionType and each.__code__ is code]
        if len(found) != 1:
            return None
        self._function = weakref.ref(found[0])
        return found[0]


_ABSENT = object()


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    yield from zip(names[len(names) - len(defaults) :], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
