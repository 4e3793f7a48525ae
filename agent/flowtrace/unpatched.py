"""Modules of Python as they were when the agent started.

gevent turns threads, locks and sleeping into something else, freezegun stops the clocks, tests replace what they like:
all of them by putting other functions into these modules. The copies here stay what they are, for the agent and for
plugins: ``from flowtrace.unpatched import time``. ``chance()`` gives numbers from 0 to 1 of a generator of our own.
"""

from __future__ import annotations

import _queue
import _random
import _thread
import select
import time
import types
from collections.abc import Callable

from flowtrace.typed import TYPE_CHECKING

__all__ = ["_queue", "_thread", "chance", "new_chances", "select", "time"]

_generator = _random.Random()  # not the program's: that may have been seeded
chance: Callable[[], float] = _generator.random
new_chances: Callable[[], object] = _generator.seed  # for a forked child


def _copy(module: types.ModuleType) -> types.ModuleType:
    copy = types.ModuleType(module.__name__, module.__doc__)
    vars(copy).update(vars(module))
    return copy


if not TYPE_CHECKING:
    _queue, _thread, select, time = map(_copy, (_queue, _thread, select, time))
