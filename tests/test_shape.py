"""The shape of the project, held by tests: layers, what may be imported where, names, and what must be documented."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
AGENT, PLUGINS, CHAT = ROOT / "agent/flowtrace", ROOT / "plugins/flowtrace_plugins", ROOT / "sample_app"

LAYERS = {  # a module imports from its own layer and from those above it in this table, CONTRIBUTING says why
    "leaves": [
        "errors", "events", "hooks", "constants", "introspection", "positions", "assembly", "tracecontext",
        "unpatched", "threads", "entrypoints", "patterns", "late", "native", "typed",
    ],
    "pure": [
        "explanations", "quantities", "config", "settings", "selection", "secretnames", "secretforms", "redaction",
        "renderings", "shapes", "jsontext",
        "descriptions", "values", "defaults", "instrument",
    ],
    "engines": ["recorder", "contexts", "suspension", "losses", "lane", "keeping", "dispatcher", "plugins"],
    "import": ["patcher", "splices", "carriers", "incoming", "outgoing", "elsewhere", "importer"],
    "root": ["announcement", "attachment", "control", "endings", "agent"],
    "edges": ["testing", "boot", "cli"],
}  # fmt: skip
RANKS = {module: rank for rank, modules in enumerate(LAYERS.values()) for module in modules}

IN_THE_TRACED_PROCESS = {
    "wrapt",
    "pluggy",
    "orjson",
    "msgspec",
}  # beside the standard library
PUBLIC = {"errors", "events", "hooks", "config", "testing", "typed", "unpatched"}  # what a plugin may import of it
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(folder: Path) -> list[Path]:
    """The Python files below a folder."""
    return sorted(folder.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """What a file imports, as ``module`` or ``module.name``."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import in line {node.lineno}; name the package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The modules of the agent that a file of the agent imports, as the table has them."""
    parts = [name.split(".") for name in imports(path)]
    return {names[1] for names in parts if names[0] == "flowtrace" and names[1] in RANKS}


def module_of(path: Path) -> str:
    """The name of a file of the agent in the table: a folder counts as one."""
    return path.relative_to(AGENT).parts[0].removesuffix(".py")


