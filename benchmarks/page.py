"""Writes the tables of ``docs/performance.md`` from what the benchmarks have found, so that its numbers are theirs.

What stands between ``<!-- name -->`` and ``<!-- end -->`` is replaced by the section of that name.

Usage: ``python benchmarks/page.py``
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import report

PAGE = Path(__file__).parents[1] / "docs/performance.md"
PYTHONS = ("3.11", "3.12", "3.13")
OWN, PEER, SPAN, SCALARS = "flowtrace", "VizTracer with values", "OpenTelemetry span", "two scalars"
LARGEST_STEP = 0.01  # of the whole: smaller ones are added up


def found(name: str) -> Any:
    """What a benchmark has written."""
    return json.loads((report.RESULTS / f"{name}.json").read_text())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, the first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short() -> str:
    """What was to be reached, and what is."""
    calls = {python: found(f"calls-{python}")["added"] for python in PYTHONS}

    def by_python(ratio: Callable[[Any], float]) -> str:
        return ", ".join(f"{ratio(added):.2f}" for added in calls.values())

    def cpu(added: Any, way: str, figure: str = "caller CPU") -> float:
        return float(added[way][SCALARS][figure]["median"])

    start = found("startup")["added"]["flowtrace-run"]
    chat = {_crowd(one["crowd"]): one for one in found("chat")["crowds"]}
    hundred = chat["100 connections in one room"]["of untraced"]
    lost = max(run["recorded"]["lost"] for one in chat.values() for run in one["rounds"]["file"])
    rows = [
        [
            "a call with two scalars and its result, CPU time of the caller, of VizTracer's with values",
            "below 1",
            by_python(lambda added: cpu(added, OWN) / cpu(added, PEER)),
        ],
        ["the same, of an OpenTelemetry span's", "0.10", by_python(lambda added: cpu(added, OWN) / cpu(added, SPAN))],
        [
            "the same until the line is in the file, CPU time of the process, of the caller's part",
            "3.00",
            by_python(lambda added: cpu(added, OWN, "process CPU") / cpu(added, OWN)),
        ],
        [
            "functions that are no target, ns a call",
            "0",
            ", ".join(f"{added[OWN]['not a target']['caller CPU']['median']:.0f}" for added in calls.values()),
        ],
        [
            "start of `python -c pass` (3.13), over bare Python",
            "60 ms",
            f"{start['CPU']['median']:.0f} ms of CPU time, {start['wall']['median']:.0f} ms by the clock",
        ],
        [
            "chat, 100 connections in one room, to a file: deliveries in the CPU time of untraced",
            "0.90",
            "{:.2f} with a call for each recipient, {:.2f} without".format(
                *(hundred[way]["median"] for way in ("file", "file-by-message"))
            ),
        ],
        ["chat, 1,000 connections, to a file: calls that are missing", "counted", f"{lost:,}, all counted by LOSS"],
    ]
    return table(["", "goal", f"measured ({', '.join(PYTHONS)})"], rows)


def calls() -> str:
    """What a call takes longer in the caller."""
    return _calls("caller CPU")


def process() -> str:
    """What it takes until the event is where it goes."""
    return _calls("process CPU")


def _calls(figure: str) -> str:
    by_python = {python: found(f"calls-{python}") for python in PYTHONS}
    latest = by_python[PYTHONS[-1]]
    workloads = list(latest["untraced"])

    def cell(row: Any) -> str:
        return f"{row[figure]['median']:,.0f}" if row else "–"

    rows = [
        [_bold(way), *(cell(measured.get(workload)) for workload in workloads)]
        for way, measured in latest["added"].items()
    ]
    pythons = [
        [_bold(way), *(cell(one["added"].get(way, {}).get(SCALARS)) for one in by_python.values())]
        for way in latest["added"]
    ]
    return (
        f"Python {PYTHONS[-1]}, ns a call:\n\n{table(['', *workloads], rows)}\n\n"
        f"The first column on each Python:\n\n{table(['', *PYTHONS], pythons)}"
    )


def _bold(way: str) -> str:
    return f"**{way}**" if way == OWN else way


def steps() -> str:
    """The caller's part."""
    measured = found("steps")["caller"]
    whole = measured.pop("the whole")["median"]
    large = {label: took["median"] for label, took in measured.items() if abs(took["median"]) > LARGEST_STEP * whole}
    rest = whole - sum(large.values())
    rows = [[label.replace("|", "\\|"), f"{took:,.0f}"] for label, took in large.items()]
    return table(["step", "ns"], [*rows, ["all others, and what medians do not add up to", f"{rest:,.0f}"],
                                  ["**the whole**", f"{whole:,.0f}"]])  # fmt: skip


def native() -> str:
    """The same in C."""
    return _all_of("C")


def floor() -> str:
    """The least."""
    return _all_of("floor")


