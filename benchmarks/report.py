"""What the benchmarks have in common: medians with their spread, tables for people, JSON for comparing, Ctrl-C."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).with_name("results")
PACKAGES = (
    "flowtrace-agent", "wrapt", "orjson", "msgspec", "viztracer", "opentelemetry-sdk", "ddtrace", "logfire", "pydantic",
)  # fmt: skip


class Spread(NamedTuple):
    """What several measurements come to, in their unit: median, median absolute deviation from it, and quartiles."""

    median: float
    spread: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least two values."""
        median = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, statistics.median(abs(value - median) for value in values), low, high)


def bar(spread: Mapping[str, float]) -> tuple[float, float, float]:
    """The value, the low and the high end that are drawn of a ``Spread`` in a result."""
    return spread["median"], spread["low"], spread["high"]


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; Ctrl-C ends it without a traceback, with the status that shells expect (128 + 2)."""
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None


def progress(text: str) -> None:
    """Say on stderr what is being done; on a terminal in place of what was said before, and no text clears it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def environment(**others: str) -> dict[str, str]:
    """The environment of what is measured: as ours, but Python may keep bytecode, as it does for users."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | others


def relative(path: Path) -> str:
    """A file as seen from the working directory."""
    return os.path.relpath(path)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )


def machine() -> dict[str, str]:
    """Where the numbers are from."""
    return {"python": sys.version.split()[0], "platform": platform.platform(), "processor": _processor()}


def save(name: str, measured: Mapping[str, object]) -> Path:
    """Write ``results/<name>.json``: the machine, the versions and what was measured."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"machine": machine(), "versions": _versions(), **measured}
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
