"""What tracing costs at start-up: ``python -c pass``, and a program with one target, under each way of starting it.

The ways take turns. Added is what a start takes beyond bare Python in the same round; of the rounds the median counts,
and the median absolute deviation says how far they spread, in milliseconds. CPU time is the steadier number on a busy
machine. Before, each way has to show that what it brings is there; what is not installed is left out.

A second table says where the time of ``flowtrace-run`` goes: what its two processes, the launcher and the program that
it becomes, import beyond bare Python, as ``-X importtime`` has it (which slows imports down).

Usage: ``python benchmarks/startup.py [--rounds 20]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import importtime
import plots
import report
from report import Spread

BIN = Path(sys.executable).parent
QUIET = {
    **{f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")},
    **{f"DD_{feature}_ENABLED": "false" for feature in ("INSTRUMENTATION_TELEMETRY", "REMOTE_CONFIGURATION")},
    "LOGFIRE_SEND_TO_LOGFIRE": "false",
    "LOGFIRE_CONSOLE": "false",
}
PASS, TARGET = "pass", "import one_target; one_target.double(21)"
BARE, OWN = "python", "flowtrace-run"
SHOWN_MICROS = 500  # modules that take less are added up


class Start(NamedTuple):
    """A way of starting a program, and a module that it brings along."""

    launch: list[str]
    brings: str = "sys"
    program: str = PASS

    def command(self, program: str, folder: Path) -> list[str]:
        """Start this program; one that takes no ``-c`` gets it as a file."""
        if self.launch[-1] == "-c":
            return [*self.launch, program]
        script = folder / "script.py"
        script.write_text(program)
        return [*self.launch, str(script)]


def starts(folder: Path) -> dict[str, Start]:
    """The ways, by the name they have in the table."""
    python = [sys.executable, "-c"]
    launch = [str(BIN / "flowtrace-run"), "--quiet", "--config", str(folder / "config.yaml"), *python]
    ways = {
        BARE: Start(python),
        OWN: Start(launch, "flowtrace.agent"),
        "viztracer": Start([str(BIN / "viztracer"), "-o", f"{folder}/trace.json", "--quiet", "-c"], "viztracer"),
        "opentelemetry-instrument": Start([str(BIN / "opentelemetry-instrument"), *python], "opentelemetry.sdk"),
        "ddtrace-run": Start([str(BIN / "ddtrace-run"), *python], "ddtrace"),
        "logfire run": Start([str(BIN / "logfire"), "run", "--no-summary"], "logfire"),
        f"{BARE}, one target": Start(python, program=TARGET),
        f"{OWN}, one target": Start(launch, "flowtrace.agent", program=TARGET),
    }
    return {way: start for way, start in ways.items() if os.access(start.launch[0], os.X_OK)}


def run(command: list[str], folder: Path, **env: str) -> tuple[dict[str, float], str]:
    """How long the command takes from its start to its end, and its CPU time, in milliseconds; what it wrote to stderr.

    Raises:
        SystemExit: it failed; with what it said.
    """
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = report.environment(**QUIET, HOME=str(folder), PYTHONPATH=paths, **env)
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - began
        errors.seek(0)
        said = errors.read().decode()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{said}")
    return {"wall": wall * 1e3, "CPU": (usage.ru_utime + usage.ru_stime) * 1e3}, said


def check(way: str, start: Start, folder: Path) -> None:
    """Whether it brings what it traces with and, if it is flowtrace, whether all that is called is in its file."""
    found = f"import importlib, sys; assert {start.brings!r} in sys.modules, sys.modules\n{start.program}"
    run(start.command(found, folder), folder)
    if not way.startswith(OWN):
        return
    (path,) = folder.glob("*.jsonl")
    events = [json.loads(line)["event"] for line in path.open()]
    path.unlink()
    due = ["START", "STOP"] if start.program == PASS else ["START", "ATTACH", "ENTER", "EXIT", "STOP"]
    if events != due:
        raise SystemExit(f"{way} recorded {events}, not {due}")


def imports(command: list[str], folder: Path) -> list[importtime.Process]:
    """What each process of the command imports, in turn."""
    return importtime.parse(run(command, folder, PYTHONPROFILEIMPORTTIME="1")[1])


def main() -> None:
    """Measure all ways in turns, print two tables, write ``results/startup.json``, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often each way is started, at least twice (20)")
    rounds = max(2, parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sink = {"type": "file", "path": f"{folder}/{{pid}}.jsonl"}
        (folder / "config.yaml").write_text(json.dumps({"targets": [{"modules": ["one_target"]}], "sinks": [sink]}))
        (folder / "one_target.py").write_text("def double(number):\n    return 2 * number\n")
        ways = starts(folder)
        for way, start in ways.items():  # twice, so that what is cached on disk is cached
            check(way, start, folder)
            check(way, start, folder)
        turns, imported = [], []
        for number in range(rounds):
            report.progress(f"round {number + 1} of {rounds}")
            turns.append({way: run(start.command(start.program, folder), folder)[0] for way, start in ways.items()})
            imported.append(imports(ways[OWN].command(PASS, folder), folder))
        report.progress("")
        (bare,) = imports(ways[BARE].command(PASS, folder), folder)
    added = summary(turns)
    modules = importtime.by_module(imported, bare)
    _print(turns, added, modules)
    path = report.save("startup", {"unit": "ms", "added": added, "import_micros": modules, "rounds": turns})
    rows = [
        plots.Bar(way, *report.bar(clocks["wall"]), own=way.startswith(OWN))
        for way, clocks in sorted(added.items(), key=lambda one: one[1]["wall"]["median"])
    ]
    title = f"Added to the start of a program, Python {report.machine()['python']}"
    drawn = plots.bars("startup", rows, title=title, axis="added (ms), median and quartiles")
    print(f"\nwritten: {', '.join(map(report.relative, [path, *drawn]))}")


def summary(turns: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """What each way adds to bare Python that runs the same program: ``{way: {clock: Spread}}``, in milliseconds."""
    added: dict[str, dict[str, Any]] = {}
    for way in turns[0]:
        base = f"{BARE}, one target" if "one target" in way else BARE
        if way != base:
            added[way] = {
                clock: Spread.of([turn[way][clock] - turn[base][clock] for turn in turns])._asdict()
                for clock in ("wall", "CPU")
            }
    return added


def _print(
    turns: list[dict[str, dict[str, float]]], added: Mapping[str, Mapping[str, Any]], modules: Mapping[str, list[float]]
) -> None:
    bare = [statistics.median(turn[BARE][clock] for turn in turns) for clock in ("wall", "CPU")]
    print("Bare Python takes {:.1f} ms, {:.1f} ms of CPU time. Added, in ms:\n".format(*bare))
    rows = [
        [way, *(f"{clocks[clock]['median']:.1f} ±{clocks[clock]['spread']:.1f}" for clock in ("wall", "CPU"))]
        for way, clocks in added.items()
    ]
    print(report.table(["", "wall", "CPU"], rows))
    small = {module: columns for module, columns in modules.items() if sum(columns) < SHOWN_MICROS}
    shown = sorted(modules.keys() - small.keys(), key=lambda module: sum(modules[module]), reverse=True)
    listed = [(module, modules[module]) for module in shown]
    for name, some in ((f"{len(small)} more", small), ("all", modules)):
        listed.append((name, [sum(column) for column in zip(*some.values(), strict=True)]))
    print(f"\nWhat {OWN} imports beyond bare Python, in ms, each without what it imports itself:\n")
    rows = [[name, *(f"{micros / 1e3:.2f}" for micros in columns)] for name, columns in listed]
    print(report.table(["", "launcher", "program"], rows))


if __name__ == "__main__":
    report.run(main)
