"""``flowtrace ctl``: switch the tracing of a running process off and on, or give it an edited configuration."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from flowtrace.cli.configuration import resolve
from flowtrace.config import from_json
from flowtrace.control import Answer, Command, Request, folder, read, write
from flowtrace.errors import FlowtraceError

REFUSED, NOT_TRACED = 1, 3

COMMANDS = {
    "off": "give all functions the code that Python compiled; calls under way still end in the trace",
    "on": "record again",
    "reload": "put the edited configuration in force: targets, capture, redaction, sampling and queue limits",
    "status": "say what is traced, queued, delivered and lost",
}


def main(argv: Sequence[str]) -> int:
    """Ask, and say what was answered: 0 done, 1 refused, 3 the process does not answer."""
    options = _parser().parse_args(argv)
    pid: int = options.pid
    if not _is_running(pid):
        print(f"flowtrace ctl: there is no process {pid}", file=sys.stderr)
        return NOT_TRACED
    request = _request(pid, options)
    path = os.path.join(folder(), str(pid))
    try:
        write(path + ".request", request)
    except OSError as error:
        raise FlowtraceError(f"{path}.request: cannot be written: {error}") from error
    answer = _answer(path + ".answer", request.id, options.timeout)
    if answer is None:
        os.unlink(path + ".request") if os.path.exists(path + ".request") else None
        print(f"flowtrace ctl: process {pid} does not answer; is it run by flowtrace-run, by you?", file=sys.stderr)
        return NOT_TRACED
    print(answer.text, file=sys.stdout if answer.ok else sys.stderr)
    return 0 if answer.ok else REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowtrace ctl",
        description="Controls a process that flowtrace-run started, without a signal and without a restart.",
        epilog="commands:\n" + "\n".join(f"  {name:8}{what}" for name, what in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pid", metavar="PID", type=int, help="the process, as in the line on stderr")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="off, on, reload or status")
    parser.add_argument(
        "--config", metavar="FILE", help="with reload: the configuration; default: as for flowtrace-run"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="sets", help="set one key of it"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=10.0, help="how long to wait for the answer"
    )
    return parser


def _request(pid: int, options: argparse.Namespace) -> Request:
    command: Command = options.command
    resolved = None
    if command == "reload":
        cwd = _directory_of(pid)
        resolved = resolve(options.config, options.sets, os.environ, cwd)
    return Request(id=os.urandom(8).hex(), command=command, resolved=resolved)


def _directory_of(pid: int) -> str:
    """The working directory of the process, where its configuration lies; ours, where the system does not tell."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return os.getcwd()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _answer(path: str, wanted: str, timeout_s: float) -> Answer | None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        data = read(path)
        if data:
            answer = from_json(data, Answer)
            if answer.id == wanted:
                os.unlink(path)
                return answer
        time.sleep(0.02)
    return None