def delivery() -> str:
    """The part of the other threads."""
    return _all_of("delivery")


def _all_of(part: str) -> str:
    rows = [[label, f"{took['median']:,.0f}"] for label, took in found("steps")[part].items()]
    return table(["", "ns a call"], rows)


def startup() -> str:
    """What starting takes longer, and attaching."""
    rows = [
        [_bold(way), f"{took['wall']['median']:.0f} ±{took['wall']['spread']:.0f}",
         f"{took['CPU']['median']:.0f} ±{took['CPU']['spread']:.0f}"]
        for way, took in found("startup")["added"].items()
    ]  # fmt: skip
    programs = [
        [f"{one['functions']:,} in {one['modules']}", f"{one['added']['CPU']['median']:,.0f}",
         f"{one['added']['CPU']['median'] / one['functions']:.2f}"]
        for one in found("attach")["programs"]
    ]  # fmt: skip
    return (
        "`python -c pass`, and a program with one target, added to bare Python (`python benchmarks/startup.py`):\n\n"
        f"{table(['', 'wall (ms)', 'CPU (ms)'], rows)}\n\n"
        "Functions that become targets while their modules are imported (`python benchmarks/attach.py`):\n\n"
        f"{table(['functions in modules', 'CPU (ms)', 'each'], programs)}"
    )


def scale() -> str:
    """Whether a call costs the same, however many there are."""
    measured = found("scale")
    rows = []
    for name, costs in measured["rounds"].items():
        points = {point: _added(ways) for point, ways in costs.items()}
        shown = ", ".join(
            f"{int(point):,}: {cost:,.0f}" if point.isdecimal() else f"{point}: {cost:,.0f}"
            for point, cost in points.items()
            if not (name == "calls" and int(point) < 1000)
        )
        rows.append([name, shown])
    busy = [
        [one["case"], f"{one['calls a second']:,.0f}", f"{one['lost calls'] / one['calls']:.0%}"]
        for one in measured["overload"]
    ]
    return (
        f"{table(['how many', 'ns a call'], rows)}\n\n"
        f"A program that calls without a pause:\n\n{table(['', 'calls a second', 'lost, and counted'], busy)}"
    )


def _added(ways: Any) -> float:
    pairs = zip(ways["flowtrace"], ways["untraced"], strict=True)
    return statistics.median(own["caller CPU"] - plain["caller CPU"] for own, plain in pairs)


def chat() -> str:
    """The chat under load."""
    parts = []
    for one in found("chat")["crowds"]:
        rows = []
        for way, runs in one["rounds"].items():
            outcomes = [run["outcome"] for run in runs]
            lost = [run["recorded"]["lost"] for run in runs if run["recorded"]["lost"] is not None]

            def median(of: Callable[[Any], float], outcomes: Any = outcomes) -> float:
                return statistics.median(map(of, outcomes))

            rows.append([
                _TITLES.get(way, way),
                f"{median(lambda run: run['deliveries'] / run['wall_s']):,.0f}",
                f"{median(lambda run: run['server_cpu_s'] / run['deliveries'] * 1e6):.1f}",
                f"{one['of untraced'][way]['median']:.2f}",
                f"{median(lambda run: run['delivery_ms']['p50']):.1f}",
                f"{median(lambda run: run['delivery_ms']['p99']):.1f}",
                f"{median(lambda run: run['peak_rss']) / 2**20:.0f}",
                f"{max(lost):,}" if lost else "?",
            ])  # fmt: skip
        head = ["", "deliveries/s", "CPU each (µs)", "of untraced", "p50 (ms)", "p99 (ms)", "memory (MiB)", "lost"]
        parts.append(f"{_crowd(one['crowd'])}:\n\n{table(head, rows)}")
    return "\n\n".join(parts)


_TITLES = {
    "file": "**flowtrace** to a file",
    "file-by-message": "**flowtrace** to a file, no call for each recipient",
    "http": "**flowtrace** by HTTP",
    "opentelemetry": "`opentelemetry-instrument`",
    "ddtrace": "`ddtrace-run`",
}


def _crowd(crowd: Any) -> str:
    connections, rooms = crowd["connections"], crowd["rooms"]
    return f"{connections:,} connection{'s' * (connections > 1)} in {'one room' if rooms == 1 else f'{rooms} rooms'}"


SECTIONS = (short, calls, process, steps, native, floor, delivery, startup, scale, chat)


def filled(page: str) -> str:
    """The page with all sections made anew.

    Raises:
        ValueError: a section has no place.
    """
    for section in SECTIONS:
        marked = rf"(<!-- {section.__name__} -->\n).*?(<!-- end -->)"
        text = f"\\g<1>\n{section()}\n\n\\g<2>".replace("\\|", "\\\\|")
        page, count = re.subn(marked, text, page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} places for {section.__name__}")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
