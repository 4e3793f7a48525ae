"""What the tests share in which another tool works in the same process as flowtrace."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import harness
import pytest

HERE = Path(__file__).parent
SAMPLES = ["functions", "classes", "syntax", "suspended", "watched"]
TRACE_SAMPLES = {"targets": [{"modules": SAMPLES}]}
ALL_INSTALLED = os.environ.get("TOX_ENV_NAME", "").startswith("others")  # there a missing package is a failure


def needs(package: str, *, version: tuple[int, int] = (3, 11)) -> pytest.MarkDecorator:
    """Skip tests for whose tool a package is missing, or that exists for later versions of Python only."""
    try:
        missing = importlib.util.find_spec(package) is None
    except ModuleNotFoundError:
        missing = True
    reason = f"{package} is not installed, tox -e others installs it"
    if sys.version_info < version:
        missing, reason = True, f"{package} does this from Python {'.'.join(map(str, version))} on"
    return pytest.mark.skipif(missing and not (ALL_INSTALLED and sys.version_info >= version), reason=reason)


def command(name: str) -> str:
    """A command of the Python that runs the tests."""
    return str(Path(sys.executable).with_name(name))


def copy_samples(folder: Path) -> None:
    """The samples, and what runs their cases, as a project."""
    for path in [*(HERE.parent / "samples" / f"{name}.py" for name in SAMPLES), HERE / "watcher.py"]:
        shutil.copy(path, folder)


def cases(folder: Path) -> set[str]:
    """The cases of the samples in a folder, as ``module.function``."""
    texts = {name: (folder / f"{name}.py").read_text() for name in SAMPLES}
    return {f"{name}.{case}" for name, text in texts.items() for case in re.findall(r"^def (case_\w+)", text, re.M)}


def differences(expected: Sequence[object], got: Sequence[object]) -> str:
    """The lines, or the texts of the things, that are missing or were added; nothing where all is as expected."""
    return "\n".join(difflib.unified_diff([*map(str, expected)], [*map(str, got)], "plain", "traced", "", "", 1, ""))


def last_life(events: list[harness.Event]) -> list[harness.Event]:
    """The events of the program that a process became in the end: a command that execs another has a START too."""
    starts = [index for index, event in enumerate(events) if event["event"] == "START"]
    return events[starts[-1] :] if starts else events


def entered(events: list[harness.Event]) -> list[str]:
    """The functions that were entered, in order."""
    return [event["function"] for event in events if event["event"] == "ENTER"]
