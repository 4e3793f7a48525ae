"""The launcher finds the program that is meant and hands the configuration on; for the rest see tests/e2e."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from flowtrace import settings
from flowtrace.cli import run
from flowtrace.cli.run import ENVIRONMENT_VARIABLE


class Became(Exception):
    """Raised in place of ``exec``, which never returns."""

    def __init__(self, program: str, command: list[str], environ: dict[str, str]) -> None:
        self.program, self.command, self.environ = program, command, environ
        super().__init__(program)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; no configuration of the outside is seen, and ``exec`` raises `Became`."""

    def execve(program: str, command: list[str], environ: dict[str, str]) -> None:
        raise Became(program, command, environ)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", execve)
    for name in ("FLOWTRACE_CONFIG", "FLOWTRACE_ENABLED", ENVIRONMENT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def executable(path: Path) -> Path:
    """A file that may be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def launched(*argv: str) -> Became:
    """What the launcher becomes."""
    with pytest.raises(Became) as became:
        run.main(argv)
    return became.value


# -- which program ---------------------------------------------------------------------------------------------------


def test_command_is_found_on_the_path(folder: Path) -> None:
    """A name without a slash is looked for on PATH, as a shell does."""
    tool = executable(folder / "bin/tool")
    assert run.resolve_command(["tool", "-x"], {"PATH": str(tool.parent)}) == [str(tool), "-x"]


def test_command_of_the_launchers_environment_is_preferred(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``.venv/bin/flowtrace-run tool`` runs the tool beside it, without the environment being activated."""
    own, other = executable(folder / "venv/bin/tool"), executable(folder / "bin/tool")
    monkeypatch.setattr(sys, "executable", str(own.with_name("python")))
    assert run.resolve_command(["tool"], {"PATH": str(other.parent)}) == [str(own)]


def test_path_is_taken_as_it_is(folder: Path) -> None:
    """A name with a slash is a path."""
    assert run.resolve_command(["./tool", "a b"], {}) == ["./tool", "a b"]


@pytest.mark.parametrize("command", [["-m", "package", "-m"], ["app.py", "--x"], ["folder/app.py"]])
def test_modules_and_scripts_run_under_this_python(command: list[str], folder: Path) -> None:
    """``-m module`` and a script that is not executable are given to the launcher's own Python."""
    (folder / "folder").mkdir()
    for name in ("app.py", "folder/app.py"):
        (folder / name).touch(mode=0o644)
    assert run.resolve_command(command, {}) == [sys.executable, *command]


def test_executable_script_runs_under_its_own_interpreter(folder: Path) -> None:
    """What a script's first line says counts where it is executed by its path."""
    executable(folder / "app.py")
    assert run.resolve_command(["./app.py"], {}) == ["./app.py"]


def test_command_that_is_nowhere_ends_with_127(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and the status that shells use."""
    with pytest.raises(SystemExit) as exit_:
        run.resolve_command(["none"], {"PATH": ""})
    assert (exit_.value.code, capsys.readouterr().err) == (127, "flowtrace-run: none: command not found\n")


# -- what is handed on -----------------------------------------------------------------------------------------------


def test_configuration_is_handed_on_as_json(folder: Path) -> None:
    """The program finds in its environment what the file and the options say."""
    (folder / "my.yaml").write_text("service: shop\n")

    became = launched("--config", "my.yaml", "--set", "capture.max_depth=1", "--quiet", sys.executable, "--config", "x")

    resolved = settings.read(became.environ[ENVIRONMENT_VARIABLE])
    assert (resolved.config.service, resolved.config.capture.max_depth, resolved.quiet) == ("shop", 1, True)
    assert (resolved.directory, resolved.project, resolved.root_pid) == (str(folder), str(folder), os.getpid())
    assert became.command == [sys.executable, "--config", "x"]


@pytest.mark.parametrize(("before", "after"), [(None, [run.BOOT]), ("a:b", [run.BOOT, "a", "b"])])
def test_boot_folder_comes_first_on_pythonpath(
    before: str | None, after: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own entries stay behind it; an empty one, which would mean the working directory, is not added."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before:
        monkeypatch.setenv("PYTHONPATH", before)
    assert launched(sys.executable).environ["PYTHONPATH"].split(os.pathsep) == after
    assert os.environ.get("PYTHONPATH") == before


def test_options_behind_the_command_are_the_commands(folder: Path) -> None:
    """The launcher reads no further than COMMAND."""
    rest = ["-m", "package", "--quiet", "--set", "-m"]
    assert launched(*rest).command[1:] == rest


@pytest.mark.parametrize("value", ["0", "false", "no", "off", "FALSE", "False", "Off"])
def test_disabled_launcher_changes_nothing(value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``FLOWTRACE_ENABLED=0`` becomes the command with the environment as it was, and reads no configuration."""
    monkeypatch.setenv("FLOWTRACE_ENABLED", value)
    assert launched("--config", "missing.yaml", sys.executable).environ == dict(os.environ)


@pytest.mark.parametrize("value", ["", "1", "true", "YES", "On"])
def test_enabled_launcher_traces(value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``FLOWTRACE_ENABLED=1`` is what goes without saying, and so is an empty value."""
    monkeypatch.setenv("FLOWTRACE_ENABLED", value)
    assert ENVIRONMENT_VARIABLE in launched(sys.executable).environ


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--quiet"], ["--no-such-option", "x"], ["--config"]])
def test_usage_error_gives_2(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No COMMAND, or an option that is none, shows the usage."""
    with pytest.raises(SystemExit) as exit_:
        run.main(argv)
    assert exit_.value.code == 2
    assert "usage: flowtrace-run" in capsys.readouterr().err


def test_bad_configuration_gives_2_and_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program is not started."""  # fault F3
    with pytest.raises(SystemExit) as exit_:
        run.main(["--set", "sampling.rate=2", sys.executable])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("flowtrace-run: --set: sampling.rate: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("variable", ["FLOWTRACE_ENABLED", "FLOWTRACE_CACHE"])
@pytest.mark.parametrize("value", ["2", "flase", " ", "n\no", "\udcff"])
def test_switch_that_says_neither_on_nor_off_gives_2(
    value: str, variable: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the variable, its value and what to write."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as exit_:
        run.main([sys.executable])
    choice = "is neither on nor off; write one of 1, true, yes, on or 0, false, no, off"
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"flowtrace-run: {variable}: {value!r} {choice}\n"


def test_closed_streams_are_no_reason_to_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None for them: the program is run, and what is wrong has its status."""
    (folder / "flowtrace.yaml").touch()
    folder.chmod(0o777)  # said on stderr, where there is one
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert launched(sys.executable).command == [sys.executable]
    with pytest.raises(SystemExit) as exit_:
        run.main(["no-such-command"])
    assert exit_.value.code == 127


def test_config_that_names_nothing_gives_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--config "$UNSET"`` says that no file is named, not that some directory is one."""
    with pytest.raises(SystemExit) as exit_:
        run.main(["--config", "", sys.executable])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "flowtrace-run: --config: names no file; write --config FILE\n"


@pytest.mark.parametrize(
    ("error", "status"), [(FileNotFoundError(2, "No such file"), 127), (PermissionError(13, "Permission denied"), 126)]
)
def test_what_exec_refuses_is_one_line(
    error: OSError, status: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that vanished, lost its interpreter or may not be executed gives the status of a shell."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "execve", refuse)
    with pytest.raises(SystemExit) as exit_:
        run.main(["./tool"])
    assert exit_.value.code == status
    assert capsys.readouterr().err.startswith("flowtrace-run: ./tool: ")


def test_help_names_every_form_of_command(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` shows what COMMAND may be, and where the configuration comes from."""
    with pytest.raises(SystemExit) as exit_:
        run.main(["--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for form in ("uvicorn app:app", "python script.py", "python -m module", "script.py", "-m module"):
        assert form in text
    for place in ("--config", "$FLOWTRACE_CONFIG", "./flowtrace.yaml", "FLOWTRACE_ENABLED=0"):
        assert place in text
