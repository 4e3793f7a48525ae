"""What ``python -X importtime`` says, module by module, of a command that becomes another by ``exec``."""

from __future__ import annotations

import re
import statistics
import sys
from collections import Counter
from collections.abc import Container, Iterable, Sequence

LINE = re.compile(r"import time: +(?P<self>\d+) \| +\d+ \| +(?P<name>\S+)")

Process = Counter[str]  # microseconds by module, each without those that it imports itself


def parse(said: str) -> list[Process]:
    """The processes, in turn, that wrote this to stderr; each begins with the heads of the columns."""
    processes: list[Process] = []
    for line in said.splitlines():
        if line.endswith("imported package"):
            processes.append(Counter())
        elif match := LINE.match(line):
            processes[-1][match["name"]] += int(match["self"])
    return processes


def by_module(turns: Iterable[Sequence[Process]], known: Container[str]) -> dict[str, list[float]]:
    """The median microseconds of each module in each process.

    Args:
        turns: of one command, run several times; each time with the same number of processes.
        known: modules that are left out.

    Returns:
        A number for each process. Modules of ours and of the standard library are one row each; a library is one row.
    """
    columns = []
    for processes in zip(*turns, strict=True):
        counted = [Counter[str]() for _ in processes]
        for process, row in zip(processes, counted, strict=True):
            for module, micros in process.items():
                if module not in known:
                    row[_row(module)] += micros
        columns.append(counted)
    names = sorted({name for counted in columns for row in counted for name in row})
    return {name: [statistics.median(row[name] for row in counted) for counted in columns] for name in names}


def _row(module: str) -> str:
    top = module.partition(".")[0]
    return module if top.startswith("flowtrace") or top in sys.stdlib_module_names else top
