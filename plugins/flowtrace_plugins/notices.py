"""The agent's own events - START, ATTACH, LOSS, STOP - as quiet single lines for people."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

_MODULES_NAMED = 3


def describe(events: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Style and text of each line; several ATTACH events become one."""
    kind = events[0].get("event")
    if kind == "ATTACH":
        if text := _attach(events):
            yield "quiet", text
    elif kind == "START":
        yield "quiet", _start(events[0])
    elif kind == "STOP":
        yield _stop(events[0])
    elif kind == "LOSS":
        yield "warning", _loss(events[0])


def _start(event: dict[str, Any]) -> str:
    argv = event.get("argv")
    words = list(map(str, argv)) if isinstance(argv, list) else []
    words[:2] = map(os.path.basename, words[:2])  # interpreter and script
    parts = [str(event.get("service") or "started"), f"pid {event.get('pid')}", " ".join(words)]
    return "▶ " + " · ".join(part for part in parts if part)


def _attach(events: Sequence[dict[str, Any]]) -> str:
    """Nothing where there is nothing to trace, as in a module that only imports others."""
    counts = {str(e.get("module") or "?"): _functions(e) for e in events}
    traced = sum(count for count, _ in counts.values())
    left = sum(left for _, left in counts.values())
    names = [name for name, (count, _) in counts.items() if count]
    more = f" and {len(names) - _MODULES_NAMED} more" if len(names) > _MODULES_NAMED else ""
    where = f" in {', '.join(names[:_MODULES_NAMED])}{more}" if names else ""
    if not (traced or left):
        return ""
    return f"+ tracing {_count(traced, 'function')}{where}" + (f" · {left} not possible" if left else "")


def _functions(event: dict[str, Any]) -> tuple[int, int]:
    """How many functions of a module are traced, and how many are not."""
    functions = event.get("functions")
    if not isinstance(functions, list):
        return 0, 0
    left = sum(isinstance(f, dict) and f.get("how") == "not traced" for f in functions)
    return len(functions) - left, left


def _loss(event: dict[str, Any]) -> str:
    sink = f" for sink {event['sink']}" if event.get("sink") else ""
    again = " (said again)" if event.get("repeated") else ""
    return f"▲ lost {_count(event.get('events'), 'event')}{sink}: {event.get('reason')}{again}"


def _stop(event: dict[str, Any]) -> tuple[str, str]:
    recorded, lost = event.get("recorded"), event.get("lost")
    most = max((n for n in lost.values() if isinstance(n, int)), default=0) if isinstance(lost, dict) else lost
    text = f"■ stopped · {_count(recorded, 'event')}"
    if discarded := event.get("discardedEvents"):
        text += f", {_number(discarded)} not kept"
    return ("warning", f"{text}, {_number(most)} lost") if most else ("quiet", f"{text}, none lost")


def _count(number: object, noun: str) -> str:
    return f"{_number(number)} {noun}" + ("" if number == 1 else "s")


def _number(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "?"
