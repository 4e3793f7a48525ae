"""``flowtrace ctl``: a running process is switched off and on, gets an edited configuration, and answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import harness
import pytest

pytestmark = pytest.mark.e2e

LOOP = """
    import time

    def tick(n):
        return n

    def tock(n):
        return n

    n = 0
    while True:
        n = tock(tick(n)) + 1
        if n == 10:
            print("ready", flush=True)
        time.sleep(0.001)
    """


def ctl(pid: int, *words: str) -> subprocess.CompletedProcess[str]:
    """What ``flowtrace ctl`` says to that process, and its status."""
    command = [sys.executable, "-c", "import sys; from flowtrace.cli.main import main; sys.exit(main())", "ctl"]
    return subprocess.run([*command, str(pid), *words], capture_output=True, text=True, timeout=60, check=False)


def test_process_is_switched_off_and_on(write: Callable[..., Any], start_traced: Callable[..., Any]) -> None:
    """While it is off nothing is recorded; the totals balance at the end."""
    write("app.py", LOOP)
    running = start_traced([sys.executable, "app.py"])
    harness.wait_until(lambda: "ready" in running.stdout, "the program runs")
    pid = running.process.pid

    off = ctl(pid, "off")
    state = ctl(pid, "status")
    on = ctl(pid, "on")
    ended = running.stop()

    assert (off.returncode, state.returncode, on.returncode) == (0, 0, 0), off.stderr + state.stderr + on.stderr
    assert "off" in off.stdout
    assert "switched" in off.stdout
    assert state.stdout.startswith(f"pid {pid}: off, ")
    harness.check_conservation(ended.events)


def test_bad_configuration_keeps_the_old_one(write: Callable[..., Any], start_traced: Callable[..., Any]) -> None:
    """What cannot be changed in a running process is refused with one line, and it goes on recording."""
    write("app.py", LOOP)
    write("sinks.yaml", "sinks: []")
    running = start_traced([sys.executable, "app.py"])
    harness.wait_until(lambda: "ready" in running.stdout, "the program runs")

    refused = ctl(running.process.pid, "reload", "--config", "sinks.yaml")
    ended = running.stop()

    assert refused.returncode == 1
    assert "the old configuration stays" in refused.stderr
    harness.check_conservation(ended.events)


def test_process_that_is_not_there_is_said() -> None:
    """An unknown process is one line and status 3."""
    ended = ctl(2**22 + 1, "off")
    assert ended.returncode == 3
    assert ended.stderr == f"flowtrace ctl: there is no process {2**22 + 1}\n"
