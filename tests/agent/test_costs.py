"""What a recorded call, its way to a file and a start take: counted, and compared with the figures in costs.json.

No time is measured. What takes less than the file says fails as well as what takes more: else the next change could
waste what this one has gained. `MARGIN` is for small differences between the patch versions of Python.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from flowtrace.native import native
from tests.agent import costs

MARGIN = 0.01  # so figures below 100 have to be the same
REMEDY = "If that is meant, put it into costs.json: python -m tests.agent.costs --write PYTHON..., for each version"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    """The figures of the file, for this Python."""
    figures: dict[str, dict[str, Any]] = json.loads(costs.FILE.read_text())
    if costs.VERSION not in figures:
        pytest.skip(f"costs.json has no figures of Python {costs.VERSION}")
    return figures[costs.VERSION]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The figures as they are; of a process of its own, in which no other test has changed anything."""
    figures: dict[str, Any] = costs.of_python(sys.executable)[costs.VERSION]
    return figures


def differences(committed: Mapping[str, Mapping[str, float]], found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What is not as it was, in words."""
    names = {(case, what): None for figures in (committed, found) for case in figures for what in figures[case]}
    told = []
    for case, what in names:
        old, new = committed.get(case, {}).get(what), found.get(case, {}).get(what)
        if old is None or new is None or abs(new - old) > MARGIN * old:
            told.append(f"{case}: {what} were {old}, are {new}")
    return told


IN_C = pytest.mark.skipif(native is None, reason="there is no C code here")


@pytest.mark.parametrize(
    "section", ["calls", "delivery", *(pytest.param(f"{what} in C", marks=IN_C) for what in ("calls", "delivery"))]
)
def test_each_step_takes_what_it_took(section: str, committed: dict[str, Any], found: dict[str, Any]) -> None:
    """Instructions, calls and memory for each way that a call can go, and for the way of its events to a file."""
    if different := differences(committed[section], found[section]):
        pytest.fail("\n".join([*different, REMEDY]), pytrace=False)


@pytest.mark.parametrize("case", ["switched off", "not a target"])
def test_what_is_not_traced_takes_nothing(case: str, found: dict[str, Any]) -> None:
    """Not one instruction more than untraced, whatever the file says."""
    for section in {"calls", "calls in C"} & found.keys():
        assert set(found[section][case].values()) == {0}


@IN_C
@pytest.mark.parametrize("process", ["launcher, first start", "launcher", "process"])
def test_start_imports_what_it_imported(process: str, committed: dict[str, Any]) -> None:
    """The launcher and the traced process import no other modules than before."""
    imports = costs.of_start()
    bare = {*committed["imports"]["bare Python"], *imports["bare Python"]}  # neither is anything of flowtrace's
    before, now = set(committed["imports"][process]) - bare, set(imports[process]) - bare
    if before != now:
        told = f"imported anew: {sorted(now - before)}; no longer: {sorted(before - now)}"
        pytest.fail(f"{told}\n{REMEDY}", pytrace=False)


def test_file_has_the_figures_of_each_python() -> None:
    """Those that tox tests."""
    assert sorted(json.loads(costs.FILE.read_text())) == ["3.11", "3.12", "3.13"]


@pytest.mark.parametrize("new", [102, 98, None])
def test_figure_that_has_changed_is_named(new: float | None) -> None:
    """Too many, too few or none: with the case, what was and what is."""
    found = {"a call": {"instructions": new}} if new else {}

    assert differences({"a call": {"instructions": 100}}, found) == [f"a call: instructions were 100, are {new}"]


@pytest.mark.parametrize(("old", "new"), [(100, 101), (100, 99), (0, 0)])
def test_figure_that_is_nearly_the_same_is_not_named(old: float, new: float) -> None:
    """One of a hundred is within the margin."""
    assert differences({"a call": {"instructions": old}}, {"a call": {"instructions": new}}) == []
