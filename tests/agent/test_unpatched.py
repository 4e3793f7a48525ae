"""What the agent has of Python stays what it was, whatever is put into the modules."""

from __future__ import annotations

import _thread as real_thread
import time as real_time

import pytest

from flowtrace import unpatched


def test_replaced_functions_do_not_reach_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent and freezegun put other functions into the modules that everybody shares."""  # fault T6
    sleep, start = real_time.sleep, real_thread.start_new_thread
    monkeypatch.setattr(real_time, "sleep", None)
    monkeypatch.setattr(real_thread, "start_new_thread", None)

    assert unpatched.time.sleep is sleep
    assert unpatched._thread.start_new_thread is start
