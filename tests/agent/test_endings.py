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
from flowtrace.recorder import Recorder
from flowtrace.splices import Splices

linux = pytest.mark.skipif(sys.platform != "linux", reason="files in memory")
DEADLY = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def default_actions() -> Iterator[None]:
    """The signals as Python finds them, and as they were after the test."""
    before = {each: signal.signal(each, signal.SIG_DFL) for each in SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


class Heedless(Endings):
    """Endings whose main thread does not act on a signal, as if it were in a call that blocks."""

    def _stop_and_die(self, number: int, frame: object) -> None: ...


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
        endings.watch_signals(Splices(Recorder()))
        os.kill(os.getpid(), number)
        signal.pause()

    assert status_of(child) == -number
    assert (tmp_path / "stopped").exists()


def test_handlers_of_the_program_stay() -> None:
    """What it has decided, ignoring included, is left alone."""  # fault P7
    handler = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    Noted().endings.watch_signals(Splices(Recorder()))

    assert [signal.getsignal(each) for each in DEADLY] == [handler, signal.SIG_IGN]


@pytest.fixture
def spliced() -> Iterator[Endings]:
    """Endings that hear of what the program says about signals."""
    splices = Splices(Recorder())
    endings = Heedless(lambda: None, lambda: None)
    endings.watch_signals(splices)
    splices.imported()
    yield endings
    splices.switch(on=False)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("default", [signal.SIG_DFL, 0], ids=["enum", "int"])
def test_default_action_that_the_program_asks_for_is_stood_in_for(
    default: int, number: signal.Signals, spliced: Endings
) -> None:
    """Servers take their handlers back before they die of a signal: what they record last is delivered all the same."""
    previous = signal.signal(int(number), lambda number, frame: None)
    signal.signal(number, default)

    assert signal.getsignal(number) == spliced._handler
    signal.signal(number, signal.SIG_IGN)
    assert signal.getsignal(number) is signal.SIG_IGN
    signal.signal(number, previous)
    assert signal.getsignal(number) == previous


def test_other_signals_are_not_touched(spliced: Endings) -> None:
    """Nor what is no signal, and what cannot be set here fails as ever."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    with pytest.raises(TypeError):
        signal.signal("TERM", signal.SIG_DFL)  # type: ignore[arg-type]
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_signals_are_held_while_a_fork_lasts() -> None:
    """Ours only: what comes between the fork and Python's hooks in the child is not forgotten."""
    endings = Noted().endings
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    endings.watch_signals(Splices(Recorder()))

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
    endings.watch_signals(Splices(Recorder()))
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


@pytest.fixture
def reminders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that the main thread was reminded of."""
    sent: list[int] = []
    monkeypatch.setattr(endings_module.signal, "pthread_kill", lambda thread, number: sent.append(number))
    return sent


@linux
def test_main_thread_is_reminded_of_a_signal_that_it_does_not_act_on(reminders: list[int]) -> None:
    """Python acts on a signal when bytecode runs; one that came just before a call that blocks would wait with it."""
    endings = Heedless(lambda: None, lambda: None)
    endings.watch_signals(Splices(Recorder()))

    endings.look()
    os.kill(os.getpid(), signal.SIGTERM)
    endings.look()
    endings.look()

    assert reminders == [signal.SIGTERM, signal.SIGTERM]


@linux
def test_handlers_of_the_program_are_not_reminded(reminders: list[int]) -> None:
    """What the program does about a signal is its own affair, from when it says so."""
    endings = Heedless(lambda: None, lambda: None)
    endings.watch_signals(Splices(Recorder()))
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: None)

    endings.look()

    assert reminders == []


@linux
def test_descriptor_that_the_program_has_closed_is_replaced(reminders: list[int], tmp_path: Path) -> None:
    """Nothing is written to the program's file that has its number now; the next signal is noted."""  # fault P11
    endings = Heedless(lambda: None, lambda: None)
    endings.watch_signals(Splices(Recorder()))
    [(fd, _), *_] = endings._arrivals._files.values()
    os.close(fd)
    with open(tmp_path / "theirs", "wb") as theirs:
        os.dup2(theirs.fileno(), fd)
    endings.look()
    os.kill(os.getpid(), signal.SIGTERM)
    endings.look()
    os.close(fd)

    assert reminders == [signal.SIGTERM]
    assert (tmp_path / "theirs").read_bytes() == b""


@linux
def test_child_has_not_got_the_signals_of_its_parent(tmp_path: Path) -> None:
    """Each process notes its own."""
    endings = Heedless(lambda: None, lambda: None)
    endings.watch_signals(Splices(Recorder()))
    os.kill(os.getpid(), signal.SIGTERM)

    def child() -> None:
        endings.after_fork_in_child()
        assert not endings._arrivals.has_come(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert endings._arrivals.has_come(signal.SIGTERM)
        os._exit(0)

    assert status_of(child) == 0


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
