"""The workloads: what is called, with what, and how many times in a row; no more than the queue of any tracer holds.

The loops are written out, so that they add as little as a loop can, and they name the method anew for each burst, since
some tracers replace it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import repeat
from typing import NamedTuple

import pydantic
from bystander import Bystander
from workload import Empty


class Order(pydantic.BaseModel):
    """A model as a web service has them."""

    number: int = 7
    customer: str = "Alice"
    items: list[str] = ["tea", "cup"]
    express: bool = False
    weight: float = 1.5


VALUES: dict[str, object] = {f"field{number}": number if number % 2 else f"value {number}" for number in range(10)}
ORDER = Order()


def _method(count: int) -> None:
    call = Empty().method
    for _ in repeat(None, count):
        call(7, "seven")


def _mapping(count: int) -> None:
    call = Empty().mapping
    for _ in repeat(None, count):
        call(VALUES)


def _model(count: int) -> None:
    call = Empty().model
    for _ in repeat(None, count):
        call(ORDER)


async def _coroutine(count: int) -> None:
    call = Empty().coroutine
    for _ in repeat(None, count):
        await call(7, "seven")


def _generator(count: int) -> None:
    call = Empty().generator
    for _ in repeat(None, count):
        for _ in call(7, "seven"):
            pass


def _failing(count: int) -> None:
    call = Empty().failing
    for _ in repeat(None, count):
        try:  # noqa: SIM105 - contextlib.suppress costs more than the call
            call(7, "seven")
        except ValueError:
            pass


def _fib(_count: int) -> None:
    Empty().fib(20)


def _untouched(count: int) -> None:
    call = Bystander().untouched
    for _ in repeat(None, count):
        call(7, "seven")


class Workload(NamedTuple):
    """A kind of call: what is called and how, and how many calls a burst has."""

    function: str
    burst: Callable[[int], None]
    calls: int
    word: str  # that the arguments hold, or their names
    pauses: int = 0  # how often a call is suspended
    target: bool = True


_loop = asyncio.Runner()
WORKLOADS = {
    "two scalars": Workload("method", _method, 2_000, "seven"),
    "dict of ten": Workload("mapping", _mapping, 2_000, "value 8"),
    "pydantic model": Workload("model", _model, 2_000, "Alice"),
    "coroutine": Workload("coroutine", lambda count: _loop.run(_coroutine(count)), 2_000, "seven", pauses=1),
    "generator of ten": Workload("generator", _generator, 1_000, "seven", pauses=10),
    "exception": Workload("failing", _failing, 2_000, "seven"),
    "recursion": Workload("fib", _fib, 21_891, "number"),
    "not a target": Workload("untouched", _untouched, 5_000, "seven", target=False),
    "switched off": Workload("method", _method, 5_000, "seven"),
}
