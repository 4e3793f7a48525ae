"""What became of each test: pytest's report log in, and the differences between runs out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

ABSENT = "absent"
# In the ids of tests: where the package is installed, addresses, times of day
_CHANGES = re.compile(r"^.*/site-packages/|(?<=0x)[0-9a-f]{6,}|\d\d:\d\d:\d\d")


class Outcome(NamedTuple):
    """What became of a test.

    Attributes:
        kind: ``passed``, ``failed``, ``error``, ``skipped``, ``xfailed``, ``xpassed``, or several of them: a failure
            and an error in the teardown that followed are ``error+failed``.
        message: What was said of it.
        file: Where the test is, as pytest may be told to run it again.
    """

    kind: str
    message: str = ""
    file: str = ""


Outcomes: TypeAlias = Mapping[str, Outcome]  # by test id


class Difference(NamedTuple):
    """A test that came out otherwise when it was traced; the first of the outcomes are those of the whole suites."""

    test: str
    untraced: Sequence[str]
    traced: Sequence[str]
    message: str

    @property
    def is_by_time(self) -> bool:
        """Whether it has met a deadline of hypothesis's, and passed when it ran again traced."""
        return "DeadlineExceeded(" in self.message and self.untraced[0] in self.traced

    @property
    def is_flaky(self) -> bool:
        """Whether the outcome changes without tracing as well, and tracing does not make it another.

        What usually comes out untraced has to come out traced too: a test that fails now and then is not to hide that
        it always fails when it is traced.
        """
        usual = Counter(self.untraced).most_common(1)[0][0]
        return len({*self.untraced}) > 1 and {*self.traced} <= {*self.untraced} and usual in self.traced


def read(report: Path) -> Outcomes:
    """The outcomes in a report log, which is as long as the run came; none where there is no such file."""
    kinds: dict[str, set[str]] = {}
    messages: dict[str, str] = {}
    files: dict[str, str] = {}
    for line in _lines(report):
        kind = _kind(line)
        if kind is None:
            continue
        file, colons, name = line["nodeid"].partition("::")
        if "location" in line:  # from the folder the tests run in; the id of an installed test is not
            file = line["location"][0]
        test = _CHANGES.sub("", f"{file}{colons}{name}")
        kinds.setdefault(test, set()).add(kind)
        files[test] = file
        if kind in ("failed", "error"):
            messages[test] = f"{messages.get(test, '')}{_message(line['longrepr'])}\n"
    return {
        test: Outcome("+".join(sorted(found - {"passed"})) or "passed", messages.get(test, ""), files[test])
        for test, found in kinds.items()
    }


def _lines(report: Path) -> Iterator[dict[str, Any]]:
    if not report.exists():
        return
    with open(report, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:  # the last line of a process that was killed
                return


def _kind(line: Mapping[str, Any]) -> str | None:
    outcome, when = line.get("outcome"), line.get("when")
    if line["$report_type"] == "CollectReport":
        return "error" if outcome == "failed" else None
    if outcome is None or line.get("nodeid") is None:
        return None
    if "wasxfail" in line and outcome != "failed":
        return "xfailed" if outcome == "skipped" else "xpassed"
    return "error" if outcome == "failed" and when in ("setup", "teardown") else outcome


def _message(said: Any) -> str:
    """One line of what pytest says of a failure: the exception, not the source around it."""
    if isinstance(said, Mapping):
        crash = said.get("reprcrash") or {}
        place = f"{Path(crash.get('path', '')).name}:{crash.get('lineno')}"
        return f"{place}: {crash.get('message') or said.get('longrepr') or said}"
    return str(said).strip().rpartition("\n")[2]


def different(untraced: Outcomes, traced: Outcomes) -> list[str]:
    """The tests whose outcome differs, or that only one of the two has."""
    return [test for test in sorted({*untraced, *traced}) if kind(untraced, test) != kind(traced, test)]


def kind(outcomes: Outcomes, test: str) -> str:
    """What became of a test, or that there was none of that id."""
    return outcomes[test].kind if test in outcomes else ABSENT


def differences(untraced: Sequence[Outcomes], traced: Sequence[Outcomes]) -> list[Difference]:
    """The tests that differ between the first run untraced and the first one traced, with what all runs say of them."""
    found = []
    for test in different(untraced[0], traced[0]):
        messages = [each[test].message for each in (*traced, *untraced) if test in each and each[test].message]
        before, after = ([kind(each, test) for each in runs] for runs in (untraced, traced))
        found.append(Difference(test, before, after, messages[0] if messages else ""))
    return found
