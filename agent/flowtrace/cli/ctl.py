"""``flowtrace ctl``: switch the tracing of a running process off and on, or give it an edited configuration."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence

from flowtrace.cli.configuration import resolve
from flowtrace.cli.run import ENVIRONMENT_VARIABLE
from flowtrace.cli.source import working_directory
from flowtrace.config import handed_on
from flowtrace.control import Answer, Command, Origin, Request, answer_path, from_text, read, request_path, write
from flowtrace.errors import FlowtraceError

REFUSED, NOT_TRACED = 1, 3
POLL_S = 0.02

COMMANDS: dict[Command, str] = {
    "off": "give all functions the code that Python compiled; calls under way still end in the trace",
    "on": "record again",
    "reload": "put the edited configuration in force: targets, capture, redaction, sampling and queue limits",
    "status": "say what is traced, queued, delivered and lost",
}


class NoAnswer(Exception):
    """The process does not answer; says why, as far as is known."""


def main(argv: Sequence[str]) -> int:
    """Ask, and say what was answered: 0 done, 1 refused, 2 a mistake, 3 the process does not answer."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command != "reload" and (options.config is not None or options.sets):
        parser.error(f"--config and --set belong to reload; {options.command} takes neither")
    process = Process(options.pid, options.timeout)
    try:
        request = _reload(process, options) if options.command == "reload" else _request(options.command)
        answer = process.ask(request)
    except NoAnswer as error:
        print(f"flowtrace ctl: {error}", file=sys.stderr)
        return NOT_TRACED
    if not answer.ok:
        print(f"flowtrace ctl: {answer.text}", file=sys.stderr)
        return REFUSED
    print(answer.text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowtrace ctl",
        description="Controls a process that flowtrace-run started, without a signal and without a restart.",
        epilog="commands:\n" + "\n".join(f"  {name:8}{what}" for name, what in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pid", metavar="PID", type=_pid, help="the process, as in the line on stderr")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="off, on, reload or status")
    parser.add_argument(
        "--config", metavar="FILE", help="with reload: the configuration; default: the one that the process began with"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="sets", help="with reload: set one key of it"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=10.0, help="how long to wait for the answer; default: 10"
    )
    return parser


def _pid(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:  # 0 and less are groups of processes
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a process")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:  # as it is for nan
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, such as 10 or 0.5")
    return seconds


def _request(command: Command) -> Request:
    return Request(id=os.urandom(8).hex(), command=command)


def _reload(process: Process, options: argparse.Namespace) -> Request:
    """The configuration as `flowtrace-run` would read it now, had it been started now as it was then.

    Raises:
        FlowtraceError: it cannot be used.
    """
    origin = from_text(process.ask(_request("origin")).text, Origin)
    if origin is None:
        raise FlowtraceError(f"process {process.pid} has another version of flowtrace; restart it to reload")
    file = origin.file if options.config is None else _absolute(options.config)
    try:
        resolved = resolve(file, [*origin.sets, *options.sets], process.environment(), origin.project)
    except FlowtraceError as error:
        raise FlowtraceError(f"{error}; the old configuration stays") from error
    return _request("reload")._replace(resolved=handed_on(resolved))


def _absolute(file: str) -> str:
    return file and os.path.normpath(os.path.join(working_directory(os.environ), file))


class Process:
    """The process that is asked.

    Args:
        timeout_s: How long it is waited for at most.
    """

    def __init__(self, pid: int, timeout_s: float) -> None:
        self.pid = pid
        self._timeout_s = timeout_s

    def ask(self, request: Request) -> Answer:
        """Put a request where the process looks, and wait for the answer.

        Raises:
            NoAnswer: there is none.
            FlowtraceError: the request cannot be written.
        """
        self._check_running()
        path, answer = request_path(self.pid), answer_path(self.pid, request)
        deadline = time.monotonic() + self._timeout_s
        try:
            while not _is_written(path, request):  # another's request is there
                self._wait(deadline)
            while (data := read(answer)) is None:
                self._wait(deadline)
        except NoAnswer:
            _take_back(path, request)
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(answer)
        return from_text(data, Answer) or Answer(ok=False, text=f"process {self.pid} has another version of flowtrace")

    def environment(self) -> dict[str, str]:
        """Its environment, for ``${NAME}``; ours where the system does not tell, or the process has written over it."""
        try:
            with open(f"/proc/{self.pid}/environ", "rb") as file:
                pairs = [pair.partition("=") for pair in os.fsdecode(file.read()).split("\0")]
        except OSError:
            pairs = []
        environ = {name: value for name, _, value in pairs}
        return environ if ENVIRONMENT_VARIABLE in environ else dict(os.environ)

    def _wait(self, deadline: float) -> None:
        self._check_running()
        if time.monotonic() >= deadline:
            raise NoAnswer(f"process {self.pid} does not answer; was it started by flowtrace-run?")
        time.sleep(POLL_S)

    def _check_running(self) -> None:
        """Fail at once where nobody can answer."""
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            raise NoAnswer(f"process {self.pid} belongs to another user; only its owner can control it") from None
        except (ProcessLookupError, OverflowError):
            raise NoAnswer(f"there is no process {self.pid}") from None


def _is_written(path: str, request: Request) -> bool:
    try:
        write(path, request)
    except FileExistsError:
        return False
    except OSError as error:
        raise FlowtraceError(f"{path}: cannot be written: {error}") from error
    return True


def _take_back(path: str, request: Request) -> None:
    """A request that was not taken is not to be found later, by another process of that number."""
    data = read(path)
    with contextlib.suppress(OSError):
        if data is not None and from_text(data, Request) == request:
            os.unlink(path)
