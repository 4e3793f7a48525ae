"""An outage: the receiver is away for a while, and everything arrives once, in order, soon after it is back.

With FLOWTRACE_ENDURANCE=1 it is away for a minute while 20,000 events a second are made.
"""

from __future__ import annotations

import gzip
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import doomed
import orjson
import pytest
import test_crash
from harness import ENDURANCE, Event, Running, Tracer, by_process, check_conservation, wait_until

from tests.faults.chaos_server import ChaosServer, answer, hang, running

AWAY_S, CALLS_A_SECOND = (60.0, 10_000) if ENDURANCE else (5.0, 2_000)
MAX_SPOOL_BYTES = 64 * 2**20
MAX_RESIDENT_BYTES = 200 * 2**20
DRAINED_WITHIN_S = 30.0  # after the receiver is back
SAMPLED_S = 0.1
KILLS = 50 if ENDURANCE else 5
INTERVAL_MS, MAX_WAIT_MS = 100, 50
PROMISED_MS = INTERVAL_MS + MAX_WAIT_MS + 50
HOPS = 3  # threads that an event passes through on its way to the disk: the dispatcher's, the lane's, the courier's

PROGRAM = """
import os, sys, time

def total(order):
    return order * 3

def work(calls_a_second, flag):
    made, begin = 0, time.monotonic()
    while not os.path.exists(flag):
        due = int((time.monotonic() - begin) * calls_a_second)
        while made < due:
            total(made)
            made += 1
        time.sleep(0.005)
    print(made, round(made / (time.monotonic() - begin)))

work(int(sys.argv[1]), sys.argv[2])
"""


class Outage(NamedTuple):
    """What was seen of one.

    Attributes:
        spool_bytes: The largest size of the spool.
        resident_bytes: The largest memory of the process.
        drained_after_s: From the return of the receiver until the spool was empty, while the program went on.
        made: The calls that the program made, by its own count.
        calls_a_second: How many these were in a second.
        stop: The program's STOP event.
    """

    spool_bytes: int
    resident_bytes: int
    drained_after_s: float
    made: int
    calls_a_second: int
    stop: Event


@pytest.fixture
def receiver() -> Iterator[ChaosServer]:
    """A server that takes events."""
    with running() as server:
        yield server


@pytest.mark.timeout(300)
@pytest.mark.parametrize("away", ["refuses", "hangs"])
def test_outage(tracer: Tracer, receiver: ChaosServer, away: str) -> None:
    """None is lost, none comes twice, all in order; spool and memory stay small and the spool is soon empty again."""
    # fault S10, S15, S16
    spool = tracer.folder / "spool"
    outage = endure(tracer, receiver, spool, away)

    arrived = [*receiver.stored_events, *left_in(spool)]
    print(outage)  # for who runs it with -s
    check_conservation(arrived, sink="http")
    assert outage.stop["lost"] == {"http": 0}
    assert sum(event["event"] == "ENTER" and event["function"] == "total" for event in arrived) == outage.made
    assert receiver.doubles == [], [
        request.at_s for request in receiver.requests if request.batch_id in receiver.doubles
    ]
    numbers = [event["seq"] for event in arrived if event["event"] in ("ENTER", "EXIT")]
    assert numbers == sorted(numbers)
    assert outage.calls_a_second >= 0.95 * CALLS_A_SECOND, "the program was held up"
    assert 0 < outage.spool_bytes < MAX_SPOOL_BYTES
    assert outage.drained_after_s < DRAINED_WITHIN_S
    assert outage.resident_bytes < MAX_RESIDENT_BYTES


