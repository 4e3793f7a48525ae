"""Drives wscat, the client of the chat's documentation, in a terminal of its own: what is typed, what is seen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
from typing import Self

from harness import DEADLINE_S, wait_until

_ERASE = re.compile(r"\x1b\[(?:2K|0?J)")  # wscat and readline erase their prompt before they write over it
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
_SCREEN = struct.pack("HHHH", 50, 1000, 0, 0)  # rows and columns: wide, so that no line is wrapped


def find_wscat() -> str:
    """The path of wscat: what FLOWTRACE_WSCAT says, or the one on PATH."""
    found = os.environ.get("FLOWTRACE_WSCAT") or shutil.which("wscat")
    assert found, "wscat is needed: npm install wscat, then put it on PATH or name it in FLOWTRACE_WSCAT"
    assert shutil.which(found), f"FLOWTRACE_WSCAT={found} is not a program; name the file node_modules/.bin/wscat"
    return found


class Wscat:
    """A person who has typed ``wscat -c URL``; kept for the time of a ``with`` block."""

    def __init__(self, url: str) -> None:
        self._terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, _SCREEN)
        os.set_blocking(self._terminal, False)
        self._output = b""
        self.process = subprocess.Popen(
            [find_wscat(), "-c", url], stdin=inside, stdout=inside, stderr=inside, start_new_session=True
        )
        os.close(inside)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        os.close(self._terminal)

    @property
    def screen(self) -> list[str]:
        """The lines on the screen, without colours and without the prompt that waits for input."""
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: wscat has ended
            while data := os.read(self._terminal, 65536):
                self._output += data
        lines = self._output.decode().split("\n")[:-1]
        return [_ESCAPE.sub("", _ERASE.split(line)[-1]) for line in lines]

    def wait_for(self, text: str) -> None:
        """Wait until a line on the screen contains ``text``."""
        wait_until(lambda: any(text in line for line in self.screen) or self.process.poll() is not None, text)
        assert any(text in line for line in self.screen), f"wscat has ended without {text!r}: {self.screen}"

    def type(self, text: str) -> None:
        """Type a line and press Enter."""
        os.write(self._terminal, f"{text}\r".encode())

    def press_ctrl_c(self) -> None:
        """Leave as the documentation says, and wait until wscat has ended."""
        os.write(self._terminal, b"\x03")
        self.process.wait(DEADLINE_S)
