"""The packages: those that are listed, and what can be found out of one that is not."""

from __future__ import annotations

import email
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution
from pathlib import Path, PurePath
from typing import Any, NamedTuple

HERE = Path(__file__).parent
LIST = HERE / "packages.toml"
_FOR_TESTS = ("test", "tests", "testing")  # names of extras, and of groups of dependencies
_FOR_DEVELOPERS = ("dev", "develop", "development")
_REQUIREMENTS = (
    *("requirements/test*.txt", "requirements*test*.txt", "test*requirements*.txt", "tests/requirements*.txt"),
    *("requirements/dev*.txt", "requirements*dev*.txt", "dev*requirements*.txt"),
)
_TESTS = ("tests", "test", "testing", "unit_tests")
_NO_TARGETS = {*_TESTS, "docs", "examples", "benchmarks", "conftest"}


class Package(NamedTuple):
    """An entry of ``packages.toml``. Targets, tests and requirements are found out where there are none.

    Attributes:
        name: Of the distribution on PyPI.
        version: Of the distribution; the newest one if empty.
        kind: What it is among the others for.
        targets: Globs of modules, all of whose functions are traced.
        requires: What its tests need beside pytest.
        tests: Files and folders with tests, from the root of the source distribution, or options that stand for them.
        options: Of pytest, beside.
        omit: Files and folders of the source distribution that are not there when the tests run.
        short: Whether it belongs to the short subset.
    """

    name: str
    version: str = ""
    kind: str = ""
    targets: Sequence[str] = ()
    requires: Sequence[str] | None = None
    tests: Sequence[str] = ()
    options: Sequence[str] = ()
    omit: Sequence[str] = ()
    short: bool = False


def listed() -> list[Package]:
    """The packages of ``packages.toml``, in its order; what they need is known, be it nothing."""
    with open(LIST, "rb") as file:
        return [Package(name=name, **{"requires": (), **entry}) for name, entry in tomllib.load(file).items()]


def excuses(package: str) -> dict[str, str]:
    """The tests of a package that time may change, with the reasons."""
    with open(HERE / "excused.toml", "rb") as file:
        found: dict[str, str] = tomllib.load(file).get(package, {})
    return found


# -- what can be found out ---------------------------------------------------------------------------------------------


def version_of(source: Path) -> str:
    """The version that an unpacked source distribution says it has."""
    return str(email.message_from_bytes((source / "PKG-INFO").read_bytes())["Version"])


def requirements_of(source: Path) -> list[str]:
    """What to tell pip so that it installs an unpacked source distribution with the requirements of its tests.

    These are in an extra, a group of dependencies or a file; those for developers count where there are none for tests.
    """
    extras = email.message_from_bytes((source / "PKG-INFO").read_bytes()).get_all("Provides-Extra", [])
    groups = _groups(source)
    found: list[str] = []
    for names in (_FOR_TESTS, _FOR_DEVELOPERS):
        chosen = ",".join(name for name in names if name in extras)
        found = [f"{source}[{chosen}]"] if chosen else []
        found += [each for name in names for each in _of_group(groups, name)]
        if found:
            return found if chosen else [str(source), *found]
    files = [path for pattern in _REQUIREMENTS for path in sorted(source.glob(pattern))]
    return [str(source), *(_of_file(files[0]) if files else ())]


def _of_file(file: Path) -> Iterator[str]:
    """What a file requires, in any version: where it says one, it is that of a day, and not that of our own."""
    for line in file.read_text(encoding="utf-8").splitlines():
        required, _, marker = line.partition(" #")[0].partition(";")
        if name := re.match(r"[A-Za-z0-9][\w.-]*(\[[^]]*\])?(?!\S*/)", required.strip()):
            yield f"{name[0]};{marker}" if marker.strip() else name[0]


def _groups(source: Path) -> dict[str, list[Any]]:
    project = source / "pyproject.toml"
    described = tomllib.loads(project.read_text(encoding="utf-8")) if project.exists() else {}
    return {re.sub("[-_.]+", "-", name.lower()): each for name, each in described.get("dependency-groups", {}).items()}


def _of_group(groups: Mapping[str, list[Any]], name: str) -> Iterator[str]:
    for each in groups.get(name, []):
        if isinstance(each, str):
            yield each
        else:  # {include-group = "..."}, PEP 735
            yield from _of_group(groups, re.sub("[-_.]+", "-", each["include-group"].lower()))


def completed(package: Package, source: Path, installed: Path) -> Package:
    """The package with its targets, tests and options, from its sources and from where it is installed."""
    (distribution, *_) = Distribution.discover(name=package.name, path=[str(installed)])
    files = [file for file in distribution.files or () if file.suffix in (".py", ".so") and ".." not in file.parts]
    modules = sorted({file.parts[0].partition(".")[0] for file in files} - _NO_TARGETS)
    modules = [module for module in modules if module.isidentifier() and not module.startswith("__editable__")]
    tests, omit, options = package.tests or _tests(source, files), package.omit, package.options
    if not omit and any(file.suffix == ".so" for file in files):  # not built in the sources, which would come first
        omit = [module for module in modules if (source / module).is_dir()]
    targets = package.targets or [glob for module in modules for glob in (module, f"{module}.*")]
    if distribution.entry_points.select(group="pytest11"):
        options = [*options, "--assert=plain"]  # pytest loads its plugins by a loader of its own: they are not traced
    return package._replace(targets=targets, tests=tests, options=options, omit=omit)


def _tests(source: Path, files: Sequence[PurePath]) -> list[str]:
    """Where the tests are: a folder beside the package, modules inside, files in the root, or wherever pytest looks."""
    folders = [name for name in _TESTS if any((source / name).rglob("test*.py"))]
    if folders:
        return folders[:1]
    inside = {
        ".".join(file.parts[: at + 1])
        for file in files
        for at, name in enumerate(file.parts[:-1])
        if at and name in _TESTS
    }
    topmost = sorted(name for name in inside if not any(name.startswith(f"{other}.") for other in inside))
    if topmost:
        return ["--pyargs", *topmost]
    return sorted(path.name for path in source.glob("test*.py")) or ["."]
