"""What a traced call costs, beside other tracers: nanoseconds added to nine kinds of calls.

Each way of tracing runs in processes of its own, which take turns, so that what else the machine does meets all alike.
Added is what a call takes beyond the same call untraced in the same round; of all bursts of all rounds the median
counts, and the median absolute deviation says how far they spread. ``calling.py`` says what is taken of each burst and
what is checked; ``ways.py``, ``wrapped.py``, ``spans.py`` and ``profilers.py`` say how each way is set up.

Usage: ``python benchmarks/calls.py [--rounds 5] [--quick] [--only NAME...] [--workloads NAME...] [--report]``

A whole run writes ``results/calls-<python>.json`` and, for ``python -m pyperf compare_to``, all that was measured to
``results/pyperf/calls-<python>.json``. ``--report`` measures nothing: it puts what the Pythons have
written side by side.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plots
import pyperf
import report
from bursts import WORKLOADS
from calling import FIGURES, OFF, WAYS, kind
from report import Spread
from ways import Way

BASE, OWN, HEADLINE, NOT_A_TARGET = "untraced", "flowtrace", "two scalars", "not a target"
WORKER = Path(__file__).with_name("calling.py")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TITLES = {
    "caller": "Added in the caller, ns per call (median ± median absolute deviation)",
    "caller CPU": "Added CPU time of the calling thread, steadier on a busy machine, ns per call",
    "process CPU": "Added CPU time of the whole process, until what was recorded is where it goes, ns per call",
}


def run(way: str, workloads: Sequence[str], *, bursts: int) -> pyperf.BenchmarkSuite:
    """Measure one way in a new process.

    Raises:
        SystemExit: the process failed, or recorded something else than it should; with what it said.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output = folder / "measured.json"
        command = [sys.executable, str(WORKER), way, str(output), *workloads, f"--bursts={bursts}"]
        if (config := kind(way).config) is not None:
            path = folder / "config.yaml"
            sink = {"type": "file", "path": f"{folder}/{{pid}}.jsonl", "rotate": {"max_size": "1GiB"}}
            path.write_text(json.dumps({**config, "sinks": [sink]}))
            launch = Path(sys.executable).with_name("flowtrace-run")
            command = [str(launch), "--quiet", "--config", str(path), *command]
        env = os.environ | kind(way).env
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(f"{way} could not be measured:\n{done.stdout}")
        return pyperf.BenchmarkSuite.load(str(output))


def measure(ways: Sequence[str], workloads: Sequence[str], *, rounds: int, bursts: int) -> pyperf.BenchmarkSuite:
    """All ways in turns, every other round the other way round."""
    measured: pyperf.BenchmarkSuite | None = None
    for number in range(rounds):
        for way in ways[:: -1 if number % 2 else 1]:
            report.progress(f"round {number + 1} of {rounds}: {way}")
            suite = run(way, workloads, bursts=bursts)
            if measured is None:
                measured = suite
            else:
                measured.add_runs(suite)
    report.progress("")
    assert measured is not None
    return measured


def summary(measured: pyperf.BenchmarkSuite, ways: Sequence[str], workloads: Sequence[str]) -> dict[str, Any]:
    """What was measured, in nanoseconds per call, each figure as a ``Spread``.

    Returns:
        ``{"untraced": {workload: {figure: {...}}}, "added": {way: {workload: {figure: {...}, "events per call": ...,
        "bytes per event": ...}}}}``. A workload that a way cannot trace is not there.
    """
    untraced: dict[str, Any] = {}
    added: dict[str, Any] = {way: {} for way in ways if way != BASE}
    for workload in workloads:
        base = {figure: _rounds(measured, BASE, workload, figure) for figure in FIGURES}
        untraced[workload] = {figure: Spread.of(list(itertools.chain(*base[figure])))._asdict() for figure in FIGURES}
        for way, rows in added.items():
            if WORKLOADS[workload].function in kind(way).leaves_out:
                continue
            row: dict[str, Any] = {}
            for figure in FIGURES:
                turns = zip(_rounds(measured, way, workload, figure), base[figure], strict=True)
                row[figure] = Spread.of(
                    [time - statistics.median(plain) for times, plain in turns for time in times]
                )._asdict()
            runs = measured.get_benchmark(f"{way}: {workload}, {FIGURES[0]}").get_runs()
            for name in ("events per call", "bytes per event"):
                row[name] = statistics.median(one.get_metadata()[name] for one in runs)
            rows[workload] = row
    return {"unit": "ns per call", "untraced": untraced, "added": added}


def _rounds(measured: pyperf.BenchmarkSuite, way: str, workload: str, figure: str) -> list[list[float]]:
    """Nanoseconds per call of each burst of each round."""
    benchmark = measured.get_benchmark(f"{way}: {workload}, {figure}")
    return [[value * 1e9 for value in one.values] for one in benchmark.get_runs()]


