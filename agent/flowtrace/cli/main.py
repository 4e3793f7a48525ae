"""``flowtrace``: checks configurations and controls what is traced; each subcommand is a module of its own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from flowtrace import __version__
from flowtrace.errors import FlowtraceError

COMMANDS = {
    "check": "show what would be traced, rule by rule, without running the program",
    "ctl": "switch the tracing of a running process off and on, or reload its configuration",
    "redact": "show what would be hidden of a value, and which rule does it",
    "schema": "print the JSON Schema of the configuration, for editors",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit status: 0, or 2 for a mistake of the user's."""
    _replace_closed_streams()
    parser = argparse.ArgumentParser(
        prog="flowtrace",
        description="Checks configurations and controls traced processes. To trace a program: flowtrace-run COMMAND...",
        epilog="commands:\n" + "\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="flowtrace COMMAND [options]",
    )
    parser.add_argument("--version", action="version", version=f"flowtrace {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        parser.error(f"no COMMAND; write one of {', '.join(COMMANDS)}")
    options = parser.parse_args(argv)
    arguments = argv[argv.index(options.command) + 1 :]  # argparse would take a `--` away
    command = importlib.import_module(f"flowtrace.cli.{options.command}")
    try:
        status: int = command.main(arguments)
        sys.stdout.flush()
    except FlowtraceError as error:
        print(f"flowtrace {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:  # the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"flowtrace {options.command}: {error.strerror or error}", file=sys.stderr)
        return 2
    return status


def _replace_closed_streams() -> None:
    """Let what is said on a closed descriptor go nowhere: Python has None for it, and `print` takes stdout for that."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (as long as the process lives)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
