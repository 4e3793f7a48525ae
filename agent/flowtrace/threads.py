"""Starts the agent's own threads, so that the program and the kernel do not take them for the program's.

They are raw ones: `threading.enumerate` does not show them and the interpreter does not wait for them. They have all
signals blocked: a program that blocks a signal, to wait for it or to be left alone, blocks it in all threads it knows.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from flowtrace.unpatched import _thread

_OWN = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"}  # of what a thread itself does wrong


def start(function: Callable[[], None]) -> None:
    """Run ``function`` on a thread.

    Raises:
        RuntimeError: none can be started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        _thread.start_new_thread(function, ())
        return
    others = {each for each in signal.valid_signals() if getattr(each, "name", None) not in _OWN}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, others)  # a thread begins with the mask of who starts it
    try:
        _thread.start_new_thread(function, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