def test_processes_share_a_spool(tracer: Tracer, receiver: ChaosServer) -> None:
    """Three processes wait for one receiver, one of them is killed: each event on disk arrives once, by one of them."""
    # fault S20, P6
    spool, flag = tracer.folder / "spool", tracer.folder / "enough"
    config = {
        "sinks": [{"type": "http", "url": receiver.url, "batch": {"max_wait": "50ms"}, "spool": {"dir": str(spool)}}]
    }
    receiver.stop()
    processes = [tracer.start(steady(tracer.folder, 500, flag), config=config) for _ in range(3)]
    for process in processes:
        wait_until(lambda pid=process.pid: len([*spool.glob(f"*/*-{pid}-*.gz")]) > 5, "batches wait")

    processes[0].process.kill()
    processes[0].process.wait()
    receiver.up()
    wait_until(lambda: not any(spool.glob("*/*.gz")), "the spool is empty", deadline_s=DRAINED_WITHIN_S)
    processes[1].process.kill()  # perhaps the one that delivers
    processes[1].process.wait()
    wait_until(lambda: not any(spool.glob("*/*.gz")), "the spool is empty", deadline_s=DRAINED_WITHIN_S)
    flag.touch()
    processes[2].wait()

    arrived = by_process([*receiver.stored_events, *left_in(spool)])
    assert {process.pid for process in processes} == {*arrived}
    check_conservation(arrived[processes[2].pid], sink="http")
    for process in processes:
        check_nothing_missing_but_the_end(arrived[process.pid])


@pytest.mark.timeout(1_200 if ENDURANCE else 240)
def test_what_a_kill_takes_where_batches_wait_on_disk(tmp_path: Path, tracer: Tracer, receiver: ChaosServer) -> None:
    """Of a killed process all is on disk but the last moments: `flush.interval`, `batch.max_wait` and 50 ms.

    That holds for each death; where a thread that the agent knows nothing of had to wait for the processor, or the
    spool for the disk, each of the threads that an event passes through may have had to, too.
    """
    # fault P6
    receiver.stop()
    spool, chance = tmp_path / "spool", random.Random("kills")

    kills = [kill(tracer, receiver, spool, tmp_path / f"times-{number}", chance) for number in range(KILLS)]
    flag = tmp_path / "enough"
    receiver.up()
    last = tracer.start(steady(tmp_path, 10, flag), config=spooled(receiver, spool))
    wait_until(lambda: receiver.stored and not any(spool.glob("*/*.gz")), "the next run has delivered it")
    flag.touch()
    last.wait()

    arrived = by_process([*receiver.stored_events, *left_in(spool)])
    assert {*arrived} == {last.pid, *(killed.pid for killed in kills)}
    assert receiver.doubles == []
    for killed in kills:
        check_nothing_missing_but_the_end(arrived[killed.pid])
        exits = [int(e["result"]) for e in arrived[killed.pid] if e["event"] == "EXIT" and e["function"] == "call"]
        assert exits == [*range(len(exits))]
        death = test_crash.death(killed.times, len(exits))
        print(death, killed)  # for who runs it with -s
        assert death.calls > 100
        assert death.oldest_ms <= PROMISED_MS + HOPS * (death.starved_ms + killed.disk_ms)


class Killed(NamedTuple):
    """A process that was killed.

    Attributes:
        pid: Its process id.
        times: When it made its calls, as `doomed` writes it down.
        disk_ms: The longest that it took to bring a batch to the disk.
    """

    pid: int
    times: Path
    disk_ms: float


def kill(tracer: Tracer, receiver: ChaosServer, spool: Path, times: Path, chance: random.Random) -> Killed:
    """Run a program that calls and calls, and kill it when batches of it wait on disk."""
    times.write_bytes(bytes(doomed.CALLS * 8))
    command = [sys.executable, doomed.__file__, str(times), "killed", "60", "20"]
    running = tracer.start(command, config=spooled(receiver, spool))
    wait_until(lambda: [*spool.glob(f"*/*-{running.pid}-*.gz")][2:] or running.process.poll() is not None)
    time.sleep(chance.uniform(0, 0.5))
    running.process.kill()
    status, now_ns = running.process.wait(30), time.time_ns()
    assert status == -signal.SIGKILL, running.stderr
    puts = [
        (path.stat().st_ctime_ns if path.suffix == ".gz" else now_ns) - int(path.name.partition("-")[0])
        for path in spool.glob(f"*/*-{running.pid}-*.gz*")
    ]
    return Killed(running.pid, times, max(puts) / 1e6)


