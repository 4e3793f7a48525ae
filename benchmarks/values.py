"""What capturing a value costs: microseconds for a small one and for a huge one of the same kind, and their ratio.

No call is traced here: the encoder, with its default limits and redaction, is asked for the JSON of a result. Small and
large take turns; of the rounds the median counts, with the median absolute deviation. What is huge is read no further
than the limits go, so that the ratio is that of what is shown (32 items for 10, a text cut at 256 characters for one of
10), not that of the sizes.

Usage: ``python benchmarks/values.py [--rounds 200]``
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import plots
import pydantic
import report
from report import Spread

from flowtrace.redaction import Redactor
from flowtrace.values import Encoder, Limits


@dataclasses.dataclass
class Room:
    """A dataclass."""

    id: str
    name: str
    members: list[Any]


class Message(pydantic.BaseModel):
    """A model."""

    type: str = pydantic.Field(alias="Type")
    room: str = pydantic.Field(alias="RoomId")
    text: str
    members: list[Any]


class WebSocket:
    """As web frameworks make them: a scope, and much that is private."""

    def __init__(self, headers: int) -> None:
        self.scope = {
            "type": "websocket", "path": "/ws/general/Alice", "query_string": b"", "client": ("127.0.0.1", 50_000),
            "headers": [(b"x-header-%d" % number, b"some value") for number in range(headers)],
        }  # fmt: skip
        self._receive, self._send = self.__init__, object()  # type: ignore[misc]
        self.client_state = self.application_state = 1


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def tree(width: int) -> list[Any]:
    """Three levels, each of this width."""
    return [[[number] * width for number in range(width)] for _ in range(width)]


class Case:
    """A kind of value, made small and large."""

    def __init__(self, name: str, make: Callable[[int], object], small: int, large: int) -> None:
        self.name, self.sizes = name, (small, large)
        self._make = make

    def values(self) -> list[object]:
        """The small one and the large one."""
        return [self._make(size) for size in self.sizes]


CASES = [
    Case("list of numbers", lambda size: list(range(size)), 10, 10**7),
    Case("list of numbers, both cut", lambda size: list(range(size)), 100, 10**7),
    Case("bytes", bytes, 10, 10**8),
    Case("bytes, both cut", bytes, 1_000, 10**8),
    Case("text, both cut", lambda size: "x" * size, 1_000, 10**8),
    Case("lists in lists", nested, 3, 10**5),
    Case("dict", lambda size: dict.fromkeys(range(size)), 10, 10**6),
    Case("dict, both cut", lambda size: dict.fromkeys(range(size)), 100, 10**6),
    Case("set, both cut", lambda size: set(range(size)), 100, 10**6),
    Case("deque, both cut", lambda size: collections.deque(range(size)), 100, 10**6),
    Case("tree of lists, both cut", tree, 32, 100),
    Case("int, in bits", lambda size: 1 << size, 1_000, 10**7),
    Case("dataclass", lambda size: Room("general", "General Chat", list(range(size))), 10, 10**6),
    Case("pydantic model", lambda size: Message(Type="join", RoomId="a", text="Hi", members=[0] * size), 10, 10**5),
    Case("websocket, by its headers", WebSocket, 10, 10**5),
    Case("exception, by its message", lambda size: ValueError("x" * size), 1_000, 10**7),
]


def measure(case: Case, *, rounds: int) -> list[Spread]:
    """Microseconds to capture the small value and the large one."""
    encode = Encoder(limits=Limits(), redactor=Redactor()).result
    values = case.values()
    times: list[list[float]] = [[], []]
    for number in range(rounds + 5):
        for taken, value in zip(times, values, strict=True):
            began = time.perf_counter_ns()
            encode(value)
            ended = time.perf_counter_ns()
            if number >= 5:  # before that, the class is examined and the code specialized
                taken.append((ended - began) / 1e3)
    return [Spread.of(taken) for taken in times]


def main() -> None:
    """Measure all kinds, print a table, write ``results/values.json``, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=200, help="how often each value is captured, at least twice (200)"
    )
    rounds = max(2, parser.parse_args().rounds)
    rows, results, bars = [], [], []
    for case in CASES:
        report.progress(case.name)
        small, large = measure(case, rounds=rounds)
        sizes = [f"{size:,}" for size in case.sizes]
        ratio = f"{large.median / small.median:.1f}"
        shown = [f"{taken.median:.1f} ±{taken.spread:.1f}" for taken in (small, large)]
        rows.append([case.name, *sizes, *shown, ratio])
        results.append({"value": case.name, "sizes": case.sizes, "small": small._asdict(), "large": large._asdict()})
        remark = f"(× {ratio})"
        bars.append(plots.Bar(f"{case.name}, {sizes[1]}", large.median, large.low, large.high, own=True, remark=remark))
    report.progress("")
    print(report.table(["value", "small", "large", "small, µs", "large, µs", "ratio"], rows))
    path = report.save("values", {"unit": "µs", "values": results})
    title = "How long it takes to capture a huge value, and how many times as long as a small one"
    drawn = plots.bars("values", bars, title=title, axis="time (µs), median and quartiles", log_from=1)
    print(f"\nwritten: {', '.join(map(report.relative, [path, *drawn]))}")


if __name__ == "__main__":
    report.run(main)
