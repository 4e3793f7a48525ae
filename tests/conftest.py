"""Fixtures for all tests."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import harness
import pytest

for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    # run in the background of a shell script, or by nohup: the programs that are tested would ignore these as well
    if signal.getsignal(number) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """``wait_until(condition, "what is awaited")`` returns what the condition gives, as soon as that is true."""
    return harness.wait_until


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    return harness.free_port()
