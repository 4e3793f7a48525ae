"""Starts the agent's own threads, so that the program and the kernel do not take them for the program's.

They are raw ones: `threading.enumerate` does not show them and the interpreter does not wait for them. They have all
signals blocked: a program that blocks a signal, to wait for it or to be left alone, blocks it in all threads it knows.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]  # whose numbers are ints: 64 members of an enum take 0.2 ms
from collections.abc import Callable

from flowtrace.unpatched import _thread

_OWN = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")  # of what a thread itself does wrong


def start(function: Callable[[], None]) -> None:
    """Run ``function`` on a thread.

    Raises:
        RuntimeError: none can be started.
    """
    if not hasattr(_signal, "pthread_sigmask"):
        _thread.start_new_thread(function, ())
        return
    others = _signal.valid_signals() - {getattr(_signal, name, 0) for name in _OWN}
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, others)  # a thread begins with the mask of who starts it
    try:
        _thread.start_new_thread(function, ())
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
