"""The chat under load, untraced and traced: what it delivers, how fast, and what the server needs for it.

A uvicorn that serves ``sample_app`` is started for each way and each crowd, and `chat_load` sends to it from another
process; the ways take turns. See there for the two kinds of load. Of several rounds the median counts, ratios are made
within each round, and their least and greatest are in brackets. Clients do not compress, which costs least.

- deliveries/s: frames heard in a second, as fast as it goes, and in brackets the share of a core that the server had;
- CPU: of the server, microseconds a delivery, all threads: steadier than the former where a machine has other work;
- of untraced: how many deliveries the same CPU time would do, untraced being 1;
- p50, p99: milliseconds from when a message was due until it is heard, at the fixed rate;
- peak, left: memory of the server in MiB, greatest, and when everybody has left;
- recorded: calls or spans that arrived, per frame heard; lost: calls that are missing and counted.

After each run of flowtrace its trace is audited: recorded = delivered + LOSS, each message is there with its text.
Where it is not so, where a client was lost or a frame did not come, this program fails.

To tell each of a hundred people is a hundred calls. So flowtrace is measured as it comes, with all of these recorded,
and with a configuration that leaves out the one function that is called for each recipient; the goal of 90 % of
untraced is meant for the latter.

A thousand people coming into one room make half a million deliveries before anybody has said a word: this crowd is
measured once, and not with other tracers.

Usage: ``python benchmarks/chat.py [--connections 1 100 1000] [--rooms 1 50] [--ways NAME...] [--rounds 3] [--quick]``
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import chat_runs
import plots
import report
from chat_runs import Crowd, Run
from chat_ways import WAYS, Failure

GOAL, GOAL_CROWD = 0.9, Crowd(100, 1)
LARGE_WAYS = ("untraced", "file", "http")
OWN = {name for name in WAYS if name.startswith(("file", "http"))}

Runs = dict[Crowd, dict[str, list[Run]]]


class Range(NamedTuple):
    """The median of several rounds, the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Range:
        """At least one number."""
        return cls(statistics.median(numbers), min(numbers), max(numbers))

    def show(self, form: str) -> str:
        """The least and the greatest in brackets, where there are several."""
        low, high = format(self.low, form), format(self.high, form)
        return format(self.median, form) + (f" ({low}–{high})" if low != high else "")


def median(runs: Sequence[Run], number: Callable[[Run], float]) -> float:
    """Of one number."""
    return statistics.median(map(number, runs))


def delivery_ms(runs: Sequence[Run], at: str) -> float:
    """A percentile of the delivery times at the fixed rate, in milliseconds."""
    return median(runs, lambda run: run.outcome.delivery_ms[at])


def pairs(ways: dict[str, list[Run]], way: str) -> Iterator[tuple[Run, Run]]:
    """Untraced and traced, of the same round."""
    return zip(ways["untraced"], ways[way], strict=True)


def of_untraced(ways: dict[str, list[Run]], way: str) -> Range:
    """How many deliveries the CPU time of one untraced delivery does."""
    return Range.of([plain.cpu_us / run.cpu_us for plain, run in pairs(ways, way)])


def call_us(ways: dict[str, list[Run]], way: str) -> Range | None:
    """Microseconds of the server a call: traced less untraced, over the calls that were recorded meanwhile."""
    costs = [
        (run.cpu_us - plain.cpu_us) / run.calls_a_delivery
        for plain, run in pairs(ways, way)
        if run.calls_a_delivery is not None
    ]
    return Range.of(costs) if costs else None


def table(ways: dict[str, list[Run]]) -> str:
    """One crowd."""
    head = [
        "way", "deliveries/s", "CPU (µs)", "of untraced", "p50 (ms)", "p99 (ms)", "peak", "left", "recorded", "lost",
    ]  # fmt: skip
    rows = []
    for name, runs in ways.items():
        counted = [run.recorded.lost for run in runs if run.recorded.lost is not None]
        row = [
            WAYS[name].title,
            f"{median(runs, lambda run: run.rate):,.0f} ({median(runs, lambda run: run.share):.2f})",
            Range.of([run.cpu_us for run in runs]).show(".1f"),
            of_untraced(ways, name).show(".2f"),
            f"{delivery_ms(runs, 'p50'):.2f}",
            f"{delivery_ms(runs, 'p99'):.2f}",
            f"{median(runs, lambda run: run.outcome.peak_rss) / 2**20:.0f}",
            f"{median(runs, lambda run: run.outcome.left_rss) / 2**20:.0f}",
            f"{median(runs, lambda run: run.recorded.records / run.outcome.heard):.2f}",
            f"{max(counted):,}" if counted else "?",
        ]
        rows.append(row)
    return report.table(head, rows)


def seed_table(found: Runs) -> str:
    """What the project's first description says, and what was measured."""
    rows = []
    for crowd, ways in found.items():
        if crowd.connections != 100:
            continue
        for name in [name for name in ("untraced", "file") if name in ways]:
            at = f"{delivery_ms(ways[name], 'p50'):.2f} / {delivery_ms(ways[name], 'p99'):.2f}"
            rows.append([f"a message, {crowd}, {WAYS[name].title}, p50 / p99", "1 to 3 ms", f"{at} ms"])
        if "file" in ways and (cost := call_us(ways, "file")):
            rows.append([f"a traced call, {crowd}, CPU until it is in the file", "0.1 to 0.5 ms", _ms(cost)])
    rows.append(["connections, all served", "100", f"{max(crowd.connections for crowd in found):,}"])
    return report.table(["", "described", "measured"], rows)


