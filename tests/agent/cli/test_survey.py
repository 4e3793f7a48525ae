"""The survey: which modules and functions each rule selects, found and read, never imported."""

from __future__ import annotations

import os
import py_compile
import zipfile
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from flowtrace.cli.survey import Matches, survey
from flowtrace.config import Config, Rule

Write = Callable[[str, str], Path]
Find = Callable[..., list[Matches]]

BOOM = "__import__('sys').exit('imported')\n"
SHOP = BOOM + "class Cart:\n    def add(self): ...\n    def __repr__(self): ...\ndef main(): ...\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file below the temporary directory."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Survey rules in the project ``tmp_path``, with ``path`` to import from besides."""

    def find(*rules: Rule, path: tuple[Path, ...] = (), project: Path = tmp_path) -> list[Matches]:
        targets = rules or (Rule(modules=("@project",)),)
        return survey(Config(targets=targets), project=str(project), path=[*map(str, path)])

    return find


def names(matches: Matches) -> list[str]:
    """The modules that a rule selects."""
    return [module.name for module in matches.modules]


def functions(matches: Matches) -> dict[str, list[str]]:
    """The functions that a rule selects, by module."""
    return {module.name: [function.qualname for function in module.functions] for module in matches.modules}


def test_project_is_read_and_not_run(write: Write, find: Find) -> None:
    """Modules of any kind of package are found; not one of them is imported."""
    for name in ("shop.py", "package/__init__.py", "package/deep/cart.py", "space/more/cart.py"):
        write(name, SHOP)

    [found] = find()

    assert names(found) == ["package", "package.deep.cart", "shop", "space.more.cart"]
    assert functions(found)["shop"] == ["Cart.add", "Cart.__repr__", "main"]


def test_each_function_belongs_to_the_first_rule_that_selects_it(write: Write, find: Find) -> None:
    """A function appears once, however many rules would do."""
    write("shop.py", SHOP)
    write("bank.py", SHOP)
    first = Rule(modules=("shop",), include=("Cart.*",), exclude=("*.__repr__",))

    some = find(first, Rule(modules=("shop", "bank")), Rule(modules=("@project",)))

    assert functions(some[0]) == {"shop": ["Cart.add"]}
    assert functions(some[1]) == {"bank": ["Cart.add", "Cart.__repr__", "main"], "shop": ["Cart.__repr__", "main"]}
    assert functions(some[2]) == {}


def test_functions_are_described(write: Write, find: Find) -> None:
    """Of each function its line, its kind and how it is traced are told."""
    write("shop.py", "def plain(): ...\n@decorated\nasync def looks():\n    return locals()\n")
    [found] = find()
    assert [each[:4] for each in found.modules[0].functions] == [
        ("plain", 1, "function", "instrumented"),
        ("looks", 2, "coroutine", "instrumented"),
    ]


def test_modules_of_the_search_path(write: Write, find: Find, tmp_path: Path) -> None:
    """A rule may name installed modules; where two folders have one of a name, the first counts."""
    write("one/lib/a.py", SHOP)
    write("two/lib/a.py", "def other(): ...\n")
    write("two/lib/b.py", SHOP)
    write("project/x.py", SHOP)

    [found] = find(Rule(modules=("lib.*",)), path=(tmp_path / "one", tmp_path / "two"), project=tmp_path / "project")

    assert functions(found) == {
        "lib.a": ["Cart.add", "Cart.__repr__", "main"],
        "lib.b": ["Cart.add", "Cart.__repr__", "main"],
    }
    assert found.modules[0].file == str(tmp_path / "one/lib/a.py")


def test_environments_are_left_out(write: Write, find: Find) -> None:
    """What is installed in the project's folder is not the project."""
    for name in ("venv/pyvenv.cfg", "venv/lib/a.py", "node_modules/b.py", ".tox/c.py", "site-packages/d.py"):
        write(name, SHOP)
    write("shop.py", SHOP)
    [found] = find()
    assert names(found) == ["shop"]


def test_own_modules_are_left_out(write: Write, find: Find) -> None:
    """A rule that matches everything does not match the agent."""
    write("flowtrace/x.py", SHOP)
    write("shop.py", SHOP)
    [found] = find(Rule(modules=("*",)))
    assert names(found) == ["shop"]


def test_extension_module_has_a_problem(write: Write, find: Find) -> None:
    """Of a module written in C nothing is known before it is imported, and the survey says so."""
    write("fast" + EXTENSION_SUFFIXES[0], "")
    [found] = find(Rule(modules=("fast",)))
    [module] = found.modules
    assert (module.name, module.functions) == ("fast", ())
    assert module.problem.startswith("is written in C")


def test_module_of_bytecode_is_read(write: Write, find: Find, tmp_path: Path) -> None:
    """A module without its source is as good as any; one of another Python's bytecode has a problem."""
    py_compile.compile(str(write("source", "def f(): ...\n")), cfile=str(tmp_path / "fast.pyc"), doraise=True)
    (tmp_path / "old.pyc").write_bytes(b"\0" * 100)
    [found] = find(Rule(modules=("fast", "old")))
    assert functions(found) == {"fast": ["f"], "old": []}
    assert "ImportError: bad magic number" in found.modules[1].problem


