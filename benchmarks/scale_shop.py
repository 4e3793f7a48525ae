"""What `soak.py` has traced: a shop, whose orders are calls of every kind, with values that never come twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any


class Declined(Exception):
    """No money."""


def price(items: dict[str, int]) -> dict[str, int]:
    """The items, dearer."""
    return {name: cents * 11 // 10 for name, cents in items.items()}


async def reserve(number: int, customer: str) -> str:
    """Lets other orders go first, twice."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return f"{customer} has {number}"


def lines(number: int) -> Iterator[str]:
    """Ten lines of a bill."""
    for line in range(10):
        yield f"{number}/{line}"


def ask(number: int, card_number: str) -> None:
    """A bank that never pays.

    Raises:
        Declined: always.
    """
    raise Declined(f"order {number} on {card_number}")


def charge(number: int, card_number: str) -> None:
    """Asks the bank.

    Raises:
        Declined: always.
    """
    ask(number, card_number)


def show(article: object) -> Any:
    """Gives back what it is given."""
    return article


async def order(number: int, items: dict[str, int], article: object) -> dict[str, object]:
    """One order: `ORDER` calls, itself included."""

    def discount(cents: int) -> int:
        return cents - number % 10

    priced = price(items)
    reserved = await reserve(number, f"customer {number}")
    bill = list(lines(number))
    with contextlib.suppress(Declined):
        charge(number, f"4111 1111 1111 {number % 10_000:04}")
    return {"sum": discount(sum(priced.values())), "reserved": reserved, "bill": bill, "article": show(article)}


ORDER = 8
