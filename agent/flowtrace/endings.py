"""How processes end past `atexit`: by a signal's default action, by ``os._exit``, by ``exec``.

Signals are handled only where the default action stands, as the program's own handlers decide otherwise: that is where
nothing else was said, and where the program has put ``SIG_DFL``, as servers do before they die of a signal. Functions
of `os` are replaced only where the configuration asks for it (``flush.hard_exits``).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]  # `signal.signal` is spliced
import contextlib
import faulthandler
import functools
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator

from flowtrace.constants import Raised
from flowtrace.splices import Splice, Splices
from flowtrace.typed import Any, NoReturn
from flowtrace.unpatched import _thread

if sys.platform != "win32":
    import fcntl

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if sys.platform != "win32" else (signal.SIGTERM,)
_HIGH_FD = 900
_EXECS = ("execv", "execve")  # what the other functions of the family call


def _asks_for_default(values: dict[str, Any]) -> signal.Signals | None:
    number, handler = values["signalnum"], values["handler"]
    is_default = handler is signal.SIG_DFL or (type(handler) is int and handler == signal.SIG_DFL)
    known = [each for each in SIGNALS if type(number) in (int, signal.Signals) and each == number]
    return known[0] if is_default and known else None


class Arrivals:
    """Knows of signals before Python does: their C handler notes them in a file in memory, and passes them on.

    A signal that comes just before the main thread goes into a call that blocks is noted by Python and not acted on
    until that call ends, which may be never. The default action would have ended the process.
    """

    def __init__(self) -> None:
        self._files: dict[signal.Signals, tuple[int, int]] = {}  # descriptor and inode

    def watch(self, number: signal.Signals) -> None:
        """Note this signal from now on, above the handler that is in place; elsewhere than on Linux not at all."""
        if not hasattr(os, "memfd_create"):
            return
        with contextlib.suppress(OSError):
            low = os.memfd_create("flowtrace", os.MFD_CLOEXEC)
            try:
                fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)  # the program's own stay as they were
            finally:
                os.close(low)
            self._files[number] = fd, os.fstat(fd).st_ino
            faulthandler.register(number, file=fd, all_threads=False, chain=True)

    def renew(self) -> None:
        """In a forked child, have files of its own."""
        for number, (fd, inode) in list(self._files.items()):
            if _is_there(fd, inode):
                os.close(fd)
            self.watch(number)

    def has_come(self, number: signal.Signals) -> bool:
        """Whether this signal has; a file that the program has closed is replaced."""
        fd, inode = self._files.get(number, (-1, 0))
        if fd >= 0 and not _is_there(fd, inode):
            self.watch(number)
            return False
        return fd >= 0 and os.fstat(fd).st_size > 0


def _is_there(fd: int, inode: int) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


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
        self._is_dying = False
        self._has_main_thread = True  # which Python calls handlers in
        self._arrivals = Arrivals()

    def watch_signals(self, splices: Splices) -> None:
        """Handle the signals whose default action would end the process, now and when it is asked for."""
        splices.add("signal", "signal", Splice(_asks_for_default, self._stand_in))
        for each in SIGNALS:
            if signal.getsignal(each) is signal.SIG_DFL:
                self._stand_in(each)

    def _stand_in(self, number: signal.Signals, result: object = None) -> None:
        if result is not Raised and self._has_main_thread:
            faulthandler.unregister(number)  # where a handler of the program's has covered it
            _signal.signal(number, self._handler)
            self._arrivals.watch(number)

    def look(self) -> None:
        """Called by the dispatcher again and again: remind the main thread of a signal that it does not act on."""
        for each in self._ours() if not self._is_dying else []:
            if self._arrivals.has_come(each):
                signal.pthread_kill(self._main, each)

    def _stop_and_die(self, number: int, frame: types.FrameType | None) -> None:
        self._is_dying = True
        self._stop()  # a second signal comes here as well, and waits for the same end
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Have our signals come behind this: what they strike in the midst of can neither go on nor be stopped."""
        ours = self._ours()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ours) if ours and hasattr(signal, "pthread_sigmask") else None
        try:
            yield
        finally:
            if mask is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

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
        self._main, self._is_dying = _thread.get_ident(), False
        self._arrivals.renew()
        if not self._was_forked_by_main and sys.version_info >= (3, 13):
            self._has_main_thread = False
            for each in self._ours():
                _signal.signal(each, _signal.SIG_DFL)
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