@pytest.mark.parametrize("text", ["def f(:\n", "def f(): ...\n\0", "# coding: nonsense\ndef f(): ...\n"])
def test_module_that_cannot_be_read_has_a_problem(text: str, write: Write, find: Find) -> None:
    """A mistake in one file hides no other."""
    write("broken.py", text)
    write("shop.py", SHOP)
    [found] = find()
    broken, shop = found.modules
    assert (broken.name, broken.functions, shop.problem) == ("broken", (), "")
    assert broken.problem
    assert "\n" not in broken.problem


def test_files_that_are_no_modules(write: Write, find: Find) -> None:
    """Folders that cannot be imported from, data and caches are passed by."""
    for name in ("my-script", "data.txt", "__pycache__/shop.py", "folder.d/shop.py", "a-b.so"):
        write(name, SHOP)
    [found] = find()
    assert found.modules == ()


def test_scripts_are_found(write: Write, find: Find) -> None:
    """A file that can be run and not imported is part of the project, under the name that rules may call it."""
    write("my-script.py", SHOP)
    assert names(find()[0]) == names(find(Rule(modules=("my-script",)))[0]) == ["my-script"]


def test_modules_are_named_as_they_are_imported(write: Write, find: Find, tmp_path: Path) -> None:
    """``src/shop.py`` is ``shop``, and nothing else, where ``src`` is searched for modules."""
    write("src/shop.py", SHOP)
    assert names(find()[0]) == ["src.shop"]
    assert names(find(path=(tmp_path / "src",))[0]) == ["shop"]


def test_modules_in_archives(write: Write, find: Find, tmp_path: Path) -> None:
    """They are found, and nothing is promised of them."""
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        for name in ("shop.py", "package/__init__.py", "package/cart.pyc", "data.txt", "META-INF/x.py", "a/b-c.py"):
            archive.writestr(name, SHOP)

    [found] = find(Rule(modules=("*",)), path=(tmp_path / "lib.zip", tmp_path / "missing.zip", write("no.zip", "")))

    assert names(found) == ["package", "package.cart", "shop"]
    assert all(module.problem.startswith("lies in an archive") and not module.functions for module in found.modules)
    assert not found.selects_nothing


def test_links_to_folders_above(write: Write, find: Find, tmp_path: Path) -> None:
    """Folders that hold themselves by links are walked once."""
    write("shop.py", SHOP)
    for name in ("loop", "again"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/up").symlink_to("..")
    (tmp_path / "nowhere").symlink_to("missing")
    [found] = find()
    assert names(found) == ["shop"]


def test_folder_that_may_not_be_read(write: Write, find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without permission is passed by."""
    write("shop.py", SHOP)
    locked = write("locked/a.py", SHOP).parent
    scandir = os.scandir

    def guarded(folder: str) -> object:
        if folder == str(locked):
            raise PermissionError
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    [found] = find()
    assert names(found) == ["shop"]


@pytest.mark.parametrize(
    ("rule", "nearest"),
    [
        (Rule(modules=("shp",)), "shop"),
        (Rule(modules=("pakage.*",)), "package"),
        (Rule(modules=("package.crat",)), "package.cart"),
        (Rule(modules=("shop",), include=("Crat.ad",)), "Cart.add"),
        (Rule(modules=("@project",), include=("man",)), "main"),
    ],
)
def test_nearest_names_are_shown_for_a_rule_that_selects_nothing(
    rule: Rule, nearest: str, write: Write, find: Find
) -> None:
    """Where a module is misspelt, modules; where its modules exist, their functions."""
    write("shop.py", SHOP)
    write("package/__init__.py", "")
    write("package/cart.py", SHOP)
    [found] = find(rule)
    assert found.modules == ()
    assert nearest in found.nearest


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Rule(modules=("sys",)), "sys is built into Python and is not traced"),
        (Rule(modules=("flowtrace.agent",)), "flowtrace does not trace itself"),
        (Rule(modules=("space",)), "space is a folder without code of its own; write space.* for the modules inside"),
        (Rule(modules=("empty",)), "empty is only the package itself; write empty.* for the modules inside"),
        (Rule(modules=("no_functions",)), "no function is defined in no_functions"),
        (Rule(modules=("@project",), exclude=("*",)), ""),
        (
            Rule(modules=("shop.main",)),
            "main is defined in the module shop; write modules: [shop], include: ['main']",
        ),
        (
            Rule(modules=("empty.inner.Cart.add",)),
            "Cart.add is defined in the module empty.inner; write modules: [empty.inner], include: ['Cart.add']",
        ),
    ],
)
def test_reason_is_given_for_a_rule_that_selects_nothing(rule: Rule, reason: str, write: Write, find: Find) -> None:
    """What is no module to trace, and what is a function and no module, is said to be so."""
    for name in ("shop.py", "space/cart.py", "empty/inner.py"):
        write(name, SHOP)
    for name in ("empty/__init__.py", "no_functions.py"):
        write(name, "")
    [found] = find(rule)
    assert (found.modules, found.selects_nothing, found.reason) == ((), True, reason)


def test_project_without_python_has_no_nearest_names(find: Find, write: Write, tmp_path: Path) -> None:
    """``@project`` is not a name that could be misspelt."""
    write("lib/project.py", SHOP)
    [found] = find(project=tmp_path / "missing", path=(tmp_path / "lib",))
    assert found == Matches(found.rule, (), ())
