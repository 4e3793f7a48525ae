"""The spool: batches on disk, durable, bounded, and forgiving about what it finds there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness import wait_until

from flowtrace import unpatched
from flowtrace.config import decode
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins.options import Spool
from flowtrace_plugins.parcel import Parcel
from flowtrace_plugins.spool import BLIND_S, DiskSpool
from tests.faults.syscalls import Calls, Killed, each_call


class Opened:
    """A spool that is open, with what it said and lost."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.warnings: list[str] = []
        self.losses: list[tuple[str, int]] = []
        context = make_context(directory=directory, warnings=self.warnings, losses=self.losses)

        def lost(id: str, reason: str, events: int) -> None:
            self.losses.append((reason, events))

        self.spool = DiskSpool(decode({"dir": "."} | options, Spool), "spool", context, lost)
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


def full(directory: Path) -> Opened:
    """A spool of 64 KiB with three batches, which has room for no fourth one of their size."""
    opened = Opened(directory, max_size="64KiB")
    for number in range(3):
        opened.spool.put(incompressible(20_000, f"r-1-{number}"))
    return opened


def files(directory: Path) -> list[str]:
    """The ids of the batches whose files are there."""
    names = sorted(path.name for path in (directory / "spool").glob("*.gz"))
    return [name.removesuffix(".ndjson.gz").split("-", 2)[2] for name in names]


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
        Opened(tmp_path, dir="a/b").spool.put(parcel(1))
    finally:
        os.umask(before)

    modes = [os.stat(path).st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/spool")]
    (file,) = (tmp_path / "a/b/spool").glob("*.gz")
    assert [*modes, os.stat(file).st_mode & 0o777] == [0o700, 0o700, 0o700, 0o600]


@pytest.mark.parametrize("name", ["a", "a/spool"])
def test_directory_that_others_can_write_to(tmp_path: Path, name: str) -> None:
    """A directory where others could plant batches is refused, with the remedy."""  # fault X4
    Opened(tmp_path, dir="a")
    (tmp_path / name).chmod(0o777)

    with pytest.raises(SinkError, match=rf"others can write to .*/{name}; chmod 700 it"):
        Opened(tmp_path, dir="a")


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


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_each_call_of_put_fails(tmp_path: Path, error: int, lasting: bool) -> None:
    """Whatever fails while a batch is put: it is accepted and there, or neither; nothing else suffers."""
    # fault S3, S4
    for calls in each_call(tmp_path, error=error, lasting=lasting):
        opened = Opened(calls.directory)
        opened.spool.put(parcel(1, id="r-1-1"))
        accepted = ["r-1-1"]

        with calls:
            for id in ("r-1-2", "r-1-3"):
                with contextlib.suppress(SinkError):
                    opened.spool.put(parcel(2, id=id))
                    accepted.append(id)
        opened.spool.put(parcel(4, id="r-1-4"))

        assert opened.ids == [*accepted, "r-1-4"], calls
        assert lasting or not list(calls.directory.glob("spool/*.tmp")), calls
        assert opened.losses == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO, errno.ENOSPC])
def test_full_spool_whose_files_cannot_be_deleted(tmp_path: Path, error: int) -> None:
    """Where nothing can make room, a batch is not taken now; once something can, it is. None is counted that is there.

    The loop that makes room must not go round for ever: the lane's thread would never see the end of the process.
    """  # fault S5, S21
    opened = full(tmp_path)

    with Calls(tmp_path, at=1, error=error, lasting=True, only=("unlink",)) as calls:
        for _ in range(3):
            with pytest.raises(SinkError, match=os.strerror(error)) as caught:
                opened.spool.put(incompressible(20_000, "r-1-3"))
            assert caught.value.retry
    meanwhile = opened.ids, [*opened.losses]
    opened.spool.put(incompressible(20_000, "r-1-3"))

    assert len(calls.made) <= 3 * 4  # a try for each file, and for the temporary one
    assert meanwhile == (["r-1-0", "r-1-1", "r-1-2"], [])
    assert (opened.ids, opened.losses) == (["r-1-1", "r-1-2", "r-1-3"], [("spool full", 1)])


