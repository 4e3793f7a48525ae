"""``flowtrace check``: what would be traced, rule by rule, before the program runs; or what was, after it ran."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import textwrap
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BufferedReader
from typing import Any

import msgspec

from flowtrace.announcement import plural
from flowtrace.cli.configuration import resolve
from flowtrace.cli.source import DELETED, working_directory
from flowtrace.cli.survey import Matches, Module, survey
from flowtrace.errors import FlowtraceError

NOTHING_MATCHED = 1


def main(argv: Sequence[str]) -> int:
    """Print the report; 1 where a rule matches nothing, or a function that was expected was not attached."""
    options = _parser().parse_args(argv)
    cwd = working_directory(os.environ)
    if cwd.startswith(DELETED):
        raise FlowtraceError("the working directory is deleted; change into the folder of the project")
    resolved = resolve(options.config, options.sets, os.environ, cwd)
    report = survey(resolved.config, project=resolved.project, path=sys.path[0 if sys.flags.safe_path else 1 :])
    if options.files:
        if not any(matches.modules for matches in report):
            raise FlowtraceError("no rule selects anything, so nothing is expected in a trace; try without FILE")
        missing = list(_missing(report, _attached(options.files)))
        print(json.dumps({"missing": missing}, indent=2) if options.json else _missing_text(missing))
        return NOTHING_MATCHED if missing else 0
    print(json.dumps(_as_json(report), indent=2) if options.json else "\n".join(_lines(report, cwd)))
    return NOTHING_MATCHED if any(matches.selects_nothing for matches in report) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowtrace check",
        description="Shows for each rule of the configuration which functions it selects and how each would be traced."
        " Reads source files; runs and imports none. Exit status 1 where a rule selects nothing.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration; default: as for flowtrace-run")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="sets", help="set one key of it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("files", metavar="FILE", nargs="*", help="traces: say what should be in them and is not")
    return parser


def _lines(report: Sequence[Matches], cwd: str) -> Iterator[str]:
    for number, matches in enumerate(report, 1):
        rule = matches.rule
        only = "" if rule.include == ("*",) else f", only {', '.join(rule.include)}"
        but = f", without {', '.join(rule.exclude)}" if rule.exclude else ""
        yield f"rule {number}: {', '.join(rule.modules)}{only}{but}"
        if matches.selects_nothing:
            hint = f"; did you mean {', '.join(matches.nearest)}?" if matches.nearest else ""
            yield f"  selects nothing{f': {matches.reason}' if matches.reason else hint}"
        for module in matches.modules:
            yield from _module_lines(module, cwd)
        yield f"  {_totals(matches)}"


def _module_lines(module: Module, cwd: str) -> Iterator[str]:
    file = os.path.relpath(module.file, cwd)
    yield f"  {module.name}  ({module.file if file.startswith('..') else file})"
    if module.problem:
        yield f"    ! {module.problem}"
    names = ", ".join(function.qualname for function in module.functions if function.how == "instrumented")
    yield from textwrap.wrap(names, 110, initial_indent="    ", subsequent_indent="    ")
    for function in module.functions:
        if function.how != "instrumented":
            yield f"    ! {function.qualname}, line {function.line}: {function.how}: {function.reason}"


def _totals(matches: Matches) -> str:
    ways = Counter[str](function.how for module in matches.modules for function in module.functions)
    named = {"instrumented": "instrumented", "wrapper": "by wrapper", "not traced": "not traced"}
    counts = [f"{ways[how]} {words}" for how, words in named.items() if ways[how]]
    total = f"{plural(sum(ways.values()), 'function')} in {plural(len(matches.modules), 'module')}"
    return f"= {total}: {', '.join(counts) or 'none'}"


def _as_json(report: Sequence[Matches]) -> dict[str, Any]:
    return {
        "rules": [
            {
                "modules": matches.rule.modules,
                "include": matches.rule.include,
                "exclude": matches.rule.exclude,
                "nearest": matches.nearest,
                "reason": matches.reason or None,
                "matched": [
                    {
                        "module": module.name,
                        "file": module.file,
                        "problem": module.problem or None,
                        "functions": [function._asdict() for function in module.functions],
                    }
                    for module in matches.modules
                ],
            }
            for matches in report
        ]
    }


def _attached(files: Sequence[str]) -> dict[str, dict[str, str]]:
    """By module, and by its file: the functions that the ATTACH events of these traces name, and why one is not traced.

    A script is ``__main__`` in its events, and has another name here: so the file counts too.

    Raises:
        FlowtraceError: a file cannot be read.
    """
    attached: dict[str, dict[str, str]] = {}
    for file in files:
        try:
            with open(file, "rb") as raw, _unpacked(raw) as stream:
                if b'"event":"' not in stream.readline():
                    raise FlowtraceError(f"{file}: is not a trace; name a file that the file sink has written")
                stream.seek(0)
                events = [event for line in stream if (event := _attach_event(line))]
        except (OSError, EOFError, zlib.error) as error:
            raise FlowtraceError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
        for event in events:
            for key in (event.module, os.path.realpath(event.file or event.module)):
                known = attached.setdefault(key, {})
                for function in event.functions:
                    if function.how == "not traced":
                        known.setdefault(function.name, function.reason or "not traced")
                    else:
                        known[function.name] = ""  # in one process at least
    return attached


def _unpacked(file: BufferedReader) -> BufferedReader | gzip.GzipFile:
    """What a file holds that the file sink has written and perhaps compressed since; its name does not tell."""
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file


class _AttachedFunction(msgspec.Struct):
    name: str
    how: str
    reason: str = ""


class _Attach(msgspec.Struct, tag_field="event", tag="ATTACH"):
    module: str
    file: str | None
    functions: list[_AttachedFunction]


def _attach_event(line: bytes) -> _Attach | None:
    """The event, if the line is one; a crash may have torn it."""
    try:
        return msgspec.json.decode(line, type=_Attach) if b'"event":"ATTACH"' in line else None
    except msgspec.MsgspecError:
        return None


def _missing(report: Sequence[Matches], attached: dict[str, dict[str, str]]) -> Iterator[dict[str, Any]]:
    for module in (module for matches in report for module in matches.modules):
        expected = {function.qualname for function in module.functions if function.how != "not traced"}
        places = [attached[key] for key in (module.name, os.path.realpath(module.file)) if key in attached]
        traced = {name for place in places for name, reason in place.items() if not reason}
        names = sorted(expected - traced)
        if names:
            reasons = {name: place[name] for place in places for name in names if name in place}
            reason = "differs" if places else "was not imported"
            yield {"module": module.name, "reason": reason, "functions": names, "reasons": reasons}


def _missing_text(missing: Sequence[dict[str, Any]]) -> str:
    if not missing:
        return "all functions that were to be traced were attached"
    return "\n".join(map(_missing_line, missing))


def _missing_line(each: dict[str, Any]) -> str:
    reasons = {name: f" ({reason})" for name, reason in each["reasons"].items()}
    names = ", ".join(name + reasons.get(name, "") for name in each["functions"])
    return f"{each['module']}: {each['reason']}: {len(each['functions'])} not attached: {names}"
