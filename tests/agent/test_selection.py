"""Which modules and functions are targets."""

from __future__ import annotations

import fnmatch
import json
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.config import Config, Rule
from flowtrace.selection import Selection, globs, is_own

names = st.text("abAB._", max_size=8)
patterns = st.text("abAB._*?[]!-", max_size=8)


def selection(*rules: dict[str, Any], project: Path | str = "/nowhere") -> Selection:
    """The selection of these rules."""
    return Selection(Config(targets=tuple(msgspec.convert(rule, Rule) for rule in rules)), project=str(project))


@given(name=names, wanted=st.lists(patterns, max_size=4))
def test_globs_are_those_of_fnmatch(name: str, wanted: list[str]) -> None:
    """A name matches when it matches any pattern as `fnmatch.fnmatchcase` has it."""
    assert globs(wanted)(name) == any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)


def test_names_with_newlines_match_whole() -> None:
    """A pattern is for the whole name."""
    assert not globs(["a"])("a\nb")
    assert globs(["a*"])("a\nb")


def test_hostile_globs_are_fast() -> None:
    """Many stars do not make matching exponential."""  # fault F4
    assert not globs(["*a" * 30 + "b"])("a" * 500)


functions = st.lists(st.sampled_from(["*", "a*", "?b", "A.*", "[ab]*", "ab", "B"]), max_size=3)


@given(rules=st.lists(st.tuples(functions.filter(bool), functions), max_size=4), qualname=names)
def test_the_first_rule_that_matches_counts(rules: list[tuple[list[str], list[str]]], qualname: str) -> None:
    """Of a module's rules, the first whose include has the function and whose exclude has not is its rule."""
    capture = ({"max_items": number} for number in range(1, 9))
    chosen = selection(*({"modules": ["m"], "include": i, "exclude": e, "capture": next(capture)} for i, e in rules))

    module = chosen.module("m", None)

    def matches(wanted: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(qualname, pattern) for pattern in wanted)

    first = next((number for number, (i, e) in enumerate(rules, 1) if matches(i) and not matches(e)), None)
    rule = module.rule(qualname) if module else None
    assert (rule.capture.max_items if rule and rule.capture else None) == first


def test_rules_for_other_modules_do_not_count() -> None:
    """A module that no rule names is no target."""
    chosen = selection({"modules": ["app", "app.*"]})

    assert chosen.module("app.chat", None) is not None
    assert chosen.module("application", None) is None
    assert not chosen.may_match("application", None)


@pytest.mark.parametrize("name", ["flowtrace", "flowtrace.agent", "flowtrace_plugins.http", "sitecustomize"])
def test_the_agent_is_never_a_target(name: str) -> None:
    """Not even for a rule that names everything."""
    chosen = selection({"modules": ["*"]})

    assert is_own(name)
    assert chosen.module(name, None) is None
    assert not chosen.may_match(name, None)
    assert chosen.module(["__main__", name], None) is None


def make(folder: Path, *files: str) -> None:
    """Make empty files, and the folders they need."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")


@pytest.mark.parametrize(
    ("file", "is_target"),
    [
        ("app.py", True),
        ("package/deep/module.py", True),
        ("package/extension.so", True),
        ("venv/lib/python3/site-packages/dep.py", False),
        ("env-by-another-name/lib/thing.py", False),
        ("conda/lib/thing.py", False),
        ("lib/dist-packages/dep.py", False),
        ("node_modules/gyp/x.py", False),
        (".tox/py/x.py", False),
        ("../outside.py", False),
    ],
)
def test_project_is_what_lies_below_it(tmp_path: Path, file: str, is_target: bool) -> None:
    """``@project`` takes files below the directory, environments of whatever name excepted."""
    project = tmp_path / "project"
    make(project, file, "env-by-another-name/pyvenv.cfg", "conda/conda-meta/history")

    chosen = selection({"modules": ["@project"]}, project=project)

    assert (chosen.module("m", str(project / file)) is not None) is is_target


def test_project_knows_a_module_before_it_is_found(tmp_path: Path) -> None:
    """Names may match when one of the folders that are searched is of the project and has such a file."""
    make(tmp_path, "app.py", "package/__init__.py", "namespace/inner/x.py", "venv/pyvenv.cfg", "venv/lib/dep.py")
    chosen = selection({"modules": ["@project"]}, project=tmp_path)

    folders = [str(tmp_path), str(tmp_path / "venv/lib")]

    assert [name for name in ("app", "package", "namespace", "dep", "json") if chosen.may_match(name, folders)] == [
        "app", "package", "namespace",
    ]  # fmt: skip
    assert chosen.may_match("namespace.inner", [str(tmp_path / "namespace")])
    assert not chosen.may_match("package.absent", [str(tmp_path / "package")])


def test_project_through_a_link_and_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real place of a file counts, however its path is written."""
    make(tmp_path, "real/app.py", "elsewhere/dep.py")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real/linked").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "real")
    chosen = selection({"modules": ["@project"]}, project=tmp_path / "link")

    assert chosen.module("app", "app.py")
    assert chosen.module("app", str(tmp_path / "link/app.py"))
    assert chosen.module("dep", str(tmp_path / "real/linked/dep.py")) is None
    assert chosen.module("builtin", None) is None