@pytest.mark.parametrize("error", [errno.EPERM, errno.EIO])
def test_full_spool_with_one_file_that_cannot_be_deleted(tmp_path: Path, error: int) -> None:
    """The next oldest makes room instead; what could not be deleted is neither lost nor counted."""  # fault S21
    opened = full(tmp_path)

    with Calls(tmp_path, at=1, error=error, only=("unlink",)):
        opened.spool.put(incompressible(20_000, "r-1-3"))

    assert (opened.ids, opened.losses) == (["r-1-0", "r-1-2", "r-1-3"], [("spool full", 1)])


def test_delivered_batch_whose_file_cannot_be_deleted(tmp_path: Path) -> None:
    """It is out all the same: it neither comes back nor is counted, and its file goes as soon as that is possible."""
    # fault S5
    opened = Opened(tmp_path)
    opened.spool.put(parcel(1, id="r-1-1"))
    (entry,) = opened.spool.entries()

    with Calls(tmp_path, at=1, error=errno.EROFS, lasting=True, only=("unlink",)):
        opened.spool.remove(entry)
        opened.spool.tidy()
        meanwhile = opened.ids, opened.spool.is_empty(), files(tmp_path)
    opened.spool.put(parcel(2, id="r-1-2"))
    opened.spool.tidy()

    assert meanwhile == ([], True, ["r-1-1"])
    assert (opened.ids, files(tmp_path), opened.losses) == (["r-1-2"], ["r-1-2"], [])
    assert opened.spool._bytes == os.path.getsize(opened.spool.entries()[0].path)


def test_delivered_batches_whose_files_cannot_be_deleted_fill_the_spool(tmp_path: Path) -> None:
    """Such files count for the bound as all others do, make room first, and are no losses."""  # fault S5, S21
    opened = full(tmp_path)

    with Calls(tmp_path, at=1, error=errno.EPERM, lasting=True, only=("unlink",)):
        for entry in opened.spool.entries():
            opened.spool.remove(entry)
        with pytest.raises(SinkError, match="not permitted"):
            opened.spool.put(incompressible(20_000, "r-1-3"))
    opened.spool.put(incompressible(20_000, "r-1-4"))

    assert (opened.ids, opened.losses) == (["r-1-4"], [])


def test_old_batch_whose_file_cannot_be_deleted(tmp_path: Path) -> None:
    """It is not delivered, holds up no other, and is counted once: when it goes."""  # fault S5
    opened = Opened(tmp_path, max_age="1h")
    opened.spool.put(parcel(1, id="r-1-1"))
    (path,) = (tmp_path / "spool").glob("*.gz")
    path.rename(path.with_name(f"{time.time_ns() - 3_700_000_000_000:020}-1-r-1-1.ndjson.gz"))
    opened.spool.put(parcel(2, id="r-1-2"))

    with Calls(tmp_path, at=1, error=errno.EROFS, lasting=True, only=("unlink",)):
        meanwhile = opened.ids, opened.ids, [*opened.losses]

    assert meanwhile == (["r-1-2"], ["r-1-2"], [])
    assert (opened.ids, opened.losses) == (["r-1-2"], [("spool expired", 1)])


def test_what_is_put_is_forced_to_the_disk(tmp_path: Path) -> None:
    """Each batch costs an fsync of its file and one of the directory; at the end of the process, none."""
    opened = Opened(tmp_path)

    with Calls(tmp_path, only=("fsync", "replace")) as calls:
        opened.spool.put(parcel(1, id="r-1-1"))
        opened.spool.put(parcel(2, id="r-1-2"))
        durably = [*calls.made]
        calls.made.clear()
        opened.spool.put(parcel(3, id="r-1-3"), durably=False)

    assert durably == ["fsync", "replace", "fsync"] * 2
    assert calls.made == ["replace"]


