"""Keeps Python 3.11 from using memory that it has freed, where the collector runs traced code.

In 3.11 any allocation can start the collector, those inside ``ContextVar.set`` too, which reads the variables of its
context meanwhile (`contextvar_set` in Python/context.c borrows them). When the collector then runs a traced ``__del__``
or callback, our setting of the current span replaces these variables, and they are freed. So from the beginning of a
collection on they are held by a copy of the context, which shares them. From 3.12 on, collections begin between
instructions only.
"""

from __future__ import annotations

import collections
import contextvars
import gc
import sys

from flowtrace.recorder import State
from flowtrace.unpatched import _thread

IS_NEEDED = sys.version_info < (3, 12)
MOST_HELD = 8  # collections that begin within one ``set``: it allocates a node for each level of the tree


class HeldContexts:
    """Of each thread, the contexts in which collections have run traced code lately."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._local = _thread._local()

    def install(self) -> None:
        """Be told of collections."""
        gc.callbacks.append(self._on_collection)

    def _on_collection(self, phase: str, _: object) -> None:
        try:
            held: collections.deque[contextvars.Context] = self._local.held
        except AttributeError:
            held = self._local.held = collections.deque(maxlen=MOST_HELD)
        if phase == "start":
            self._local.before = self._calls()
            held.append(contextvars.copy_context())
        elif held and self._local.before == self._calls():
            held.pop()

    def _calls(self) -> int:
        """Grows with each call that may set the current span."""
        state = self._state
        return state.queued_bytes + state.skipped_calls + state.lost_calls
