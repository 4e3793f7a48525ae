"""The program that `scale.py` starts: it makes calls in bursts, and says what each has cost.

A burst fits in the queue, and is over before the dispatcher's next turn. Then the program has all that it has recorded
delivered, so that the next burst finds an empty queue; where it should find a full one, `queue` says how.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib
import inspect
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scale_targets import Targets
from wrapped import Wrapt

BURST = 12_800  # calls: 25,600 events, for which no dispatcher is woken early
BLOCK = 50  # calls of a thread, before it lets another go on
POLL_S = 0.01  # in which threads that have been woken find that there is nothing left to do
WRITTEN_S = 10.0  # after which all must be in the file of a thread that writes it
FUNCTIONS = "scale_functions"  # a module that is made for the purpose, with as many methods
TARGETS = Targets()
CAPACITY = 32_768  # calls that a queue of 65,536 events holds
NEVER_S = 60.0
STEADY_S = 1.0  # until queue, lane and pipe are full

Spent = tuple[int, int]  # wall and CPU nanoseconds, of the calling threads


class Burst(NamedTuple):
    """What a call has cost in nanoseconds, on average over a burst."""

    wall: float
    caller_cpu: float
    process_cpu: float


class Meter:
    """Measures bursts of one way, and counts their calls.

    Args:
        settle: Waits until what was recorded is where it goes.
        bursts: How many to measure at each point.

    Attributes:
        calls: Made so far.
        lost: Those of them that found the queue full.
        window: From when to when `sustained` has measured, in nanoseconds of the system's monotonic clock.
    """

    def __init__(self, settle: Callable[[], None], bursts: int) -> None:
        self.settle, self.bursts, self.calls, self.lost = settle, bursts, 0, 0
        self.window = (0, 0)

    def take(self, work: Callable[[], Spent], calls: int) -> Burst:
        """One burst, which makes so many calls, until all of it is delivered."""
        began = time.process_time_ns()
        wall, caller = work()
        self.settle()
        process = time.process_time_ns() - began
        self.calls += calls
        return Burst(wall / calls, caller / calls, process / calls)

    def several(self, work: Callable[[], Spent], calls: int) -> list[Burst]:
        """So many bursts as wanted, after one in which all becomes warm."""
        return [self.take(work, calls) for _ in range(self.bursts + 1)][1:]


def timed(body: Callable[[], object]) -> Spent:
    """What ``body`` costs the calling thread."""
    began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
    body()
    ended_cpu, ended = time.thread_time_ns(), time.perf_counter_ns()
    return ended - began, ended_cpu - began_cpu


def leaves(count: int) -> Callable[[], None]:
    """Calls so many times, and nothing else."""
    leaf = TARGETS.leaf

    def body() -> None:
        for _ in itertools.repeat(None, count):
            leaf(7, "seven")

    return body


# -- what is scaled: each gives the bursts of its points -------------------------------------------------------------

Points = dict[str, list[Burst]]


def calls(most: int, meter: Meter) -> Points:
    """After 0, 1, 10, 100 ... calls of this process, up to ``most``; those in between are made as fast as may be."""
    points: Points = {}
    before = [0, *(10**exponent for exponent in range(8) if 10**exponent < most), most]
    for here, there in itertools.pairwise([*before, most + 1 + meter.bursts * BURST]):
        points[str(here)] = found = []
        while len(found) < meter.bursts and meter.calls < there:
            count = min(BURST, there - meter.calls)
            found.append(meter.take(functools.partial(timed, leaves(count)), count))
            found.append(meter.take(lambda count=count: timed(leaves(count)), count))  # type: ignore[misc]
        rest = max(0, there - meter.calls) if here < most else 0
        leaves(rest)()
        meter.calls += rest
        meter.settle()
    return points


def threads(count: int, meter: Meter) -> Points:
    """As many threads, new ones in each burst, that take turns."""
    blocks = BURST // BLOCK // count

    def work() -> Spent:
        gate, spent = threading.Barrier(count + 1), []

        def run() -> None:
            block = leaves(BLOCK)
            gate.wait()
            began = time.thread_time_ns()
            for _ in itertools.repeat(None, blocks):
                block()
                time.sleep(0)
            spent.append(time.thread_time_ns() - began)

        runners = [threading.Thread(target=run) for _ in range(count)]
        for runner in runners:
            runner.start()
        gate.wait()
        began = time.perf_counter_ns()
        for runner in runners:
            runner.join()
        return time.perf_counter_ns() - began, sum(spent)

    return {str(count): meter.several(work, blocks * BLOCK * count)}


def functions(count: int, meter: Meter) -> Points:
    """As many functions, each of which is called once before the first is called again."""
    instance = importlib.import_module(FUNCTIONS).Functions()
    order = [getattr(instance, f"method_{number}") for number in range(count)]
    random.Random(count).shuffle(order)
    order *= BURST // count

    def body() -> None:
        for function in order:
            function(7, "seven")

    return {str(count): meter.several(lambda: timed(body), len(order))}


def tasks(count: int, meter: Meter) -> Points:
    """As many tasks, whose calls are open at the same time."""
    each = BURST // count

    async def main() -> Spent:
        gate, step = asyncio.Event(), TARGETS.step

        async def run() -> None:
            await gate.wait()
            for _ in range(each):
                await step(7, "seven")

        runners = [asyncio.create_task(run()) for _ in range(count)]
        await asyncio.sleep(0)
        began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
        gate.set()
        for runner in runners:
            await runner
        ended_cpu, ended = time.thread_time_ns(), time.perf_counter_ns()
        return ended - began, ended_cpu - began_cpu

    return {str(count): meter.several(lambda: asyncio.run(main()), each * count)}


def depth(count: int, meter: Meter) -> Points:
    """As many calls, each within the one before."""
    times = BURST // count

    def body() -> None:
        for _ in range(times):
            TARGETS.descend(count, "seven")

    return {str(count): meter.several(lambda: timed(body), times * count)}


def unwinding(count: int, meter: Meter) -> Points:
    """As many calls, each within the one before, that an exception leaves."""
    times = BURST // count

    def body() -> None:
        for _ in range(times):
            with contextlib.suppress(LookupError):
                TARGETS.fall(count, "seven")

    return {str(count): meter.several(lambda: timed(body), times * count)}


def queue(count: int, meter: Meter) -> Points:
    """Bursts of ``count`` calls that find the queue empty, nine tenths full, and full.

    That no other thread gets the interpreter for a minute keeps the dispatcher from emptying it meanwhile.
    """
    points: Points = {"empty": [], "nearly full": [], "full": []}
    burst = leaves(count)
    burst()
    meter.calls += count
    meter.settle()
    for _ in range(meter.bursts + 1):
        began, interval = time.process_time_ns(), sys.getswitchinterval()
        sys.setswitchinterval(NEVER_S)
        spent = [timed(burst)]
        leaves(CAPACITY * 9 // 10 - count)()
        spent.append(timed(burst))
        leaves(CAPACITY - CAPACITY * 9 // 10 - count)()
        spent.append(timed(burst))
        sys.setswitchinterval(interval)
        meter.settle()
        process = time.process_time_ns() - began
        meter.calls += CAPACITY + count
        meter.lost += count
        for found, (wall, caller) in zip(points.values(), spent, strict=True):
            found.append(Burst(wall / count, caller / count, process / (CAPACITY + count)))
    return {name: found[1:] for name, found in points.items()}


def sustained(seconds: int, meter: Meter) -> Points:
    """Calls without a pause, for so long; the first second, in which queues fill, does not count."""
    block = leaves(BLOCK)

    def until(deadline: float) -> int:
        made = 0
        while time.monotonic() < deadline:
            block()
            made += BLOCK
        return made

    meter.calls += until(time.monotonic() + STEADY_S)
    began, began_cpu, began_process = time.monotonic_ns(), time.thread_time_ns(), time.process_time_ns()
    made = until(time.monotonic() + seconds)
    caller, process = time.thread_time_ns() - began_cpu, time.process_time_ns() - began_process
    meter.window = began, time.monotonic_ns()
    meter.calls += made
    return {"steady": [Burst((meter.window[1] - began) / made, caller / made, process / made)]}


CASES: dict[str, Callable[[int, Meter], Points]] = {
    case.__name__: case for case in (calls, threads, functions, tasks, depth, unwinding, queue, sustained)
}


# -- how calls are traced --------------------------------------------------------------------------------------------


class Tracing(NamedTuple):
    """What waits until that is done with what was recorded; how many calls are recorded, where this process knows."""

    settle: Callable[[], None] = lambda: None
    recorded: Callable[[], int | None] = lambda: None


def untraced(owners: list[type]) -> Tracing:
    """Not at all."""
    return Tracing()


def traced(owners: list[type]) -> Tracing:
    """By flowtrace-run, which has started this process."""
    from flowtrace import agent

    running = agent._agent
    assert running is not None, "not started by flowtrace-run"

    def settle() -> None:
        running.deliver()
        time.sleep(POLL_S)

    return Tracing(settle)


def wrapped(owners: list[type]) -> Tracing:
    """By wrapt wrappers that record the same."""
    way = Wrapt(Path())
    way.prepare()
    for owner in owners:
        way.attach(owner, [name for name, _ in inspect.getmembers(owner, inspect.isfunction)])

    def settle() -> None:
        while way.queue:
            time.sleep(POLL_S)

    return Tracing(settle, lambda: sum(way.count().calls.values()))


WAYS: dict[str, Callable[[list[type]], Tracing]] = {"untraced": untraced, "flowtrace": traced, "wrapt": wrapped}


def main() -> None:
    """Measure one case, at one point, in one way; write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("point", type=int)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("bursts", type=int)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    sys.setrecursionlimit(10_000)  # wrappers take frames of their own
    owners: list[type] = [Targets]
    if options.case == "functions":
        methods = (f"    def method_{number}(self, number, text):\n        pass" for number in range(options.point))
        Path(f"{FUNCTIONS}.py").write_text("\n\n".join(["class Functions:", *methods]))
        sys.path.insert(0, "")
        owners.append(importlib.import_module(FUNCTIONS).Functions)
    tracing = WAYS[options.way](owners)
    meter = Meter(tracing.settle, options.bursts)
    result = {
        "points": CASES[options.case](options.point, meter),
        "calls": meter.calls,
        "lost": meter.lost,
        "window": meter.window,
    }
    deadline = time.monotonic() + WRITTEN_S
    while (recorded := tracing.recorded()) not in (None, meter.calls) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    options.result.write_text(json.dumps({**result, "recorded": recorded}))


if __name__ == "__main__":
    main()
