"""The command ``flowtrace`` finds its subcommands and puts mistakes in one line."""

from __future__ import annotations

import json

import pytest

from flowtrace import __version__
from flowtrace.cli import main as command
from flowtrace.cli import schema
from flowtrace.errors import ConfigError


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
