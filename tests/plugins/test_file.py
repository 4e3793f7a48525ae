"""The file sink: whole lines in a private file, whatever happens to that file."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from flowtrace.config import Size
from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins.file import FileSink
from flowtrace_plugins.options import FileOptions, Rotate
from tests.faults.syscalls import Calls


def opened(
    directory: Path, path: str = "trace.jsonl", *, warnings: list[str] | None = None, **options: object
) -> FileSink:
    """A sink that is open."""
    sink = FileSink(
        FileOptions(path=path, **options),  # type: ignore[arg-type]
        make_context(directory=directory, service="chat", run="00aa", pid=7, warnings=warnings),
    )
    sink.open()
    return sink


def closed(sink: FileSink) -> None:
    """Close a sink that has time."""
    sink.close(time.monotonic() + 5)


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
    options = FileOptions(path="traces/{service}.jsonl")

    assert options.resolved_path(service="../x y", pid=1, run="r") == "traces/__x_y.jsonl"


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


def _append_many(directory: Path, writer: int) -> None:
    sink = opened(directory, rotate=Rotate(max_size=Size("16KiB"), keep=200))
    for number in range(300):
        sink.write(make_batch(*({"writer": writer, "seq": number, "part": part} for part in range(5))))
    closed(sink)


def test_two_processes_share_a_path(tmp_path: Path) -> None:
    """Two processes that write and rotate the same path lose, tear and repeat nothing."""  # fault S8
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path, n)) for n in range(2)]

    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)

    lines = [line for p in tmp_path.glob("trace.jsonl*") for line in p.read_bytes().splitlines()]
    found = sorted((e["writer"], e["seq"], e["part"]) for e in map(orjson.loads, lines))
    assert [w.exitcode for w in writers] == [0, 0]
    assert found == [(w, n, p) for w in range(2) for n in range(300) for p in range(5)]
