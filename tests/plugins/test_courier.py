"""The courier: what takes long is done elsewhere, and waited for no longer than one wants."""

from __future__ import annotations

import _thread
import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from harness import wait_until

from flowtrace_plugins.courier import Courier


def start_thread(function: Callable[[], None]) -> None:
    """A raw thread, as the agent starts one."""
    _thread.start_new_thread(function, ())


@pytest.fixture
def courier() -> Iterator[Courier]:
    """A courier with a thread."""
    started = Courier(start_thread)
    started.start()
    yield started
    started.stop()


def test_result(courier: Courier) -> None:
    """What comes of an errand is there when it is done, and was made on another thread."""
    errand = courier.send(_thread.get_ident, name="who")

    assert errand.wait(lambda: math.inf)
    assert errand.result() != _thread.get_ident()
    assert (errand.name, errand.has_failed) == ("who", False)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), MemoryError()])
def test_error(courier: Courier, error: BaseException) -> None:
    """What an errand raises, its result raises; the next errand is carried out all the same."""

    def fail() -> None:
        raise error

    errand = courier.send(fail)
    errand.wait(lambda: math.inf)
    following = courier.send(lambda: 7)
    following.wait(lambda: math.inf)

    with pytest.raises(type(error)):
        errand.result()
    assert errand.has_failed
    assert following.result() == 7


def test_waiting_ends(courier: Courier) -> None:
    """Waiting ends at its time; the errand goes on, and the courier is not free meanwhile."""
    release = threading.Event()
    errand = courier.send(lambda: release.wait(30))

    in_time = errand.wait(lambda: time.monotonic() + 0.01 if not errand.is_done else 0)
    was_free = courier.is_free
    release.set()

    assert (in_time, was_free) == (False, False)
    assert errand.wait(lambda: math.inf)
    assert courier.is_free


def test_waiting_is_cut_short(courier: Courier) -> None:
    """Who waits looks at the time again when he is told to."""
    release, until, asked = threading.Event(), [math.inf], []
    errand = courier.send(lambda: release.wait(30))

    def deadline() -> float:
        asked.append(until[0])
        return until[0]

    waiter = threading.Thread(target=errand.wait, args=(deadline,))
    waiter.start()
    wait_until(lambda: asked, "it waits")
    until[0] = 0.0
    errand.look()
    waiter.join(30)
    release.set()

    assert asked == [math.inf, 0.0]


def test_what_follows(courier: Courier) -> None:
    """What is to follow an errand is done after it, at once where it is done already; its errors end no thread."""
    release, done = threading.Event(), []
    errand = courier.send(lambda: release.wait(30))

    def follow() -> None:
        done.append("later")
        raise ValueError("no")

    errand.when_done(follow)
    before = [*done]
    release.set()
    following = courier.send(lambda: done.append("next"))
    following.wait(lambda: math.inf)
    errand.when_done(lambda: done.append("at once"))

    assert before == []
    assert done == ["later", "next", "at once"]


def test_without_a_thread() -> None:
    """Where no thread can be started, an errand is done on return, on the thread of who sends it."""  # fault T10

    def start_none(function: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    courier = Courier(start_none)
    courier.start()

    errand = courier.send(_thread.get_ident)

    assert not courier.has_thread
    assert courier.is_free
    assert errand.result() == _thread.get_ident()
