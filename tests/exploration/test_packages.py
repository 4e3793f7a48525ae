"""The list of packages, and what is found out of one that is not in it."""

from __future__ import annotations

import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from exploration.packages import HERE, Package, completed, listed, requirements_of, version_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An unpacked source distribution without anything."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.2\n")
    return folder


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A ``site-packages`` with a package ``shop`` of two modules, one of them in C."""
    folder = tmp_path / "site-packages"
    described = folder / "shop-1.2.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.2\n")
    files = ("shop/__init__.py", f"shop/fast{EXTENSION_SUFFIXES[0]}", "tests/__init__.py", "../bin/shop.py")
    _record(folder, *files)
    return folder


def _record(installed: Path, *files: str) -> None:
    """Install files; since Python 3.12 those that do not exist do not count."""
    with open(installed / "shop-1.2.dist-info" / "RECORD", "a") as record:
        for file in files:
            _file(installed / file)
            record.write(f"{file},,\n")


def _file(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_twelve_packages_of_the_kinds_that_were_asked_for() -> None:
    """The list has what the goal names, each version fixed, and three packages for the short run."""
    packages = {package.name: package for package in listed()}

    assert len(packages) >= 12
    assert {"attrs", "structlog", "more-itertools"} <= packages.keys()
    assert [each.name for each in packages.values() if not (each.version and each.kind and each.targets)] == []
    assert len([each for each in packages.values() if each.short]) == 3


def test_excuses_are_of_listed_packages_and_have_reasons() -> None:
    """The list of what only time explains has no entry for a package that is gone, and none without a reason."""
    excused = tomllib.loads((HERE / "excused.toml").read_text())

    assert excused.keys() <= {package.name for package in listed()}
    assert all(reason.strip() for reasons in excused.values() for reason in reasons.values())


def test_requirements_are_in_an_extra_or_a_group_for_tests(source: Path) -> None:
    """Groups may include others; what is for developers does not count beside them."""
    with open(source / "PKG-INFO", "a") as file:
        file.write("Provides-Extra: docs\nProvides-Extra: dev\nProvides-Extra: test\n")
    groups = '[dependency-groups]\nTests = ["trio", {include-group = "fast"}]\nfast = ["uvloop"]\ndev = ["ruff"]\n'
    (source / "pyproject.toml").write_text(groups)

    assert requirements_of(source) == [f"{source}[test]", "trio", "uvloop"]


def test_requirements_for_developers_count_where_there_are_no_others(source: Path) -> None:
    """Then the package is installed without an extra."""
    (source / "pyproject.toml").write_text('[dependency-groups]\ndev = ["hypothesis"]\n')

    assert requirements_of(source) == [str(source), "hypothesis"]


def test_requirements_may_be_in_a_file(source: Path) -> None:
    """A file for tests comes before one for developers; what it says of versions and indexes does not count."""
    assert requirements_of(source) == [str(source)]
    _file(source / "requirements-dev.txt", "ruff")
    lines = (
        "# locked",
        "-r base.txt",
        "trio[x]==0.2  # via shop",
        "mypy>=1; python_version > '3'",
        "git+ssh://x/y",
        "",
    )
    _file(source / "requirements" / "tests.txt", "\n".join(lines))

    assert requirements_of(source) == [str(source), "trio[x]", "mypy; python_version > '3'"]


def test_modules_of_a_distribution_are_its_targets(source: Path, installed: Path) -> None:
    """Its installed tests are none; the sources of a package with a part in C are left out, they are not built."""
    _file(source / "shop" / "__init__.py")
    _file(source / "tests" / "test_shop.py")

    package = completed(Package("shop"), source, installed)

    assert (package.targets, package.tests, package.omit) == (["shop", "shop.*"], ["tests"], ["shop"])
    assert version_of(source) == "1.2"


def test_tests_may_be_installed_or_beside(source: Path, installed: Path) -> None:
    """Tests inside the package are run as installed; else it is files in the root, else all that pytest finds."""
    assert completed(Package("shop"), source, installed).tests == ["."]
    _file(source / "test_shop.py")
    assert completed(Package("shop"), source, installed).tests == ["test_shop.py"]
    _record(installed, "shop/cart/tests/__init__.py", "shop/cart/tests/tests/test_cart.py")
    assert completed(Package("shop"), source, installed).tests == ["--pyargs", "shop.cart.tests"]


def test_pytest_plugins_are_loaded_as_python_loads_them(source: Path, installed: Path) -> None:
    """pytest would rewrite all modules of their distribution, and nothing of them would be traced."""
    _file(installed / "shop-1.2.dist-info" / "entry_points.txt", "[pytest11]\nshop = shop.plugin\n")

    assert completed(Package("shop", options=["-k", "x"]), source, installed).options == ["-k", "x", "--assert=plain"]


def test_what_is_given_is_not_found_out(source: Path, installed: Path) -> None:
    """An entry of the list says what it needs."""
    package = Package("shop", targets=["shop.cart"], tests=["checks"], omit=["src"])

    assert completed(package, source, installed) == package
