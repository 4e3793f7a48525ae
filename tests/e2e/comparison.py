"""Runs programs without flowtrace and with it: they end alike, and what they count themselves is what is delivered."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent

import harness
from harness import FILE_SINK_ONLY, Config, Ended, Event, Running

PROGRAMS = Path(__file__).with_name("programs")
Calls = collections.Counter[tuple[int, str]]  # by process id and name of the function
Drive = Callable[["Counted"], object]

WORK = """
    import os, signal, sys, threading, time
    from counting import count

    def work(n):
        count("work")
        return n

    def works(times):
        count("works")
        return [work(n) for n in range(times)]

    def wait():
        count("wait")
        while not os.path.exists("go-on"):
            time.sleep(0.01)

"""


class Counted:
    """A program that runs and counts its calls.

    Attributes:
        running: Its process.
        is_traced: Whether under flowtrace.
    """

    def __init__(self, running: Running, *, file: Path, signpost: Path, is_traced: bool) -> None:
        self.running, self._file, self._signpost, self.is_traced = running, file, signpost, is_traced

    @property
    def calls(self) -> Calls:
        """What it has called so far."""
        return calls_counted(self._file)

    def go_on(self) -> None:
        """Let it return from `wait`."""
        self._signpost.touch()

    def wait_for(self, name: str, times: int = 1) -> None:
        """Wait until it has said that it called ``name`` so often."""
        harness.wait_until(lambda: by_name(self.calls)[name] >= times, f"{times} {name}\n{self.running.stderr}")

    def wait_for_events(self, name: str, times: int = 1) -> None:
        """Wait until so many calls of ``name`` are in the file; at once where nothing is traced."""
        if self.is_traced:
            harness.wait_until(lambda: by_name(calls_entered(self.running.events))[name] >= times, f"{times} {name}")


class Comparison:
    """The same program without flowtrace and with it.

    Args:
        tracer: Runs it; its folder is the working directory.
    """

    def __init__(self, tracer: harness.Tracer) -> None:
        self._tracer = tracer
        self.counted: Calls = collections.Counter()  # by the traced program

    def write(self, source: str, name: str = "app.py") -> None:
        """Make a program, with `work`, `works`, `wait` and their imports at its head."""
        path = self._tracer.folder / name
        path.write_text(dedent(WORK) + dedent(source))

    def run(
        self,
        args: Sequence[str],
        *,
        drive: Drive = lambda _: None,
        config: Config = FILE_SINK_ONLY,
        options: Sequence[str] = ("--quiet",),
        env: Mapping[str, str | None] | None = None,
        compares_streams: bool = True,
        timeout_s: float = 2 * harness.DEADLINE_S,
    ) -> Ended:
        """Run it twice; exit status, and both streams unless told otherwise, must be the same.

        Args:
            args: COMMAND and its arguments.
            drive: Called while it runs, to have it end where it does not by itself.
            config: Keys of the configuration, added to a file sink.
            options: Of flowtrace-run.
            env: Variables to set, or with None to remove.
            compares_streams: Whether what it writes is to be the same, character by character.
            timeout_s: For each run.
        """
        plain, traced = (
            self._run(args, drive, config, options, env or {}, timeout_s, is_traced=each) for each in (False, True)
        )
        assert traced.returncode == plain.returncode, f"{plain.stderr}\n{traced.stderr}"
        if compares_streams:
            seen, expected = ((each.stdout, each.stderr) for each in (traced, plain))
            assert seen == expected, f"{expected}\n{seen}"
        return traced

    def _run(
        self,
        args: Sequence[str],
        drive: Drive,
        config: Config,
        options: Sequence[str],
        env: Mapping[str, str | None],
        timeout_s: float,
        *,
        is_traced: bool,
    ) -> Ended:
        folder = self._tracer.folder
        file, signpost = folder / ("counted" if is_traced else "counted-plain"), folder / "go-on"
        signpost.unlink(missing_ok=True)
        own = {"PYTHONPATH": str(PROGRAMS), "COUNTED_CALLS": str(file), "HOME": str(folder)}
        env = {**own, "PYTHONDONTWRITEBYTECODE": "1", **env}
        if is_traced:
            running = self._tracer.start(args, config=config, options=options, env=env)
        else:
            running = Running(args, cwd=folder, env=harness.environment(**env), folder=folder)
        try:
            drive(Counted(running, file=file, signpost=signpost, is_traced=is_traced))
            running.wait(timeout_s=timeout_s)
            harness.wait_until(lambda: not _is_alive(running.pid), "all processes of it are over")
            ended = running.wait()
        finally:
            running.kill()
        self.counted = calls_counted(file)
        return ended

    def check_all_delivered(self, ended: Ended) -> None:
        """Assert that each process delivered exactly the calls that it has counted, and each of them closed."""
        assert self.counted, "the program has counted nothing"
        entered = calls_entered(ended.events)
        assert entered == self.counted, f"missing: {self.counted - entered}, too many: {entered - self.counted}"
        harness.check_conservation(ended.events)

    def check_up_to(self, ended: Ended, name: str, times: int) -> None:
        """Assert that nothing was delivered that was not called, nothing twice, and ``times`` calls of ``name``."""
        entered = calls_entered(ended.events)
        assert entered <= self.counted, f"too many: {entered - self.counted}"
        assert by_name(entered)[name] >= times
        spans = [event["spanId"] for event in ended.events if event["event"] == "ENTER"]
        assert len(set(spans)) == len(spans), "calls were delivered twice"


def calls_counted(file: Path) -> Calls:
    """What a program has said that it called."""
    lines = file.read_text().splitlines() if file.exists() else []
    return collections.Counter((int(pid), name) for pid, name in map(str.split, lines))


def calls_entered(events: Sequence[Event]) -> Calls:
    """What was delivered of it."""
    return collections.Counter((event["pid"], event["function"]) for event in events if event["event"] == "ENTER")


def by_name(calls: Calls) -> collections.Counter[str]:
    """Calls of all processes together."""
    names: collections.Counter[str] = collections.Counter()
    for (_, name), times in calls.items():
        names[name] += times
    return names


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
