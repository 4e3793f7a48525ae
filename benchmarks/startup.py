"""What tracing costs at start-up: ``python -c pass``, and a program with one target, under each way of starting it.

The ways take turns; of each, the median counts, in milliseconds. CPU time is the steadier number on a busy machine.
VizTracer and ``opentelemetry-instrument`` are measured where they are installed.

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
from pathlib import Path

import report

BIN = Path(sys.executable).parent
NO_EXPORTERS = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
NOTHING = [sys.executable, "-c", "pass"]
ONE_TARGET = [sys.executable, "-c", "import workload; workload.Empty().method(7, 'seven')"]


def ways(config: Path) -> dict[str, list[str]]:
    """The commands, by the name they have in the table; those whose program is not installed are left out."""
    launch = [str(BIN / "flowtrace-run"), "--quiet", "--config", str(config)]
    commands = {
        "python -c pass": NOTHING,
        "flowtrace-run": [*launch, *NOTHING],
        "viztracer": [str(BIN / "viztracer"), "-o", f"{config.parent}/trace.json", "--quiet", "-c", "pass"],
        "opentelemetry-instrument": [str(BIN / "opentelemetry-instrument"), *NOTHING],
        "one target": ONE_TARGET,
        "flowtrace-run, one target": [*launch, *ONE_TARGET],
    }
    return {way: command for way, command in commands.items() if os.access(command[0], os.X_OK)}


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """How long the command takes from its start to its end, and its CPU time, in milliseconds."""
    env = {**os.environ, **NO_EXPORTERS, "PYTHONPATH": str(Path(__file__).parent)}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return {"wall": wall * 1e3, "CPU": (usage.ru_utime + usage.ru_stime) * 1e3}


def main() -> None:
    """Measure all ways in turns, print a table, write ``results/startup.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often each way is started")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "config.yaml"
        sink = {"type": "file", "path": f"{folder}/{{pid}}.jsonl"}
        config.write_text(json.dumps({"targets": [{"modules": ["workload"]}], "sinks": [sink]}))
        commands = ways(config)
        for command in commands.values():  # what is cached on disk, is cached
            measure(command, folder)
        turns = [{way: measure(command, folder) for way, command in commands.items()} for _ in range(rounds)]
    _report({way: [turn[way] for turn in turns] for way in commands})


def _report(measured: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        way: {key: statistics.median(one[key] for one in times) for key in times[0]} for way, times in measured.items()
    }
    rows = []
    for way, median in medians.items():
        base = medians["one target" if "one target" in way else "python -c pass"]
        rows.append([way, *(f"{number:.1f}" for key in base for number in (median[key], median[key] - base[key]))])
    print(report.table(["command", "wall", "added", "CPU", "added"], rows))
    path = report.save("startup", {"unit": "ms", "median": medians, "rounds": measured})
    print(f"\nwritten to {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
