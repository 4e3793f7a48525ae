"""System calls that fail on demand: which ones, how often, and for which files."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tests.faults.syscalls import Calls, Killed, each_call


def copy(directory: Path) -> None:
    """Five calls below ``directory``."""
    fd = os.open(directory / "file", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, b"abcd")
        os.replace(directory / "file", directory / "other")
    finally:
        os.close(fd)


def test_each_call_fails_once(tmp_path: Path) -> None:
    """There is a run for each call that the code makes, and one that nothing happens to."""
    errors: list[int | None] = []
    for calls in each_call(tmp_path, error=errno.ENOSPC):
        try:
            with calls:
                copy(calls.directory)
        except OSError as error:
            errors.append(error.errno)
        last = calls

    assert errors == [errno.ENOSPC] * 5
    assert last.made == ["open", "flock", "write", "replace", "close"]
    assert (last.failed, (last.directory / "other").read_bytes()) == (0, b"abcd")


def test_lasting_fault_passes_with_the_block(tmp_path: Path) -> None:
    """All calls fail from the k-th on, none before and none after the ``with`` block."""
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)

    with Calls(tmp_path, at=2, error=errno.EIO, lasting=True) as calls:
        os.write(fd, b"1")
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                os.write(fd, b"2")
    os.write(fd, b"3")
    os.close(fd)

    assert (calls.made, calls.failed) == (["write"] * 3, 2)
    assert (tmp_path / "file").read_bytes() == b"13"


def test_short_write(tmp_path: Path) -> None:
    """A short write takes half; what comes after it works, or fails where the fault lasts."""
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)

    with Calls(tmp_path, at=1, short=True):
        taken = [os.write(fd, b"abcd"), os.write(fd, b"cd")]
    with Calls(tmp_path, at=1, error=errno.ENOSPC, lasting=True, short=True):
        taken.append(os.write(fd, memoryview(b"efgh")))
        with pytest.raises(OSError, match="No space left"):
            os.write(fd, b"gh")
    os.close(fd)

    assert taken == [2, 2, 2]
    assert (tmp_path / "file").read_bytes() == b"abcdef"


def test_process_that_is_killed_leaves_half_a_line(tmp_path: Path) -> None:
    """After its death a process makes no call that does anything, whatever it tries in its ``finally``."""
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)

    with Calls(tmp_path, at=1, error=Killed, short=True):
        with pytest.raises(Killed):
            os.write(fd, b"abcd")
        with pytest.raises(Killed):
            os.ftruncate(fd, 0)
        with pytest.raises(Killed):
            os.close(fd)

    assert (tmp_path / "file").read_bytes() == b"ab"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_files_elsewhere_are_left_alone(tmp_path: Path) -> None:
    """Neither a file beside the directory nor a function that does not count is touched."""
    (tmp_path / "a").mkdir()
    fd = os.open(tmp_path / "ab", os.O_CREAT | os.O_RDWR)

    with Calls(tmp_path / "a", at=1, lasting=True, only=["write"]) as calls:
        os.write(fd, b"1")
        os.mkdir(tmp_path / "a" / "b")
    os.close(fd)

    assert (calls.made, calls.reached) == ([], False)
