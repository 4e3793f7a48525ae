"""Whether memory stays flat for as long as a program runs: a steady load, with all that comes and goes in a server.

The same program runs three times side by side: untraced, under flowtrace-run, and so again with tracemalloc, which says
what flowtrace itself has allocated. It makes tasks, threads, forked children, exceptions, generators, closures and
classes, with values that never come twice; the file sink rotates and compresses. Every few seconds each notes its
resident memory, the objects that the garbage collector knows, threads and descriptors. After a fifth of the time, in
which things become warm, a line is laid through the highest of each of five periods: where it rises by more than
`LIMITS` allow, beyond what the untraced program rises, this program fails. So it does where a call is missing in a
trace. A run of less than four minutes is too short to see a slow leak: flowtrace's caches fill meanwhile, and that is
allowed.

Usage: ``python benchmarks/soak.py [--minutes 10] [--rate 1000]``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import plots
import report
import scale_shop
import scale_steady
import scale_trace
from scale import LAUNCHER, Failure, say, started

PROGRAM = scale_steady.__file__
WARM = 0.2  # of the time
PERIODS = 5  # the rest of it, each of which has its highest sample
CACHED = 4_096  # classes that flowtrace remembers; then it begins anew, so that a period has to have seen more
SAMPLES = 60  # a look at all that was allocated takes a second
REPORT_S = 10.0
MIB = 1 << 20
WAYS = ("untraced", "flowtrace", "flowtrace, tracemalloc")
SINK = {"type": "file", "path": "{pid}.jsonl", "rotate": {"max_size": "4MiB", "keep": 1000, "compress": "gzip"}}

Samples = list[dict[str, float]]


class Limit(NamedTuple):
    """How much a quantity may rise after the warm-up, in its own unit.

    Attributes:
        name: With the unit in which it is shown.
        noise: However long it takes.
        per_call: For each call; far less than anything that a call could leave behind.
        cache: While caches fill: more in a run too short for the highest of each period to be comparable.
        unit: In which it is shown.
        way: Of which program it is asked.
    """

    name: str
    noise: float
    per_call: float
    cache: float
    unit: float = 1.0
    way: str = "flowtrace"


LIMITS = {
    # pages that the allocator keeps: the untraced program alone drifts by 1 MiB; what leaks is seen in the two below
    "rss": Limit("resident memory (MiB)", 2 * MIB, 0.1, 4 * MIB, MIB),
    "objects": Limit("objects of the collector", 1_000, 0.001, 20_000),
    "own": Limit("allocated by flowtrace (KiB)", 64 << 10, 0.1, 2 * MIB, 1 << 10, "flowtrace, tracemalloc"),
    "threads": Limit("threads", 0.5, 0.0, 0.0),
    "descriptors": Limit("descriptors", 2.0, 0.0, 0.0),
}


class Rise(NamedTuple):
    """Of a quantity: at the end of the warm-up and at the end of the fitted line, and how much it may rise."""

    begin: float
    end: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether it rises by no more than it may."""
        return self.end - self.begin <= self.allowed


