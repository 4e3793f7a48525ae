"""``flowtrace-run``: resolves the configuration, hands it to the program's process, and becomes that program.

The launcher replaces itself by ``exec``: exit status, signals, stdin and stdout are the program's own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from flowtrace import __version__
from flowtrace.config import ENVIRONMENT_VARIABLE, to_json
from flowtrace.errors import FlowtraceError

USAGE_ERROR, NOT_EXECUTABLE, NOT_FOUND = 2, 126, 127  # the last two as shells have them

BOOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot")

HELP = """\
Runs COMMAND and traces every call of the functions that the configuration selects. COMMAND is a console script
(uvicorn app:app), python script.py, python -m module, script.py, or -m module. Its exit status, signals, stdin and
stdout stay its own.

The configuration is --config FILE, else $FLOWTRACE_CONFIG, else ./flowtrace.yaml. Without any, all modules below the
working directory are traced, and the calls are shown as a tree on stderr. FLOWTRACE_ENABLED=0 runs COMMAND untraced.
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line ``argv``; does not return."""
    own, command = split(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(own)
    if not command:
        _parser().error("no COMMAND to run")
    try:
        command = resolve_command(command, os.environ)
        environ = dict(os.environ)
        if environ.get("FLOWTRACE_ENABLED", "1") not in ("0", "false", "no", "off"):
            environ = _traced(environ, options)
    except FlowtraceError as error:
        _fail(str(error), USAGE_ERROR)
    _become(command, environ)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The launcher's own options, and COMMAND with all that follows it, which may begin with ``-m``."""
    own: list[str] = []
    rest = list(argv)
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        option = rest.pop(0)
        if option == "--":
            break
        own.append(option)
        if option in ("--config", "--set") and rest:
            own.append(rest.pop(0))
    return own, rest


def resolve_command(command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The program to execute for COMMAND and its arguments, the program first.

    A script of this Python's environment is preferred to another of the same name on PATH: so
    ``.venv/bin/flowtrace-run uvicorn`` finds uvicorn without the environment being activated.
    """
    name, *rest = command
    if name == "-m" or (name.endswith(".py") and os.path.isfile(name) and not os.access(name, os.X_OK)):
        return [sys.executable, *command]
    if os.sep in name:
        return [name, *rest]
    here = os.path.join(os.path.dirname(sys.executable), name)
    if os.access(here, os.X_OK) and os.path.isfile(here):
        return [here, *rest]
    from shutil import which

    found = which(name, path=environ.get("PATH"))
    if found is None and name.endswith(".py") and os.path.isfile(name):
        return [sys.executable, *command]
    if found is None:
        _fail(f"{name}: command not found", NOT_FOUND)
    return [found, *rest]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowtrace-run",
        usage="flowtrace-run [--config FILE] [--set KEY=VALUE]... [--quiet] COMMAND...",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="the YAML file that says what to trace and where to send it")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="sets",
        help="set one key of the configuration, such as sinks[0].format=json; may be repeated",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="do not say on stderr what is traced")
    parser.add_argument("--version", action="version", version=f"flowtrace {__version__}")
    return parser


def _traced(environ: dict[str, str], options: argparse.Namespace) -> dict[str, str]:
    """The environment in which Python starts traced: our ``sitecustomize`` first, and the configuration."""
    from flowtrace.cli.configuration import resolve  # reads YAML; not needed where tracing is off

    resolved = resolve(options.config, options.sets, environ, os.getcwd(), quiet=options.quiet)
    path = environ.get("PYTHONPATH")
    environ["PYTHONPATH"] = os.pathsep.join([BOOT, path] if path else [BOOT])
    environ[ENVIRONMENT_VARIABLE] = to_json(resolved).decode()
    return environ


def _become(command: list[str], environ: dict[str, str]) -> NoReturn:
    sys.stdout.flush()
    try:
        os.execve(command[0], command, environ)
    except FileNotFoundError:
        _fail(f"{command[0]}: no such file, or its interpreter is missing", NOT_FOUND)
    except (PermissionError, OSError) as error:
        _fail(f"{command[0]}: cannot be executed: {error.strerror}", NOT_EXECUTABLE)


def _fail(problem: str, status: int) -> NoReturn:
    print(f"flowtrace-run: {problem}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
