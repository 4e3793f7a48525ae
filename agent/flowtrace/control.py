"""Control of a traced process from outside: ``flowtrace ctl PID off`` and its like.

A file is the way in, since it works whatever the program's threads do: the dispatcher looks for it on each of its
turns, carries out the request it holds, and writes an answer beside it. The folder belongs to the user and to nobody
else; a file that does not is not read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence

from flowtrace.errors import FlowtraceError
from flowtrace.typed import Literal, NamedTuple, TypeAlias, TypeVar

MAX_MESSAGE_BYTES = 16 << 20
_ROOT = 0

Command: TypeAlias = Literal["origin", "off", "on", "reload", "status"]
COMMANDS: tuple[Command, ...] = ("origin", "off", "on", "reload", "status")


class Request(NamedTuple):
    """What is asked of a process.

    Attributes:
        id: Part of the answer's name, so that of several who ask each finds his own; 16 hex digits.
        command: What to do; ``origin`` asks how the process was configured, for ``reload``.
        resolved: For ``reload``: the new configuration, as `flowtrace.config.handed_on` writes it.
    """

    id: str
    command: Command
    resolved: str | None = None


class Answer(NamedTuple):
    """What became of a request: ``text`` is one line for the person who asked."""

    ok: bool
    text: str


class Origin(NamedTuple):
    """Where the configuration of a process is from; its fields are those of `flowtrace.config.Resolved`."""

    file: str | None
    sets: Sequence[str]
    project: str


Message = TypeVar("Message", Request, Answer, Origin)


def to_text(message: Request | Answer | Origin) -> str:
    """A message as JSON."""
    import json  # as below: hardly a process is ever asked

    return json.dumps(message._asdict())


def from_text(data: bytes | str, kind: type[Message]) -> Message | None:
    """What `to_text` wrote; None for anything else."""
    import json

    try:
        message = kind(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return None
    return message if _is_valid(message) else None


def _is_valid(message: Request | Answer | Origin) -> bool:
    match message:
        case Request(str(id), command, None | str()):
            is_id = len(id) == 16 and all(letter in "0123456789abcdef" for letter in id)
            return is_id and command in COMMANDS
        case Answer(bool(), str()):
            return True
        case Origin(None | str(), list(sets), str()):
            return all(isinstance(each, str) for each in sets)
    return False


def folder() -> str:
    """Where requests to this user's processes are put; the same for a service as for the person who asks."""
    return f"/tmp/flowtrace-{os.geteuid()}"


def request_path(pid: int) -> str:
    """Where a process looks for requests."""
    return os.path.join(folder(), f"{pid}.request")


def answer_path(pid: int, request: Request) -> str:
    """Where its answer is put."""
    return os.path.join(folder(), f"{pid}.{request.id}.answer")


class Control:
    """Looks for requests and carries them out; called on the dispatcher's thread.

    Args:
        execute: Does what a request asks and says what was done, in one line.
    """

    def __init__(self, execute: Callable[[Request], str]) -> None:
        self._execute = execute
        self.close()  # what is there was for another process that had this number

    def look(self) -> None:
        """Carry out the request that is there, if there is one: 2 µs if there is none."""
        pid = os.getpid()
        path = request_path(pid)
        try:
            os.stat(path)
        except OSError:
            return
        request = _taken(path)
        if request is None:
            return
        try:
            answer = Answer(ok=True, text=self._execute(request))
        except FlowtraceError as error:
            answer = Answer(ok=False, text=str(error))
        except Exception as error:  # noqa: BLE001  # said to the one who asked
            answer = Answer(ok=False, text=f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):  # the disk is full: whoever asked is told that there is no answer
            write(answer_path(pid, request), answer)

    def close(self) -> None:
        """Leave nothing behind."""
        if not _is_ours(folder()):
            return
        with contextlib.suppress(OSError):
            for name in os.listdir(folder()):
                if name.startswith(f"{os.getpid()}."):
                    _remove(os.path.join(folder(), name))


def _taken(path: str) -> Request | None:
    data = read(path)
    if _is_ours(os.path.dirname(path)):
        _remove(path)
    return from_text(data, Request) if data is not None else None


def read(path: str) -> bytes | None:
    """What a file of ours holds; None where there is none, or where somebody else may have written it."""
    if not _is_ours(os.path.dirname(path)):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, MAX_MESSAGE_BYTES) if _is_private(os.fstat(descriptor), stat.S_ISREG) else None
    finally:
        os.close(descriptor)


def write(path: str, message: Request | Answer) -> None:
    """Put a message where the other side looks, whole or not at all.

    Raises:
        FileExistsError: one is there, and was not taken yet.
        OSError: it cannot be written.
        PermissionError: the folder is somebody else's.
    """
    directory = os.path.dirname(path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    if not _is_ours(directory):
        raise PermissionError(f"{directory} belongs to somebody else, or others may write there")
    draft = f"{path}.{os.urandom(8).hex()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(to_text(message).encode())
        os.link(draft, path)  # and not os.replace: another's request is not pushed aside
    finally:
        _remove(draft)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _is_ours(directory: str) -> bool:
    try:
        return _is_private(os.lstat(directory), stat.S_ISDIR)
    except OSError:
        return False


def _is_private(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    is_own = status.st_uid in (os.geteuid(), _ROOT)
    return is_own and is_kind(status.st_mode) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