def relative(path: Path) -> str:
    """A file as the tests show it."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in sources(AGENT) if path.name != "__init__.py"], ids=relative)
def test_agent_imports_only_downward(path: Path) -> None:
    """A module of the agent has a layer, and imports nothing from a layer below it."""
    module = module_of(path)
    assert module in RANKS, f"{module} has no layer; add it to LAYERS and to CONTRIBUTING"
    upward = {name for name in own_imports(path) if RANKS[name] > RANKS[module]}
    assert not upward, f"{module} is below {upward}"


def test_agent_imports_in_no_circles() -> None:
    """Within a layer too, no module needs itself."""
    needs = {module_of(path): own_imports(path) - {module_of(path)} for path in sources(AGENT)}
    while settled := [name for name, needed in needs.items() if not needed & needs.keys()]:
        for name in settled:
            del needs[name]
    assert not needs, f"these import each other: {needs}"


def test_layers_name_modules_that_exist() -> None:
    """The table has no entry for a file that is gone."""
    assert set(RANKS) == {module_of(path) for path in sources(AGENT)} - {"__init__"}


@pytest.mark.parametrize("path", [path for path in sources(AGENT) if module_of(path) != "cli"], ids=relative)
def test_traced_process_imports_four_libraries_at_most(path: Path) -> None:
    """What the agent brings into a traced process beside the standard library is counted; YAML is not part of it."""
    found = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"flowtrace"}
    assert {name for name in found if not name.startswith("_")} <= IN_THE_TRACED_PROCESS


@pytest.mark.parametrize("path", [*sources(PLUGINS), *(ROOT / "plugins/example").glob("flowtrace_*.py")], ids=relative)
def test_plugins_import_only_public_names(path: Path) -> None:
    """One door for everyone: the built-in sinks use what a stranger may use."""
    own = [name.split(".")[1:] for name in imports(path) if name.split(".")[0] == "flowtrace"]
    own = [names for names in own if names[0] != "unpatched"]  # whose names are those of Python
    foreign = [names for names in own if names[0] not in PUBLIC or any(name.startswith("_") for name in names)]
    assert not foreign


@pytest.mark.parametrize("module", ["flowtrace.agent", "flowtrace_plugins.file", "flowtrace_plugins.stdout"])
def test_process_pays_only_for_what_it_uses(module: str) -> None:
    """Neither the agent nor the other sinks import what only the http sink or the launcher needs."""
    code = f"import {module}, sys; print(sorted({{'urllib3', 'ssl', 'gzip', 'yaml', 'asyncio'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("path", sources(CHAT), ids=relative)
def test_chat_does_not_know_of_flowtrace(path: Path) -> None:
    """The chat is traced without a line of it being changed."""
    assert not {name.split(".")[0] for name in imports(path)} & {"flowtrace", "flowtrace_plugins"}
    assert "flowtrace" not in path.read_text()


@pytest.mark.parametrize("folder", [AGENT, PLUGINS, CHAT, ROOT / "tests", ROOT / "benchmarks"], ids=relative)
def test_each_module_says_what_it_is_for(folder: Path) -> None:
    """A module has a name that says something, and a first line of one sentence."""
    for path in sources(folder):
        assert path.stem not in EMPTY_NAMES, f"{relative(path)}: the name says nothing"
        if path.name != "__init__.py" and "samples" not in path.parts:
            first_line = (ast.get_docstring(parsed(path)) or "").partition("\n")[0]
            assert first_line.endswith("."), f"{relative(path)}: the first line of its docstring is {first_line!r}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=relative)
def test_each_test_states_the_behaviour(path: Path) -> None:
    """A test has a docstring, so that a failure says what is broken."""
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    tests = [function for function in functions if function.name.startswith("test_")]
    assert [test.name for test in tests if not ast.get_docstring(test)] == []


# -- documentation ---------------------------------------------------------------------------------------------------


@functools.cache
def documentation() -> str:
    """What a user can read."""
    return "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def options() -> list[str]:
    """The options of all commands, as they are given to ``add_argument``."""
    calls = [
        node
        for path in sources(AGENT / "cli")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    ]
    names = [str(argument.value) for call in calls for argument in call.args if isinstance(argument, ast.Constant)]
    return sorted({name for name in names if name.startswith("--")})


def subcommands() -> list[str]:
    """The subcommands of ``flowtrace``."""
    from flowtrace.cli.main import COMMANDS

    return sorted(COMMANDS)


@pytest.mark.parametrize("option", options())
def test_option_is_documented(option: str) -> None:
    """Each option of each command is in the README or in docs/."""
    assert re.search(rf"{option}(?![\w-])", documentation())


@pytest.mark.parametrize("command", subcommands())
def test_subcommand_is_documented_and_has_a_module(command: str) -> None:
    """Each subcommand is in the README or in docs/, and can be imported under its name."""
    assert f"flowtrace {command}" in documentation()
    assert (AGENT / "cli" / f"{command}.py").is_file()


@pytest.mark.parametrize("variable", ["FLOWTRACE_CONFIG", "FLOWTRACE_ENABLED", "FLOWTRACE_PURE_PYTHON"])
def test_environment_variable_is_documented(variable: str) -> None:
    """What can be set in the environment is in the README or in docs/."""
    assert variable in documentation()


def test_hooks_are_documented() -> None:
    """What a plugin can implement is in the README or in docs/."""
    from flowtrace.hooks import Specifications

    hooks = [name for name in vars(Specifications) if name.startswith("flowtrace_")]
    assert hooks
    assert [name for name in hooks if name not in documentation()] == []


@functools.cache
def names_in(path: Path) -> set[str]:
    """The names of the test functions of a file, and of what it calls a test case."""
    functions = {node.name for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)}
    named = [target for node in parsed(path).body if isinstance(node, ast.Assign) for target in node.targets]
    return {name for name in functions if name.startswith("test_")} | {
        name.id for name in named if isinstance(name, ast.Name) and name.id.startswith("Test")
    }


@pytest.mark.parametrize("page", ["guarantees.md", "processes.md"])
def test_each_promise_has_its_test(page: str) -> None:
    """The tests that the pages of promises name exist in the files that they name; ``…`` is the file named last.

    Each row of a table names functions; text beside them may name a file alone.
    """
    text = (ROOT / "docs" / page).read_text()
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    last, wrong, count = "", list[str](), 0
    for line in text.splitlines():
        for folder, file, test in re.findall(r"`(?:(tests/[\w/]+/)?(test_\w+\.py)|…)(?:::(\w+))?`", line):
            count, last = count + 1, file or last
            path = files.get(last)
            has_place = path is not None and (not folder or path.parent == ROOT / folder)
            has_test = has_place and (test in names_in(path) or (not test and not line.startswith("|")))
            wrong += [] if has_test else [f"{folder}{last}::{test}"]
    assert wrong == []
    assert count == len(re.findall(r"\btest_\w+\.py\b|…::", text)) > 20, "named in another way"


LAST_FAULTS = {"T": 12, "P": 13, "S": 21, "F": 6}
FAULTS = [f"{letter}{number}" for letter, last in LAST_FAULTS.items() for number in range(1, last + 1)]


def test_each_fault_is_injected_or_does_not_apply() -> None:
    """Whatever a pipeline and processes must survive is named by a test, or in the table of what does not apply."""
    comments = [match for path in sources(ROOT / "tests") for match in re.findall(r"# fault (.*)", path.read_text())]
    table = (ROOT / "docs/guarantees.md").read_text().partition("## What does not apply")[2]
    excused = re.findall(r"^\| ((?:[A-Z]\d+, )+)", table, re.MULTILINE)
    assert len(excused) > 5
    named = {*re.findall(r"\b[A-Z]\d+\b", " ".join([*comments, *excused]))}
    assert [fault for fault in FAULTS if fault not in named] == []


def test_faults_are_named_in_one_way() -> None:
    """``# fault P7``, or ``# fault P7, S2``: one that is named otherwise is found by nobody."""
    odd = re.compile(r"(?i:faults? [UCTPSFVX]\d)|# [UCTPSFVX]\d{1,2}\b")
    found = [
        f"{relative(path)}: {line.strip()}"
        for path in sources(ROOT / "tests")
        for line in path.read_text().splitlines()
        if path != Path(__file__) and odd.search(line) and not re.search(r"# fault [UCTPSFVX]\d", line)
    ]
    assert found == []


@pytest.mark.parametrize("path", ["README.md", ".ci/run"])
def test_test_command_is_the_same_everywhere(path: str) -> None:
    """What the README tells people to type is what the continuous integration runs."""
    command = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox"
    assert command in (ROOT / path).read_text()


# -- what must not be committed --------------------------------------------------------------------------------------

MACHINES = re.compile(r"/(root|work|Users|opt)/\w|(index-url|find-links|registry)(=| = |: )\S*/|pypi\.org/simple")


def test_no_file_names_a_machine_or_a_registry() -> None:
    """The project builds anywhere: no path of somebody's machine, no address of a package registry."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert len(files) > 50
    found = {
        f"{relative(path)}:{number}": line
        for path in files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINES.search(line)
    }
    assert found == {}
