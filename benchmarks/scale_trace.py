"""Whether a trace is complete: each number from START to STOP is on a line, or a LOSS event accounts for it."""

from __future__ import annotations

import collections
import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import orjson


class IncompleteTrace(Exception):
    """Something is missing that nothing accounts for, or is there that should not be."""


@dataclass
class Trace:
    """What is in the files of one process.

    Attributes:
        numbers: A 1 for each ``seq`` that was read.
        first: The ``seq`` of START; None where rotation has deleted the file that it was in.
        kinds: How many events of each kind.
        lost_calls: As LOSS events count them.
        lost_events: As LOSS events count them.
        bare: ENTER events without arguments.
        stop: The STOP event.
    """

    numbers: bytearray = field(default_factory=bytearray, repr=False)
    first: int | None = None
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    lost_calls: int = 0
    lost_events: int = 0
    bare: int = 0
    stop: dict[str, Any] | None = None

    @property
    def calls(self) -> int:
        """Calls whose ENTER was read, and calls that were lost."""
        return self.kinds["ENTER"] + self.lost_calls

    def add(self, line: bytes) -> None:
        """One more line of the trace.

        Raises:
            IncompleteTrace: its number was there before.
            ValueError: it is no JSON.
        """
        event = orjson.loads(line)
        kind, seq = event["event"], event["seq"]
        self.numbers.extend(bytes(max(0, seq + 1 - len(self.numbers))))
        if self.numbers[seq]:
            raise IncompleteTrace(f"number {seq} is there twice")
        self.numbers[seq] = 1
        self.kinds[kind] += 1
        if kind == "ENTER":
            self.bare += event["args"] == "{}"
        elif kind == "LOSS":
            self.lost_calls += event["calls"]
            self.lost_events += event["events"]
        elif kind == "START":
            self.first = seq
        elif kind == "STOP":
            self.stop = event

    def verify(self, *, calls: int | None = None, lost_calls: int | None = 0) -> None:
        """Check that all is there.

        Args:
            calls: So many were made; None: unknown.
            lost_calls: So many of them must be lost; None: any number.

        Raises:
            IncompleteTrace: it is not so.
        """
        if self.stop is None:
            raise IncompleteTrace("it has no STOP")
        first = self.numbers.index(1) if self.first is None else self.first
        missing = self.numbers[first : self.stop["seq"]].count(0)
        lost = max(self.stop["lost"].values())
        self._compare("lines missing", missing, "events in LOSS", self.lost_events)
        self._compare("lines missing", missing, "lost in STOP", lost)
        self._compare(
            "recorded in STOP", self.stop["recorded"], "delivered and lost", *self.stop["delivered"].values(), lost
        )
        self._compare("ENTER without values", self.bare, "expected", 0)
        self._compare("internal failures", self.stop["failures"], "expected", 0)
        if lost_calls is not None:
            self._compare("calls lost", self.lost_calls, "expected", lost_calls)
        if self.first is None:  # of what is deleted, STOP alone knows
            return
        self._compare("ENTER", self.kinds["ENTER"], "EXIT and EXCEPTION", self.kinds["EXIT"], self.kinds["EXCEPTION"])
        if calls is not None:
            self._compare("calls recorded and lost", self.calls, "made", calls)

    @staticmethod
    def _compare(what: str, number: int, other: str, *others: int) -> None:
        if number != sum(others):
            raise IncompleteTrace(f"{what}: {number:,}, {other}: {sum(others):,}")


def read(paths: Iterable[Path]) -> Trace:
    """The trace of one process, from all files that it has written, in any order; compressed ones too.

    Raises:
        IncompleteTrace: a number is there twice.
        OSError: a file cannot be read.
        ValueError: a line is no JSON.
    """
    trace = Trace()
    for path in paths:
        with cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                trace.add(line)
    return trace


def by_process(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by the process that wrote them, rotated ones included; all begin with ``{pid}.jsonl``."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl*")):
        files.setdefault(path.name.partition(".")[0], []).append(path)
    return files
