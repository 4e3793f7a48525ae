"""Whether a recorded call costs the same, however many calls, threads, functions, tasks or open calls there are.

Each point of each scale is measured in a process of its own that calls and measures itself: under flowtrace-run,
wrapped by hand with wrapt to record the same, and untraced. The ways take turns; of several rounds the median counts,
with the least and the greatest. A process calls in bursts, each of which finds the queue empty and is over before the
dispatcher's turn, and has each delivered before the next. So these times are those of the calls; what is felt where the
dispatcher's turns are in between, is shown by calls without a pause. That all was recorded, or counted as lost where it
had to be, is read from each trace; where it was not, this program fails.

- untraced: nanoseconds of wall time that a call takes; the other columns are what is added to this:
- wall: as the program feels it, with all that the machine does beside;
- CPU: of the calling threads, which wait for nothing then; "of the first": that of flowtrace, over its first row's;
- process CPU: of flowtrace, of all threads, until the events are in the file.

With ``--only``, the other scales in ``results/scale.json`` stay as they were measured last.

Usage: ``python benchmarks/scale.py [--only NAME...] [--rounds 3] [--quick]``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import plots
import report
import scale_trace

PROGRAM = Path(__file__).with_name("scale_program.py")
LAUNCHER = Path(sys.executable).with_name("flowtrace-run")
ALL_WAYS = ("untraced", "wrapt", "flowtrace")
FILE = {"type": "file", "path": "{pid}.jsonl"}
ROTATED = {**FILE, "rotate": {"max_size": "64MiB", "keep": 2}}
PIPE = {"type": "stdout", "format": "json"}
FLUSH = {"interval": "500ms", "shutdown_timeout": "30s"}  # so that bursts are between turns
TICK_S = 0.01
MOST_S = 600.0  # that a process may take


TARGETS = [{"modules": ["scale_targets", "scale_functions"]}]
COLUMNS = ("wall", "caller CPU", "process CPU")


@dataclass(frozen=True)
class Scale:
    """What is varied.

    Attributes:
        title: As the table and the picture name it.
        points: What it is varied over; a case that goes through several points by itself has its last here.
        quick: The points of a quick run.
        base: The point that the others are compared with; None: the first.
        ways: How calls are traced.
        queue: The configuration of the queue.
        sink: The configuration of the sink.
    """

    title: str
    points: Sequence[int]
    quick: Sequence[int]
    base: str | None = None
    ways: Sequence[str] = ALL_WAYS
    queue: dict[str, Any] = field(default_factory=dict)
    sink: dict[str, Any] = field(default_factory=lambda: FILE)


SCALES = {
    "calls": Scale(
        "calls made before", (10**7,), (10**5,), "1000", ("untraced", "flowtrace"), {"overflow": "block"}, ROTATED
    ),
    "threads": Scale("threads", (1, 2, 4, 8, 16, 32, 64), (1, 8, 64)),
    "functions": Scale("functions", (1, 10, 100, 500, 2_000), (1, 100, 2_000)),
    "tasks": Scale("tasks", (1, 10, 100, 1_000, 10_000), (1, 100, 10_000)),
    "depth": Scale("open calls", (1, 10, 100, 300, 900), (1, 100, 900)),
    "unwinding": Scale("open calls, left by an exception", (1, 10, 100, 300, 900), (1, 100, 900)),
    "queue": Scale("queue", (2_000,), (2_000,), None, ("untraced", "flowtrace"), {"max_bytes": "1GiB"}),
}
SUSTAINED = "sustained"
CALLS_OF_LATER_ROUNDS = 10**5  # ten million take minutes, and say nothing that is new in a second round
BURSTS, QUICK_BURSTS = 5, 2
FEW = 1_000  # calls: of fewer, CPU times are those of other things


@dataclass(frozen=True)
class Overload:
    """A program that calls without a pause.

    Attributes:
        title: As the table names it.
        queue: The configuration of the queue.
        taken: How many events its sink takes in a second; None: a file, which takes all.
        is_lossy: Whether calls may be lost.
    """

    title: str
    queue: dict[str, Any]
    taken: int | None = None
    is_lossy: bool = False


SMALL = {"overflow": "block", "max_bytes": "256KiB"}  # so that what waits is little beside what is taken
OVERLOADS = (
    Overload("to a file, overflow: drop", {"overflow": "drop"}, is_lossy=True),
    Overload("to a file, overflow: block", {"overflow": "block"}),
    Overload("to a reader of 2,000 events a second, block", SMALL, 2_000),
    Overload("to a reader of 10,000 events a second, block", SMALL, 10_000),
)
OVERLOAD_S, QUICK_OVERLOAD_S = 5, 2

Cost = dict[str, float]  # "wall", "caller CPU" and "process CPU": nanoseconds per call
Costs = dict[str, dict[str, list[Cost]]]  # by point and way, one of each round


class Failure(Exception):
    """What was measured is not what should have been."""


# -- one process -----------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """Takes lines from a pipe, so many in a second, as long as the program measures; what comes then, at once.

    Attributes:
        path: Of the file that it writes them to.
        until: A file that is there as soon as the program has measured.
        taken: When how many were taken so far, in nanoseconds of the system's monotonic clock.
    """

    source: IO[bytes]
    per_second: int
    path: Path
    until: Path
    taken: list[tuple[int, int]] = field(default_factory=list)

    def run(self) -> None:
        """Until the pipe is closed."""
        began = time.monotonic()
        with self.path.open("wb") as file:
            for count, line in enumerate(self.source, 1):
                file.write(line)
                self.taken.append((time.monotonic_ns(), count))
                ahead_s = count / self.per_second - (time.monotonic() - began)
                if ahead_s > TICK_S and not self.until.exists():
                    time.sleep(ahead_s)

    def rate(self, began_ns: int, ended_ns: int) -> float:
        """Events a second that were taken between these times."""
        within = [count for time_ns, count in self.taken if began_ns <= time_ns <= ended_ns]
        return (within[-1] - within[0]) / (ended_ns - began_ns) * 1e9


@contextlib.contextmanager
def started(command: Sequence[str], folder: Path, *, is_read: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive this one's interest in it; what it says on ``stderr`` is said where it fails.

    Raises:
        Failure: it fails.
    """
    said = folder / "stderr"
    with said.open("wb") as stderr:
        stdout = subprocess.PIPE if is_read else None
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    try:
        yield process
        status = process.wait(MOST_S)
    except subprocess.TimeoutExpired:
        raise Failure(f"{shlex.join(command)} did not end in {MOST_S:.0f} s") from None
    finally:
        process.kill()
        process.wait()
    if status:
        raise Failure(f"{shlex.join(command)} ended with {status}:\n{said.read_text(errors='replace')}")