def run(way: str, folder: Path, options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Start the program in a folder of its own."""
    folder.mkdir()
    seconds = options.minutes * 60
    arguments = ["--seconds", seconds, "--rate", options.rate, "--every", seconds / SAMPLES]
    command = [sys.executable, PROGRAM, *map(str, arguments), str(folder / "samples"), str(folder / "result")]
    if way != "untraced":
        config = folder / "config.json"
        config.write_text(json.dumps({"targets": [{"modules": [scale_shop.__name__]}], "sinks": [SINK]}))
        command = [str(LAUNCHER), "--quiet", "--config", str(config), *command]
    if way.endswith("tracemalloc"):
        command.append("--own")
    return started(command, folder, is_read=False)


def verify(folder: Path) -> dict[str, int]:
    """Check that each call of the program and of its forked children is in their traces.

    Raises:
        Failure: a process has no trace.
        IncompleteTrace: a call is missing.
    """
    result: dict[str, int] = json.loads((folder / "result").read_bytes())
    traces = [scale_trace.read(paths) for paths in scale_trace.by_process(folder).values()]
    traces.sort(key=lambda trace: -trace.calls)
    if len(traces) != 1 + result["children"]:
        raise Failure(f"{folder.name}: {len(traces)} traces of {1 + result['children']} processes")
    for trace in traces:
        made = result["calls"] if trace is traces[0] else scale_steady.IN_CHILD * scale_shop.ORDER
        trace.verify(calls=made)
    return result


def rise(samples: Samples, key: str) -> tuple[float, float]:
    """Where a straight line through the highest sample of each period after the warm-up begins and ends."""
    warm = samples[int(len(samples) * WARM) :]
    size = len(warm) // PERIODS
    periods = [warm[number * size : (number + 1) * size] for number in range(PERIODS)]
    highest = [max(sample[key] for sample in period) for period in periods]
    line = statistics.linear_regression(range(PERIODS), highest)
    return line.intercept, line.intercept + line.slope * (PERIODS - 1)


def rises(samples: dict[str, Samples]) -> dict[str, Rise]:
    """How each quantity rises, and may; what the untraced program does, a traced one may as well."""
    found = {}
    for key, limit in LIMITS.items():
        own, plain = samples[limit.way], samples["untraced"]
        calls = own[-1]["calls"] * (1 - WARM)
        is_long = calls / PERIODS / scale_shop.ORDER > CACHED
        once = limit.noise if is_long else limit.noise + limit.cache
        begin, end = rise(own, key)
        program = 0.0
        if key in plain[0]:
            plain_begin, plain_end = rise(plain, key)
            program = max(0.0, plain_end - plain_begin)
        found[key] = Rise(begin, end, once + limit.per_call * calls + program)
    return found


def table(found: dict[str, Rise], samples: dict[str, Samples]) -> str:
    """One row a quantity."""
    rows = []
    for key, limit in LIMITS.items():
        one = found[key]
        plain = [number / limit.unit for number in rise(samples["untraced"], key)] if key != "own" else []
        shown = [one.begin / limit.unit, one.end / limit.unit, (one.end - one.begin) / limit.unit]
        rows.append([
            limit.name,
            *(f"{number:,.1f}" for number in shown),
            f"{one.allowed / limit.unit:,.1f}",
            f"{plain[1] - plain[0]:,.1f}" if plain else "",
            "flat" if one.is_flat else "RISES",
        ])  # fmt: skip
    return report.table(["", "begin", "end", "rise", "allowed", "untraced rise", ""], rows)


def draw(samples: dict[str, Samples]) -> list[Path]:
    """Resident memory over time, flowtrace's in the colour that stands out."""
    rows = []
    for way in ("flowtrace", "untraced", "flowtrace, tracemalloc"):
        own = samples[way]
        points = [((one["time"] - own[0]["time"]) / 60, one["rss"] / MIB) for one in own]
        rows.append(plots.Line(way, [(minute, size, size, size) for minute, size in points]))
    title = f"Memory under a steady load: {samples['flowtrace'][-1]['calls']:,.0f} calls"
    return plots.lines("soak", rows, title=title, x="minutes", y="resident memory (MiB)")


def soak(options: argparse.Namespace) -> dict[str, Samples]:
    """All three ways side by side, with a word on ``stderr`` now and then; checks their traces.

    Raises:
        Failure: a program fails, or a process has no trace.
        IncompleteTrace: a call is missing.
    """
    with tempfile.TemporaryDirectory(prefix="flowtrace-soak-") as name:
        folders = {way: Path(name) / way for way in WAYS}
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(run(way, folder, options)) for way, folder in folders.items()]
            began = said = time.monotonic()
            while any(process.poll() is None for process in processes):
                time.sleep(0.2)
                if time.monotonic() - said >= REPORT_S:
                    said = time.monotonic()
                    say(f"{(said - began) / 60:.1f} of {options.minutes:g} minutes")
        for way in WAYS[1:]:
            result = verify(folders[way])
            say(f"{way}: {result['calls']:,} calls and {result['children']} children, all in their traces")
        return {way: _samples(folder / "samples") for way, folder in folders.items()}


def _samples(path: Path) -> Samples:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Run, print a table, write ``results/soak.json`` and the picture; fail where something rises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long; a quick run is 1")
    parser.add_argument("--rate", type=float, default=1_000.0, help="calls a second")
    options = parser.parse_args()
    samples = soak(options)
    found = rises(samples)
    print(table(found, samples))
    content = {"minutes": options.minutes, "rate": options.rate, "samples": samples}
    path = report.save("soak", {**content, "rises": {key: one._asdict() for key, one in found.items()}})
    print("\nwritten to", *(os.path.relpath(each) for each in [path, *draw(samples)]))
    if rising := [LIMITS[key].name for key, one in found.items() if not one.is_flat]:
        raise Failure(f"not flat: {', '.join(rising)}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failure, scale_trace.IncompleteTrace) as error:
        sys.exit(f"soak.py: {error}")
