"""A parcel: lines and gzip of the same batch, made of each other."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.events import Batch
from flowtrace_plugins.parcel import Parcel

LINES = st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line), min_size=1)


@given(LINES)
def test_lines_come_back(lines: list[bytes]) -> None:
    """What was packed is unpacked to the same lines under the same id."""
    packed = Parcel.of(Batch("r-1-1", lines)).packed

    parcel = Parcel.unpacked("r-1-1", packed, events=len(lines))

    assert (parcel.id, parcel.events, [*parcel.batch.lines]) == ("r-1-1", len(lines), lines)


@given(LINES, st.data())
def test_damage_is_noticed(lines: list[bytes], data: st.DataObject) -> None:
    """A flipped bit of what was packed either is noticed or changes nothing that is delivered."""  # fault S19
    packed = bytearray(Parcel.of(Batch("r-1-1", lines)).packed)
    position = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[position // 8] ^= 1 << position % 8

    try:
        unpacked = Parcel.unpacked("r-1-1", bytes(packed), events=len(lines)).batch.lines
    except (OSError, EOFError, zlib.error):
        return
    assert [*unpacked] == lines  # in the header: the time, the system


def test_other_number_of_lines() -> None:
    """A file with other lines than its name says is no batch of ours."""
    with pytest.raises(EOFError):
        Parcel.unpacked("r-1-1", gzip.compress(b"{}\n{}\n"), events=3)


@given(LINES.filter(lambda lines: len(lines) > 1))
def test_halves(lines: list[bytes]) -> None:
    """Halves have all lines in order, none is empty, and their ids are those of the next time."""  # fault S11
    parcel = Parcel.of(Batch("r-1-1", lines))

    first, second = parcel.halves()

    assert [first.id, second.id] == ["r-1-1.0", "r-1-1.1"]
    assert [*first.batch.lines, *second.batch.lines] == lines
    assert min(first.events, second.events) > 0
