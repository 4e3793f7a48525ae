"""Control: requests are taken from a file that only this user can have written, carried out once, and answered."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowtrace import control
from flowtrace.control import (
    COMMANDS,
    Answer,
    Command,
    Control,
    Origin,
    Request,
    answer_path,
    from_text,
    read,
    request_path,
    to_text,
    write,
)  # fmt: skip
from flowtrace.errors import ConfigError

PID = os.getpid()

requests = st.builds(
    Request,
    id=st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}"),
    command=st.sampled_from(COMMANDS),
    resolved=st.none() | st.text(),
)
reuses_the_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of requests, which is not there yet."""
    path = tmp_path / "flowtrace-1000"
    monkeypatch.setattr(control, "folder", lambda: str(path))
    return path


class Executed(list[Request]):
    """Remembers what it was asked to do."""

    def __call__(self, request: Request) -> str:
        self.append(request)
        return f"did {request.command}"


def a_request(command: Command = "off", number: int = 1) -> Request:
    return Request(id=f"{number:016x}", command=command)


def answer_to(request: Request) -> Answer | None:
    data = read(answer_path(PID, request))
    return from_text(data, Answer) if data is not None else None


# -- one request -----------------------------------------------------------------------------------------------------


def test_request_is_carried_out_once_and_answered(folder: Path) -> None:
    """The request is gone when it was taken, and its answer lies beside it."""
    executed = Executed()
    asked = Control(executed)
    write(request_path(PID), a_request())

    asked.look()
    asked.look()

    assert executed == [a_request()]
    assert answer_to(a_request()) == Answer(ok=True, text="did off")
    assert [path.name for path in folder.iterdir()] == [f"{PID}.{1:016x}.answer"]


@given(request=requests)
@reuses_the_folder
def test_every_request_arrives_as_it_was_sent(request: Request, folder: Path) -> None:
    """Whatever is asked: the process sees the same, the configuration included."""
    executed = Executed()
    asked = Control(executed)
    write(request_path(PID), request)
    asked.look()
    assert executed == [request]


@given(
    data=st.binary() | st.builds(lambda request, size: to_text(request).encode()[:size], requests, st.integers(0, 40))
)
@reuses_the_folder
def test_what_is_no_request_is_thrown_away(data: bytes, folder: Path) -> None:
    """Noise, and requests that were cut off, are removed unread: neither carried out nor looked at again."""
    executed = Executed()
    asked = Control(executed)
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{PID}.request"
    path.write_bytes(data)
    path.chmod(0o600)

    asked.look()

    assert executed == []
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "0123456789ABCDEF", "0" * 17, "0123456789abcdef\n"])
def test_id_that_is_no_id_is_thrown_away(name: str, folder: Path) -> None:
    """The id becomes part of a file's name, so it can be nothing else."""
    executed = Executed()
    asked = Control(executed)
    write(request_path(PID), Request(id=name, command="off"))
    asked.look()
    assert executed == []
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "0000000000000001", "command": "destroy"}',
        '{"id": "0000000000000001", "command": ["off"]}',
        '{"id": "0000000000000001", "command": "reload", "resolved": {}}',
        '{"id": 1, "command": "off"}',
        '{"id": "0000000000000001"}',
        '{"id": "0000000000000001", "command": "off", "more": 1}',
        '["0000000000000001", "off"]',
        "[" * 100_000,
    ],
)
def test_request_of_another_form_is_none(text: str) -> None:
    """Of another version of flowtrace, or made by hand: it is not understood in part."""
    assert from_text(text, Request) is None


@pytest.mark.parametrize(
    "message", [Origin("/a.yaml", ["a=1"], "/p"), Origin(None, [], "/p"), Answer(ok=False, text="é")]
)
def test_answer_arrives_as_it_was_given(message: Origin | Answer) -> None:
    """The texts of the answers are understood by the one who asked, and as nothing else."""
    other = Answer if isinstance(message, Origin) else Origin
    assert from_text(to_text(message), type(message)) == message
    assert from_text(to_text(message), other) is None  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("cannot be changed", key="sinks"), "sinks: cannot be changed"),
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops"),
    ],
)
def test_what_fails_is_said_to_the_one_who_asked(error: Exception, text: str, folder: Path) -> None:
    """An error ends in the answer, not in the dispatcher."""

    def fail(request: Request) -> str:
        raise error

    asked = Control(fail)
    write(request_path(PID), a_request())
    asked.look()
    assert answer_to(a_request()) == Answer(ok=False, text=text)