def test_killed_at_each_call_of_put(tmp_path: Path) -> None:
    """A process that is killed while it puts a batch leaves what it has put before, and no half of one."""  # fault P6
    for calls in each_call(tmp_path, error=Killed):
        opened, accepted = Opened(calls.directory), []
        with calls, contextlib.suppress(Killed):
            for id in ("r-1-1", "r-1-2"):
                opened.spool.put(parcel(1, id=id))
                accepted.append(id)

        later = Opened(calls.directory)
        found = [later.spool.take(entry) for entry in later.spool.entries()]
        later.spool.put(parcel(3, id="r-2-1"))

        assert [each and each.id for each in found][: len(accepted)] == accepted, calls
        assert None not in found
        assert later.ids[-1] == "r-2-1"


def test_too_many_open_files(tmp_path: Path) -> None:
    """A program that has used up its descriptors does not make a batch a damaged one."""  # fault S19
    opened = Opened(tmp_path)
    opened.spool.put(parcel(1, id="r-1-1"))
    (entry,) = opened.spool.entries()

    with Calls(tmp_path, at=1, error=errno.EMFILE, only=("open",)), pytest.raises(SinkError, match="Too many open"):
        opened.spool.take(entry)

    assert opened.spool.take(entry)
    assert opened.losses == []


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """What may wait there is not overtaken; what cannot be seen for long is not waited for."""  # fault S5, S19
    clock = [1000.0]
    monkeypatch.setattr(unpatched.time, "monotonic", lambda: clock[0])
    opened = Opened(tmp_path)

    seen = [opened.spool.is_empty()]
    with Calls(tmp_path, at=1, error=error, lasting=True, only=("scandir",)):
        for clock[0] in (2000.0, 2000.0 + BLIND_S - 1, 2000.0 + BLIND_S + 1):
            seen.append(opened.spool.is_empty())
    opened.spool.put(parcel(1))
    seen.append(opened.spool.is_empty())
    with Calls(tmp_path, at=1, error=error, only=("scandir",)):
        seen.append(opened.spool.is_empty())

    assert seen == [True, False, False, True, False, False]


def test_directory_is_deleted(tmp_path: Path) -> None:
    """A directory that somebody has deleted is made again."""
    opened = Opened(tmp_path)
    opened.spool.put(parcel(1, id="r-1-1"))
    shutil.rmtree(tmp_path / "spool")

    was_empty = opened.spool.is_empty()
    opened.spool.put(parcel(2, id="r-1-2"))

    assert was_empty
    assert opened.ids == ["r-1-2"]
    assert os.stat(tmp_path / "spool").st_mode & 0o777 == 0o700


def test_what_is_being_delivered_makes_no_room(tmp_path: Path) -> None:
    """The oldest batch stays as long as it is being delivered: it would be lost and delivered."""  # fault S21
    opened = Opened(tmp_path, max_size="64KiB")
    for number in range(3):
        opened.spool.put(incompressible(20_000, f"r-1-{number}"))
    oldest = opened.spool.entries()[0]

    opened.spool.take(oldest)
    opened.spool.put(incompressible(20_000, "r-1-3"))

    assert opened.ids == ["r-1-0", "r-1-2", "r-1-3"]
    assert opened.losses == [("spool full", 1)]


def test_full_spool_is_not_listed_for_each_batch(tmp_path: Path) -> None:
    """With 10,000 batches in a full spool, a batch more costs no look at all of them."""  # fault S21
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    data, began_ns = parcel(1).packed, time.time_ns()
    for number in range(10_000):
        name = f"{began_ns + number:020}-1-r-9-{number}.ndjson.gz"
        os.write(fd := os.open(directory / name, os.O_CREAT | os.O_WRONLY), data)
        os.close(fd)
    opened = Opened(tmp_path, max_size=f"{len(data) * 10_000 // 1024}KiB", max_age="365d")

    with Calls(tmp_path, only=("listdir", "scandir", "unlink")) as calls:
        for number in range(500):
            opened.spool.put(parcel(1, id=f"r-1-{number}"), durably=False)

    assert calls.made.count("unlink") >= 500
    assert len(calls.made) - calls.made.count("unlink") <= 4
    assert len(opened.losses) == calls.made.count("unlink")