def run(
    case: str, point: int, way: str, *, bursts: int, queue: dict[str, Any], sink: dict[str, Any],
    flush: dict[str, Any], taken: int | None = None, is_lossy: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Start the program once, and read what it has measured, and from its trace whether that was so.

    Args:
        case: One of the program's.
        point: Where on its scale.
        way: Of tracing.
        bursts: How many to measure at each point.
        queue: Its configuration.
        sink: Its configuration.
        flush: Its configuration.
        taken: How many events are taken from its standard output in a second; None: that is no sink.
        is_lossy: Whether more calls may be lost than those that the program wants to be.

    Returns:
        What the program has written; ``lost`` is the number of calls lost, ``rate`` the events taken in a second.

    Raises:
        Failure: the program fails, or its trace is not complete.
    """
    with tempfile.TemporaryDirectory(prefix="flowtrace-scale-") as name:
        folder = Path(name)
        result_path, config_path = folder / "result.json", folder / "config.yaml"
        command = [sys.executable, str(PROGRAM), case, str(point), way, str(bursts), str(result_path)]
        if way == "flowtrace":
            config_path.write_text(json.dumps({"targets": TARGETS, "queue": queue, "flush": flush, "sinks": [sink]}))
            command = [str(LAUNCHER), "--quiet", "--config", str(config_path), *command]
        reader = None
        with started(command, folder, is_read=bool(taken)) as process:
            if taken and process.stdout:
                reader = Reader(process.stdout, taken, folder / "read.jsonl", result_path)
                reader.run()
        result: dict[str, Any] = json.loads(result_path.read_bytes())
        if result["recorded"] not in (None, result["calls"]):
            raise Failure(f"{case} {point}, {way}: {result['recorded']:,} of {result['calls']:,} calls were recorded")
        if way == "flowtrace":
            trace = scale_trace.read(folder.glob("*.jsonl*"))
            trace.verify(calls=result["calls"], lost_calls=None if is_lossy else result["lost"])
            result["lost"] = trace.lost_calls
        if reader:
            result["rate"] = reader.rate(*result["window"])
        return result


# -- all of them -----------------------------------------------------------------------------------------------------


def measure(names: Sequence[str], *, rounds: int, bursts: int, quick: bool) -> dict[str, Costs]:
    """All points of these scales in all ways, in turns."""
    found: dict[str, Costs] = {name: {} for name in names}
    for number in range(rounds):
        for name in names:
            scale = SCALES[name]
            for point in scale.quick if quick else scale.points:
                if name == "calls" and number:
                    point = min(point, CALLS_OF_LATER_ROUNDS)
                say(f"round {number + 1} of {rounds}: {scale.title}, {point:,}")
                for way in scale.ways:
                    result = run(name, point, way, bursts=bursts, queue=scale.queue, sink=scale.sink, flush=FLUSH)
                    for label, measured in result["points"].items():
                        found[name].setdefault(label, {}).setdefault(way, []).append(_medians(measured))
    return found


def overload(seconds: int) -> list[dict[str, Any]]:
    """What becomes of a program that calls faster than its events are taken."""
    rows = []
    for case in OVERLOADS:
        say(f"calls without a pause, {case.title}")
        result = run(
            SUSTAINED, seconds, "flowtrace", bursts=1, queue=case.queue, sink=PIPE if case.taken else FILE,
            flush={"shutdown_timeout": "30s"}, taken=case.taken, is_lossy=case.is_lossy,
        )  # fmt: skip
        (cost,) = result["points"]["steady"]
        rows.append({
            "case": case.title,
            "calls a second": 1e9 / cost[0],
            **dict(zip(COLUMNS, cost, strict=True)),
            "calls": result["calls"],
            "lost calls": result["lost"],
            "events taken a second": result.get("rate"),
        })  # fmt: skip
    return rows


def _medians(bursts: Sequence[Sequence[float]]) -> Cost:
    return {column: statistics.median(each) for column, each in zip(COLUMNS, zip(*bursts, strict=True), strict=True)}


def say(text: str) -> None:
    """One line about how far it is."""
    print(text, file=sys.stderr, flush=True)


# -- what is shown ---------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """The median of the rounds, the least and the greatest of them, in nanoseconds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.low:,.0f} to {self.high:,.0f})"


