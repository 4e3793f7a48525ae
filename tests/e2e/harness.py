"""Runs programs under flowtrace as a person would, and reads what their processes have traced."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0  # for what takes a second on an idle machine
ENDURANCE = os.environ.get("FLOWTRACE_ENDURANCE") == "1"  # the long forms of tests

COMPILER = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
HEADER = Path(sysconfig.get_path("include"), "Python.h")
needs_compiler = pytest.mark.skipif(
    not (shutil.which(COMPILER) and HEADER.is_file()), reason=f"nothing to compile with: no {COMPILER}, or no {HEADER}"
)

Event = dict[str, Any]
Config = Mapping[str, Any] | str | None
FILE_SINK_ONLY: Config = MappingProxyType({})


def wait_until(condition: Callable[[], Any], what: str = "the condition", *, deadline_s: float = DEADLINE_S) -> Any:
    """Return what ``condition()`` gives as soon as that is true; fail after ``deadline_s`` seconds."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return value


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something accepts connections at ``port`` of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def launcher() -> list[str]:
    """The command ``flowtrace-run`` of the Python that runs the tests, installed or from the source tree."""
    script = Path(sys.executable).with_name("flowtrace-run")
    return [str(script)] if script.exists() else [sys.executable, "-Pc", "from flowtrace.cli.run import main; main()"]


def environment(**changes: str | None) -> dict[str, str]:
    """The environment for a program to be traced: internal errors of the agent are raised there, not swallowed.

    Args:
        changes: Variables to set, or with None to remove.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("FLOWTRACE", "PYTEST"))}
    environ |= {name: os.environ[name] for name in ("FLOWTRACE_PURE_PYTHON",) if name in os.environ}
    environ |= {"FLOWTRACE_STRICT": "1", **{name: value for name, value in changes.items() if value is not None}}
    return {name: value for name, value in environ.items() if changes.get(name, value) is not None}


def read_events(traces: Path) -> list[Event]:
    """All whole lines of all trace files, each file in its order."""
    texts = [path.read_bytes().rpartition(b"\n")[0] for path in sorted(traces.glob("*.jsonl*"))]
    return [json.loads(line) for text in texts for line in text.splitlines()]


@dataclass(frozen=True)
class Ended:
    """A program that has run.

    Attributes:
        pid: Its process id, which is also that of the launcher.
        returncode: Its exit status, or minus the number of the signal that killed it.
        stdout: What it wrote, UTF-8; other bytes are escaped as ``surrogateescape`` does, so nothing is lost.
        stderr: Likewise.
        traces: The folder of the trace files that the harness configured.
    """

    pid: int
    returncode: int
    stdout: str
    stderr: str
    traces: Path

    @property
    def events(self) -> list[Event]:
        """All events of all its processes."""
        return read_events(self.traces)

    @property
    def processes(self) -> dict[int, list[Event]]:
        """Its events by process id."""
        return by_process(self.events)

    @property
    def calls(self) -> list[str]:
        """The functions that were entered, in order, as ``Class.function`` or ``module.function``."""
        return [f"{event['class']}.{event['function']}" for event in self.events if event["event"] == "ENTER"]


class Running:
    """A program that runs; `stop` ends it."""

    def __init__(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], folder: Path) -> None:
        self.traces = folder / "traces"
        self._stdout, self._stderr = folder / f"stdout-{time.time_ns()}", folder / f"stderr-{time.time_ns()}"
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return _decoded(self._stdout.read_bytes())

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return _decoded(self._stderr.read_bytes())

    @property
    def events(self) -> list[Event]:
        """What has been traced so far."""
        return read_events(self.traces)

    def wait_for_port(self, port: int) -> None:
        """Wait until the program listens; fail where it ends instead."""
        wait_until(lambda: answers(port) or self.process.poll() is not None, f"port {port} answers\n{self.stderr}")
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.stderr}"

    def wait(self, *, timeout_s: float = DEADLINE_S) -> Ended:
        """Wait until it ends by itself."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout_s} s:\n{self.stdout}\n{self.stderr}") from None
        return Ended(self.pid, status, self.stdout, self.stderr, self.traces)

    def stop(self, number: int = signal.SIGTERM, *, timeout_s: float = DEADLINE_S) -> Ended:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.wait(timeout_s=timeout_s)

    def kill(self) -> None:
        """End it and its children, if anything of them is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)


class Tracer:
    """Runs commands in one folder, with a configuration that lets their events be read afterwards.

    Args:
        folder: Holds the configuration, the trace files and what is written to the standard streams.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.traces = folder, folder / "traces"
        self._running: list[Running] = []

    def run(
        self,
        args: Sequence[str],
        *,
        config: Config = FILE_SINK_ONLY,
        options: Sequence[str] = (),
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
    ) -> Ended:
        """Run ``flowtrace-run ARGS`` until it ends.

        Args:
            args: COMMAND and its arguments.
            config: Keys of the configuration, added to a file sink; a text is a whole YAML file; None: no file.
            options: Of flowtrace-run itself.
            cwd: The working directory, by default the folder of the test.
            env: Variables to set, or with None to remove.
            stdin: What the program can read.
            timeout: In seconds.
        """
        return self._run([*self._launch(config, options), *args], cwd, env, stdin, timeout)

    def run_plain(
        self,
        args: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
    ) -> Ended:
        """Run ``args`` without flowtrace, to compare."""
        return self._run(args, cwd, env, stdin, timeout)

    def start(
        self,
        args: Sequence[str],
        *,
        config: Config = FILE_SINK_ONLY,
        options: Sequence[str] = (),
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        port: int | None = None,
    ) -> Running:
        """Start ``flowtrace-run ARGS`` and return at once, or when ``port`` answers; killed when the test ends."""
        command = [*self._launch(config, options), *args]
        running = Running(command, cwd=cwd or self.folder, env=environment(**(env or {})), folder=self.folder)
        self._running.append(running)
        if port is not None:
            running.wait_for_port(port)
        return running

    def end(self) -> None:
        """Kill what still runs."""
        for running in self._running:
            running.kill()

    def _launch(self, config: Config, options: Sequence[str]) -> list[str]:
        if config is None:
            return [*launcher(), *options]
        if not isinstance(config, str):
            sink = {"type": "file", "path": f"{self.traces}/{{service}}-{{pid}}.jsonl"}
            config = json.dumps({"service": "test", "sinks": [sink], **config})  # JSON is YAML
        path = self.folder / "config.yaml"
        unfinished = path.with_suffix(".new")
        unfinished.write_text(config)
        unfinished.replace(path)  # at once: a program that was started a moment ago may be about to read it
        return [*launcher(), "--config", str(path), *options]

    def _run(
        self,
        command: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str | None] | None,
        stdin: bytes,
        timeout: float,
    ) -> Ended:
        with subprocess.Popen(
            command,
            cwd=cwd or self.folder,
            env=environment(**(env or {})),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"did not end within {timeout} s:\n{_decoded(out)}\n{_decoded(err)}") from None
        return Ended(process.pid, process.returncode, _decoded(out), _decoded(err), self.traces)


