"""Keeps Python 3.11 from using memory that it has freed, where the collector runs traced code.

In 3.11 any allocation can start the collector, those inside ``ContextVar.set`` too, which reads the variables of its
context meanwhile (`contextvar_set` in Python/context.c borrows them). When the collector then runs a traced ``__del__``
or callback, our setting of the current span replaces these variables, and they are freed. So from the beginning of a
collection on they are held by a copy of the context, which shares them. From 3.12 on, collections begin between
instructions only.
"""

from __future__ import annotations

import contextvars
import gc
import opcode
import sys
from collections.abc import Callable

IS_NEEDED = sys.version_info < (3, 12)


class HeldContexts:
    """The contexts in which collections have run traced code since the last `release`."""

    def __init__(self) -> None:
        self._held: list[contextvars.Context] = []
        self._is_collecting = False

    def install(self) -> None:
        """Be told of collections, first of all."""
        gc.callbacks.insert(0, self._on_collection)

    def _on_collection(
        self, phase: str, _: object, copy: Callable[[], contextvars.Context] = contextvars.copy_context
    ) -> None:
        context = copy()  # before anything else runs, signal handlers included
        if phase == "start":
            self._is_collecting = True
            self._held.append(context)
        else:
            if self._held and gc.get_referents(self._held[-1]) == gc.get_referents(context):
                self._held.pop()  # nothing has replaced the variables
            self._is_collecting = False  # last of all: from here on the dispatcher's thread may release

    def release(self) -> None:
        """Called by the dispatcher: whoever was setting a variable has done so, or it would have no turn."""
        if not self._is_collecting:
            self._held.clear()


def _at_once(function: Callable[..., None]) -> None:
    """Have a function begin without a look for signals: in 3.11 its first instruction says whether there is one."""
    code = bytearray(function.__code__.co_code)
    code[code.index(opcode.opmap["RESUME"]) + 1] = 2  # as behind ``yield from``
    function.__code__ = function.__code__.replace(co_code=bytes(code))


if IS_NEEDED:
    _at_once(HeldContexts._on_collection)