def spooled(receiver: ChaosServer, spool: Path) -> dict[str, Any]:
    """The configuration of a program whose batches wait on disk."""
    sink = {
        "type": "http",
        "url": receiver.url,
        "batch": {"max_wait": f"{MAX_WAIT_MS}ms"},
        "spool": {"dir": str(spool)},
    }
    return {
        "targets": [{"modules": ["__main__"], "exclude": ["tick"]}],
        "flush": {"interval": f"{INTERVAL_MS}ms"},
        "sinks": [sink],
    }


def check_nothing_missing_but_the_end(events: Sequence[Event]) -> None:
    """Assert that one process's events come once and in order, and are all up to the last of them."""
    calls = [event["seq"] for event in events if event["event"] in ("ENTER", "EXIT")]
    numbers = sorted(event["seq"] for event in events)
    assert calls == sorted(calls)
    assert events[0]["event"] == "START"
    assert numbers == [*range(events[0]["seq"], events[0]["seq"] + len(numbers))]


def steady(folder: Path, calls_a_second: int, flag: Path) -> list[str]:
    """The command of a program that makes so many calls a second, until there is a file."""
    program = folder / "steady.py"
    program.write_text(PROGRAM)
    return ["python", str(program), str(calls_a_second), str(flag)]


def endure(tracer: Tracer, receiver: ChaosServer, spool: Path, away: str) -> Outage:
    """Run the program, with a receiver that goes away and comes back meanwhile."""
    flag = tracer.folder / "enough"
    sink = {"type": "http", "url": receiver.url, "timeout": "2s", "spool": {"dir": str(spool)}}
    process = tracer.start(steady(tracer.folder, CALLS_A_SECOND, flag), config={"sinks": [sink]})
    wait_until(lambda: len(receiver.stored) > 1, "events arrive")

    if away == "refuses":
        receiver.stop()
    else:
        receiver.always = hang
    largest = observe(process, spool, AWAY_S)
    if away == "refuses":
        receiver.up()
    else:
        receiver.always = answer(200)
    back = time.monotonic()
    wait_until(lambda: not any(spool.glob("*/*.gz")), "the spool is empty again", deadline_s=DRAINED_WITHIN_S)
    drained_after_s = time.monotonic() - back

    resident = resident_bytes(process)
    flag.touch()
    ended = process.wait()
    assert ended.returncode == 0, ended.stderr
    [stop] = [event for event in itertools.chain(receiver.stored_events, left_in(spool)) if event["event"] == "STOP"]
    made, calls_a_second = map(int, ended.stdout.split())
    return Outage(largest, resident, drained_after_s, made, calls_a_second, stop)


def observe(process: Running, spool: Path, seconds: float) -> int:
    """The largest size of the spool within some seconds, in which the program goes on."""
    largest, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.process.poll() is None, process.stderr
        largest = max(largest, waiting(spool))
        time.sleep(SAMPLED_S)
    return largest


def waiting(spool: Path) -> int:
    """The bytes of what waits."""
    size = 0
    for path in spool.glob("*/*.gz"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # delivered meanwhile
            continue
    return size


def left_in(spool: Path) -> list[Event]:
    """The events that wait."""
    bodies = [gzip.decompress(path.read_bytes()) for path in sorted(spool.glob("*/*.gz"))]
    return [orjson.loads(line) for body in bodies for line in body.splitlines()]


def resident_bytes(process: Running) -> int:
    """The most memory that a process has had; 0 where the system does not say."""
    path = Path(f"/proc/{process.pid}/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