def by_process(events: Sequence[Event]) -> dict[int, list[Event]]:
    """Events by process id, in their order."""
    found: dict[int, list[Event]] = {}
    for event in events:
        found.setdefault(event["pid"], []).append(event)
    return found


def check_conservation(
    events: Sequence[Event], *, sink: str = "file", failures: int = 0, elsewhere: Collection[str | None] = ()
) -> None:
    """Assert that what was traced is complete or counted, for each process by itself.

    START comes first and STOP last; each number was written once or is counted as lost or discarded; recorded =
    delivered + lost + discarded; each ENTER has exactly one EXIT or EXCEPTION; the parent of each call was entered, in
    some process of the run.

    Args:
        events: Of any number of processes.
        sink: The name of the sink whose file they are from.
        failures: How many internal errors of the agent are expected at most, per process.
        elsewhere: Ids of spans that are none of these processes', and may be parents all the same.
    """
    assert events, "nothing was traced"
    entered = {event["spanId"] for event in events if event["event"] == "ENTER"} | {*elsewhere}
    for pid, own in by_process(events).items():
        _check_process(own, sink, failures, f"process {pid}")
        orphans = [event for event in own if event.get("parentId") and event["parentId"] not in entered]
        assert not orphans, f"process {pid}: parents were never entered: {orphans[:3]}"


def _check_process(events: Sequence[Event], sink: str, failures: int, what: str) -> None:
    names = [event["event"] for event in events]
    assert names[0] == "START", f"{what} begins with {events[0]}"
    assert names[-1] == "STOP", f"{what} ends with {events[-1]}"
    assert names.count("START") == names.count("STOP") == 1, f"{what}: {names}"
    stop = events[-1]
    recorded, delivered, lost = stop["recorded"], stop["delivered"][sink], stop["lost"][sink]
    assert recorded == delivered + lost + stop["discardedEvents"], f"{what}: {stop}"
    numbers = [event["seq"] for event in events]
    assert len(set(numbers)) == len(numbers), f"{what}: numbers occur twice"
    assert numbers[0] == min(numbers), f"{what}: START has the number {numbers[0]}, not the least"
    assert max(numbers) == stop["seq"], f"{what}: {stop} has not the greatest number"
    assert stop["seq"] - min(numbers) == recorded, f"{what}: {stop}, first {numbers[0]}"
    assert len(numbers) - 1 == delivered, f"{what}: {len(numbers)} lines, {stop}"
    assert stop["failures"] <= failures, f"{what}: the agent failed inside: {stop}"
    enters = [event["spanId"] for event in events if event["event"] == "ENTER"]
    leaves = [event["spanId"] for event in events if event["event"] in ("EXIT", "EXCEPTION")]
    assert len(set(enters)) == len(enters), f"{what}: a call was entered twice"
    assert sorted(enters) == sorted(leaves), f"{what}: {set(enters) ^ set(leaves)} entered or left only"


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
