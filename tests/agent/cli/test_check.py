"""``flowtrace check``: the report on a configuration or a trace, its exit status, and its JSON."""

from __future__ import annotations

import gzip
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowtrace.cli.main import main
from flowtrace.cli.run import ENVIRONMENT_VARIABLE
from flowtrace.errors import InstrumentError

Check = Callable[..., tuple[int, str, str]]

SHOP = """
__import__('sys').exit('imported')
class Cart:
    def add(self): ...
def main(): ...
def looks(): return locals()
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run ``flowtrace check`` in a project with one module, ``shop``; gives its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLOWTRACE_CONFIG", ENVIRONMENT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "shop.py").write_text(SHOP)

    def check(*arguments: str) -> tuple[int, str, str]:
        status = main(["check", *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return check


def attach(*names: str, module: str = "shop", file: str | None = "shop.py", how: str = "instrumented") -> bytes:
    """An ATTACH line."""
    reason = {"reason": "too odd"} if how == "not traced" else {}
    functions = [{"name": name, "line": 1, "how": how, **reason} for name in names]
    return orjson.dumps({"event": "ATTACH", "module": module, "file": file, "functions": functions})


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., str]:
    """Write a trace of these lines."""

    def trace(*lines: bytes, name: str = "trace.jsonl") -> str:
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in lines))
        return name

    return trace


# -- a configuration -------------------------------------------------------------------------------------------------


def test_report_shows_what_is_traced_and_how(check: Check) -> None:
    """Each rule has its modules, their functions, those that cannot be traced with the reason, and a sum."""
    status, out, err = check()
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "rule 1: @project",
        "  shop  (shop.py)",
        "    Cart.add, main, looks",
        "  = 3 functions in 1 module: 3 instrumented",
    ]


def test_what_cannot_be_traced_is_reported_with_its_reason(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function whose code is of an unknown form is marked, and counted apart."""

    class Refusing:
        def __init__(self, code: types.CodeType, *_: object, **__: object) -> None:
            self.code = code

        def assembled(self) -> types.CodeType:
            if self.code.co_name == "main":
                raise InstrumentError("its code is odd")
            return self.code.replace()

    monkeypatch.setattr("flowtrace.instrument._Body", Refusing)

    _, out, _ = check()

    assert "    ! main, line 5: not traced: its code is odd" in out.splitlines()
    assert out.splitlines()[-1] == "  = 3 functions in 1 module: 2 instrumented, 1 not traced"


def test_rule_that_selects_nothing(check: Check) -> None:
    """The status is 1, and the nearest names are offered; the other rules are reported all the same."""
    status, out, _ = check("--set", 'targets=[{modules: [shp], include: [f]}, {modules: [shop], exclude: ["*.add"]}]')
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == "rule 1: shp, only f"
    assert lines[1].startswith("  selects nothing; did you mean shop")
    assert lines[2] == "  = 0 functions in 0 modules: none"
    assert lines[3] == "rule 2: shop, without *.add"


def test_json_report(check: Check) -> None:
    """``--json`` has all of it for machines."""
    status, out, _ = check("--json", "--set", "targets=[{modules: [shop], include: [looks]}, {modules: [shp]}]")

    first, second = json.loads(out)["rules"]

    assert status == 1
    [module] = first.pop("matched")
    assert first == {"modules": ["shop"], "include": ["looks"], "exclude": [], "nearest": [], "reason": None}
    [function] = module.pop("functions")
    assert (module["module"], Path(module["file"]).name) == ("shop", "shop.py")
    assert module["problem"] is None
    assert function == {
        "qualname": "looks", "line": 6, "kind": "function", "how": "instrumented", "reason": "",
    }  # fmt: skip
    assert (second["matched"], "shop" in second["nearest"]) == ([], True)


def test_file_with_a_mistake_is_shown(check: Check, tmp_path: Path) -> None:
    """A module that cannot be read says why in its place; a rule that finds nothing else selects nothing."""
    (tmp_path / "broken.py").write_text("def f(:\n")
    status, out, _ = check()
    assert status == 0
    assert "  broken  (broken.py)\n    ! " in out

    status, out, _ = check("--set", "targets=[{modules: [broken]}]")

    assert status == 1
    assert out.startswith("rule 1: broken\n  selects nothing\n  broken  (broken.py)\n    ! ")


def test_known_reasons_are_said(check: Check) -> None:
    """Where it is known why a rule selects nothing, that is said instead of names that only look alike."""
    status, out, _ = check("--set", "targets=[{modules: [shop.Cart]}]")
    assert status == 1
    hint = "selects nothing: Cart is defined in the module shop; write modules: [shop], include: ['Cart.*']"
    assert out.splitlines()[1] == f"  {hint}"


