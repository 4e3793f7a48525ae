"""What tracing one call costs: nanoseconds added to an empty method with two scalar arguments, beside other tracers.

Each way of tracing runs in processes of its own, which take turns, so that what else the machine does meets all alike;
of each, the median counts. A process calls in bursts that its queue can hold, and lets its background threads finish
before the next. Three numbers per way, each less that of untraced calls:

- caller: wall time of the calls themselves, as the traced program feels it;
- caller CPU: CPU time of the calling thread alone, which waits for nothing and is steadier on a busy machine;
- process CPU: of all threads, until what was recorded is where it goes.

Usage: ``python benchmarks/calls.py [--rounds 5] [--only NAME...]``
"""

from __future__ import annotations

import argparse
import collections
import contextvars
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
import workload

BURST, BURSTS = 5_000, 20
Finish = Callable[[], object]


def untraced() -> Finish:
    """Nothing."""
    return lambda: None


def flowtrace_traced() -> Finish:
    """The process was started by flowtrace-run; make sure that it does what is measured."""
    assert workload.Empty.method.__code__.co_consts != plain_constants(), "not instrumented"
    return lambda: None


def flowtrace_off() -> Finish:
    """Traced, and switched off at run time."""
    from flowtrace import agent

    assert agent._agent is not None
    assert agent._agent.switch(on=False) > 0
    return lambda: None


def wrapt_record() -> Finish:
    """A wrapt wrapper as one would write it by hand, that records the same: names, values, ids, times, parent."""
    import orjson
    import wrapt

    queue: collections.deque[tuple[Any, ...]] = collections.deque(maxlen=4 * BURST)
    current: contextvars.ContextVar[int | None] = contextvars.ContextVar("current", default=None)
    numbers, clock, thread = itertools.count(), time.monotonic_ns, __import__("threading").get_native_id

    @wrapt.decorator
    def record(wrapped: Any, instance: object, args: Any, kwargs: Any) -> Any:
        values = dict(zip(("number", "text"), args, strict=False), **kwargs)
        parent, span = current.get(), next(numbers)
        token = current.set(span)
        begin = clock()
        queue.append(("ENTER", span, parent, begin, thread(), orjson.dumps(values, default=repr)))
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            queue.append(("EXCEPTION", span, parent, clock() - begin, thread(), repr(error)))
            raise
        else:
            queue.append(("EXIT", span, parent, clock() - begin, thread(), orjson.dumps(result, default=repr)))
            return result
        finally:
            current.reset(token)

    workload.Empty.method = record(workload.Empty.method)  # type: ignore[method-assign]
    return lambda: None


def viztracer() -> Finish:
    """VizTracer with arguments and results, written as JSON at the end."""
    from viztracer import VizTracer  # type: ignore[import-not-found]

    tracer = VizTracer(log_func_args=True, log_func_retval=True, tracer_entries=2 * BURST * (BURSTS + 1), verbose=0)
    tracer.start()

    def finish() -> None:
        tracer.stop()
        with tempfile.TemporaryDirectory() as folder:
            tracer.save(f"{folder}/trace.json")

    return finish


