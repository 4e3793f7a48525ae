"""The command ``flowtrace`` finds its subcommands and puts mistakes in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowtrace import __version__
from flowtrace.cli import main as command
from flowtrace.cli import schema
from flowtrace.errors import ConfigError

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", command.COMMANDS)
def test_each_subcommand_answers_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``flowtrace NAME --help`` shows that subcommand's own usage."""
    with pytest.raises(SystemExit) as exit_:
        command.main([name, "--help"])
    assert exit_.value.code == 0
    assert f"usage: flowtrace {name}" in capsys.readouterr().out


def test_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    """``flowtrace --help`` says what there is, each with what it does."""
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    for name, what in command.COMMANDS.items():
        assert f"{name:10}{what}" in text


def test_subcommand_gets_the_arguments_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    """``flowtrace schema`` prints a JSON Schema and succeeds."""
    assert command.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")


def test_error_of_a_subcommand_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What a user can put right is said without a traceback, and gives 2."""

    def fail(argv: list[str]) -> int:
        raise ConfigError("expected a number", place="flowtrace.yaml", key="sampling.rate")

    monkeypatch.setattr(schema, "main", fail)
    assert command.main(["schema"]) == 2
    assert capsys.readouterr().err == "flowtrace schema: flowtrace.yaml: sampling.rate: expected a number\n"


def test_missing_subcommand_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """``flowtrace`` alone says what may follow."""
    with pytest.raises(SystemExit):
        command.main([])
    assert capsys.readouterr().err.endswith("flowtrace: error: no COMMAND; write one of check, ctl, redact, schema\n")


CLOSED = {  # descriptors that a shell closes, and whether what is said on stderr is seen
    ">&-": True,
    "2>&-": False,
    "<&- >&- 2>&-": False,
}


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        ("schema", 0, ""),
        ("check", 0, ""),
        (f"ctl {2**22 + 1} status", 3, f"flowtrace ctl: there is no process {2**22 + 1}\n"),
        ("check --config none.yaml", 2, "flowtrace check: none.yaml: cannot be read: No such file or directory; "),
    ],
)
def test_closed_stream_changes_no_status(argv: str, status: int, said: str, closed: str, tmp_path: Path) -> None:
    """What would be said there is said nowhere, and not on the other stream; the status is as ever."""
    (tmp_path / "app.py").write_text("def f(): pass\n")
    launch = f"{sys.executable} -Pc 'import sys; from flowtrace.cli.main import main; sys.exit(main())'"
    shell = ["/bin/sh", "-c", f"{launch} {argv} {closed}"]
    ended = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert ended.stderr.startswith(said) if CLOSED[closed] else not ended.stderr
    assert bool(ended.stdout) == (not said and closed == "2>&-")


def test_deleted_working_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """``flowtrace check`` says what is missing, and what to do."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert command.main(["check"]) == 2
    assert capsys.readouterr().err == (
        "flowtrace check: the working directory is deleted; change into the folder of the project\n"
    )


@pytest.mark.parametrize("argv", [[], ["shcema"], ["--no-such-option"]])
def test_usage_error_gives_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No subcommand, or none of that name, shows the usage."""
    with pytest.raises(SystemExit) as exit_:
        command.main(argv)
    assert exit_.value.code == 2
    assert "usage: flowtrace COMMAND" in capsys.readouterr().err


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """``flowtrace --version`` is one line."""
    with pytest.raises(SystemExit) as exit_:
        command.main(["--version"])
    assert (exit_.value.code, capsys.readouterr().out) == (0, f"flowtrace {__version__}\n")