def added(ways: dict[str, list[Cost]], way: str, column: str) -> Spread:
    """What a call costs more than untraced in the same round."""
    pairs = zip(ways[way], ways["untraced"], strict=True)
    more = [own[column] - plain[column] for own, plain in pairs]
    return Spread(statistics.median(more), min(more), max(more))


def table(scale: Scale, costs: Costs) -> str:
    """One row a point: what each way adds in wall time and in CPU time of the calling threads, and how flat that is."""
    ways = scale.ways[1:]
    base = added(costs[scale.base or next(iter(costs))], "flowtrace", "caller CPU").median
    heads = [f"{way} {column}" for column in ("wall", "CPU") for way in ways]
    rows = []
    for point, measured in costs.items():
        is_few = scale.base is not None and int(point) < FEW
        own = added(measured, "flowtrace", "caller CPU").median
        process = added(measured, "flowtrace", "process CPU").median
        rows.append([
            f"{int(point):,}" if point.isdecimal() else point,
            f"{statistics.median(cost['wall'] for cost in measured['untraced']):,.0f}",
            *(str(added(measured, way, column)) for column in COLUMNS[:2] for way in ways),
            f"{own / base:.2f}",
            "" if is_few else f"{process:,.0f}",
        ])  # fmt: skip
    return report.table([scale.title, "untraced", *heads, "of the first", "process CPU"], rows)


def overload_table(rows: Sequence[dict[str, Any]]) -> str:
    """What a program gets done that calls without a pause."""
    head = ["calls without a pause", "calls a second", "lost", "ns per call", "caller CPU", "recorded / taken"]
    shown = []
    for row in rows:
        taken = row["events taken a second"]
        shown.append([
            row["case"],
            f"{row['calls a second']:,.0f}",
            f"{row['lost calls'] / row['calls']:.1%}",
            f"{row['wall']:,.0f}",
            f"{row['caller CPU']:,.0f}",
            f"{2 * row['calls a second'] / taken:.3f}" if taken else "",
        ])  # fmt: skip
    return report.table(head, shown)


def draw(found: dict[str, Costs]) -> list[Path]:
    """What a recorded call adds, over how many of them there are: a line for each scale of numbers."""
    rows = []
    for name, costs in found.items():
        points = {
            int(point): added(ways, "flowtrace", "caller CPU") for point, ways in costs.items() if point.isdecimal()
        }
        line = [(point, *spread) for point, spread in points.items() if spread.low > 0 < point]
        if line:
            rows.append(plots.Line(SCALES[name].title, line))
    axes = {"x": "how many there are", "y": "added CPU time of the caller (ns)"}
    return plots.lines("scale", rows, title="What a recorded call adds", log_x=True, **axes)


def last(key: str, otherwise: Any) -> Any:
    """What was measured the last time."""
    path = report.RESULTS / "scale.json"
    return json.loads(path.read_bytes())[key] if path.exists() else otherwise


def main() -> None:
    """Measure, print tables, write ``results/scale.json`` and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SCALES, SUSTAINED]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how many processes of each way, at each point")
    parser.add_argument("--quick", action="store_true", help="one round, fewer points and fewer calls: a minute or two")
    options = parser.parse_args()
    chosen = [name for name in SCALES if name in options.only]
    rounds, bursts = (1, QUICK_BURSTS) if options.quick else (options.rounds, BURSTS)
    found = measure(chosen, rounds=rounds, bursts=bursts, quick=options.quick)
    rows = overload(QUICK_OVERLOAD_S if options.quick else OVERLOAD_S) if SUSTAINED in options.only else []
    print("Nanoseconds per call, the least and the greatest of the rounds in brackets. See --help for the columns.\n")
    for name, costs in found.items():
        print(table(SCALES[name], costs), end="\n\n")
    if rows:
        print(overload_table(rows), end="\n\n")
    found, rows = {**last("rounds", {}), **found}, rows or last("overload", [])
    path = report.save("scale", {"unit": "ns per call", "rounds": found, "overload": rows})
    print("written to", *(os.path.relpath(each) for each in [path, *draw(found)]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failure, scale_trace.IncompleteTrace) as error:
        sys.exit(f"scale.py: {error}")
