"""Quantities: texts with a unit become exact counts, and what is none is refused with an example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.quantities import Duration, Quantity, Size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("0B", 0),
        ("1B", 1),
        ("8KiB", 8192),
        ("8 KiB", 8192),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1.5MB", 1_500_000),
        ("0.5GiB", 2**29),
        ("2GB", 2 * 10**9),
    ],
)
def test_sizes(text: str, count: int) -> None:
    """Sizes are bytes; kB is a thousand of them and KiB 1024."""
    assert Size(text) == count


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1ns", 1),
        ("2us", 2000),
        ("2µs", 2000),
        ("2μs", 2000),
        ("100ms", 10**8),
        ("1.5s", 1_500_000_000),
        ("2m", 120 * 10**9),
        ("24h", 86400 * 10**9),
        ("1d", 86400 * 10**9),
    ],
)
def test_durations(text: str, ns: int) -> None:
    """Durations are nanoseconds, the micro sign is known in both of its code points."""
    assert Duration(text) == ns
    assert repr(Duration(text)).startswith("Duration('")
    assert Duration(text).seconds == pytest.approx(ns / 1e9)


@given(st.sampled_from([Size, Duration]), st.integers(0, 2**63 - 1))
def test_quantity_text_round_trip(kind: type[Quantity], count: int) -> None:
    """A quantity's text gives the same quantity."""
    assert kind(str(kind(count))) == count


@pytest.mark.parametrize(
    "text", ["", "B", "1", "-1B", "1e3B", "1.B", ".5B", "1 parsec", "1kib", "1_000B", "٣B", "9" * 5000 + "B", "1B\n2"]
)
def test_not_a_size(text: str) -> None:
    """What is no size is refused with an example of one."""  # fault F3
    with pytest.raises(ValueError, match="32MiB"):
        Size(text)


@pytest.mark.parametrize("value", [-1, 2**63, "9999999999GiB"])
def test_quantity_out_of_range(value: str | int) -> None:
    """Negative and absurdly large quantities are refused."""
    with pytest.raises(ValueError, match="out of range"):
        Size(value)
