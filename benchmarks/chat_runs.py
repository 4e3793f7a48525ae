"""One run of the chat under load: a server, the clients in a process of their own, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chat_load
import chat_receiver
from chat_ways import BIN, ROOT, Failure, Recorded, Way

START_S, STOP_S = 60, 120
LARGE = 100_000  # deliveries that coming makes: beyond, a crowd is measured once
FILES = 200  # beside connections
MOST_OF_A_CORE = 0.9  # that the clients may need, beside a server that is not at its limit
LIMITS = {"CHAT_MAX_MESSAGES_PER_SECOND": "1000000"}  # people are slower


class Crowd(NamedTuple):
    """How many clients, in how many rooms."""

    connections: int
    rooms: int

    def __str__(self) -> str:
        if self.connections == 1:
            return "1 connection"
        return f"{self.connections:,} connections in " + ("one room" if self.rooms == 1 else f"{self.rooms} rooms")

    @property
    def is_large(self) -> bool:
        """Whether coming alone is a load."""
        return self.connections**2 // (2 * self.rooms) > LARGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One way with one crowd: what the clients say, and what was recorded."""

    outcome: chat_load.Outcome
    recorded: Recorded

    @property
    def rate(self) -> float:
        """Deliveries per second."""
        return self.outcome.deliveries / self.outcome.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server a delivery, as fast as it goes."""
        return self.outcome.server_cpu_s / self.outcome.deliveries * 1e6

    @property
    def share(self) -> float:
        """Of a core that the server had."""
        return self.outcome.server_cpu_s / self.outcome.wall_s

    @property
    def calls_a_delivery(self) -> float | None:
        """Calls that are there, as fast as it goes."""
        found = self.recorded.window_records
        return found / self.outcome.deliveries if found and self.recorded.lost == 0 else None


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program for the time of a ``with`` block, in a session of its own: Ctrl-C is ours, and we end it."""
    with log.open("a") as file:
        running = subprocess.Popen(command, stderr=file, text=True, start_new_session=True, **options)
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout):
            if pipe is not None:
                pipe.close()


def measure(way: type[Way], crowd: Crowd, *, seconds: float, rate: float) -> Run:
    """Start receiver and server, let the crowd in, and look at what was recorded.

    Raises:
        Failure: something did not go as it should.
    """
    with tempfile.TemporaryDirectory(prefix="chat-") as name:
        folder, log = Path(name), Path(name) / "log.txt"
        try:
            return _measure(way, crowd, folder, log, seconds=seconds, rate=rate)
        except Failure as failure:
            told = log.read_text(errors="replace").strip()[-2000:]
            raise Failure(f"{way.title}, {crowd}: {failure}\n{told}") from failure


def _measure(way: type[Way], crowd: Crowd, folder: Path, log: Path, *, seconds: float, rate: float) -> Run:
    receiver = [sys.executable, chat_receiver.__file__, str(folder)]
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with process(receiver, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as receiving:
        assert receiving.stdout is not None
        traced = way(folder, f"http://127.0.0.1:{int(receiving.stdout.readline())}")
        command = [*traced.command(), str(BIN / "uvicorn"), "sample_app:app", "--app-dir", str(ROOT)]
        command += ["--port", str(port), "--log-level", "warning"]
        with process(command, log, cwd=folder, env={**os.environ, **LIMITS, **traced.variables()}) as server:
            _wait_until_served(url, server)
            plan = chat_load.Plan(
                url=url, pid=server.pid, connections=crowd.connections, rooms=crowd.rooms, seconds=seconds,
                deliveries_per_s=rate,
            )  # fmt: skip
            outcome = _load(plan, log)
            server.terminate()
            try:
                status = server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                raise Failure(f"the server has not ended {STOP_S} s after SIGTERM") from None
            if status not in (0, -signal.SIGTERM):
                raise Failure(f"the server has ended with {status}")
    clients = outcome.clients_cpu_s / outcome.wall_s
    if clients > MOST_OF_A_CORE > outcome.server_cpu_s / outcome.wall_s:
        raise Failure(f"the clients are what was measured: they had {clients:.0%} of a core")
    return Run(outcome=outcome, recorded=traced.check(plan, outcome))


def _load(plan: chat_load.Plan, log: Path) -> chat_load.Outcome:
    command = [sys.executable, chat_load.__file__, json.dumps(dataclasses.asdict(plan))]
    with process(command, log, stdout=subprocess.PIPE) as clients:
        told, _ = clients.communicate()
    if clients.returncode:
        raise Failure(f"the clients have ended with {clients.returncode}")
    return chat_load.Outcome(**json.loads(told))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _wait_until_served(url: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=START_S):
            return
        time.sleep(0.05)
    raise Failure(f"the server has ended with {server.returncode}" if server.poll() else "the server does not answer")


def allow_files(connections: int) -> None:
    """Let this process, and those that it starts, open files for so many connections.

    Raises:
        Failure: the hard limit forbids it.
    """
    needed = connections + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Failure(f"{needed:,} open files are needed, {hard:,} allowed: raise it by `ulimit -Hn {needed}` as root")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
