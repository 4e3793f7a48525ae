"""An example plugin: the sink ``top`` writes a list of the functions that took the most time."""

from __future__ import annotations

import fractions
import os
from typing import Annotated

from msgspec import Meta

from flowtrace.config import Options
from flowtrace.events import Batch
from flowtrace.hooks import RegisterSink, RegisterValues, SinkContext, hookimpl


class TopOptions(Options, frozen=True, kw_only=True):
    """Counts calls per function and writes the list when the program ends."""

    path: Annotated[str, Meta(description="The file to write.")] = "top.txt"
    size: Annotated[int, Meta(ge=1, description="How many functions to list.")] = 10


class TopSink:
    """Counts the calls of each function. All its methods are called on one thread, so it needs no lock."""

    def __init__(self, options: TopOptions, context: SinkContext) -> None:
        self._path = os.path.join(context.directory, options.path)
        self._size = options.size
        self._totals: dict[str, tuple[int, int]] = {}  # calls and microseconds

    def open(self) -> None:
        """Nothing to acquire."""

    def write(self, batch: Batch) -> None:
        """Count the calls that ended."""
        for event in batch.events():
            if event["event"] in ("EXIT", "EXCEPTION"):
                name = f"{event['class']}.{event['function']}"
                calls, micros = self._totals.get(name, (0, 0))
                self._totals[name] = calls + 1, micros + event["durationMicros"]

    def flush(self) -> None:
        """Nothing is handed on before the end."""

    def close(self, deadline: float) -> None:
        """Write the list, the longest total first."""
        ranked = sorted(self._totals.items(), key=lambda item: -item[1][1])
        with open(self._path, "w", encoding="utf-8") as file:
            for name, (calls, micros) in ranked[: self._size]:
                file.write(f"{micros / 1000:12.3f} ms {calls:8} calls  {name}\n")


@hookimpl
def flowtrace_register_sinks(register: RegisterSink) -> None:
    """Make ``type: top`` usable under ``sinks``."""
    register("top", TopSink, TopOptions)


@hookimpl
def flowtrace_register_values(register: RegisterValues) -> None:
    """Show fractions as people write them."""
    register(fractions.Fraction, lambda value: f"{value.numerator}/{value.denominator}")
