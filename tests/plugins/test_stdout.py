"""The stdout sink: whole lines on a descriptor that belongs to the program."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtrace.errors import SinkError
from flowtrace.testing import make_batch, make_context
from flowtrace_plugins import stdout
from flowtrace_plugins.options import StdoutOptions
from flowtrace_plugins.stdout import StdoutSink, wants_colour


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pipe whose writing end stands in for the program's standard output."""
    reader, writer = os.pipe()
    monkeypatch.setitem(stdout.DESCRIPTORS, "stdout", writer)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def opened(**options: str) -> StdoutSink:
    """A sink that is open."""
    sink = StdoutSink(StdoutOptions(**options), make_context())  # type: ignore[arg-type]
    sink.open()
    return sink


def test_writes_one_json_object_a_line(pipe: tuple[int, int]) -> None:
    """The default format is the line of each event, ended by a newline."""
    sink = opened()

    sink.write(make_batch({"event": "ENTER"}, {"event": "EXIT"}))

    assert os.read(pipe[0], 1000) == b'{"event":"ENTER"}\n{"event":"EXIT"}\n'


def test_batch_that_is_tried_again_after_its_write_is_written_once(pipe: tuple[int, int]) -> None:
    """Whatever struck behind the write doubles nothing."""  # fault C7
    sink, batch = opened(), make_batch({"event": "ENTER"})

    sink.write(batch)
    sink.write(batch)
    sink.write(make_batch({"event": "EXIT"}))

    assert os.read(pipe[0], 1000) == b'{"event":"ENTER"}\n{"event":"EXIT"}\n'


def test_pretty_writes_a_tree(pipe: tuple[int, int]) -> None:
    """The format pretty is for people, and without colours where no terminal is."""
    sink = opened(format="pretty")

    sink.write(
        make_batch({"event": "ENTER", "timestamp": 0, "class": "A", "function": "f", "args": "{}", "spanId": "1"})
    )

    text = os.read(pipe[0], 1000).decode()
    assert "A.f()" in text
    assert "\x1b" not in text


def test_reader_gone_is_no_use_retrying(pipe: tuple[int, int]) -> None:
    """EPIPE is told apart from failures that pass."""  # fault S1
    sink = opened()
    os.close(pipe[0])

    with pytest.raises(SinkError, match="cannot write to stdout: Broken pipe") as caught:
        sink.write(make_batch({}))

    assert not caught.value.retry


def test_started_with_stdout_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon started with ``>&-`` has no stdout; the sink says so and writes nowhere else."""  # fault S1
    monkeypatch.setitem(stdout.DESCRIPTORS, "stdout", 987)

    with pytest.raises(SinkError, match="stdout was closed"):
        opened()


def test_never_writes_into_a_file_of_the_program(pipe: tuple[int, int], tmp_path: Path) -> None:
    """Where the program closed stdout and its number went to a file, that file gets no line."""  # fault P11
    sink = opened()
    database = tmp_path / "app.db"
    with database.open("wb") as file:
        os.dup2(file.fileno(), pipe[1])

    with pytest.raises(SinkError, match="closed or replaced"):
        sink.write(make_batch({}))

    assert database.read_bytes() == b""


@pytest.mark.parametrize("blocking", [True, False])
def test_file_that_takes_the_place_of_a_full_pipe_gets_no_line(
    blocking: bool, pipe: tuple[int, int], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """Where the program replaces its stream in the midst of a batch, the rest goes nowhere."""  # fault P11
    os.set_blocking(pipe[1], blocking)
    sink, problems = opened(), list[str]()
    batch = make_batch(*({"seq": n} for n in range(20_000)))

    def write() -> None:
        with pytest.raises(SinkError) as caught:
            sink.write(batch)
        problems.append(str(caught.value))

    writer = threading.Thread(target=write)
    writer.start()
    full = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) - 4096
    wait_until(lambda: sink._written >= full)  # and the next write waits
    with (tmp_path / "app.db").open("wb") as file:
        os.dup2(file.fileno(), pipe[1])
    while os.read(pipe[0], 1 << 20):  # until its last writing end is closed
        continue
    writer.join(10)

    assert problems == ["stdout was closed or replaced by the program"]
    assert (tmp_path / "app.db").read_bytes() == b""


def test_full_non_blocking_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    """The sink waits for a reader even where the program made its stream non-blocking."""  # fault S2
    fcntl.fcntl(pipe[1], fcntl.F_SETFL, os.O_NONBLOCK)
    sink = opened()
    batch = make_batch(*({"seq": n} for n in range(20_000)))
    received = bytearray()

    writer = threading.Thread(target=sink.write, args=(batch,))
    writer.start()
    while len(received) < len(batch.body):
        received += os.read(pipe[0], 65536)
    writer.join(10)

    assert received == batch.body


def test_lines_of_several_processes_stay_whole(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pipe each single write is of whole lines and no longer than what the kernel keeps together."""
    written: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        written.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", write)
    sink = opened()

    sink.write(make_batch(*({"text": "x" * 300} for _ in range(40)), {"text": "y" * 5000}))

    assert all(piece.endswith(b"\n") and (len(piece) <= 4096 or piece.count(b"\n") == 1) for piece in written)
    assert len(b"".join(written)) > 15_000


def test_retry_goes_on_where_the_try_before_broke_off(
    pipe: tuple[int, int], failing_write: Callable[[int], None]
) -> None:
    """A disk that fills up in the middle of a line costs nothing once there is room again."""  # fault S3
    sink = opened()
    failing_write(7)
    batch = make_batch({"event": "ENTER"}, id="r-1-1")
    with pytest.raises(SinkError) as caught:
        sink.write(batch)

    sink.write(batch)

    assert caught.value.retry
    assert os.read(pipe[0], 1000) == batch.body


def test_given_up_batch_leaves_no_torn_line(pipe: tuple[int, int], failing_write: Callable[[int], None]) -> None:
    """What follows a batch that was given up half-way begins on a line of its own."""  # fault S17
    sink = opened()
    failing_write(7)
    with pytest.raises(SinkError):
        sink.write(make_batch({"event": "ENTER"}, id="r-1-1"))

    sink.write(make_batch({"event": "EXIT"}, id="r-1-2"))

    assert os.read(pipe[0], 1000) == b'{"event\n{"event":"EXIT"}\n'


@pytest.mark.parametrize(
    ("setting", "environment", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour(
    setting: str, environment: dict[str, str], terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option decides; ``auto`` follows the environment, then the stream."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "isatty", lambda fd: terminal)

    assert wants_colour(setting, 1) is expected
