"""The agent's threads take no signal of the program's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flowtrace import threads


@pytest.mark.parametrize("blocked", [set(), {signal.SIGUSR1}], ids=["none", "one"])
def test_signals_are_blocked_there_and_nowhere_else(
    blocked: set[signal.Signals], wait_until: Callable[..., Any]
) -> None:
    """The thread has all blocked but those of its own faults; who started it has what it had."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    masks: list[set[int]] = []
    try:
        threads.start(lambda: masks.append({*signal.pthread_sigmask(signal.SIG_BLOCK, [])}))
        after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    wait_until(lambda: masks)

    assert after == blocked
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM} <= masks[0]
    assert signal.SIGSEGV not in masks[0]


def test_the_program_does_not_see_them(wait_until: Callable[..., Any]) -> None:
    """``threading`` knows nothing of such a thread."""
    seen: list[list[threading.Thread]] = []
    threads.start(lambda: seen.append(threading.enumerate()))
    wait_until(lambda: seen)
    assert seen == [threading.enumerate()]


def test_where_none_can_be_started_the_signals_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the caller's to deal with."""  # fault T10

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._thread, "start_new_thread", fail)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(RuntimeError):
        threads.start(lambda: None)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
