"""What became of each test: junit XML in, and the differences between runs out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

# By test id, what became of it and what was said of that; a failure and an error in its teardown are two.
Outcomes: TypeAlias = Mapping[str, tuple[tuple[str, str], ...]]

ABSENT = "absent"
_CHANGES = re.compile(r"(?<=0x)[0-9a-f]{6,}|\d\d:\d\d:\d\d")  # addresses and times in the ids of tests


class Difference(NamedTuple):
    """A test that did not come out as it did untraced."""

    test: str
    untraced: str
    traced: str
    message: str


def read(report: Path) -> Outcomes:
    """The outcomes in a junit XML file; none where a crash left no file."""
    outcomes: dict[str, tuple[tuple[str, str], ...]] = {}
    if not report.exists():
        return outcomes
    for case in ElementTree.parse(report).iter("testcase"):
        test = _CHANGES.sub("", f"{case.get('classname')}::{case.get('name')}")
        found = [child for child in case if child.tag in ("failure", "error", "skipped")]
        told = tuple((_kind(child), f"{child.get('message')}\n{child.text or ''}") for child in found)
        outcomes[test] = (*outcomes.get(test, ()), *(told or (("passed", ""),)))
    return outcomes


def _kind(child: ElementTree.Element) -> str:
    return "xfailed" if child.get("type") == "pytest.xfail" else {"failure": "failed"}.get(child.tag, child.tag)


def differences(untraced: Outcomes, traced: Outcomes) -> list[Difference]:
    """The tests whose outcome differs, or that only one of the two has."""
    found = []
    for test in sorted({*untraced, *traced}):
        before, after = _kinds(untraced, test), _kinds(traced, test)
        if before != after:
            message = "\n".join(text for _, text in (*traced.get(test, ()), *untraced.get(test, ())) if text)
            found.append(Difference(test, before, after, message))
    return found


def _kinds(outcomes: Outcomes, test: str) -> str:
    return "+".join(sorted(kind for kind, _ in outcomes.get(test, ((ABSENT, ""),))))
