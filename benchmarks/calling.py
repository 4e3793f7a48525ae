"""The process that calls: one way of tracing, its workloads one after the other, as a pyperf suite at the end.

A workload is a few bursts of calls, each followed by a wait until no thread has anything left to do. Of each burst:

- caller: wall time of the calls, as the traced program feels it;
- caller CPU: CPU time of the calling thread, which waits for nothing and is steadier on a busy machine;
- process CPU: CPU time of all threads, until what was recorded is where it goes.

A way that has recorded fewer calls than were made, more than it should, or none of their values, is an error.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pyperf
from ways import FLUSH_SECONDS, Recorded, Way

FIGURES = ("caller", "caller CPU", "process CPU")
OFF = "switched off"
SLOW_NS = 1_000_000_000  # what takes longer is measured once, not in several bursts
WAYS = {
    "untraced": "ways.Untraced",
    "flowtrace": "ways.Flowtrace",
    "flowtrace, without values": "ways.FlowtraceWithoutValues",
    "flowtrace, in pure Python": "ways.FlowtraceInPython",
    "wrapt wrapper by hand": "wrapped.Wrapt",
    "VizTracer with values": "profilers.ViztracerWithValues",
    "VizTracer": "profilers.Viztracer",
    "OpenTelemetry span": "spans.OpenTelemetry",
    "ddtrace wrap": "spans.Ddtrace",
    "Logfire instrument": "spans.LogfireInstrument",
    "Logfire auto-tracing": "spans.LogfireAuto",
    "sys.setprofile, empty": "profilers.SetProfile",
    "sys.monitoring, empty": "profilers.Monitoring",
}


def kind(way: str) -> type[Way]:
    """The class of a way; what it needs beside ``ways`` is imported for those that use it."""
    module, _, name = WAYS[way].partition(".")
    found: type[Way] = getattr(import_module(module), name)
    return found


def measure(name: str, workloads: Sequence[str], *, bursts: int, folder: Path) -> pyperf.BenchmarkSuite:
    """Trace in this way, and take the time of so many bursts of each workload, after one that warms up.

    Returns:
        Three benchmarks for each workload, one for each figure: seconds per call; in the metadata, what was recorded.
    """
    way = kind(name)(folder)
    way.prepare()
    from bursts import WORKLOADS  # not before: some ways trace what is imported from now on
    from workload import Empty

    way.attach(Empty, [method for method in vars(Empty) if not method.startswith("_")])
    chosen = {workload: WORKLOADS[workload] for workload in sorted(workloads, key=OFF.__eq__)}
    taken, made, due = {}, Counter[str](), Counter[str]()
    for workload, one in chosen.items():
        if workload == OFF:
            way.off()
        first = _burst(way, one.burst, one.calls, on=workload != OFF)
        rest = bursts if sum(first) < SLOW_NS else 1
        taken[workload] = [_burst(way, one.burst, one.calls, on=workload != OFF) for _ in range(rest)]
        if workload != OFF:
            made[one.function] = one.calls * (1 + rest)
            due[one.function] = made[one.function] * way.records(one)
    if way.background:
        time.sleep(10 * FLUSH_SECONDS)  # on a busy machine, idle may mean not yet awake
    recorded = way.count()
    benchmarks = []
    for workload, one in chosen.items():
        _check(way, recorded, one.function, due[one.function], word=one.word)
        metadata = {
            **_metadata(), "loops": one.calls, "unit": "second",
            "events per call": recorded.events[one.function] / max(1, made[one.function]),
            "bytes per event": recorded.bytes[one.function] / max(1, recorded.events[one.function]),
        }  # fmt: skip
        for figure, times in zip(FIGURES, zip(*taken[workload], strict=True), strict=True):
            run = pyperf.Run(
                [nanoseconds / one.calls / 1e9 for nanoseconds in times],
                metadata={**metadata, "name": f"{name}: {workload}, {figure}"},
                collect_metadata=False,
            )
            benchmarks.append(pyperf.Benchmark([run]))
    return pyperf.BenchmarkSuite(benchmarks)


def _burst(way: Way, burst: Callable[[int], None], count: int, *, on: bool) -> tuple[int, int, int]:
    """Nanoseconds in the caller, of its CPU time, and of the CPU time of the process."""
    began_process = time.process_time_ns()
    if on:
        way.begin()
    began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
    burst(count)
    ended_cpu, ended = time.thread_time_ns(), time.perf_counter_ns()
    if on:
        way.end()
    if way.background:
        _wait_until_idle()
    return ended - began, ended_cpu - began_cpu, time.process_time_ns() - began_process


def _wait_until_idle() -> None:
    while True:
        before = time.process_time_ns()
        time.sleep(1.2 * FLUSH_SECONDS)
        if time.process_time_ns() - before < 1_000_000:
            return


def _check(way: Way, recorded: Recorded, function: str, calls: int, *, word: str) -> None:
    """Whether this many calls of the function were recorded, with their values where the way records values."""
    if recorded.calls[function] != calls:
        raise SystemExit(f"{type(way).__name__} recorded {recorded.calls[function]} of {calls} calls of {function}")
    text = recorded.text(function)
    if calls and way.arguments and word not in text:
        raise SystemExit(f"{type(way).__name__} did not record the arguments of {function}: {text}")
    result = "as it was told" if function == "failing" else way.result
    if calls and way.result and function not in way.no_result and result not in text:
        raise SystemExit(f"{type(way).__name__} did not record what {function} returned or raised: {text}")


@functools.cache
def _metadata() -> dict[str, object]:
    """What pyperf knows of the machine."""
    found: dict[str, object] = pyperf.Run([1.0]).get_metadata()
    return found


def main() -> None:
    """Measure one way and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("output", type=Path, help="a file that is not there yet")
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--bursts", type=int, default=3, help="how many bursts of each workload are measured")
    options = parser.parse_args()
    suite = measure(options.way, options.workloads, bursts=options.bursts, folder=options.output.parent)
    suite.dump(str(options.output))


if __name__ == "__main__":
    main()
