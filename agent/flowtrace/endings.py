"""How processes end past `atexit`: by a signal's default action, by ``os._exit``, by ``exec``.

Signals are handled only where the default action stands, as the program's own handlers decide otherwise. Functions of
`os` are replaced only where the configuration asks for it (``flush.hard_exits``).
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGHUP) if sys.platform != "win32" else (signal.SIGTERM,)
_EXECS = ("execv", "execve")  # what the other functions of the family call


class Endings:
    """Has delivered what waits when the process is about to end in one of these ways.

    Args:
        stop: Delivers it, and says that this was all.
        deliver: Delivers it, for the process may go on: an ``exec`` can fail.
    """

    def __init__(self, stop: Callable[[], None], deliver: Callable[[], None]) -> None:
        self._stop, self._deliver = stop, deliver
        self._handler = self._stop_and_die  # one object, by which it is known again
        self._masks: dict[int, Any] = {}  # that were in force before a fork, by thread
        self._main = _thread.get_ident()
        self._was_forked_by_main = True

    def watch_signals(self) -> None:
        """Handle the signals whose default action would end the process."""
        for each in SIGNALS:
            if signal.getsignal(each) is signal.SIG_DFL:
                signal.signal(each, self._handler)

    def _stop_and_die(self, number: int, frame: types.FrameType | None) -> None:
        self._stop()  # a second signal comes here as well, and waits for the same end
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def before_fork(self) -> None:
        """Hold our signals back: Python forgets what comes to a child before its hooks.

        Without a handler of Python's they would have ended the child at once.
        """
        self._was_forked_by_main = _thread.get_ident() == self._main
        ours = self._ours()
        if ours:
            self._masks[_thread.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, ours)

    def after_fork_in_parent(self) -> None:
        """Let them through."""
        mask = self._masks.pop(_thread.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def after_fork_in_child(self) -> None:
        """Let them through; give the default actions back where Python cannot be told of signals.

        From 3.13 on, a signal is noted for the main thread of the parent, which a child has not that another thread
        has forked: handlers run there only when a system call is interrupted, in a child that computes never.
        """
        self._main = _thread.get_ident()
        if not self._was_forked_by_main and sys.version_info >= (3, 13):
            for each in self._ours():
                signal.signal(each, signal.SIG_DFL)
        self.after_fork_in_parent()

    def _ours(self) -> list[signal.Signals]:
        return [each for each in SIGNALS if signal.getsignal(each) == self._handler]

    def watch_hard_exits(self) -> None:
        """Replace ``os._exit`` and ``os.exec*``."""
        leave = os._exit

        @functools.wraps(leave)
        def _exit(status: int) -> NoReturn:
            self._stop()
            leave(status)

        os._exit = _exit
        for name in _EXECS:
            if hasattr(os, name):
                setattr(os, name, self._delivering(getattr(os, name)))

    def _delivering(self, become: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
        @functools.wraps(become)
        def delivering(*args: Any, **kwargs: Any) -> NoReturn:
            self._deliver()
            become(*args, **kwargs)

        return delivering
