"""The start of the agent in a Python where it cannot start: one line, and the program runs as if nothing were asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest

Run = Callable[..., harness.Ended]
Write = Callable[[str, str], Path]

IN_FRONT = """
import sys
{change}
sys.path.remove({folder!r})
del sys.modules["sitecustomize"]
import sitecustomize
"""
NO_GIL = "sys._is_gil_enabled = lambda: False"
FAILING = """
def read(text):
    raise {error}
sys.modules["flowtrace.settings"] = type(sys)("flowtrace.settings")
sys.modules["flowtrace.settings"].read = read
"""
UNSUPPORTED = "RuntimeError: builds of Python without the GIL are not supported"


def run_changed(change: str, write: Write, run_traced: Run, *options: str) -> harness.Ended:
    """A program whose Python something has changed before our own ``sitecustomize`` runs."""
    folder = write("front/sitecustomize.py", "").parent
    write("front/sitecustomize.py", IN_FRONT.format(change=change, folder=str(folder)))
    write("app.py", "import os, sys; print('runs', 'flowtrace.agent' in sys.modules)")
    in_front = f"PYTHONPATH={folder}{os.pathsep}$PYTHONPATH"  # of the folder that the launcher puts there
    command = ["/bin/sh", "-c", f'{in_front} exec "$0" app.py', sys.executable]
    config = {"targets": [{"modules": ["__main__"]}]}
    return run_traced(command, config=config, env={"FLOWTRACE_STRICT": None}, options=options)


def test_python_without_the_gil_is_not_traced(write: Write, run_traced: Run) -> None:
    """One line says so; nothing of the agent is loaded, and no file is made."""  # fault T7
    ended = run_changed(NO_GIL, write, run_traced)

    assert (ended.returncode, ended.stdout) == (0, "runs False\n")
    assert ended.stderr == f"flowtrace: {sys.executable}: not traced: {UNSUPPORTED}\n"
    assert not ended.traces.exists()


def test_program_in_the_same_place_is_traced_otherwise(write: Write, run_traced: Run) -> None:
    """It is the missing lock that keeps it from being traced, not what stands in front."""
    ended = run_changed("", write, run_traced, "--quiet")

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "runs True\n", "")
    assert [event["event"] for event in ended.events] == ["START", "ATTACH", "STOP"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("SystemExit(3)", "SystemExit: 3"),
        ("GeneratorExit('x')", "GeneratorExit: x"),
        ("ValueError('y')", "ValueError: y"),
    ],
)
def test_whatever_the_start_raises_the_program_runs(error: str, said: str, write: Write, run_traced: Run) -> None:
    """No error of ours ends a program that would have started without us."""
    ended = run_changed(FAILING.format(error=error), write, run_traced)

    assert (ended.returncode, ended.stdout) == (0, "runs False\n")
    assert ended.stderr == f"flowtrace: {sys.executable}: not traced: {said}\n"


def test_interrupt_during_the_start_ends_the_program(write: Write, run_traced: Run) -> None:
    """A Ctrl-C is the user's."""
    ended = run_changed(FAILING.format(error="KeyboardInterrupt"), write, run_traced)

    assert ended.returncode != 0
    assert "runs" not in ended.stdout
