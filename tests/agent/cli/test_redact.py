"""``flowtrace redact``: values as they would be recorded, and the rules that hide parts of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowtrace.cli.main import main
from flowtrace.cli.run import ENVIRONMENT_VARIABLE
from flowtrace.redaction import MARKER
from tests.agent.redaction_corpus import Maker

Redact = Callable[..., list[str]]


@pytest.fixture
def redact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Redact:
    """Run ``flowtrace redact`` in an empty folder; gives the lines of its stdout."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLOWTRACE_CONFIG", ENVIRONMENT_VARIABLE):
        monkeypatch.delenv(name, raising=False)

    def redact(*arguments: str) -> list[str]:
        assert main(["redact", *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return redact


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("password=hunter2 and more", f"password={MARKER}"),
        ("note=the token=x came", f"note=the token={MARKER} came"),
        ("GET /?token=x&page=2 failed", f"GET /?token={MARKER}&page=2 failed"),
        ('{"user": {"apiKey": "x", "id": 1}}', f'{{"user": {{"apiKey": "{MARKER}", "id": 1}}}}'),
        ('["Authorization", "Bearer x"]', f'["Authorization", "{MARKER}"]'),
        ('{"é": "ü"}', '{"é": "ü"}'),
        ("{not JSON", "{not JSON"),
        ("DB_PASSWORD=a1\nUSER=bob", f"DB_PASSWORD={MARKER}\nUSER=bob"),
        ('["mysql", "--password", "x", "y"]', f'["mysql", "--password", "{MARKER}", "y"]'),
        ("", ""),
    ],
)
def test_value_is_shown_as_it_would_be_recorded(redact: Redact, value: str, shown: str) -> None:
    """NAME=VALUE is an argument, JSON a dict or list, and all else a text."""
    assert "\n".join(redact(value)) == shown


def test_without_secrets_the_explanation_says_so(redact: Redact) -> None:
    """That nothing is hidden is an answer too."""
    assert redact("--explain", "author=Bob") == ["author=Bob", "  nothing would be hidden"]


def test_explanation_names_the_rule_of_a_name(redact: Redact) -> None:
    """A default rule is named by its name, a configured one as it is written."""
    options = ["--explain", "--set", "redact.names=[homeAddress, '*_iban']"]

    assert redact(*options, "db_pw=x")[1:] == ["  db_pw: its name 'db_pw' (passwords)"]
    assert redact(*options, "home_address=x")[1:] == [
        "  home_address: its name 'home_address' (redact.names: 'homeAddress')"
    ]
    assert redact(*options, "my_iban=x")[1:] == ["  my_iban: its name 'my_iban' (redact.names: '*_iban')"]


def test_explanation_names_the_detector(redact: Redact) -> None:
    """What is found by its form is called by what it is, and is not shown."""
    token = Maker(1).jwt()

    lines = redact("--explain", f"got {token} from bob")

    assert lines == [f"got {MARKER} from bob", "  JSON Web Token (RFC 7519)"]


def test_explanation_says_where(redact: Redact) -> None:
    """Each part of nested data has its place; keys that are secrets are not spelled out."""
    card = Maker(2).luhn("4", 16)
    value = {
        "user": [{"token": "x", "note": "password: y"}, ["Cookie", "a=b"]], "card_no": None, card: 1, "n": int(card)
    }  # fmt: skip

    lines = redact("--explain", json.dumps(value))

    assert card not in "\n".join(lines)
    assert lines[1:] == [
        "  user[0].token: its name 'token' (tokens)",
        "  user[0].note: name 'password' (passwords)",
        "  user[1][1]: its name 'Cookie' (sessions and cookies)",
        "  a key of it: payment card number (ISO/IEC 7812)",
        "  n: payment card number (ISO/IEC 7812)",
    ]


def test_patterns_of_the_config_are_at_work(redact: Redact, tmp_path: Path) -> None:
    """The configuration is found as by the other commands, or named by ``--config``."""
    (tmp_path / "flowtrace.yaml").write_text("redact: {patterns: ['K-\\d{4}'], defaults: false}")
    (tmp_path / "other.yaml").write_text("redact: {names: [pet]}")

    assert redact("--explain", "customer K-1234, token=x") == [
        f"customer {MARKER}, token=x",
        "  redact.patterns[0]",
    ]
    assert redact("--config", "other.yaml", "pet=rex") == [f"pet={MARKER}"]


def test_value_comes_from_stdin(redact: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-`` reads stdin, whatever bytes it holds, without its last line end."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"HOME=/srv\nPASSWORD=a b\nX=\xff\n")))

    assert redact("-") == ["HOME=/srv", f"PASSWORD={MARKER}", "X=\ufffd"]


def test_value_that_begins_with_a_dash_follows_two_of_them(redact: Redact) -> None:
    """A private key is no option."""
    key = Maker(3).pem("PRIVATE KEY")

    assert redact("--explain", "--", key) == [MARKER, "  private key (PEM, RFC 7468)"]


def test_deep_and_odd_values_are_shown(redact: Redact) -> None:
    """Nesting without end is a text, nesting beyond what is recorded is cut, and lone surrogates harm nobody."""
    assert redact("--explain", "[" * 100_000)[1:] == ["  nothing would be hidden"]
    assert redact("--explain", "[" * 50 + "]" * 50)[1:] == ["  nothing would be hidden"]
    assert redact("token=\udcff", "--explain")[0] == f"token={MARKER}"
    assert redact("a\udcff") == ["a?"]


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--no-such", "a"]])
def test_usage_errors_give_2(arguments: list[str], redact: Redact, capsys: pytest.CaptureFixture[str]) -> None:
    """No value, two, or an option that there is none of."""
    with pytest.raises(SystemExit) as exit_:
        main(["redact", *arguments])

    assert exit_.value.code == 2
    assert "usage: flowtrace redact" in capsys.readouterr().err


def test_mistake_in_the_configuration_gives_2(redact: Redact, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one line, as everywhere."""
    assert main(["redact", "--set", "redact.patterns=['(']", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("dashes", [["--"], ["--explain", "--"]])
def test_value_with_a_dash_may_follow_any_option(dashes: list[str], redact: Redact) -> None:
    """The two dashes are not lost on the way."""
    assert redact(*dashes, "-x")[0] == "-x"


@pytest.mark.parametrize(
    "value",
    ['{"name": "password", "value": "x"}', '[{"key": "api_key", "value": "v"}]', '["mysql", "--password", "x"]'],
)
def test_what_another_part_names_is_explained(value: str, redact: Redact) -> None:
    """Where it is, and that its neighbour says so."""
    _, *reasons = redact("--explain", value)

    assert [reason.partition(": ")[2] for reason in reasons] == ["named by what stands before it or beside it"]


def test_log_of_any_length_is_redacted(redact: Redact, monkeypatch: pytest.MonkeyPatch) -> None:
    """By as many whole lines at a time as redaction looks at; none is left out."""
    lines = [f"line {number} token=secret{number}" for number in range(3_000)]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))

    assert redact("-") == [f"line {number} token={MARKER}" for number in range(3_000)]


def test_closed_stdin_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 2."""
    monkeypatch.setattr("sys.stdin", None)

    assert main(["redact", "-"]) == 2
    assert capsys.readouterr().err == "flowtrace redact: stdin is closed; write the value in place of the dash\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
def test_full_disk_is_one_line() -> None:
    """No traceback for what is no fault of the program."""  # fault S3
    command = [sys.executable, "-c", "from flowtrace.cli.main import main; raise SystemExit(main())", "redact", "x"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (2, "flowtrace redact: No space left on device\n")
