"""The spool: batches on disk, durable, bounded, and forgiving about what it finds there."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import pytest

from flowtrace.config import decode
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins.options import Spool
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.spool import DiskSpool


class Opened:
    """A spool that is open, with what it said and lost."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.warnings: list[str] = []
        self.losses: list[tuple[str, int]] = []
        context = make_context(directory=directory, warnings=self.warnings, losses=self.losses)

        def lost(id: str, reason: str, events: int) -> None:
            self.losses.append((reason, events))

        self.spool = DiskSpool(decode({"dir": "spool"} | options, Spool), context, lost)
        self.spool.open()

    @property
    def ids(self) -> list[str]:
        """The ids of what waits."""
        return [entry.id for entry in self.spool.entries()]


def parcel(*seqs: int, id: str = "r-1-1") -> Parcel:
    """A batch of events with these numbers."""
    return Parcel.of(make_batch(*({"seq": seq} for seq in seqs), id=id))


def incompressible(size: int, id: str) -> Parcel:
    """A batch that takes about ``size`` bytes on disk."""
    return Parcel.of(make_batch({"noise": os.urandom(size * 9 // 10).hex()}, id=id))


def test_batches_come_back_in_order(tmp_path: Path) -> None:
    """What was put comes back with its id and its lines, also to a later process."""
    written = Opened(tmp_path).spool
    written.put(parcel(1, 2, id="r-1-1"))
    written.put(parcel(3, id="odd/../id"))

    spool = Opened(tmp_path).spool
    batches = [spool.take(entry) for entry in spool.entries()]

    assert [(b.id, [*b.batch.lines]) for b in batches if b] == [
        ("r-1-1", [b'{"seq":1}', b'{"seq":2}']),
        ("odd/../id", [b'{"seq":3}']),
    ]


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    """The directory is 0700 and its files are 0600, whatever the umask."""  # fault X3, X4
    before = os.umask(0)
    try:
        Opened(tmp_path, dir="a/spool").spool.put(parcel(1))
    finally:
        os.umask(before)

    modes = [os.stat(path).st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a/spool")]
    (file,) = (tmp_path / "a/spool").glob("*.gz")
    assert [*modes, os.stat(file).st_mode & 0o777] == [0o700, 0o700, 0o600]


def test_directory_that_others_can_write_to(tmp_path: Path) -> None:
    """A directory where others could plant batches is refused, with the remedy."""  # fault X4
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o777)

    with pytest.raises(SinkError, match=r"others can write to .*; chmod 700 it"):
        Opened(tmp_path)


def test_oldest_makes_room(tmp_path: Path) -> None:
    """The bound holds in bytes; what had to go is counted."""  # fault S21
    opened = Opened(tmp_path, max_size="64KiB")

    for number in range(6):
        opened.spool.put(incompressible(20_000, f"r-1-{number}"))

    assert opened.ids == ["r-1-3", "r-1-4", "r-1-5"]
    assert opened.losses == [("spool full", 1)] * 3
    assert sum(os.path.getsize(p) for p in (tmp_path / "spool").iterdir()) <= 65536


def test_batch_larger_than_the_spool(tmp_path: Path) -> None:
    """A batch that can never fit drives out no other."""
    opened = Opened(tmp_path, max_size="64KiB")
    opened.spool.put(parcel(1, id="r-1-1"))

    with pytest.raises(SinkError, match=r"raise spool\.max_size") as caught:
        opened.spool.put(incompressible(100_000, "r-1-2"))

    assert not caught.value.retry
    assert opened.ids == ["r-1-1"]


def test_too_old_is_dropped(tmp_path: Path) -> None:
    """What has waited longer than the limit is dropped and counted."""
    opened = Opened(tmp_path, max_age="1h")
    opened.spool.put(parcel(1, 2, id="r-1-1"))
    (path,) = (tmp_path / "spool").glob("*.gz")
    path.rename(path.with_name(f"{time.time_ns() - 3_700_000_000_000:020}-2-r-1-1.ndjson.gz"))

    assert opened.ids == []
    assert opened.losses == [("spool expired", 2)]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "replaced"])
def test_damaged_file_is_put_aside(tmp_path: Path, damage: str) -> None:
    """A damaged file is kept under another name and counted; the rest is delivered."""  # fault S19
    opened = Opened(tmp_path)
    opened.spool.put(parcel(1, id="r-1-1"))
    opened.spool.put(parcel(2, id="r-1-2"))
    path = min((tmp_path / "spool").glob("*.gz"))
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    damaged = {"truncated": bytes(data[:9]), "flipped": bytes(data), "emptied": b"", "replaced": b"x" * 99}
    path.write_bytes(damaged[damage])

    batches = [opened.spool.take(entry) for entry in opened.spool.entries()]

    assert [batch and batch.id for batch in batches] == [None, "r-1-2"]
    assert opened.losses == [("spool corrupt", 1)]
    assert path.with_name(f"{path.name}.corrupt").exists()
    assert opened.ids == ["r-1-2"]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    """Files that are no batches are neither read nor removed; leftovers of a crash are, in time."""  # fault S19
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    stale = directory / f"{1:020}-1-r.ndjson.gz.77.tmp"
    foreign = ["1-1-x.ndjson.gz", "later.ndjson.zst", "mine.tmp", "notes.txt"]
    for name in (*foreign, stale.name):
        (directory / name).touch()
        os.utime(directory / name, (0, 0))

    assert Opened(tmp_path).ids == []

    assert sorted(p.name for p in directory.iterdir()) == foreign


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that the disk has no room for is not accepted, and leaves nothing behind."""  # fault S3
    opened = Opened(tmp_path)

    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SinkError, match=r"cannot write to the spool .*: No space left") as caught:
        opened.spool.put(parcel(1))

    assert caught.value.retry
    assert list((tmp_path / "spool").iterdir()) == []


def test_clock_that_goes_back_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of one process stay in order when the clock is set back."""  # fault P10
    opened = Opened(tmp_path)
    opened.spool.put(parcel(1, id="r-1-1"))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 10_000_000_000)

    opened.spool.put(parcel(2, id="r-1-2"))

    assert opened.ids == ["r-1-1", "r-1-2"]


def test_a_person_can_read_it(tmp_path: Path) -> None:
    """A file is plain gzip of JSON lines."""
    Opened(tmp_path).spool.put(parcel(1))
    (path,) = (tmp_path / "spool").glob("*.gz")

    assert gzip.decompress(path.read_bytes()) == b'{"seq":1}\n'
