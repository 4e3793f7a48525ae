"""Commands in process groups of their own, so that all of them, and what they started, can be ended at once."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class EndedError(Exception):
    """The command did not run, or not to its end: everything is being ended."""


class Done(NamedTuple):
    """Exit status (a signal as a negative number), CPU time of the command and the children it waited for."""

    status: int
    cpu_s: float


class Processes:
    """Runs commands from several threads; `end` may come from another one at any moment."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._lock = threading.Lock()
        self._ended = False

    def run(
        self, command: Sequence[str], *, cwd: Path, environ: Mapping[str, str], log: Path, timeout_s: float
    ) -> Done:
        """Run a command; it is killed at the timeout. What it leaves running ends with it.

        Raises:
            EndedError: see there.
        """
        with open(log, "ab") as output:
            process = self._start(command, cwd=cwd, environ=environ, output=output.fileno())
        timer = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not reaped: the group's number stays its own
        finally:
            timer.cancel()
            timer.join()
            with self._lock:
                os.killpg(process.pid, signal.SIGKILL)
                self._groups.remove(process.pid)
                _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if self._ended:
            raise EndedError
        return Done(process.returncode, usage.ru_utime + usage.ru_stime)

    def _start(
        self, command: Sequence[str], *, cwd: Path, environ: Mapping[str, str], output: int
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._ended:
                raise EndedError
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._groups.add(process.pid)
        return process

    def end(self) -> None:
        """Kill what runs; nothing starts any more."""
        with self._lock:
            self._ended = True
            for group in self._groups:
                os.killpg(group, signal.SIGKILL)
