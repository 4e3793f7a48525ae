"""What attaching costs: the import of modules whose functions are all targets, beside their import from warm ``.pyc``.

1, 100 and 2,000 functions, in one module and spread over 100. The times are those of the ``import`` statements alone,
taken inside the process. The ways take turns; of the rounds the median counts, and the median absolute deviation says
how far they spread, in milliseconds. CPU time is the steadier number on a busy machine. With the first target the agent
imports wrapt, once.

Usage: ``python benchmarks/attach.py [--rounds 10]``
"""

from __future__ import annotations

import argparse
import json
import py_compile
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plots
import report
from report import Spread

CLOCKS = ("wall", "CPU")

LAUNCH = [str(Path(sys.executable).with_name("flowtrace-run")), "--quiet", "--config", "config.yaml"]
KINDS = [
    '''
def price_{i}(items, *, discount=0.1, currency="EUR"):
    """What the items cost together."""
    total = sum(item.price * item.count for item in items)
    if total > 100:
        total -= total * discount
    return f"{{total:.2f}} {{currency}}"
''',
    """
def pages_{i}(items, size=20):
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
""",
    """
async def fetch_{i}(client, path, retries=3):
    for attempt in range(retries):
        try:
            return await client.get(path, timeout=attempt + 1)
        except TimeoutError as error:
            last = error
    raise last
""",
    """
class Cart{i}:
    def __init__(self, owner):
        self.owner, self.items = owner, []

    def add(self, item, count=1):
        with self.owner.lock:
            self.items += [item] * count
        return len(self.items)
""",
]
IMPORT = """\
import time
clocks = time.perf_counter, time.process_time
began = [clock() for clock in clocks]
for name in {names}:
    __import__(name)
print(*(clock() - start for clock, start in zip(clocks, began)))
"""


class Program(NamedTuple):
    """Some functions in some modules, which lie in a folder of their own."""

    folder: Path
    functions: int
    modules: int

    @property
    def names(self) -> list[str]:
        """The modules."""
        return [f"target_{number:03}" for number in range(self.modules)]

    def write(self) -> None:
        """Write the modules, their ``.pyc``, and the configuration in which all of their functions are targets."""
        self.folder.mkdir()
        for name in self.names:
            path = self.folder / f"{name}.py"
            path.write_text(_source(self.functions // self.modules))
            py_compile.compile(str(path), doraise=True)
        sink = {"type": "file", "path": "{pid}.jsonl"}
        config = {"targets": [{"modules": ["target_*"]}], "sinks": [sink]}
        (self.folder / "config.yaml").write_text(json.dumps(config))

    def measure(self, launch: list[str]) -> dict[str, float]:
        """How long it takes to import the modules, in milliseconds."""
        command = [*launch, sys.executable, "-c", IMPORT.format(names=self.names)]
        env = report.environment()
        ended = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=True)
        for trace in self.folder.glob("*.jsonl"):
            attached = [event for line in trace.open() if (event := json.loads(line))["event"] == "ATTACH"]
            assert sum(len(event["functions"]) for event in attached) == self.functions, "not all were attached"
            trace.unlink()
        wall, cpu = map(float, ended.stdout.split())
        return {"wall": wall * 1e3, "CPU": cpu * 1e3}


def _source(count: int) -> str:
    """A module with so many functions: each of the kinds again and again."""
    parts: list[str] = []
    while count > 0:
        kind = KINDS[len(parts) % 4 if count > 1 else 0]
        parts.append(kind.format(i=len(parts)))
        count -= kind.count("def ")
    return "\n".join(parts)


def main() -> None:
    """Measure all programs in turns, print a table, write ``results/attach.json``, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="how often each is imported, at least twice (10)")
    rounds = max(2, parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as name:
        sizes = [(1, 1), (100, 1), (2000, 1), (100, 100), (2000, 100)]
        programs = [Program(Path(name) / f"{functions}-{modules}", functions, modules) for functions, modules in sizes]
        for program in programs:
            program.write()
        turns = []
        for number in range(rounds):
            report.progress(f"round {number + 1} of {rounds}")
            turns.append([(program.measure([]), program.measure(LAUNCH)) for program in programs])
        report.progress("")
    _report([summary(program, times) for program, times in zip(programs, zip(*turns, strict=True), strict=True)])


def summary(program: Program, times: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """What the rounds come to, plain and traced; each number is a ``Spread``, in milliseconds."""
    sizes = {"functions": program.functions, "modules": program.modules}
    plain, added = (
        {clock: Spread.of(values)._asdict() for clock, values in columns.items()}
        for columns in (
            {clock: [plain[clock] for plain, _ in times] for clock in CLOCKS},
            {clock: [traced[clock] - plain[clock] for plain, traced in times] for clock in CLOCKS},
        )
    )
    return {**sizes, "plain": plain, "added": added}


def _report(results: list[dict[str, Any]]) -> None:
    rows = []
    for one in results:
        numbers = [one[way][clock] for clock in CLOCKS for way in ("plain", "added")]
        each = one["added"]["CPU"]["median"] / one["functions"]
        sizes = f"{one['functions']:,}", str(one["modules"])
        rows.append([*sizes, *(f"{number['median']:.1f} ±{number['spread']:.1f}" for number in numbers), f"{each:.2f}"])
    head = ["functions", "modules", "wall", "added", "CPU", "added", "added a function"]
    print(f"In ms:\n\n{report.table(head, rows)}")
    path = report.save("attach", {"unit": "ms", "programs": results})
    lines = [
        plots.Line(
            label,
            [(one["functions"], *report.bar(one["added"]["CPU"])) for one in results if one["modules"] == modules],
        )
        for modules, label in ((1, "in one module"), (100, "spread over 100 modules"))
    ]
    drawn = plots.lines(
        "attach",
        lines,
        title="What the import of targets adds",
        x="functions, all of them targets",
        y="added CPU time (ms), median and quartiles",
        log_x=True,
        log_y=True,
    )
    print(f"\nwritten: {', '.join(map(report.relative, [path, *drawn]))}")


if __name__ == "__main__":
    report.run(main)