def opentelemetry() -> Finish:
    """A span per call with the same values as attributes, batched, to an exporter that throws them away."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider  # type: ignore[import-not-found]
    from opentelemetry.sdk.trace.export import (  # type: ignore[import-not-found]
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    class Nowhere(SpanExporter):  # type: ignore[misc]
        def export(self, spans: object) -> Any:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=4 * BURST, schedule_delay_millis=100))
    trace.set_tracer_provider(provider)
    tracer, plain = trace.get_tracer(__name__), workload.Empty.method

    def method(self: workload.Empty, number: int, text: str) -> None:
        with tracer.start_as_current_span("Empty.method", attributes={"number": number, "text": text}) as span:
            result = plain(self, number, text)
            span.set_attribute("result", "void" if result is None else repr(result))
            return result

    workload.Empty.method = method  # type: ignore[method-assign]
    return lambda: provider.shutdown()


def plain_constants() -> tuple[object, ...]:
    """The constants of the method as Python compiles it."""
    code = compile(Path(workload.__file__).read_text(), "x", "exec")
    body = next(constant for constant in code.co_consts if getattr(constant, "co_name", "") == "Empty")
    method = next(constant for constant in body.co_consts if getattr(constant, "co_name", "") == "method")
    constants: tuple[object, ...] = method.co_consts
    return constants


FLOWTRACE: dict[str, Any] = {"targets": [{"modules": ["workload"]}]}
NOT_A_TARGET: dict[str, Any] = {"targets": [{"modules": ["another"]}]}
NO_VALUES: dict[str, Any] = {**FLOWTRACE, "capture": {"args": False, "result": False}}

WAYS: dict[str, tuple[Callable[[], Finish], dict[str, Any] | None]] = {
    "untraced": (untraced, None),
    "flowtrace": (flowtrace_traced, FLOWTRACE),
    "flowtrace, without values": (flowtrace_traced, NO_VALUES),
    "flowtrace, switched off": (flowtrace_off, FLOWTRACE),
    "flowtrace, not a target": (untraced, NOT_A_TARGET),
    "wrapt wrapper by hand": (wrapt_record, None),
    "VizTracer": (viztracer, None),
    "OpenTelemetry span": (opentelemetry, None),
}


def measure(way: str) -> dict[str, float]:
    """In a process of its own: nanoseconds per call, in the caller and of CPU time of the process."""
    call = workload.Empty().method
    for _ in range(BURST):  # what CPython specializes, it has specialized
        call(7, "seven")
    finish = WAYS[way][0]()
    call = workload.Empty().method
    _burst(call)
    _wait_until_idle()
    began = time.process_time_ns()
    bursts = []
    for _ in range(BURSTS):
        bursts.append(_burst(call))
        _wait_until_idle()
    finish()
    cpu = time.process_time_ns() - began
    caller, caller_cpu = (statistics.median(times) / BURST for times in zip(*bursts, strict=True))
    return {"caller": caller, "caller CPU": caller_cpu, "process CPU": cpu / (BURST * BURSTS)}


def _burst(call: Callable[[int, str], None]) -> tuple[int, int]:
    began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
    for _ in itertools.repeat(None, BURST):
        call(7, "seven")
    ended_cpu, ended = time.thread_time_ns(), time.perf_counter_ns()
    return ended - began, ended_cpu - began_cpu


def _wait_until_idle() -> None:
    while True:
        before = time.process_time_ns()
        time.sleep(0.12)  # a little more than the flush interval
        if time.process_time_ns() - before < 1_000_000:
            return


def run(way: str, folder: Path) -> dict[str, float]:
    """Measure one way in a new process."""
    config = WAYS[way][1]
    command = [sys.executable, __file__, "--measure", way]
    if config is not None:
        path = folder / "config.yaml"
        path.write_text(json.dumps({**config, "sinks": [{"type": "file", "path": f"{folder}/{{pid}}.jsonl"}]}))
        command = [str(Path(sys.executable).with_name("flowtrace-run")), "--quiet", "--config", str(path), *command]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    if config is not None:
        _check_nothing_lost(folder)
    return measured


def _check_nothing_lost(folder: Path) -> None:
    for path in folder.glob("*.jsonl*"):
        stop = json.loads(path.read_bytes().splitlines()[-1])
        assert stop["event"] == "STOP", f"not complete: {stop}"
        assert not any(stop["lost"].values()), f"measured with losses: {stop}"
        path.unlink()


def main() -> None:
    """Measure all ways in turns, print a table, write ``results/calls.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how many processes of each way")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of: {', '.join(WAYS)}")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    ways = [way for way in WAYS if way == "untraced" or not options.only or way in options.only]
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for way in ways:
                measured[way].append(run(way, Path(folder)))
    _report(measured)


def _report(measured: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        way: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for way, rounds in measured.items()
    }
    base = medians["untraced"]
    added = {way: {key: value[key] - base[key] for key in value} for way, value in medians.items() if way != "untraced"}
    own = added.get("flowtrace")
    rows = [
        [way, *(cell for key in base for cell in (f"{value[key]:,.0f}", f"{value[key] / own[key]:.2f}" if own else ""))]
        for way, value in added.items()
    ]
    print(f"\nAn untraced call takes {base['caller']:.0f} ns. Tracing adds, in ns per call, and in flowtrace's own:\n")
    print(report.table(["way", *(cell for key in base for cell in (key, ""))], rows))
    path = report.save("calls", {"unit": "ns per call", "median": medians, "added": added, "rounds": measured})
    print(f"\nwritten to {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
