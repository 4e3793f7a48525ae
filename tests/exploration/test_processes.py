"""Running commands, and ending them all at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exploration.processes import EndedError, Processes

pytestmark = pytest.mark.e2e

# starts a child that would run for long, says its number
PARENT = "import subprocess, sys; print(subprocess.Popen(['sleep', '1000']).pid, flush=True)"


def _run(processes: Processes, code: str, tmp_path: Path, *, timeout_s: float = 60.0) -> int:
    command = [sys.executable, "-c", code]
    return processes.run(command, cwd=tmp_path, environ={}, log=tmp_path / "log", timeout_s=timeout_s).status


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody may have waited for it


def test_status_and_output_are_those_of_the_command(tmp_path: Path) -> None:
    """A signal is a negative number."""
    processes = Processes()

    assert _run(processes, "print('hello'); raise SystemExit(3)", tmp_path) == 3
    assert _run(processes, "import os; os.abort()", tmp_path) == -signal.SIGABRT
    assert (tmp_path / "log").read_text() == "hello\n"


def test_command_is_killed_at_its_timeout(tmp_path: Path) -> None:
    """It does not hold up the others for ever."""
    assert _run(Processes(), "import time; time.sleep(1000)", tmp_path, timeout_s=0.2) == -signal.SIGKILL


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="asks /proc what runs")
def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    """A server that a suite has not stopped does not disturb the next run."""
    assert _run(Processes(), PARENT, tmp_path) == 0

    wait_until(lambda: not _runs(int((tmp_path / "log").read_text())), "the child is gone")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="asks /proc what runs")
def test_end_kills_commands_and_their_children(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    """After that nothing starts any more."""
    processes, raised = Processes(), []

    def run() -> None:
        with pytest.raises(EndedError) as caught:
            _run(processes, f"{PARENT}; import time; time.sleep(1000)", tmp_path)
        raised.append(caught)

    thread = threading.Thread(target=run)
    thread.start()
    log = tmp_path / "log"
    child = int(wait_until(lambda: log.exists() and log.read_text().strip(), "the child's number"))
    processes.end()
    thread.join()

    assert raised
    wait_until(lambda: not _runs(child), "the child is gone")
    with pytest.raises(EndedError):
        _run(processes, "", tmp_path)