def test_a_script_is_known_by_its_file_name_too(tmp_path: Path) -> None:
    """A script that runs as ``__main__`` is a target of rules for its own name."""
    chosen = selection({"modules": ["job"]})

    assert chosen.module(["__main__", "job"], str(tmp_path / "job.py"))
    assert chosen.module(["__main__"], str(tmp_path / "job.py")) is None


@pytest.mark.parametrize("path", [[1, None, b"bytes"], ["/does/not/exist"], []])
def test_odd_search_paths_match_nothing(path: list[Any]) -> None:
    """Whatever stands on ``sys.path``, asking raises nothing."""
    assert selection({"modules": ["@project"]}, project=os.getcwd()).may_match("x", path) is False


def test_the_running_python_is_not_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the interpreter is left out, even without a mark of an environment."""
    make(tmp_path, "python/lib/m.py")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    chosen = selection({"modules": ["@project"]}, project=tmp_path)
    assert chosen.module("m", str(tmp_path / "python/lib/m.py")) is None


@pytest.mark.parametrize("project", ["/", Path(os.__file__).parents[3]])
def test_the_standard_library_is_not_the_project(project: Path | str) -> None:
    """Run from the root of the disk or from a home directory that holds a Python, its library stays untraced."""
    assert selection({"modules": ["@project"]}, project=project).module("json", json.__file__) is None


@pytest.mark.parametrize(
    ("project", "file"),
    [(".", "..data/m.py"), (".venv/site-packages/shop", "m.py")],
)
def test_folders_of_odd_names_are_the_project(project: str, file: str, tmp_path: Path) -> None:
    """``..data`` is a folder like any other; what counts is what lies between the project and the file."""
    make(tmp_path / project, file)
    chosen = selection({"modules": ["@project"]}, project=tmp_path / project)
    assert chosen.module("m", str(tmp_path / project / file))


modules = st.lists(st.sampled_from(["a", "b", "ab", "app"]), min_size=1, max_size=3).map(".".join)


@given(modules, st.lists(st.sampled_from(["a", "a.*", "*", "app.b", "?b", "@project"]), min_size=1, max_size=3))
def test_what_a_name_selects_may_match(name: str, wanted: list[str]) -> None:
    """Where a rule names a module, wherever it is, the finder is told so beforehand."""
    chosen = selection({"modules": wanted})
    assert chosen.may_match(name, []) == (chosen.module(name, None) is not None)


@pytest.mark.parametrize("project", [".", "package", "src", "space"])
@pytest.mark.parametrize("root", ["real", "link"])
def test_what_a_file_selects_may_match(project: str, root: str, tmp_path: Path) -> None:
    """``may_match`` never says no to what ``module`` says yes to once the file is found, links included."""
    binary = f"binary{EXTENSION_SUFFIXES[0]}"
    make(tmp_path / "real", "m.py", "package/__init__.py", "package/x.py", "space/x.py", "src/deep/__init__.py", binary)
    (tmp_path / "link").mkdir()
    for folder in ("package", "space", "src"):
        (tmp_path / "link" / folder).symlink_to(tmp_path / "real" / folder)
    chosen = selection({"modules": ["@project"]}, project=tmp_path / "real" / project)

    found = []
    for name, folder in [*((name, "") for name in ("m", "package", "binary")), ("package.x", "package"),
                         ("space.x", "space"), ("deep", "src")]:  # fmt: skip
        path = [str(tmp_path / root / folder)]
        spec = PathFinder.find_spec(name, path)
        if spec and chosen.module(name, spec.origin):
            found.append(name)
            assert chosen.may_match(name, path), name
    assert found
