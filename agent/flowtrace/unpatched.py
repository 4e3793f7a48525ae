"""Modules of Python as they were when the agent started.

gevent turns threads, locks and sleeping into something else, freezegun stops the clocks, tests replace what they like:
all of them by putting other functions into these modules. The copies here stay what they are, for the agent and for
plugins: ``from flowtrace.unpatched import time``.
"""

from __future__ import annotations

import _queue
import _thread
import select
import time
import types
from typing import TYPE_CHECKING

__all__ = ["_queue", "_thread", "select", "time"]


def _copy(module: types.ModuleType) -> types.ModuleType:
    copy = types.ModuleType(module.__name__, module.__doc__)
    vars(copy).update(vars(module))
    return copy


if not TYPE_CHECKING:
    _queue, _thread, select, time = map(_copy, (_queue, _thread, select, time))
