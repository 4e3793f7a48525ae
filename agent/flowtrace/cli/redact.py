"""``flowtrace redact``: what redaction would make of a value, and which rules would do it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from flowtrace.cli.configuration import resolve
from flowtrace.cli.source import working_directory
from flowtrace.config import Redact
from flowtrace.errors import ConfigError
from flowtrace.redaction import MARKER, MAX_TEXT, Redactor
from flowtrace.values import Encoder, Limits

EPILOG = """\
examples:
  flowtrace redact --explain 'password=hunter2'             as an argument of this name
  flowtrace redact --explain '{"user": {"apiKey": "x"}}'    as a dict
  flowtrace redact --explain 'GET /?token=x failed'         as a text
  flowtrace redact --explain - <app.log                     from stdin, which no shell remembers
"""
_ARGUMENT = re.compile(r"([A-Za-z_][\w.\-]{0,127})=(.*)")  # one line: several are those of a file
_ALL = Limits(max_depth=32, max_items=100_000, max_string=MAX_TEXT, max_bytes=16 * 2**20)  # redaction only, no cuts


def main(argv: Sequence[str]) -> int:
    """Print the value as it would be recorded and, if asked to, the rules that hide parts of it; returns 0."""
    options = _parser().parse_args(argv)
    config = resolve(options.config, options.sets, os.environ, working_directory(os.environ)).config
    for value in _from_stdin() if options.value == "-" else [options.value]:
        lines = _report(value, config.redact, explained=options.explain)
        print("\n".join(lines).encode("utf-8", "replace").decode())
    return 0


def _from_stdin() -> Iterator[str]:
    """JSON as a whole; other text by as many whole lines at a time as redaction looks at, so that logs may be long."""
    if sys.stdin is None:
        raise ConfigError("stdin is closed; write the value in place of the dash")
    text = sys.stdin.buffer.read().decode("utf-8", "replace").removesuffix("\n")
    if _as_json(text) is not None:
        yield text
        return
    chunk = ""
    for line in text.split("\n"):
        if len(line) > MAX_TEXT:
            print(f"flowtrace redact: of a line of {len(line)} characters, {MAX_TEXT} are looked at", file=sys.stderr)
        if chunk and len(chunk) + len(line) > MAX_TEXT:
            yield chunk.removesuffix("\n")
            chunk = ""
        chunk += line + "\n"
    yield chunk.removesuffix("\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowtrace redact",
        description="Shows what would be hidden of a value before it is recorded. Traces and runs nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration; default: as for flowtrace-run")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="sets", help="set one key of it"
    )
    parser.add_argument("--explain", action="store_true", help="say which rules did it")
    parser.add_argument(
        "value", metavar="VALUE", help="NAME=VALUE, a JSON object or list, any other text, or - for stdin"
    )
    return parser


def _report(text: str, redact: Redact, *, explained: bool) -> Iterator[str]:
    redactor = Redactor(names=redact.names, patterns=redact.patterns, defaults=redact.defaults)
    value, argument = _as_json(text), _ARGUMENT.fullmatch(text)
    if value is not None:
        shown = _encoded(value, redactor)
        yield json.dumps(shown, ensure_ascii=False)
        reasons = list(_reasons(redactor, value, shown, ""))
    elif argument is not None:
        given = {argument[1]: argument[2]}
        shown = _encoded(given, redactor)
        yield "=".join(*shown.items())
        reasons = list(_reasons(redactor, given, shown, ""))
    else:
        yield redactor.scrub(text)
        reasons = redactor.explain(text)
    if explained:
        yield from (f"  {reason}" for reason in reasons or ["nothing would be hidden"])


def _as_json(text: str) -> Any:
    """The dict or list that a text stands for, or None."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except (ValueError, RecursionError):
        return None


def _encoded(value: Any, redactor: Redactor) -> Any:
    return json.loads(Encoder(limits=_ALL, redactor=redactor).result(value))


def _reasons(redactor: Redactor, value: Any, shown: Any, place: str) -> Iterator[str]:
    """For each part of plain data that is shown otherwise, where it is and by which rule."""
    if isinstance(value, dict) and isinstance(shown, dict):
        for (key, item), (shown_key, shown_item) in zip(value.items(), shown.items(), strict=False):
            where = f"{place}.{shown_key}" if place else shown_key
            yield from (f"a key of {place or 'it'}: {rule}" for rule in redactor.explain(key) if key != shown_key)
            yield from _reasons_of_item(redactor, key, item, shown_item, where)
    elif isinstance(value, list) and isinstance(shown, list):
        name = value[0] if len(value) == 2 and isinstance(value[0], str) else ""  # a header: its name and value
        for index, (item, shown_item) in enumerate(zip(value, shown, strict=False)):
            yield from _reasons_of_item(redactor, name if index else "", item, shown_item, f"{place}[{index}]")
    elif shown != value:
        beside = ["named by what stands before it or beside it"] if shown == MARKER else []
        yield from (f"{place}: {rule}" for rule in redactor.explain(str(value)) or beside)


def _reasons_of_item(redactor: Redactor, name: str, value: Any, shown: Any, place: str) -> Iterator[str]:
    rule = redactor.name_rule(name)
    if shown == MARKER != value and rule is not None:
        yield f"{place}: its name {name!r} ({rule})"
    else:
        yield from _reasons(redactor, value, shown, place)