def test_answer_that_cannot_be_written_harms_nothing(folder: Path) -> None:
    """The folder vanished, or the disk is full: the dispatcher goes on."""

    def vanish(request: Request) -> str:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("a file")
        return ""

    asked = Control(vanish)
    write(request_path(PID), a_request())
    asked.look()
    assert folder.is_file()


# -- several, and those of others ------------------------------------------------------------------------------------


def test_second_request_does_not_push_the_first_aside(folder: Path) -> None:
    """Who asks while another's request waits is told so, and each finds the answer that is his."""
    executed = Executed()
    asked = Control(executed)
    first, second = a_request("off", 1), a_request("status", 2)
    write(request_path(PID), first)
    with pytest.raises(FileExistsError):
        write(request_path(PID), second)

    asked.look()
    write(request_path(PID), second)
    asked.look()

    assert executed == [first, second]
    assert (answer_to(first), answer_to(second)) == (
        Answer(ok=True, text="did off"),
        Answer(ok=True, text="did status"),
    )


def test_request_for_an_earlier_process_of_this_number_is_not_carried_out(folder: Path) -> None:
    """What lies there when the process starts was not meant for it; what is for other processes stays."""
    executed = Executed()
    write(request_path(PID), a_request())
    write(answer_path(PID, a_request()), Answer(ok=True, text="old"))
    others = [folder / f"{PID}1.request", folder / f"1{PID}.request"]
    for path in others:
        write(str(path), a_request())

    Control(executed).look()

    assert executed == []
    assert sorted(folder.iterdir()) == sorted(others)


def test_nothing_is_left_when_a_process_ends(folder: Path) -> None:
    """Requests that came too late and answers that nobody fetched go with the process."""
    asked = Control(Executed())
    write(request_path(PID), a_request())
    write(answer_path(PID, a_request()), Answer(ok=True, text=""))
    asked.close()
    assert [*folder.iterdir()] == []


def test_process_that_nobody_asks_makes_no_folder(folder: Path) -> None:
    """Starting, looking and ending leave no trace on the disk."""
    asked = Control(Executed())
    asked.look()
    asked.close()
    assert not folder.exists()


def test_folder_and_files_are_for_their_owner_only(folder: Path) -> None:
    """Requests hold configurations, and those hold credentials."""  # fault X4
    write(request_path(PID), a_request("reload"))
    [file] = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def _writable_folder(folder: Path, file: Path) -> None:
    folder.chmod(0o770)


def _writable_file(folder: Path, file: Path) -> None:
    file.chmod(0o602)


def _linked_folder(folder: Path, file: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


def _linked_file(folder: Path, file: Path) -> None:
    file.rename(folder / "elsewhere")
    file.symlink_to("elsewhere")


def _pipe(folder: Path, file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def _directory(folder: Path, file: Path) -> None:
    file.unlink()
    file.mkdir(0o700)


TAMPERINGS = [_writable_folder, _writable_file, _linked_folder, _linked_file, _pipe, _directory]


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_what_others_may_have_written_is_not_carried_out(tamper: Callable[[Path, Path], None], folder: Path) -> None:
    """A request counts only in a private file in a private folder; a pipe in its place holds nobody up."""
    executed = Executed()
    asked = Control(executed)
    write(request_path(PID), a_request())
    tamper(folder, folder / f"{PID}.request")

    asked.look()

    assert executed == []


def test_what_belongs_to_others_is_not_carried_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder nor a file of another user is read, and nothing is written or deleted there."""
    executed = Executed()
    asked = Control(executed)
    write(request_path(PID), a_request())
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    monkeypatch.setattr(control, "_ROOT", 4_000_001)

    asked.look()
    asked.close()

    assert executed == []
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        write(str(folder / "1.request"), a_request())


def test_root_may_ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root has put there is carried out: root could do anything anyway."""
    executed = Executed()
    asked = Control(executed)
    write(request_path(PID), a_request())
    monkeypatch.setattr(control, "_ROOT", os.geteuid())
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)

    asked.look()

    assert executed == [a_request()]
