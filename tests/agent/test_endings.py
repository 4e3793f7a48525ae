"""How processes end past ``atexit``: signals that are handled, forks, and functions of `os` that are replaced."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowtrace import endings as endings_module
from flowtrace.endings import SIGNALS, Endings

DEADLY = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def default_actions() -> Iterator[None]:
    """The signals as Python finds them, and as they were after the test."""
    before = {each: signal.signal(each, signal.SIG_DFL) for each in SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


class Noted:
    """Endings that write down what they do."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.endings = Endings(lambda: self.done.append("stop"), lambda: self.done.append("deliver"))


def status_of(child: Callable[[], None]) -> int:
    """How a forked child that does this has ended: its status, or minus the number of the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("number", DEADLY, ids=lambda each: each.name)
def test_default_action_comes_after_the_end(number: signal.Signals, tmp_path: Path) -> None:
    """What there is is delivered, then the process dies of the signal."""  # fault P7

    def child() -> None:
        endings = Endings(lambda: (tmp_path / "stopped").touch(), lambda: None)
        endings.watch_signals()
        os.kill(os.getpid(), number)
        signal.pause()

    assert status_of(child) == -number
    assert (tmp_path / "stopped").exists()


def test_handlers_of_the_program_stay() -> None:
    """What it has decided, ignoring included, is left alone."""  # fault P7
    handler = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    Noted().endings.watch_signals()

    assert [signal.getsignal(each) for each in DEADLY] == [handler, signal.SIG_IGN]


def test_signals_are_held_while_a_fork_lasts() -> None:
    """Ours only: what comes between the fork and Python's hooks in the child is not forgotten."""
    endings = Noted().endings
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    endings.watch_signals()

    endings.before_fork()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    endings.after_fork_in_parent()

    assert signal.SIGTERM in held
    assert signal.SIGHUP not in held
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("version", [(3, 12), (3, 13)])
@pytest.mark.parametrize("by_main", [True, False])
def test_child_of_a_thread_has_the_default_actions(
    by_main: bool, version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 3.13 on, Python would not call a handler there; elsewhere ours stays."""
    monkeypatch.setattr(sys, "version_info", version)
    endings = Noted().endings
    endings.watch_signals()
    handler = signal.getsignal(signal.SIGTERM)

    if by_main:
        endings.before_fork()
    else:
        forking = threading.Thread(target=endings.before_fork)
        forking.start()
        forking.join()
    endings.after_fork_in_child()

    expected = handler if by_main or version == (3, 12) else signal.SIG_DFL
    assert [signal.getsignal(each) for each in DEADLY] == [expected, expected]


def test_hard_exits_deliver_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """``os._exit`` ends tracing; ``exec`` may fail, so it goes on, and the program sees the failure."""  # fault P5
    noted = Noted()

    def leave(status: int) -> None:
        noted.done.append(f"exit {status}")

    for name in ("_exit", "execv", "execve"):
        monkeypatch.setattr(os, name, getattr(os, name))  # put back after the test
    monkeypatch.setattr(endings_module.os, "_exit", leave)
    noted.endings.watch_hard_exits()
    os._exit(3)
    with pytest.raises(FileNotFoundError):
        os.execl("/nowhere/at/all", "all")
    with pytest.raises(FileNotFoundError):
        os.execve("/nowhere/at/all", ["all"], {})

    assert noted.done == ["stop", "exit 3", "deliver", "deliver"]
    assert os._exit.__name__ == "leave"
