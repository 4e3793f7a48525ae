"""Control of a traced process from outside: ``flowtrace ctl PID off`` and its like.

A file is the way in, since it works whatever the program's threads do: the dispatcher looks for it on each of its
turns, carries out the request it holds, and writes an answer beside it. The folder belongs to the user and to nobody
else; a file that does not is not read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from typing import Literal

import msgspec

from flowtrace.config import Resolved, from_json, to_json
from flowtrace.errors import FlowtraceError

MAX_REQUEST_BYTES = 1 << 20

Command = Literal["off", "on", "reload", "status"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a process.

    Attributes:
        id: Repeated in the answer.
        command: What to do.
        resolved: For ``reload``: the new configuration.
    """

    id: str
    command: Command
    resolved: Resolved | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request: ``text`` is one line for the person who asked."""

    id: str
    ok: bool
    text: str


def folder() -> str:
    """Where requests to this user's processes are put; the same for a service as for the person who asks."""
    return f"/tmp/flowtrace-{os.geteuid()}"


class Control:
    """Looks for requests and carries them out; called on the dispatcher's thread.

    Args:
        execute: Does what a request asks and says what was done, in one line.
    """

    def __init__(self, execute: Callable[[Request], str]) -> None:
        self._execute = execute
        self._path = os.path.join(folder(), f"{os.getpid()}.request")

    def look(self) -> None:
        """Carry out the request that is there, if there is one: 1 µs if there is none."""
        try:
            os.stat(self._path)
        except OSError:
            return
        request = self._taken()
        if request is None:
            return
        try:
            answer = Answer(id=request.id, ok=True, text=self._execute(request))
        except FlowtraceError as error:
            answer = Answer(id=request.id, ok=False, text=str(error))
        except Exception as error:  # noqa: BLE001  # said to the one who asked
            answer = Answer(id=request.id, ok=False, text=f"{type(error).__name__}: {error}")
        write(self._path.removesuffix(".request") + ".answer", answer)

    def close(self) -> None:
        """Leave nothing behind."""
        for ending in (".request", ".answer"):
            with contextlib.suppress(OSError):
                os.unlink(self._path.removesuffix(".request") + ending)

    def _taken(self) -> Request | None:
        data = read(self._path)
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        if data is None:
            return None
        try:
            return from_json(data, Request)
        except msgspec.MsgspecError:
            return None


def read(path: str) -> bytes | None:
    """What a file of ours holds; None where there is none, or where somebody else may have written it."""
    try:
        if not _is_private(os.lstat(os.path.dirname(path)), stat.S_ISDIR):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        return file.read(MAX_REQUEST_BYTES) if _is_private(os.fstat(descriptor), stat.S_ISREG) else None


def write(path: str, message: Request | Answer) -> None:
    """Put a message where the other side looks, whole or not at all.

    Raises:
        OSError: it cannot be written.
        PermissionError: the folder is somebody else's.
    """
    directory = os.path.dirname(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    if not _is_private(os.lstat(directory), stat.S_ISDIR):
        raise PermissionError(f"{directory}: belongs to somebody else, or others may write there")
    draft = f"{path}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(to_json(message))
    os.replace(draft, path)


def _is_private(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    is_ours = status.st_uid in (os.geteuid(), 0)
    return is_ours and is_kind(status.st_mode) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