def _ms(cost_us: Range) -> str:
    return Range(*(number / 1e3 for number in cost_us)).show(".4f") + " ms"


def main() -> None:
    """Measure, print tables, write ``results/chat.json`` and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--connections", type=positive, nargs="+", default=[1, 100, 1000], metavar="N", help="how many clients"
    )
    parser.add_argument(
        "--rooms", type=positive, nargs="+", default=[1, 50], metavar="N", help="in how many rooms, evenly"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--rounds", type=positive, default=3, help="how many servers of each way, for each crowd")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each kind of load")
    parser.add_argument("--rate", type=float, default=1000, help="the fixed rate, in deliveries per second")
    parser.add_argument("--quick", action="store_true", help="one round of half seconds, at most 100 clients: a minute")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
        options.connections = [count for count in options.connections if count <= 100] or [100]
    ways = ["untraced", *(name for name in WAYS if name in options.ways and name != "untraced")]
    found = measure(crowds(options.connections, options.rooms), installed(ways), options)
    for crowd, by_way in found.items():
        print(f"\n{crowd}\n\n{table(by_way)}")
    print(f"\n{seed_table(found)}\n", *goals(found), sep="\n")
    print("\nwritten to", *(report.relative(path) for path in [save(found), *draw(found)]))


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def crowds(connections: Sequence[int], rooms: Sequence[int]) -> list[Crowd]:
    """All that can be: in each room as many, and nobody alone but who is alone altogether.

    Raises:
        Failure: there are none, or clients are left over.
    """
    found = [Crowd(count, room) for count in connections for room in rooms if count >= 2 * room or count == room == 1]
    if not found:
        raise Failure("in each room there must be two clients: ask for more --connections or fewer --rooms")
    for crowd in found:
        if crowd.connections % crowd.rooms:
            raise Failure(f"{crowd}: that is not the same number in each")
    return found


def installed(ways: Sequence[str]) -> list[str]:
    """Those that can be measured here; what is missing for the others is said on stderr."""
    for name in ways:
        if missing := WAYS[name].missing():
            print(f"{name} is left out: not installed: {', '.join(missing)}", file=sys.stderr)
    return [name for name in ways if not WAYS[name].missing()]


def measure(crowds: Sequence[Crowd], ways: Sequence[str], options: argparse.Namespace) -> Runs:
    """Everything in turns, so that what else the machine does meets all ways alike."""
    chat_runs.allow_files(max(crowd.connections for crowd in crowds))
    found: Runs = {crowd: {name: [] for name in ways if name in LARGE_WAYS or not crowd.is_large} for crowd in crowds}
    for number in range(options.rounds):
        for crowd, by_way in found.items():
            for name in by_way if number == 0 or not crowd.is_large else ():
                said = f"round {number + 1} of {options.rounds}, {crowd}: {WAYS[name].title}"
                report.progress(said)
                by_way[name].append(chat_runs.measure(WAYS[name], crowd, seconds=options.seconds, rate=options.rate))
    report.progress("")
    return found


def goals(found: Runs) -> list[str]:
    """What was to be reached, and what was: the other goal, that all are served, this program fails without."""
    by_way = found.get(GOAL_CROWD, {})
    lines = []
    for name in [name for name in ("file", "file-by-message") if name in by_way]:
        reached = of_untraced(by_way, name)
        by_clock = Range.of([run.rate / plain.rate for plain, run in pairs(by_way, name)])
        lines.append(
            f"{WAYS[name].title}, {GOAL_CROWD}: {reached.show('.3f')} of untraced's deliveries in the same CPU time, "
            f"{by_clock.show('.3f')} by the clock"
        )
    if "file-by-message" in by_way:
        verdict = "reached" if of_untraced(by_way, "file-by-message").median >= GOAL else "not reached"
        lines.append(f"The goal, {GOAL:.2f} in the same CPU time with no call per recipient, is {verdict}.")
    return lines


def save(found: Runs) -> Path:
    """All runs, with medians beside them."""
    crowds = [
        {
            "crowd": crowd._asdict(),
            "of untraced": {name: of_untraced(by_way, name)._asdict() for name in by_way},
            "rounds": {name: [dataclasses.asdict(run) for run in runs] for name, runs in by_way.items()},
        }
        for crowd, by_way in found.items()
    ]
    return report.save("chat", {"unit": "see benchmarks/chat_load.py, Outcome", "crowds": crowds})


def draw(found: Runs) -> list[Path]:
    """What the same CPU time delivers, for the crowd of the goal or the first one."""
    crowd = GOAL_CROWD if GOAL_CROWD in found else next(iter(found))
    rows = []
    for name, runs in found[crowd].items():
        share = Range(*(100 * number for number in of_untraced(found[crowd], name)))
        remark = f"p99 {delivery_ms(runs, 'p99'):.1f} ms"
        rows.append(plots.Bar(WAYS[name].title, *share, own=name in OWN, remark=remark))
    title = f"The chat under load, {crowd}"
    return plots.bars("chat", rows, title=title, axis="deliveries in the same CPU time (% of untraced)")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C does
    try:
        report.run(main)
    except Failure as failure:
        sys.exit(f"chat.py: {failure}")
