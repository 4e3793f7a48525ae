"""Selection: which modules and functions the rules of the config make targets.

Globs are those of ``fnmatch``: ``*`` and ``?`` match dots too, ``[...]`` is a set, case counts. They are
compiled once; a rule is chosen when a function is instrumented, never when it is called.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import all_suffixes

from flowtrace.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flowtrace.config import Config, Rule

PROJECT = "@project"

# The agent never traces itself, nor the libraries that its hot path runs on.
OWN_MODULES = ("flowtrace", "flowtrace_plugins", "sitecustomize", "usercustomize")

SUFFIXES = all_suffixes()
ENVIRONMENT_FOLDERS = frozenset({"site-packages", "dist-packages", "node_modules", ".tox", ".nox", ".venv", ".git"})


class ModuleRules(NamedTuple):
    """The rules that concern one module, in the order of the config.

    ``rule(qualname)`` gives the first that selects a function by its qualified name, or None.
    """

    rules: tuple[tuple[Rule, Callable[[str], bool]], ...]

    def rule(self, qualname: str) -> Rule | None:
        """The first rule that selects the function ``qualname``, such as ``ChatService.broadcast_to_room``."""
        return next((rule for rule, selects in self.rules if selects(qualname)), None)


class Selection:
    """The rules of a config, ready to be asked.

    Args:
        config: Its ``targets`` are used.
        project: The absolute directory whose modules ``@project`` means.
    """

    def __init__(self, config: Config, *, project: str) -> None:
        self.project = os.path.realpath(project)
        self._rules = [(rule, globs(rule.modules), _functions(rule)) for rule in config.targets]
        self._wants_project = any(PROJECT in rule.modules for rule in config.targets)
        self._in_project: Callable[[str], bool] = functools.lru_cache(maxsize=4096)(self._is_project_file)

    @property
    def wants_standard_library(self) -> bool:
        """Whether a rule names modules that Python itself brings."""
        patterns = (pattern for rule, _, _ in self._rules for pattern in rule.modules)
        matches = globs(pattern.partition(".")[0] for pattern in patterns)
        return any(map(matches, sys.stdlib_module_names))

    def may_match(self, name: str, path: Iterable[str] | None) -> bool:
        """Whether the module ``name``, searched in the folders ``path``, may turn out to be a target.

        Cheap, for use before a module is found: a rule names it, or the project has a file for it.
        """
        if is_own(name):
            return False
        if any(matches(name) for _, matches, _ in self._rules):
            return True
        return self._wants_project and self._is_in_folders(name, sys.path if path is None else path)

    def module(self, names: str | Sequence[str], file: str | None) -> ModuleRules | None:
        """The rules for a module, or None where it is no target.

        Args:
            names: What the module is called; a script run as ``__main__`` has its file's name besides.
            file: Its source or binary file; None for modules that have none.
        """
        names = [names] if isinstance(names, str) else names
        if any(is_own(name) for name in names):
            return None
        project = self._wants_project and file is not None and self._in_project(_folder(file))
        rules = tuple(
            (rule, selects)
            for rule, matches, selects in self._rules
            if (project and PROJECT in rule.modules) or any(map(matches, names))
        )
        return ModuleRules(rules) if rules else None

    def _is_in_folders(self, name: str, path: Iterable[str]) -> bool:
        leaf = name.rpartition(".")[2]
        for folder in path:
            if type(folder) is not str:
                continue
            stem = os.path.join(os.path.abspath(folder), leaf)
            if os.path.isdir(stem) and self._in_project(stem):
                return True  # a package is where its folder is
            if self._in_project(os.path.dirname(stem)) and any(os.path.isfile(stem + suffix) for suffix in SUFFIXES):
                return True
        return False

    def _is_project_file(self, folder: str) -> bool:
        folder = os.path.realpath(folder)
        below = os.path.relpath(folder, self.project)
        parts = [] if below == os.curdir else below.split(os.sep)
        if parts and parts[0] == os.pardir:
            return False
        if not ENVIRONMENT_FOLDERS.isdisjoint(parts):
            return False
        steps = (os.path.join(self.project, *parts[: depth + 1]) for depth in range(len(parts)))
        return not any(_is_environment(step) for step in steps)


def _folder(file: str) -> str:
    """The folder of a file; 5 µs are spared for each module whose file has a whole path."""
    return os.path.dirname(file if os.path.isabs(file) else os.path.abspath(file))


def is_own(name: str) -> bool:
    """Whether ``name`` is a module of the agent itself."""
    return name.partition(".")[0] in OWN_MODULES


def globs(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A test for "matches any of these ``fnmatch`` patterns"; patterns that begin with ``@`` match nothing."""
    expressions = [fnmatch.translate(pattern) for pattern in patterns if not pattern.startswith("@")]
    if not expressions:
        return lambda name: False
    match = re.compile("|".join(expressions)).match
    return lambda name: match(name) is not None


def _functions(rule: Rule) -> Callable[[str], bool]:
    included, excluded = globs(rule.include), globs(rule.exclude)
    return lambda qualname: included(qualname) and not excluded(qualname)


def _is_environment(folder: str) -> bool:
    is_library = folder in (os.path.realpath(sys.prefix), os.path.realpath(os.path.dirname(os.__file__)))
    return is_library or any(os.path.exists(os.path.join(folder, marker)) for marker in ("pyvenv.cfg", "conda-meta"))
