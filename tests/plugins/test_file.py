"""The file sink: whole lines in a private file, whatever happens to that file."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest

from flowtrace.config import Duration, Size
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins.file import FileSink, filled_in
from flowtrace_plugins.options import FileOptions, Rotate
from tests.faults.syscalls import CHANGES, Calls

HOUR_NS = 3600 * 10**9


def opened(
    directory: Path,
    path: str = "trace.jsonl",
    *,
    warnings: list[str] | None = None,
    now: list[int] | None = None,
    **options: object,
) -> FileSink:
    """A sink that is open; its clock says ``now[0]``."""
    sink = FileSink(
        FileOptions(path=path, **options),  # type: ignore[arg-type]
        make_context(directory=directory, service="chat", run="00aa", pid=7, warnings=warnings),
        clock=(lambda: now[0]) if now else time.time_ns,
    )
    sink.open()
    return sink


def closed(sink: FileSink) -> None:
    """Close a sink that has time."""
    sink.close(time.monotonic() + 5)


def aged(path: Path, time_ns: int) -> None:
    """Have a file last been written to at some time."""
    os.utime(path, ns=(time_ns, time_ns))


def test_appends_lines(tmp_path: Path) -> None:
    """Each event is a line, behind what the file held before."""
    (tmp_path / "trace.jsonl").write_bytes(b'{"seq":0}\n')
    sink = opened(tmp_path)

    sink.write(make_batch({"seq": 1}, {"seq": 2}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":0}\n{"seq":1}\n{"seq":2}\n'


def test_placeholders_and_directories(tmp_path: Path) -> None:
    """The path names the process; missing directories are made, for this user only."""  # fault X4
    before = os.umask(0)
    try:
        sink = opened(tmp_path, "a/b/{service}-{run}-{pid}.jsonl")
    finally:
        os.umask(before)
    closed(sink)

    path = tmp_path / "a" / "b" / "chat-00aa-7.jsonl"
    modes = [os.stat(p).st_mode & 0o777 for p in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_service_name_cannot_leave_its_directory(tmp_path: Path) -> None:
    """A service called ``../x`` stays one file name."""
    assert filled_in("traces/{service}.jsonl", service="../x y", pid=1, run="r") == "traces/__x_y.jsonl"


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    """A link put in place by somebody else must not lead our lines into their target."""  # fault X4
    (tmp_path / "trace.jsonl").symlink_to(tmp_path / "target")

    with pytest.raises(SinkError, match="is a symbolic link; name the file itself") as caught:
        opened(tmp_path)

    assert not caught.value.retry
    assert not (tmp_path / "target").exists()


def test_fifo_is_refused_without_blocking(tmp_path: Path) -> None:
    """Only regular files are written to."""  # fault X4
    os.mkfifo(tmp_path / "trace.jsonl")

    with pytest.raises(SinkError, match="is not a regular file; choose another path"):
        opened(tmp_path)


def test_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's file, as after a drop of privileges, is left alone."""  # fault X4
    (tmp_path / "trace.jsonl").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(SinkError, match="belongs to another user"):
        opened(tmp_path)


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A path below a file is an error that names the path and may pass."""  # fault S5
    (tmp_path / "file").touch()

    with pytest.raises(SinkError, match=r"cannot open .*/file/x/trace.jsonl: Not a directory") as caught:
        opened(tmp_path, "file/x/trace.jsonl")

    assert caught.value.retry


@pytest.mark.parametrize("taken", [0, 5])
def test_full_disk_tears_no_line(tmp_path: Path, failing_write: Callable[..., None], taken: int) -> None:
    """What a full disk took of a batch is removed, and the retry writes each line once."""  # fault S3
    sink = opened(tmp_path)
    sink.write(make_batch({"seq": 1}))
    failing_write(taken)

    with pytest.raises(SinkError, match="No space left") as caught:
        sink.write(make_batch({"seq": 2}))
    left = (tmp_path / "trace.jsonl").read_bytes()
    sink.write(make_batch({"seq": 2}))
    closed(sink)

    assert caught.value.retry
    assert left == b'{"seq":1}\n'
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n{"seq":2}\n'


def test_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that took a part, as after a signal, is followed by one for the rest."""  # fault S3
    write = os.write
    sink = opened(tmp_path)
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))

    sink.write(make_batch({"seq": 1}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n'


def test_failing_disk_gets_a_new_file(tmp_path: Path, failing_write: Callable[..., None]) -> None:
    """After EIO the old descriptor is not used again."""  # fault S4
    sink = opened(tmp_path)
    sink.write(make_batch({"seq": 1}))
    failing_write(0, errno.EIO)

    with pytest.raises(SinkError, match="Input/output error"):
        sink.write(make_batch({"seq": 2}))
    sink.write(make_batch({"seq": 2}))
    closed(sink)

    assert (tmp_path / "trace.jsonl.1").read_bytes() == b'{"seq":1}\n'
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":2}\n'


def test_failed_fsync_gets_a_new_file(tmp_path: Path) -> None:
    """A failed fsync is not repeated on the same file, where it would succeed; no line is doubled."""  # fault S4
    sink = opened(tmp_path, fsync="always")
    sink.write(make_batch({"seq": 1}))

    with Calls(tmp_path, at=1, only=["fsync"]), pytest.raises(SinkError, match="cannot write to"):
        sink.write(make_batch({"seq": 2}))
    sink.write(make_batch({"seq": 2}))
    closed(sink)

    assert (tmp_path / "trace.jsonl.1").read_bytes() == b'{"seq":1}\n'
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":2}\n'


@pytest.mark.parametrize(("setting", "expected"), [("off", 0), ("always", 3), ("1h", 1), ("1ns", 3)])
def test_fsync_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, expected: int) -> None:
    """``off`` never, ``always`` after each batch, a duration at most that often."""
    synced: list[int] = []  # the directory's is beside the point
    monkeypatch.setattr(os, "fsync", lambda fd: stat.S_ISREG(os.fstat(fd).st_mode) and synced.append(fd))
    sink = opened(tmp_path, fsync=setting)

    for number in range(3):
        sink.write(make_batch({"seq": number}))
        sink.flush()
    count = len(synced)
    closed(sink)

    assert count == expected
    assert len(synced) == (2 if setting == "1h" else expected)


def test_torn_tail_of_a_crash_is_ended(tmp_path: Path) -> None:
    """A line that a crash left unfinished does not swallow the first line of this run."""  # fault S6
    (tmp_path / "trace.jsonl").write_bytes(b'{"seq":1}\n{"se')
    sink = opened(tmp_path)

    sink.write(make_batch({"seq": 2}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n{"se\n{"seq":2}\n'


def test_batch_that_is_tried_again_after_its_write_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What strikes behind the write, as a lowered recursion limit does, doubles nothing."""  # fault C7
    sink = opened(tmp_path)
    batch = make_batch({"seq": 1})

    def struck() -> None:
        raise RecursionError

    with monkeypatch.context() as low:
        low.setattr(sink, "_sync_when_due", struck)
        with pytest.raises(RecursionError):
            sink.write(batch)
    sink.write(batch)
    sink.write(make_batch({"seq": 2}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n{"seq":2}\n'


@pytest.mark.parametrize("action", ["rename", "delete", "truncate"])
def test_logrotate(tmp_path: Path, action: str) -> None:
    """A file renamed, deleted or emptied from outside is followed by a fresh one at the same path."""  # fault S7
    path = tmp_path / "trace.jsonl"
    sink = opened(tmp_path)
    sink.write(make_batch({"seq": 1}))
    if action == "rename":
        path.rename(tmp_path / "old")
    elif action == "delete":
        path.unlink()
    else:
        os.truncate(path, 0)

    sink.write(make_batch({"seq": 2}))
    closed(sink)

    assert path.read_bytes() == b'{"seq":2}\n'


def test_never_writes_into_a_file_of_the_program(tmp_path: Path) -> None:
    """Where our descriptor's number went to a file of the program's, that stays untouched and open."""  # fault P11
    sink = opened(tmp_path)
    assert sink._file
    database = os.open(tmp_path / "app.db", os.O_CREAT | os.O_RDWR)
    reused = os.dup2(database, sink._file.fd)

    sink.write(make_batch({"seq": 1}))
    closed(sink)

    assert os.fstat(reused).st_size == 0
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n'
    os.close(database)
    os.close(reused)


def test_closed_descriptor_is_replaced(tmp_path: Path) -> None:
    """A program that closes every descriptor, as daemons do, costs no line."""  # fault P11
    sink = opened(tmp_path)
    assert sink._file
    os.close(sink._file.fd)

    sink.write(make_batch({"seq": 1}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n'


def test_rotates_by_size(tmp_path: Path) -> None:
    """A file that would exceed its size is put aside, and so many old ones are kept."""
    sink = opened(tmp_path, rotate=Rotate(max_size=Size("1KiB"), keep=2))

    for number in range(5):
        sink.write(make_batch({"seq": number, "text": "x" * 600}))
    closed(sink)

    files = {p.name: orjson.loads(p.read_bytes())["seq"] for p in tmp_path.glob("*.jsonl*") if p.suffix != ".lock"}
    assert files == {"trace.jsonl": 4, "trace.jsonl.1": 3, "trace.jsonl.2": 2}
    assert {os.stat(p).st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


def test_rotation_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    """Where a rotated name is taken by a directory, lines go on into the old file, with one warning."""  # fault S9
    warnings: list[str] = []
    sink = opened(tmp_path, warnings=warnings, rotate=Rotate(max_size=Size("1KiB"), keep=1))
    (tmp_path / "trace.jsonl.1").mkdir()

    for number in range(4):
        sink.write(make_batch({"seq": number, "text": "x" * 600}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes().count(b"\n") == 4
    assert warnings == [f"cannot rotate {sink.path}: Is a directory; it grows beyond its max_size"]


@pytest.mark.parametrize("is_idle", [False, True])
def test_rotates_by_time(tmp_path: Path, *, is_idle: bool) -> None:
    """With the hour begins a new file, also when nothing is written and when the process is a new one."""
    start = time.time_ns() // HOUR_NS * HOUR_NS
    now = [start + 1]
    options: dict[str, Any] = {"rotate": Rotate(every=Duration("1h")), "now": now}
    sink = opened(tmp_path, **options)
    for seq in range(2):
        sink.write(make_batch({"seq": seq}))
        now[0] += HOUR_NS // 3
    aged(tmp_path / "trace.jsonl", start + HOUR_NS - 1)
    sink.flush()
    assert not (tmp_path / "trace.jsonl.1").exists()

    now[0] = start + HOUR_NS
    if is_idle:
        sink.flush()
        sink.flush()
        assert (tmp_path / "trace.jsonl.1").exists()
    else:
        closed(sink)
        sink = opened(tmp_path, **options)
    for seq in range(2, 4):
        sink.write(make_batch({"seq": seq}))
        aged(tmp_path / "trace.jsonl", start)  # as by a file server whose clock is slow: not put aside over and over
    closed(sink)

    assert (tmp_path / "trace.jsonl.1").read_bytes() == b'{"seq":0}\n{"seq":1}\n'
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":2}\n{"seq":3}\n'
    assert not (tmp_path / "trace.jsonl.2").exists()


def test_old_files_are_deleted(tmp_path: Path) -> None:
    """What is older than ``max_age`` or beyond ``keep`` goes at the next start; nothing else does."""
    for name in ("1", "2", "3.gz", "4", "5", "1001", "x", "2024-01-01", "1.bak"):
        (tmp_path / f"trace.jsonl.{name}").write_bytes(name.encode())
    for name in ("2", "3.gz", "x", "1.bak"):
        aged(tmp_path / f"trace.jsonl.{name}", time.time_ns() - 2 * HOUR_NS)
    (tmp_path / "trace.jsonl.6").mkdir()
    sink = opened(tmp_path, rotate=Rotate(keep=4, max_age=Duration("1h")))

    sink.write(make_batch({"seq": 1}))
    sink.flush()
    closed(sink)

    left = {path.name.removeprefix("trace.jsonl") for path in tmp_path.iterdir()}
    assert left == {"", ".lock", ".1", ".4", ".6", ".1001", ".x", ".2024-01-01", ".1.bak"}


def test_gap_takes_what_is_put_aside(tmp_path: Path) -> None:
    """Files move only as far as the first free number, so none is deleted while there is one."""
    for number in (1, 3):
        (tmp_path / f"trace.jsonl.{number}").write_bytes(b"%d" % number)
    sink = opened(tmp_path, rotate=Rotate(max_size=Size("1KiB"), keep=3))

    for seq in range(2):
        sink.write(make_batch({"seq": seq, "text": "x" * 600}))
    closed(sink)

    assert [(tmp_path / f"trace.jsonl.{number}").read_bytes() for number in (2, 3)] == [b"1", b"3"]


def test_compresses_what_is_put_aside(tmp_path: Path) -> None:
    """``path.1`` becomes ``path.1.gz``, private and as old as its events; older ones move on; no more are kept."""
    rotate = Rotate(max_size=Size("1KiB"), keep=2, compress="gzip")
    (tmp_path / "trace.jsonl.1").write_bytes(b"from before\n")
    aged(tmp_path / "trace.jsonl.1", 10**18)
    sink = opened(tmp_path, rotate=rotate)
    sink.write(make_batch({"seq": 0, "text": "x" * 600}))
    sink.flush()
    assert (tmp_path / "trace.jsonl.1.gz").stat().st_mtime_ns == 10**18

    for seq in range(1, 4):
        sink.write(make_batch({"seq": seq, "text": "x" * 600}))
        sink.flush()
    closed(sink)

    files = {path.name: path for path in tmp_path.iterdir()}
    assert set(files) == {"trace.jsonl", "trace.jsonl.lock", "trace.jsonl.1.gz", "trace.jsonl.2.gz"}
    assert [orjson.loads(gzip.decompress(files[f"trace.jsonl.{n}.gz"].read_bytes()))["seq"] for n in (1, 2)] == [2, 1]
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}


def test_compression_holds_up_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is compressed in turns, between which batches are written and more files put aside."""
    monkeypatch.setattr("flowtrace_plugins.archive._TURN_S", 0.0)  # one slice each
    text = os.urandom(3 * 1024 * 1024).hex().encode()
    (tmp_path / "trace.jsonl.1").write_bytes(text)
    rotate = Rotate(max_size=Size("1KiB"), keep=100, compress="gzip")
    sink = opened(tmp_path, rotate=rotate)

    turns = 0
    while not (done := list(tmp_path.glob("*.gz"))):
        sink.write(make_batch({"seq": turns, "text": "x" * 600}))
        sink.flush()
        turns += 1
        assert turns < 1_000
    closed(sink)

    assert turns > len(text) // (1 << 20)
    assert [path.name for path in done] == [f"trace.jsonl.{turns}.gz"]  # it has moved on with each batch
    assert gzip.decompress(done[0].read_bytes()) == text


def test_end_amid_compression_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends leaves the file as it was and no other; the next one compresses it."""
    monkeypatch.setattr("flowtrace_plugins.archive._TURN_S", 0.0)
    (tmp_path / "trace.jsonl.1").write_bytes(b"a" * (1 << 20))
    options: dict[str, Any] = {"rotate": Rotate(compress="gzip")}
    sink = opened(tmp_path, **options)
    for _ in range(2):
        sink.flush()
    assert len(list(tmp_path.glob("*.gz.tmp"))) == 1
    closed(sink)
    assert [path.name for path in tmp_path.glob("trace.jsonl.*")] == ["trace.jsonl.1"]

    monkeypatch.undo()
    sink = opened(tmp_path, **options)
    for _ in range(100):
        sink.flush()
    closed(sink)

    assert gzip.decompress((tmp_path / "trace.jsonl.1.gz").read_bytes()) == b"a" * (1 << 20)


def test_remains_of_a_crash_are_mended(tmp_path: Path) -> None:
    """Half a compressed file of a crash is deleted; one that lacks its last name only gets it."""  # fault P6
    (tmp_path / "trace.jsonl.12345678.gz.tmp").write_bytes(b"half")
    (tmp_path / "trace.jsonl.1").write_bytes(gzip.compress(b"lines"))
    sink = opened(tmp_path, rotate=Rotate(compress="gzip"))

    sink.flush()
    closed(sink)

    assert {path.name for path in tmp_path.iterdir()} == {"trace.jsonl", "trace.jsonl.lock", "trace.jsonl.1.gz"}
    assert gzip.decompress((tmp_path / "trace.jsonl.1.gz").read_bytes()) == b"lines"


def test_links_among_old_files_are_not_followed(tmp_path: Path) -> None:
    """Neither compression nor deletion touches what a link leads to."""  # fault X4
    target = tmp_path / "target"
    target.write_bytes(b"other")
    aged(target, 0)
    (tmp_path / "trace.jsonl.1").symlink_to(target)
    (tmp_path / "trace.jsonl.2").symlink_to(target)
    sink = opened(tmp_path, rotate=Rotate(max_size=Size("1KiB"), keep=2, compress="gzip", max_age=Duration("1s")))

    for seq in range(3):
        sink.write(make_batch({"seq": seq, "text": "x" * 600}))
        sink.flush()
    closed(sink)

    assert (target.read_bytes(), target.stat().st_mtime_ns) == (b"other", 0)
    assert not list(tmp_path.glob("target?*"))


@pytest.mark.parametrize("names", [["write"], ["fsync"]])
def test_failing_disk_pushes_out_no_old_files(tmp_path: Path, names: list[str]) -> None:
    """A disk that goes on failing has one file put aside in a minute, not one with each try."""  # fault S4
    for number in (1, 2):
        (tmp_path / f"trace.jsonl.{number}").write_bytes(b"%d\n" % number)
    sink = opened(tmp_path, rotate=Rotate(keep=3), fsync="always")
    sink.write(make_batch({"seq": 0}))

    with Calls(tmp_path, at=1, error=errno.EIO, lasting=True, only=names):
        for _ in range(10):
            with pytest.raises(SinkError):
                sink.write(make_batch({"seq": 1}))
    sink.write(make_batch({"seq": 1}))
    closed(sink)

    contents = [(tmp_path / f"trace.jsonl{suffix}").read_bytes() for suffix in ("", ".1", ".2", ".3")]
    assert contents == [b'{"seq":1}\n', b'{"seq":0}\n', b"1\n", b"2\n"]


def test_batch_that_fails_again_is_not_begun_anew(tmp_path: Path) -> None:
    """Lines that a failing disk took and will not give back are written once, however often the rest fails."""
    sink = opened(tmp_path)  # fault S4
    batch = make_batch({"seq": 1}, {"seq": 2}, {"seq": 3})

    with Calls(tmp_path, at=1, lasting=True, short=True, only=["write", "ftruncate"]), pytest.raises(SinkError):
        sink.write(batch)
    for _ in range(2):
        with Calls(tmp_path, at=1, error=errno.ENOSPC, only=["write"]), pytest.raises(SinkError):
            sink.write(batch)
    sink.write(batch)
    closed(sink)

    assert (tmp_path / "trace.jsonl.1").read_bytes() == b'{"seq":1}\n{"seq'
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":2}\n{"seq":3}\n'


def test_failed_fsync_by_interval_repeats_no_batch(tmp_path: Path) -> None:
    """What was written stays written, in a file put aside; the person is told."""  # fault S4
    warnings: list[str] = []
    sink = opened(tmp_path, warnings=warnings, fsync="1ns")
    with Calls(tmp_path, at=1, only=["fsync"]):
        sink.write(make_batch({"seq": 0}))
    sink.write(make_batch({"seq": 1}))
    closed(sink)

    assert (tmp_path / "trace.jsonl.1").read_bytes() == b'{"seq":0}\n'
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n'
    problem = "Input/output error; what was written may not survive a power cut"
    assert warnings == [f"cannot force {sink.path} to the disk: {problem}"]


def test_fsync_comes_also_while_nothing_is_written(tmp_path: Path) -> None:
    """The last batch is forced to the disk when its time has come, by ``flush``; a renamed file when it is left."""
    sink = opened(tmp_path, fsync="50ms")
    sink.write(make_batch({"seq": 0}))
    sink.write(make_batch({"seq": 1}))
    with Calls(tmp_path, only=["fsync"]) as calls:
        deadline = time.monotonic() + 10
        while not calls.made and time.monotonic() < deadline:
            sink.flush()
            time.sleep(0.005)
        for _ in range(3):
            sink.flush()
    assert calls.made == ["fsync"]

    sink._fsync_interval_s = 3600.0
    sink.write(make_batch({"seq": 2}))
    (tmp_path / "trace.jsonl").rename(tmp_path / "renamed")
    with Calls(tmp_path, only=["fsync"]) as calls:
        sink.write(make_batch({"seq": 3}))
    closed(sink)
    assert calls.made == ["fsync"]


def test_one_write_per_batch(tmp_path: Path) -> None:
    """A batch of any size is one write and nothing else that changes the file."""
    sink = opened(tmp_path)
    with Calls(tmp_path, only=CHANGES) as calls:
        for size in (1, 10, 10_000):
            sink.write(make_batch(*({"seq": seq, "text": "x" * 100} for seq in range(size))))
    closed(sink)

    assert calls.made == ["write"] * 3


def test_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """Where files may not grow on, a new one is begun; a batch that fits into none is given up."""  # fault S3
    code = """
import resource, sys, time
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins.file import filled_in, FileSink
from flowtrace_plugins.options import FileOptions
sink = FileSink(FileOptions(path="trace.jsonl"), make_context(directory=sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
for size in (3000, 3000, 5000, 3000):
    for _ in range(3):
        try:
            sink.open()
            sink.write(make_batch({"size": size, "text": "x" * size}))
            break
        except SinkError as error:
            print(size, error.retry)
            if not error.retry:
                break
sink.close(time.monotonic() + 5)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["3000 True", "5000 True", "5000 False"]
    found = [orjson.loads(path.read_bytes())["size"] for path in sorted(tmp_path.glob("trace.json*[l0-9]"))]
    assert found == [3000, 3000, 3000]


def test_copytruncate_while_another_process_writes(tmp_path: Path) -> None:
    """A file that is emptied under two sinks holds whole lines only, and each goes on at its end."""  # fault S7
    sinks = [opened(tmp_path) for _ in range(2)]
    for seq in range(4):
        sinks[seq % 2].write(make_batch({"seq": seq}))
    os.truncate(tmp_path / "trace.jsonl", 0)
    for seq in range(4, 8):
        sinks[seq % 2].write(make_batch({"seq": seq}))
    for sink in sinks:
        closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b"".join(b'{"seq":%d}\n' % seq for seq in range(4, 8))


def test_line_that_another_process_left_unfinished(tmp_path: Path) -> None:
    """Where a process is killed within a line, those that share its file begin a new one."""  # fault S6, S8
    sink = opened(tmp_path)
    sink.write(make_batch({"seq": 0}))
    with (tmp_path / "trace.jsonl").open("ab") as other:
        other.write(b'{"se')

    sink.write(make_batch({"seq": 1}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":0}\n{"se\n{"seq":1}\n'


def test_process_that_is_stopped_holds_up_no_other_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is not given back is an error that may pass; the batch is tried again."""  # fault S8
    monkeypatch.setattr("flowtrace_plugins.file.LOCK_TRIES", 3)
    first, second = opened(tmp_path), opened(tmp_path)
    with first._held(), pytest.raises(SinkError, match="another process holds its lock") as caught:
        second.write(make_batch({"seq": 1}))
    second.write(make_batch({"seq": 1}))
    closed(first)
    closed(second)

    assert caught.value.retry
    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":1}\n'


def test_file_system_without_locks(tmp_path: Path) -> None:
    """Lines are written and files put aside where nothing can be locked."""
    sink = opened(tmp_path, rotate=Rotate(max_size=Size("1KiB")))
    with Calls(tmp_path, at=1, error=errno.ENOLCK, lasting=True, only=["flock"]):
        for seq in range(2):
            sink.write(make_batch({"seq": seq, "text": "x" * 600}))
    closed(sink)

    assert {path.name for path in tmp_path.iterdir()} == {"trace.jsonl", "trace.jsonl.1", "trace.jsonl.lock"}


def test_child_leaves_the_files_of_its_parent_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a forked child does with its copy of the sink closes, unlocks, deletes and writes nothing."""  # fault P1
    monkeypatch.setattr("flowtrace_plugins.archive._TURN_S", 0.0)
    (tmp_path / "trace.jsonl.1").write_bytes(b"a" * (1 << 20))
    sink = opened(tmp_path, rotate=Rotate(compress="gzip"))
    sink.write(make_batch({"seq": 0}))
    for _ in range(2):
        sink.flush()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        assert sink._file
        sink._file.close()
        sink._archive.close()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    sink.write(make_batch({"seq": 1}))
    closed(sink)

    assert (tmp_path / "trace.jsonl").read_bytes() == b'{"seq":0}\n{"seq":1}\n'


def _append_many(directory: Path, writer: int, rotate: Rotate) -> None:
    sink = opened(directory, rotate=rotate)
    for number in range(300):
        sink.write(make_batch(*({"writer": writer, "seq": number, "part": part} for part in range(5))))
        if number % 3 == 0:
            sink.flush()
    closed(sink)


@pytest.mark.parametrize("compress", ["none", "gzip"])
def test_two_processes_share_a_path(tmp_path: Path, compress: Literal["none", "gzip"]) -> None:
    """Two processes that write, rotate and compress at the same path lose, tear and repeat nothing."""  # fault S8
    context = multiprocessing.get_context("spawn")
    rotate = Rotate(max_size=Size("16KiB"), keep=200, compress=compress)
    writers = [context.Process(target=_append_many, args=(tmp_path, n, rotate)) for n in range(2)]

    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)

    paths = [path for path in tmp_path.glob("trace.jsonl*") if path.suffix != ".lock"]
    texts = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths]
    found = sorted((e["writer"], e["seq"], e["part"]) for text in texts for e in map(orjson.loads, text.splitlines()))
    assert [w.exitcode for w in writers] == [0, 0]
    assert found == [(w, n, p) for w in range(2) for n in range(300) for p in range(5)]
    assert any(path.suffix == ".gz" for path in paths) is (compress == "gzip")