def tables(results: dict[str, Any]) -> str:
    """What one Python has measured: a table for each figure, workloads from left to right."""
    workloads = list(results["untraced"])
    plain = [f"{results['untraced'][workload]['caller']['median']:,.0f}" for workload in workloads]
    parts = []
    for figure in ("caller", "process CPU"):
        rows = [
            [way, *(_cell(measured.get(workload), figure) for workload in workloads)]
            for way, measured in results["added"].items()
        ]
        parts += [f"{TITLES[figure]}:", report.table(["", *workloads], [["(untraced takes)", *plain], *rows])]
    rows = [
        [way, *(_size(measured.get(workload)) for workload in workloads)]
        for way, measured in results["added"].items()
        if any(one["bytes per event"] for one in measured.values())
    ]
    parts += ["Bytes per event, times events per call:", report.table(["", *workloads], rows)]
    parts += ["How each is set up:", "\n".join(f"{way}: {inspect.getdoc(kind(way))}" for way in results["added"])]
    return "\n\n".join(parts)


def _cell(row: dict[str, Any] | None, figure: str) -> str:
    return "–" if row is None else f"{row[figure]['median']:,.0f} ±{row[figure]['spread']:,.0f}"


def _size(row: dict[str, Any] | None) -> str:
    return f"{row['bytes per event']:.0f} × {row['events per call']:.0f}" if row and row["bytes per event"] else "–"


def side_by_side() -> None:
    """Print the call with two scalars as all Pythons have measured it, and draw that of the latest."""
    paths = sorted(report.RESULTS.glob("calls-3.*.json"), key=lambda path: int(path.stem.rpartition(".")[2]))
    found = {path.stem.partition("-")[2]: json.loads(path.read_text()) for path in paths}
    if not found:
        raise SystemExit(f"nothing is in {report.RESULTS}: measure first")
    ways = dict.fromkeys(way for results in found.values() for way in results["added"])
    for figure, title in TITLES.items():
        rows = []
        for way in ways:
            cells = []
            for results in found.values():
                row, own = (results["added"].get(name, {}).get(HEADLINE) for name in (way, OWN))
                cells.append(_cell(row, figure))
                cells.append(f"{row[figure]['median'] / own[figure]['median']:.2f}" if row and own else "–")
            rows.append([way, *cells])
        head = [cell for version in found for cell in (version, "× ours")]
        print(f"\n{title}; {HEADLINE}:\n\n{report.table(['', *head], rows)}")
    version, results = list(found.items())[-1]
    for figure, name in (("caller", "calls"), ("process CPU", "calls-cpu")):
        _draw(results["added"], figure, name=name, version=version)


def _draw(added: dict[str, Any], figure: str, *, name: str, version: str) -> None:
    shown = [(way, rows[HEADLINE], _remark(kind(way))) for way, rows in added.items()]
    shown += [(f"{OWN}, {workload}", added[OWN][workload], "") for workload in (NOT_A_TARGET, OFF)]
    rows = [
        plots.Bar(way, *report.bar(row[figure]), own=OWN in way, remark=remark)
        for way, row, remark in sorted(shown, key=lambda one: one[1][figure]["median"])
    ]
    title = {"caller": "Added to the caller", "process CPU": "Added CPU time, until it is recorded"}[figure]
    written = plots.bars(
        name,
        rows,
        title=f"{title}: a call with two arguments and a result, Python {version}",
        axis="added per call (ns), median and quartiles",
        log_from=10,
    )
    print(f"drawn: {', '.join(map(report.relative, written))}")


def _remark(way: type[Way]) -> str:
    if not way.calls:
        return "(records nothing)"
    return "" if way.arguments else "(no values)"


def main() -> None:
    """Measure, print tables, write JSON and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how many processes of each way (5)")
    parser.add_argument("--bursts", type=int, default=3, help="how many bursts of each workload in a process (3)")
    parser.add_argument("--quick", action="store_true", help="two rounds of one burst: for a first look")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=WAYS, help=f"some of: {', '.join(WAYS)}")
    parser.add_argument(
        "--workloads", nargs="+", metavar="NAME", choices=WORKLOADS, help=f"some of: {', '.join(WORKLOADS)}"
    )
    parser.add_argument("--report", action="store_true", help="show what was measured before, of all Pythons")
    options = parser.parse_args()
    if options.report:
        side_by_side()
        return
    ways = [way for way in WAYS if kind(way).since <= sys.version_info and way in {BASE, *(options.only or WAYS)}]
    workloads = [workload for workload in WORKLOADS if workload in (options.workloads or WORKLOADS)]
    if options.quick:
        options.rounds, options.bursts = 2, 1
    measured = measure(ways, workloads, rounds=options.rounds, bursts=options.bursts)
    results = summary(measured, ways, workloads)
    print(tables(results))
    if options.quick or options.only or options.workloads:
        print("\nnothing is written: this was not a whole run", file=sys.stderr)
        return
    raw = report.RESULTS / "pyperf" / f"calls-{VERSION}.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    measured.dump(str(raw), replace=True)
    path = report.save(f"calls-{VERSION}", results)
    print(f"\nwritten: {report.relative(path)}, {report.relative(raw)}")
    side_by_side()


if __name__ == "__main__":
    report.run(main)
