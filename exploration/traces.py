"""What a run's traces say: which functions were attached and how, how many calls, and whether the agent failed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple


class Traced(NamedTuple):
    """The sum over all processes of a run.

    Attributes:
        functions: Of the target modules, how many are traced in each way.
        reasons: Of those that are not instrumented, how many by way and reason.
        calls: How many calls were recorded.
        lost: How many events of them are not in the files.
        failures: How many of its own errors the agent counted.
    """

    functions: Counter[str]
    reasons: Counter[tuple[str, str]]
    calls: int
    lost: int
    failures: int


def read(folder: Path) -> Traced:
    """Sum up the trace files in ``folder``; a module that several processes import counts once."""
    modules: dict[str, list[dict[str, Any]]] = {}
    calls = lost = failures = 0
    for path in sorted(folder.glob("*.jsonl")):
        entered = recorded = 0
        with open(path, "rb") as file:
            for line in file:
                event = line[:64].partition(b'"event":"')[2].partition(b'"')[0]
                if event == b"ENTER":
                    entered += 1
                elif event == b"ATTACH":
                    attached = json.loads(line)
                    modules[attached["module"]] = attached["functions"]
                elif event == b"STOP":
                    stop = json.loads(line)
                    recorded += stop["recorded"] // 2
                    lost += sum(stop["lost"].values())
                    failures += stop["failures"]
        calls += max(entered, recorded)  # a process that was killed did not say how many
    functions = [function for each in modules.values() for function in each]
    return Traced(
        functions=Counter(function["how"] for function in functions),
        reasons=Counter((each["how"], each["reason"]) for each in functions if each["how"] != "instrumented"),
        calls=calls,
        lost=lost,
        failures=failures,
    )
