"""The stdout sink: writes lines to the program's standard output or standard error.

It writes to the descriptor, not to ``sys.stdout``, which the program may replace or close; and it holds no
duplicate of it, which would keep a pipe open that the program means to close. A full pipe blocks this sink's
thread only.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterator

from flowtrace.errors import SinkError
from flowtrace.events import Batch
from flowtrace.hooks import SinkContext
from flowtrace.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from flowtrace_plugins.options import StdoutOptions

DESCRIPTORS = {"stdout": 1, "stderr": 2}
_ATOMIC_BYTES = 4096  # PIPE_BUF of Linux: what a pipe never mixes with the writes of other processes
_GONE = {errno.EPIPE, errno.EBADF, errno.EIO, errno.ECONNRESET}
_FALLBACK_COLUMNS = 120
_NEWLINE = ord("\n")


class StdoutSink:
    """Writes each batch to file descriptor 1 or 2."""

    def __init__(self, options: StdoutOptions, context: SinkContext) -> None:
        self._options, self._context = options, context
        self._fd = DESCRIPTORS[options.stream]
        self._identity = _identity(self._fd)
        self._render: Callable[[Batch], bytes] = lambda batch: batch.body
        self._batch_id: str | None = None
        self._text = b""  # of that batch
        self._written = 0  # bytes of that text
        self._is_torn = False  # the last line on the stream is not whole

    def open(self) -> None:
        """Choose how to render; done here so that JSON lines do without the code of the tree.

        Raises:
            SinkError: the program was started with the stream closed.
        """
        self._check_stream()
        if self._options.format == "pretty":
            self._render = self._tree_renderer()

    def write(self, batch: Batch) -> None:
        """Write the batch in whole lines; what an interrupted try has written is not written again.

        Raises:
            SinkError: nobody reads the stream any more, or its file has no room (worth a retry).
        """
        if batch.id != self._batch_id:
            self._batch_id, self._text, self._written = batch.id, b"\n" * self._is_torn + self._render(batch), 0
        for end in _ends(self._text, self._written, pipe=self._is_pipe):
            self._write_until(end)
        self._text, self._written = b"", 0

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self, deadline: float) -> None:
        """The stream belongs to the program; it stays open."""

    def _write_until(self, end: int) -> None:
        while self._written < end:
            self._check_stream()  # each time: a write or a wait may have lasted long
            try:
                self._written += os.write(self._fd, memoryview(self._text)[self._written : end])
                self._is_torn = self._text[self._written - 1] != _NEWLINE
            except BlockingIOError:  # the program set its stream to non-blocking, as asyncio does with pipes
                select.select([], [self._fd], [], 1.0)
            except OSError as error:
                problem = f"cannot write to {self._options.stream}: {error.strerror}"
                raise SinkError(problem, retry=error.errno not in _GONE) from error

    def _check_stream(self) -> None:
        """Refuse a descriptor that is not the stream any more: its number may belong to a file of the program's."""
        now = _identity(self._fd)
        if now is None or now != self._identity:
            raise SinkError(f"{self._options.stream} was closed or replaced by the program", retry=False)

    @property
    def _is_pipe(self) -> bool:
        return self._identity is not None and stat.S_ISFIFO(self._identity[2])

    def _tree_renderer(self) -> Callable[[Batch], bytes]:
        from flowtrace_plugins.pretty import Tree

        tree = Tree(colour=wants_colour(self._options.colour, self._fd), show_pid=not _leads_its_group())

        def render(batch: Batch) -> bytes:
            tree.width = columns(self._fd)
            return tree.render(batch.events()).encode("utf-8", "backslashreplace")

        return render


def wants_colour(setting: str, fd: int) -> bool:
    """Whether to write colours; the conventions are those of no-color.org and force-color.org."""
    if setting != "auto":
        return setting == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.isatty(fd) and os.environ.get("TERM") != "dumb"


def columns(fd: int) -> int:
    """The width of the terminal, or 120 where there is none."""
    try:
        return os.get_terminal_size(fd).columns or _FALLBACK_COLUMNS
    except OSError:
        return _FALLBACK_COLUMNS


def _leads_its_group() -> bool:
    """True for the process that a person started; the others of the run show their process ids."""
    return not hasattr(os, "getpgrp") or os.getpgrp() == os.getpid()


def _identity(fd: int) -> tuple[int, int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


def _ends(text: bytes, start: int, *, pipe: bool) -> Iterator[int]:
    """Where each single write ends: after all of the text, or for a pipe after as many lines as stay in one piece."""
    while start < len(text):
        end = len(text)
        if pipe and end - start > _ATOMIC_BYTES:
            end = text.rfind(b"\n", start, start + _ATOMIC_BYTES) + 1 or text.find(b"\n", start) + 1 or end
        yield end
        start = end
