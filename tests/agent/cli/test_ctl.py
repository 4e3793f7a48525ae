"""``flowtrace ctl``: what is asked of which process, with which configuration, and what the person is told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowtrace import control
from flowtrace.cli.main import main
from flowtrace.cli.run import ENVIRONMENT_VARIABLE
from flowtrace.config import Resolved
from flowtrace.control import Control, Origin, Request, to_text
from flowtrace.errors import ConfigError
from flowtrace.settings import read

CONFIG = """\
service: shop
targets: [{modules: [shop], include: ["Cart.*"]}]
sinks: [{type: file, path: calls.jsonl}]
capture: {max_items: 7, max_string: 70}
redact: {names: [card_number]}
"""


class Process:
    """Answers as a traced process of this number would, on a thread."""

    def __init__(self, project: Path) -> None:
        self.asked: list[Request] = []
        self.origin = Origin(file=None, sets=(), project=str(project))
        self.refuses = ""
        self._over = threading.Event()
        self._control = Control(self._execute)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.001):
            self._control.look()

    def _execute(self, request: Request) -> str:
        if request.command == "origin":
            return to_text(self.origin)
        self.asked.append(request)
        if self.refuses:
            raise ConfigError(self.refuses)
        return f"did {request.command}"

    def end(self) -> None:
        """Answer no more."""
        self._over.set()
        self._thread.join()


def sent(process: Process) -> Resolved:
    """The configuration of the first request, as the process reads it."""
    assert process.asked[0].resolved is not None
    return read(process.asked[0].resolved)


Ctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where requests are put, and no variable of ours in the environment."""
    monkeypatch.setattr(control, "folder", lambda: str(tmp_path / "requests"))
    for name in ("FLOWTRACE_CONFIG", ENVIRONMENT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "requests"


@pytest.fixture
def process(folder: Path, tmp_path: Path) -> Iterator[Process]:
    """A process that answers; its project is the folder ``project``."""
    (tmp_path / "project").mkdir()
    process = Process(tmp_path / "project")
    yield process
    process.end()


@pytest.fixture
def ctl(folder: Path, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Run ``flowtrace ctl PID ...`` for this process; gives its status, stdout and stderr."""

    def ctl(*arguments: str, pid: int | str = os.getpid()) -> tuple[int, str, str]:
        status = main(["ctl", str(pid), *arguments])
        return status, *capsys.readouterr()

    return ctl


@pytest.mark.parametrize("command", ["off", "on", "status"])
def test_command_is_carried_out(command: str, process: Process, ctl: Ctl) -> None:
    """The answer goes to stdout, and nothing is left of it."""
    assert ctl(command) == (0, f"did {command}\n", "")
    assert [request.command for request in process.asked] == [command]
    assert os.listdir(control.folder()) == []


def test_refusal_is_said(process: Process, ctl: Ctl) -> None:
    """What the process refuses is one line on stderr and status 1."""
    process.refuses = "sinks: cannot be changed"
    assert ctl("off") == (1, "", "flowtrace ctl: sinks: cannot be changed\n")


def test_many_ask_at_once(process: Process, ctl: Ctl) -> None:
    """Each gets the answer to what he asked."""
    said: list[tuple[str, str]] = []

    def ask(command: control.Command) -> None:
        from flowtrace.cli.ctl import Process as Asked

        request = Request(id=os.urandom(8).hex(), command=command)
        said.append((command, Asked(os.getpid(), 30.0).ask(request).text))

    threads = [threading.Thread(target=ask, args=(command,)) for command in ("off", "on", "status") * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(said) == sorted((command, f"did {command}") for command in ("off", "on", "status") * 5)
    assert len(process.asked) == 15


# -- nobody answers --------------------------------------------------------------------------------------------------


def test_process_that_is_not_traced(ctl: Ctl, folder: Path) -> None:
    """Status 3 after the timeout; the request is taken back, or a later process of that number would find it."""
    status, out, err = ctl("off", "--timeout", "0.1")
    assert (status, out) == (3, "")
    assert err == f"flowtrace ctl: process {os.getpid()} does not answer; was it started by flowtrace-run?\n"
    assert os.listdir(folder) == []


def test_request_of_another_is_not_taken_back(ctl: Ctl, folder: Path) -> None:
    """Who finds a request that waits already leaves it there."""
    other = Request(id="0" * 16, command="on")
    control.write(control.request_path(os.getpid()), other)
    assert ctl("off", "--timeout", "0.1")[0] == 3
    assert os.listdir(folder) == [f"{os.getpid()}.request"]


def test_process_that_does_not_exist(ctl: Ctl, folder: Path) -> None:
    """It is said at once, and nothing is written."""
    for pid in (2**22 + 1, 2**80):
        assert ctl("off", pid=pid) == (3, "", f"flowtrace ctl: there is no process {pid}\n")
    assert not folder.exists()


def test_process_that_ends_before_it_answers(ctl: Ctl, folder: Path) -> None:
    """The wait is over when the process is."""
    program = "import os, sys, time\npath = sys.stdin.read()\nwhile not os.path.exists(path): time.sleep(0.01)"
    path = folder / "PID.request"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(str(path).replace("PID", str(child.pid)).encode())
    child.stdin.close()
    reaper = threading.Thread(target=child.wait)
    reaper.start()

    status, _, err = ctl("off", "--timeout", "60", pid=child.pid)

    reaper.join()
    assert (status, err) == (3, f"flowtrace ctl: there is no process {child.pid}\n")
    assert os.listdir(folder) == []


def test_process_of_another_user(ctl: Ctl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at once that it belongs to another."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    status, _, err = ctl("off")
    assert (status, "belongs to another user" in err) == (3, True)
    assert not folder.exists()


def test_folder_that_others_may_write_to(ctl: Ctl, folder: Path) -> None:
    """Who could forge requests could not do so unnoticed: nothing is asked through such a folder."""
    folder.mkdir()
    folder.chmod(0o777)
    status, _, err = ctl("off")
    assert (status, err.count("\n"), "others may write there" in err) == (2, 1, True)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("pid", ["0", "-1", "shop", "1.5", ""])
def test_what_is_no_process_is_refused(pid: str, ctl: Ctl, capsys: pytest.CaptureFixture[str]) -> None:
    """0 and -1 would mean all processes of a group, to the system."""
    with pytest.raises(SystemExit) as ended:
        ctl("off", pid=pid)
    assert ended.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["x", "-5", "0", "nan", "1s", ""])
def test_timeout_that_is_no_time_is_refused(seconds: str, ctl: Ctl, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the value and what to write."""
    with pytest.raises(SystemExit) as ended:
        ctl("off", "--timeout", seconds)
    assert ended.value.code == 2
    said = f"argument --timeout: {seconds!r} is not a number of seconds above 0, such as 10 or 0.5\n"
    assert capsys.readouterr().err.endswith(said)


def test_help_says_how_long_is_waited(ctl: Ctl, capsys: pytest.CaptureFixture[str]) -> None:
    """Who is to choose a timeout sees the one that there is."""
    with pytest.raises(SystemExit):
        ctl("--help")
    assert "default: 10\n" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--config=flowtrace.yaml", "--set=a=b"])
@pytest.mark.parametrize("command", ["off", "on", "status"])
def test_options_of_reload_are_refused_elsewhere(
    command: str, option: str, process: Process, ctl: Ctl, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would have no effect is a mistake, and nothing is asked."""
    with pytest.raises(SystemExit) as ended:
        ctl(command, option)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"--config and --set belong to reload; {command} takes neither\n")
    assert process.asked == []


# -- reload ----------------------------------------------------------------------------------------------------------


def test_edited_configuration_is_sent(process: Process, ctl: Ctl, tmp_path: Path) -> None:
    """The file that lies in the process's project, wherever ctl is called."""
    (tmp_path / "project/flowtrace.yaml").write_text(CONFIG)

    assert ctl("reload") == (0, "did reload\n", "")

    resolved = sent(process)
    assert (resolved.config.capture.max_items, resolved.project) == (7, str(tmp_path / "project"))


def test_process_keeps_its_file_and_its_sets(process: Process, ctl: Ctl, tmp_path: Path) -> None:
    """What was named with ``--config`` and ``--set`` at the start counts for a reload too, then ctl's own ``--set``."""
    named = tmp_path / "elsewhere.yaml"
    named.write_text(CONFIG)
    process.origin = Origin(
        file=str(named), sets=("capture.max_items=8", "capture.max_depth=2"), project=process.origin.project
    )

    ctl("reload", "--set", "capture.max_items=9")

    capture = sent(process).config.capture
    assert (capture.max_items, capture.max_depth, capture.max_string) == (9, 2, 70)


def test_another_file_may_be_named(process: Process, ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--config`` is seen from where ctl is called, as a person means it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/other.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "here")

    ctl("reload", "--config", "other.yaml")

    assert sent(process).directory == str(tmp_path / "here")
    assert sent(process).config.service == "shop"


def test_no_file_is_no_folder(process: Process, ctl: Ctl) -> None:
    """``--config "$UNSET"`` does not mean the folder in which ctl is called."""
    said = "flowtrace ctl: --config: names no file; write --config FILE; the old configuration stays\n"
    assert ctl("reload", "--config", "") == (2, "", said)


@pytest.mark.parametrize("pwd", ["", "/some/gone"])
def test_reload_from_a_deleted_folder(
    process: Process, ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pwd: str
) -> None:
    """What is named by its whole path is read; of another the line says why it is not, whatever a shell has said."""
    monkeypatch.setenv("PWD", pwd)
    (tmp_path / "other.yaml").write_text(CONFIG)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert ctl("reload", "--config", str(tmp_path / "other.yaml"))[0] == 0
    status, _, err = ctl("reload", "--config", "../other.yaml")

    assert "the working directory is deleted; name the file by its whole path" in err
    assert status == 2
    assert len(process.asked) == 1


def test_variables_are_those_of_the_process(folder: Path, ctl: Ctl, tmp_path: Path) -> None:
    """``${TOKEN}`` is filled in as it was at the start, not from the shell in which ctl is called."""
    (tmp_path / "flowtrace.yaml").write_text("service: ${NAME_OF_SERVICE}")
    program = (
        "import sys, time; from flowtrace import control; control.folder = lambda: sys.argv[1]\n"
        "from flowtrace.settings import read\n"
        "origin = control.to_text(control.Origin(file=None, sets=(), project=sys.argv[2]))\n"
        "def execute(request): return read(request.resolved).config.service if request.resolved else origin\n"
        "asked = control.Control(execute); print(flush=True)\n"
        "while True: asked.look(); time.sleep(0.001)\n"
    )
    env = {**os.environ, "NAME_OF_SERVICE": "shop", ENVIRONMENT_VARIABLE: "{}"}
    command = [sys.executable, "-c", program, str(folder), str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            ended = ctl("reload", pid=child.pid)
        finally:
            child.kill()
    assert ended == (0, "shop\n", "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("targets: [", "flowtrace.yaml"),
        ("targts: []", "targts"),
        ("capture: {max_items: many}", "capture.max_items"),
        ("redact: {patterns: ['(a+)+']}", "redact.patterns"),
        ("sinks: [{type: fil}]", "sinks[0]"),
        ("service: ${NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
        ("\0", "flowtrace.yaml"),
    ],
)
def test_bad_edit_is_said_and_not_sent(text: str, names: str, process: Process, ctl: Ctl, tmp_path: Path) -> None:
    """One line names file, key and remedy, and that the old configuration stays."""  # fault F3
    (tmp_path / "project/flowtrace.yaml").write_text(text)

    status, out, err = ctl("reload")

    assert (status, out, err.count("\n")) == (2, "", 1)
    assert names in err
    assert err.endswith("; the old configuration stays\n")
    assert process.asked == []


@given(size=st.integers(0, len(CONFIG)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_half_written_file(size: int, process: Process, ctl: Ctl, tmp_path: Path) -> None:
    """However much of it is on the disk: what is sent is a whole configuration, or nothing is."""  # fault F6
    (tmp_path / "project/flowtrace.yaml").write_text(CONFIG[:size])
    process.asked.clear()

    status, _, err = ctl("reload")

    if process.asked:
        assert status == 0
    else:
        assert (status, err.count("\n"), err.endswith("; the old configuration stays\n")) == (2, 1, True)