def test_what_was_put_aside_goes_in_the_end(tmp_path: Path) -> None:
    """Damaged files do not pile up: they are kept as long as a batch would be."""  # fault S19
    opened = Opened(tmp_path, max_age="1h")
    names = [f"{number:020}-1-r-1-{number}.ndjson.gz.corrupt" for number in (1, 2)]
    for name in names:
        (tmp_path / "spool" / name).touch()
    os.utime(tmp_path / "spool" / names[0], (0, 0))

    opened.spool.entries()

    assert [path.name for path in (tmp_path / "spool").glob("*.corrupt")] == names[1:]


HOLDER = """
import os, signal, sys, time
from flowtrace_plugins.spool import Lease
lease = Lease(sys.argv[1])
assert lease.is_held
child = os.fork()
if child == 0:
    os.close(1)
    signal.pause()
print(child, flush=True)
signal.pause()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_lease_ends_with_its_holder(tmp_path: Path) -> None:
    """A lease is the holder's alone while it lives, and nobody's when it is killed, though a child of it lives on."""
    # fault S20, P1
    opened = Opened(tmp_path)
    path = tmp_path / "spool" / ".lease"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())
        meanwhile = opened.spool.lease()
        holder.kill()
        holder.wait()
    try:
        after = wait_until(opened.spool.lease, "the lease is free")
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)

    assert meanwhile is None
    assert after
    assert after.is_held
    after.release()


def test_lease_whose_file_the_program_closes(tmp_path: Path) -> None:
    """A program that closes descriptors it does not know ends the lease; what it opens there instead stays open."""
    # fault P11
    lease = Opened(tmp_path).spool.lease()
    assert lease
    number = lease.file.fd
    os.close(number)
    with open(tmp_path / "theirs", "w") as theirs:
        assert theirs.fileno() == number

        was_held = lease.is_held
        lease.release()
        theirs.write("fine")

    assert not was_held
    assert (tmp_path / "theirs").read_text() == "fine"


def test_two_threads(tmp_path: Path) -> None:
    """What one thread puts while another takes out comes once, in order, and the size is right in the end."""
    opened = Opened(tmp_path)
    taken: list[str] = []

    def deliver() -> None:
        while len(taken) < 200:
            for entry in opened.spool.entries():
                assert opened.spool.take(entry)
                opened.spool.remove(entry)
                taken.append(entry.id)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        delivering = pool.submit(deliver)
        for number in range(200):
            opened.spool.put(parcel(number, id=f"r-1-{number}"), durably=False)
        delivering.result(timeout=60)

    assert taken == [f"r-1-{number}" for number in range(200)]
    assert opened.spool._bytes == 0


def test_clock_that_goes_back_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of one process stay in order when the clock is set back."""  # fault P10
    opened = Opened(tmp_path)
    opened.spool.put(parcel(1, id="r-1-1"))
    now = time.time_ns()
    monkeypatch.setattr(unpatched.time, "time_ns", lambda: now - 10_000_000_000)

    opened.spool.put(parcel(2, id="r-1-2"))

    assert opened.ids == ["r-1-1", "r-1-2"]


def test_a_person_can_read_it(tmp_path: Path) -> None:
    """A file is plain gzip of JSON lines."""
    Opened(tmp_path).spool.put(parcel(1))
    (path,) = (tmp_path / "spool").glob("*.gz")

    assert gzip.decompress(path.read_bytes()) == b'{"seq":1}\n'
