"""Processes that die at random moments: their files can be read, and little is missing at the end.

Each test runs some chains of processes side by side; those of a chain write to the same file, one after the other, so
each start mends what the death before it has torn.
"""

from __future__ import annotations

import array
import itertools
import random
import shutil
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import doomed
import orjson
import pytest
from harness import ENDURANCE, Tracer, wait_until
from ledger import assert_balanced

PROGRAM = str(Path(__file__).with_name("doomed.py"))
CHAINS = 4  # at a time: the programs sleep most of their time
DEATHS = 125 if ENDURANCE else 9  # in each of eight tests that kill, on three Pythons; half as many in the others
INTERVAL_MS = 100
PROMISED_MS = INTERVAL_MS + 50
LONGEST_LIFE_S = 0.5

SMALL, LARGE = 20, 100_000  # characters: batches of some kilobytes, and of megabytes, which a death may tear


class Death(NamedTuple):
    """What is missing of one process.

    Attributes:
        calls: How many it has made.
        missing: How many of these are not in the file.
        oldest_ms: How old the oldest of them was when the process died.
        starved_ms: For how long, since that was made, a thread that wanted to go on could not.
    """

    calls: int
    missing: int
    oldest_ms: float
    starved_ms: float


@pytest.mark.parametrize(
    ("way", "size", "part"),
    [("killed", SMALL, part) for part in range(6)]
    + [("killed", LARGE, part) for part in range(2)]
    + [(way, SMALL, 0) for way in ("segmentation fault", "abort", "os._exit")],
)
@pytest.mark.timeout(1800 if ENDURANCE else 120)
def test_file_of_a_process_that_dies_is_whole_but_for_its_end(tmp_path: Path, way: str, size: int, part: int) -> None:
    """Whole lines but one at most, no gap, and what is missing is younger than the flush interval and 50 ms.

    That holds for each death; where a thread that the agent knows nothing of had to wait, the agent's may have, too.
    """
    # fault P6, C9, S6
    chance = random.Random(f"{way} {size} {part}")
    count = DEATHS if way == "killed" else DEATHS // 2
    plans = [[Plan(way, size, chance) for _ in range(i, count, CHAINS)] for i in range(CHAINS)]

    with ThreadPoolExecutor(CHAINS) as pool:
        chains = list(pool.map(lambda item: chain(tmp_path / str(item[0]), item[1]), enumerate(plans)))

    deaths = [death for each in chains for death in each]
    assert len(deaths) == count
    ages = sorted(death.oldest_ms for death in deaths)
    p50, p90 = statistics.median(ages), ages[int(len(ages) * 0.9)]
    print(f"{way}, {size}: the oldest missing call p50 {p50:.0f} ms, p90 {p90:.0f} ms, most {ages[-1]:.0f} ms")
    assert [death for death in deaths if death.oldest_ms > PROMISED_MS + death.starved_ms] == []
    assert p50 <= PROMISED_MS, deaths
    assert sum(death.calls for death in deaths) > len(deaths) * 50


def test_line_that_a_death_has_torn_is_ended_by_the_next_start(tmp_path: Path) -> None:
    """Half a line stays on a line of its own: what comes after it can be read."""
    # fault P6, S6
    (tmp_path / "traces").mkdir()
    tracer, path = Tracer(tmp_path), tmp_path / "traces" / "all.jsonl"
    plan = Plan("abort", SMALL, random.Random(1))
    plan.after_s = LONGEST_LIFE_S
    run(tracer, plan, tmp_path / "times-0")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])

    run(tracer, plan, tmp_path / "times-1")

    result = assert_balanced(tmp_path / "traces", ended=False, torn=1)
    assert len(result.accounts) == 2
    assert result.torn == [f"all.jsonl:{whole.count(10)}"]


class Plan:
    """How and when a process is to die: after so many seconds from its first call, or from its start."""

    def __init__(self, way: str, size: int, chance: random.Random) -> None:
        self.way, self.size = way, size
        self.after_s = chance.uniform(0, LONGEST_LIFE_S)
        self.from_start = way == "killed" and chance.random() < 0.1


def chain(folder: Path, plans: list[Plan]) -> list[Death]:
    """Run processes that all write to one file, one after the other; returns what is missing of each."""
    (folder / "traces").mkdir(parents=True)
    tracer = Tracer(folder)
    ran = [
        (run(tracer, plan, folder / f"times-{number}"), folder / f"times-{number}") for number, plan in enumerate(plans)
    ]
    path = folder / "traces" / "all.jsonl"
    if path.exists() and path.stat().st_size:  # else all died within their first interval, as `death` sees
        assert_balanced(folder / "traces", ended=False, torn=len(plans))
    entered = numbers_entered(path)
    shutil.rmtree(folder / "traces")  # hundreds of megabytes, which pytest would keep
    return [death(times, entered.get(pid, 0)) for pid, times in ran]


def run(tracer: Tracer, plan: Plan, times: Path) -> int:
    """Start a process and see it die; returns its process id."""
    times.write_bytes(bytes(doomed.CALLS * 8))
    config = {
        "targets": [{"modules": ["__main__"], "exclude": ["tick"]}],
        "capture": {"max_string": max(SMALL, plan.size), "max_bytes": "1MiB"},
        "flush": {"interval": f"{INTERVAL_MS}ms"},
        "sinks": [{"type": "file", "path": f"{tracer.traces}/all.jsonl", "rotate": {"max_size": "1GiB"}}],
    }
    running = tracer.start(
        [sys.executable, PROGRAM, str(times), plan.way, str(plan.after_s), str(plan.size)], config=config
    )
    if plan.way == "killed":
        if not plan.from_start:
            wait_until(lambda: times.read_bytes().strip(b"\0") or running.process.poll() is not None)
        time.sleep(plan.after_s)
        running.process.kill()
    status = running.process.wait(30)
    assert status == STATUS[plan.way], running.stderr
    return running.pid


STATUS = {
    "killed": -signal.SIGKILL,
    "segmentation fault": -signal.SIGSEGV,
    "abort": -signal.SIGABRT,
    "os._exit": 3,
}


def numbers_entered(path: Path) -> dict[int, int]:
    """By process, how many calls are there; that there are no gaps is the audit's to see."""
    found: dict[int, int] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            event = orjson.loads(line)
        except ValueError:
            continue  # torn
        if event["event"] == "EXIT" and event["function"] == "call":
            assert int(event["result"]) == found.get(event["pid"], 0)
            found[event["pid"]] = int(event["result"]) + 1
    return found


def death(path: Path, delivered: int) -> Death:
    """Compare what a process has called with how many of these calls were delivered."""
    called = [time_ns for time_ns in numbers(path) if time_ns]
    missing = called[delivered:]
    if not missing:
        return Death(len(called), 0, 0.0, 0.0)
    ticks = numbers(path.with_name(f"{path.name}.ticks"))
    return Death(len(called), len(missing), (called[-1] - missing[0]) / 1e6, starved_ms(ticks, missing[0], called[-1]))


def starved_ms(ticks: array.array[int], begin: int, end: int) -> float:
    """The longest time between ticks, beyond what is between them on an idle machine; up to the end at least."""
    times = [*(tick for tick in ticks if tick < end), end]
    gaps = [after - before for before, after in itertools.pairwise(times) if after > begin]
    return max(0.0, max(gaps, default=0) / 1e6 - doomed.TICK_S * 1e3)


def numbers(path: Path) -> array.array[int]:
    """The whole numbers of 64 bits in a file."""
    data = path.read_bytes() if path.exists() else b""
    return array.array("Q", data[: len(data) // 8 * 8])
