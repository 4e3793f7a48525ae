"""``flowtrace-run``: resolves the configuration, hands it to the program's process, and becomes that program.

The launcher replaces itself by ``exec``: exit status, signals, stdin and stdout are the program's own.
"""

from __future__ import annotations

import os
import sys

from flowtrace.cli.resolutions import Resolutions
from flowtrace.cli.source import find, is_on, working_directory
from flowtrace.errors import FlowtraceError

TYPE_CHECKING = False  # typing takes 2 ms to import, and argparse, which only help and mistakes need, 8 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from flowtrace.cli.source import Source

ENVIRONMENT_VARIABLE = "FLOWTRACE_RESOLVED"  # hands `flowtrace.settings` on, from the launcher to the traced process

ENABLED_VARIABLE = "FLOWTRACE_ENABLED"

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
    options = parse(own)
    if not command:
        _parser().error("no COMMAND to run")
    try:
        command = resolve_command(command, os.environ)
        environ = dict(os.environ)
        if is_on(ENABLED_VARIABLE, environ):
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


class Options:
    """The launcher's own options.

    Attributes:
        config: The argument of ``--config``, or None.
        sets: Those of ``--set``.
        quiet: Whether ``--quiet`` is given.
    """

    def __init__(self) -> None:
        self.config: str | None = None
        self.sets: list[str] = []
        self.quiet = False


def parse(own: Sequence[str]) -> Options:
    """The launcher's own options; ends with help, the version, or what is wrong with them."""
    options = Options()
    rest = iter(own)
    for option in rest:
        name, equals, argument = option.partition("=")
        if name in ("--config", "--set") and not equals:
            argument = next(rest, "-")
        if option == "--quiet":
            options.quiet = True
        elif name == "--config" and (equals or not argument.startswith("-")):
            options.config = argument
        elif name == "--set" and (equals or not argument.startswith("-")):
            options.sets.append(argument)
        else:
            return _parser().parse_args(own, namespace=Options())
    return options


def _parser() -> argparse.ArgumentParser:
    import argparse

    from flowtrace import __version__

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


def _traced(environ: dict[str, str], options: Options) -> dict[str, str]:
    """The environment in which Python starts traced: our ``sitecustomize`` first, and the configuration."""
    source = find(options.config, environ, working_directory(environ))
    path = environ.get("PYTHONPATH")
    environ[ENVIRONMENT_VARIABLE] = started(_resolution(source, options.sets, environ), quiet=options.quiet)
    environ["PYTHONPATH"] = os.pathsep.join([BOOT, path] if path else [BOOT])
    return environ


def _resolution(source: Source, sets: Sequence[str], environ: Mapping[str, str]) -> str:
    """What a source comes to, as JSON, known from an earlier start or found out now."""
    resolutions = Resolutions(environ)
    if not sets and (known := resolutions.get(source)):
        return known
    from flowtrace.cli.configuration import understood
    from flowtrace.config import handed_on

    resolved = understood(source, sets, environ)
    text = handed_on(resolved)
    resolutions.keep(source, resolved, text)
    return text


def started(resolution: str, *, quiet: bool) -> str:
    """The JSON of a `flowtrace.config.Started`, made of that of a `Resolved`."""
    run, is_quiet = os.urandom(8).hex(), "true" if quiet else "false"
    return f'{resolution[:-1]},"run":"{run}","quiet":{is_quiet},"root_pid":{os.getpid()}}}'


def _become(command: list[str], environ: dict[str, str]) -> NoReturn:
    if sys.stdout is not None:  # Python's word for a descriptor that is closed
        sys.stdout.flush()
    try:
        os.execve(command[0], command, environ)
    except FileNotFoundError:
        _fail(f"{command[0]}: no such file, or its interpreter is missing", NOT_FOUND)
    except (PermissionError, OSError) as error:
        _fail(f"{command[0]}: cannot be executed: {error.strerror}", NOT_EXECUTABLE)


def _fail(problem: str, status: int) -> NoReturn:
    if sys.stderr is not None:  # else `print` would take stdout
        print(f"flowtrace-run: {problem}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
