"""A plugin with a sink that is slow, or does what a sink must not do; installed by the fixture of `odd`.

What the sink accepts it appends to a file as the file sink does, so that a trace can be read from there. It never
imports the traced program by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

from msgspec import Meta

from flowtrace.config import Options
from flowtrace.events import Batch
from flowtrace.hooks import RegisterSink, SinkContext, hookimpl

HANG_S = 3600.0


class OddOptions(Options, frozen=True, kw_only=True):
    """Appends what it gets to a file, and misbehaves."""

    path: Annotated[str, Meta(description="The file for what was accepted.")] = "odd.jsonl"
    per_second: Annotated[int, Meta(ge=0, description="How many events it takes in a second; 0: all.")] = 0
    does: Annotated[str, Meta(description="What it does beside that: a key of `DEEDS`.")] = "nothing"
    methods: Annotated[tuple[str, ...], Meta(description="In which of its methods.")] = ("write",)
    times: Annotated[int, Meta(ge=0, description="How often altogether.")] = 1_000_000_000


class Unsayable(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise SystemExit("no text")


class OddSink:
    """Appends whole batches, after it has done its deed; a batch for which that raised is not written."""

    def __init__(self, options: OddOptions, context: SinkContext) -> None:
        self._options = options
        self.path = os.path.join(context.directory, options.path)
        self._fd: int | None = None
        self._done = 0
        if "ending" in options.methods:
            self.ending = lambda deadline: self._do("ending")
        self._do("factory")

    @property
    def batching(self) -> object:
        """What it wants of its batches: nothing, unless it does what it must not do."""
        return self._do("batching")

    def open(self) -> None:
        """Open the file."""
        self._do("open")
        if self._fd is None:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, batch: Batch) -> None:
        """Append a batch, as slowly as configured."""
        self._do("write", batch)
        if self._options.per_second:
            time.sleep(len(batch) / self._options.per_second)
        assert self._fd is not None
        os.write(self._fd, batch.body)

    def flush(self) -> None:
        """Nothing is buffered."""
        self._do("flush")

    def close(self, deadline: float) -> None:
        """Close the file."""
        self._do("close")
        if self._fd is not None:
            os.close(self._fd)

    def _do(self, method: str, batch: Batch | None = None) -> object:
        if method not in self._options.methods or self._done >= self._options.times:
            return None
        self._done += 1
        return DEEDS[self._options.does](self, batch)


def raising(error: Callable[[], BaseException]) -> Callable[[OddSink, Batch | None], NoReturn]:
    """A deed that raises what ``error`` makes."""

    def deed(sink: OddSink, batch: Batch | None) -> NoReturn:
        raise error()

    return deed


def hang(sink: OddSink, batch: Batch | None) -> None:
    """Not return as long as anybody waits."""
    time.sleep(HANG_S)


def lock_up(sink: OddSink, batch: Batch | None) -> None:
    """Wait for a lock that nobody releases, in C."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def change_batch(sink: OddSink, batch: Batch | None) -> None:
    """Change all of a batch that can be changed."""
    if batch is not None:
        batch.events().clear()
        for name, value in {"lines": (), "body": b"changed\n", "id": "changed"}.items():
            with contextlib.suppress(AttributeError):
                setattr(batch, name, value)


def interrupt(sink: OddSink, batch: Batch | None) -> None:
    """Send this process what Ctrl-C sends, and wait until it arrives."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(HANG_S)


def leak_thread(sink: OddSink, batch: Batch | None) -> None:
    """Start a thread that never ends."""
    threading.Thread(target=time.sleep, args=(HANG_S,), daemon=True).start()


def fork(sink: OddSink, batch: Batch | None) -> None:
    """Start a child that leaves at once, and wait for it."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def handle_signals(sink: OddSink, batch: Batch | None) -> None:
    """Try to become the handler of a signal, which only the main thread may, and block all signals in this thread."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def close_stdout(sink: OddSink, batch: Batch | None) -> None:
    """Close descriptor 1."""
    os.close(1)


def delete_file(sink: OddSink, batch: Batch | None) -> None:
    """Delete the file that it writes to."""
    Path(sink.path).unlink(missing_ok=True)


def call_program(sink: OddSink, batch: Batch | None) -> None:
    """Call functions of the traced program."""
    sys.modules["__main__"].used(1)
    gc.collect()


def exhaust_stack(sink: OddSink, batch: Batch | None) -> None:
    """Recurse for ever."""
    exhaust_stack(sink, batch)


def kill_own_thread(sink: OddSink, batch: Batch | None) -> None:
    """Have SystemExit raised in this thread soon, wherever it is by then."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(SystemExit))


def import_modules(sink: OddSink, batch: Batch | None) -> None:
    """Import what the program may be importing itself."""
    import slowly_imported  # type: ignore[import-not-found]  # noqa: F401


DEEDS: dict[str, Callable[[OddSink, Batch | None], object]] = {
    "nothing": lambda sink, batch: None,
    "be a text": lambda sink, batch: "a text",
    "interrupt": interrupt,
    "raise Exception": raising(lambda: ValueError("odd")),
    "raise SystemExit": raising(lambda: SystemExit(3)),
    "raise KeyboardInterrupt": raising(KeyboardInterrupt),
    "raise GeneratorExit": raising(GeneratorExit),
    "raise Unsayable": raising(Unsayable),
    "raise MemoryError": raising(MemoryError),
    "hang": hang,
    "lock up": lock_up,
    "change the batch": change_batch,
    "leak threads": leak_thread,
    "fork": fork,
    "handle signals": handle_signals,
    "close stdout": close_stdout,
    "delete its file": delete_file,
    "call the program": call_program,
    "exhaust the stack": exhaust_stack,
    "kill its thread": kill_own_thread,
    "import": import_modules,
}


def install(folder: Path) -> str:
    """Make the plugin one that is installed; returns the PYTHONPATH for programs that are to have it."""
    distribution = folder / "odd_sinks-0.dist-info"
    distribution.mkdir(parents=True, exist_ok=True)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: odd_sinks\nVersion: 0\n")
    (distribution / "entry_points.txt").write_text("[flowtrace]\nodd = odd_sinks\n")
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join(filter(None, [str(folder), str(Path(__file__).parent), inherited]))


@hookimpl
def flowtrace_register_sinks(register: RegisterSink) -> None:
    """Make ``type: odd`` usable under ``sinks``."""
    register("odd", OddSink, OddOptions)