def test_files_elsewhere_are_shown_by_their_whole_path(check: Check) -> None:
    """What does not lie below the working directory is not shown as ``../..``."""
    _, out, _ = check("--set", "targets=[{modules: [textwrap]}]")
    assert "  textwrap  (/" in out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--set", "targts=[]"], "targts"),
        (["--set", "targets=[{modules: []}]"], "targets[0].modules"),
        (["missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["."], ".: Is a directory"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], names: str, check: Check) -> None:
    """What cannot be used is named on one line of stderr; the status is 2."""
    status, out, err = check(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("flowtrace check: ")
    assert names in err
    assert err.count("\n") == 1


# -- a trace ---------------------------------------------------------------------------------------------------------


def test_complete_trace(check: Check, trace: Callable[..., str]) -> None:
    """Functions may be attached in several processes, and by wrapper; START and the rest do not matter."""
    files = [
        trace(b'{"event":"START"}', attach("Cart.add"), attach("looks", how="wrapper")),
        trace(attach("main"), name="other.jsonl"),
    ]
    assert check(*files) == (0, "all functions that were to be traced were attached\n", "")


@pytest.mark.parametrize("damage", ["none", "cut", "bits"])
def test_compressed_traces_are_read(damage: str, check: Check, trace: Callable[..., str], tmp_path: Path) -> None:
    """Old files of the file sink are, under whatever name; one that is damaged is a mistake on one line."""
    name = trace(b'{"event":"START"}', attach("Cart.add", "looks", "main"), name="trace.jsonl.1")
    packed = bytearray(gzip.compress((tmp_path / name).read_bytes()))
    if damage == "bits":
        packed[len(packed) // 2] ^= 0xFF
    (tmp_path / name).write_bytes(packed[:-9] if damage == "cut" else packed)

    status, out, err = check(name)

    if damage == "none":
        assert (status, out) == (0, "all functions that were to be traced were attached\n")
    else:
        assert (status, out) == (2, "")
        assert err.startswith("flowtrace check: trace.jsonl.1: ")
        assert err.count("\n") == 1


def test_missing_functions_are_named(check: Check, trace: Callable[..., str]) -> None:
    """What a module has and its trace has not is listed, also what was not traced after all."""
    file = trace(attach("main"), attach("looks", how="not traced"))
    status, out, _ = check(file)
    assert (status, out) == (1, "shop: differs: 2 not attached: Cart.add, looks (too odd)\n")


def test_what_one_process_traces_is_traced(check: Check, trace: Callable[..., str]) -> None:
    """What could not be attached in one process, and was in another, is not missing."""
    odd, fine = attach("main", how="not traced"), attach("main", module="__main__")
    for lines in ([odd, fine], [fine, odd]):
        status, out, _ = check("--set", "targets=[{modules: [shop], include: [main]}]", trace(*lines))
        assert (status, out) == (0, "all functions that were to be traced were attached\n")


def test_missing_module_is_named(check: Check, trace: Callable[..., str]) -> None:
    """A module that never was imported is said to be so, for machines too."""
    file = trace(attach("f", module="other", file=None))
    assert check(file)[1] == "shop: was not imported: 3 not attached: Cart.add, looks, main\n"

    status, out, _ = check("--json", file)

    assert status == 1
    [missing] = json.loads(out)["missing"]
    assert missing == {
        "module": "shop", "reason": "was not imported", "functions": ["Cart.add", "looks", "main"],
        "reasons": {},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["__main__", "src.shop"])
def test_modules_are_known_by_their_file_too(
    name: str, check: Check, trace: Callable[..., str], tmp_path: Path
) -> None:
    """A script is ``__main__`` in its trace."""
    file = trace(attach("Cart.add", "main", "looks", module=name, file=str(tmp_path / "shop.py")))
    assert check(file)[0] == 0


def test_trace_of_another_machine(check: Check, trace: Callable[..., str]) -> None:
    """Where files lie elsewhere, modules are known by their names."""
    assert check(trace(attach("Cart.add", "main", "looks", file="/srv/app/shop.py")))[0] == 0


@pytest.mark.parametrize(
    "line",
    [
        attach("main")[:40],
        b'{"event":"ENTER","args":{"x":{"event":"ATTACH"}}}',
        b'\xff"event":"ATTACH"',
        b'["event":"ATTACH"]',
        b'[{"event":"ATTACH"}]',
        b'{"event":"ATTACH"}',
        b"",
    ],
)
def test_strange_lines_are_passed_by(line: bytes, check: Check, trace: Callable[..., str]) -> None:
    """A line that was torn by a crash, and values that look like an ATTACH event, hide nothing."""  # fault S6
    whole = attach("Cart.add", "main", "looks")
    assert check(trace(whole, line, whole, line))[0] == 0


def test_trace_of_nothing_is_refused(check: Check, trace: Callable[..., str]) -> None:
    """Where no rule selects anything, there is nothing to compare."""
    status, _, err = check("--set", "targets=[{modules: [nope]}]", trace())
    assert status == 2
    assert "no rule selects anything" in err


def test_arguments_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` names each option."""
    with pytest.raises(SystemExit) as ended:
        main(["check", "--help"])
    text: Any = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option in text for option in ("--config", "--set", "--json", "FILE"))
