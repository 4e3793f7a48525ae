"""A survey of what a configuration would trace: modules are found and read, never imported."""

from __future__ import annotations

import importlib.machinery
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from flowtrace.config import PROJECT_MODULES, Config, Rule
from flowtrace.errors import InstrumentError
from flowtrace.instrument import Function, rewrite
from flowtrace.selection import ModuleRules, Selection

NEAREST = 3


class Module(NamedTuple):
    """A module that a rule selects.

    Attributes:
        name: Its dotted name.
        file: Where it was found.
        functions: What would become of its target functions; of one without source nothing is known before it runs.
        problem: Why its functions are not known; empty where they are.
    """

    name: str
    file: str
    functions: tuple[Function, ...]
    problem: str = ""


class Matches(NamedTuple):
    """What one rule selects.

    Attributes:
        rule: The rule.
        modules: The modules in which it is the first rule to select some function.
        nearest: Names that resemble its patterns, where it selects nothing.
    """

    rule: Rule
    modules: tuple[Module, ...]
    nearest: tuple[str, ...] = ()


def survey(config: Config, *, project: str, path: Sequence[str]) -> list[Matches]:
    """Find what each rule of ``config`` selects.

    Args:
        config: Its targets are used.
        project: The absolute directory that ``@project`` means.
        path: The folders that modules are imported from, as in ``sys.path``.
    """
    selection = Selection(config, project=project)
    found = dict(_modules(config, selection, project, path))
    by_rule: dict[int, list[Module]] = {id(rule): [] for rule in config.targets}
    known: dict[int, list[str]] = {id(rule): [] for rule in config.targets}  # the functions of its modules
    for name, file in sorted(found.items()):
        rules = selection.module(name, file)
        if rules is None:
            continue
        everything = _read(name, file, rules)
        for each_rule, _ in rules.rules:
            known[id(each_rule)] += [function.qualname for function in _all_functions(file)]
        for rule in config.targets:
            mine = tuple(each for each in everything.functions if rules.rule(each.qualname) is rule)
            if mine or (everything.problem and any(rule is each for each, _ in rules.rules)):
                by_rule[id(rule)].append(everything._replace(functions=mine))
    for rule in config.targets:
        if "__main__" in rule.modules:
            by_rule[id(rule)].append(Module("__main__", "-", (), "is whatever program is run"))
    return [
        Matches(rule, tuple(by_rule[id(rule)]), () if by_rule[id(rule)] else _nearest(rule, known[id(rule)], found))
        for rule in config.targets
    ]


def _modules(config: Config, selection: Selection, project: str, path: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and files of modules, more than may be targets; what is found first in the path counts."""
    patterns = [pattern for rule in config.targets for pattern in rule.modules if pattern != PROJECT_MODULES]
    seen: set[str] = set()
    for folder in dict.fromkeys([project, *map(os.path.abspath, path)]):
        for name, file in _walk(folder, "", patterns, selection, frozenset()):
            if name not in seen:
                seen.add(name)
                yield name, file


def _walk(
    folder: str, prefix: str, patterns: Sequence[str], selection: Selection, above: frozenset[str]
) -> Iterator[tuple[str, str]]:
    above |= {os.path.realpath(folder)}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        stem, suffix = _split(entry.name)
        name = prefix + stem
        if not stem.isidentifier() or stem == "__pycache__":
            continue
        if suffix and stem != "__init__":
            yield name, entry.path
        elif not suffix and os.path.isdir(entry.path) and os.path.realpath(entry.path) not in above:
            initial = next((i for i in _inits(entry.path) if os.path.isfile(i)), None)
            if initial:
                yield name, initial
            if _may_hold(name, patterns) or selection.may_match(name, [folder]):
                yield from _walk(entry.path, name + ".", patterns, selection, above)


def _inits(folder: str) -> Iterator[str]:
    return (os.path.join(folder, "__init__" + suffix) for suffix in _SUFFIXES)


_SUFFIXES = tuple(importlib.machinery.all_suffixes())


def _split(name: str) -> tuple[str, str]:
    """``chat.py`` is (chat, .py); what is no module is itself, without a suffix."""
    suffix = max((suffix for suffix in _SUFFIXES if name.endswith(suffix)), key=len, default="")
    return name[: len(name) - len(suffix)], suffix


def _may_hold(package: str, patterns: Iterable[str]) -> bool:
    """Whether a module below ``package``, or the package, can match one of the patterns."""
    for pattern in patterns:
        literal = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        if literal.startswith(package + ".") or literal == package or (package + ".").startswith(literal):
            return True
    return False


def _read(name: str, file: str, rules: ModuleRules) -> Module:
    if not file.endswith(".py"):
        return Module(name, file, (), "has no source: what it defines is known when it is imported, and gets wrappers")
    try:
        with open(file, "rb") as stream:
            source = stream.read()
        rewritten = rewrite(source, file, lambda qualname: rules.rule(qualname) is not None)
    except (OSError, InstrumentError) as error:
        return Module(name, file, (), str(error))
    return Module(name, file, rewritten.functions)


def _all_functions(file: str) -> tuple[Function, ...]:
    if not file.endswith(".py"):
        return ()
    try:
        with open(file, "rb") as stream:
            return rewrite(stream.read(), file, lambda qualname: True).functions
    except (OSError, InstrumentError):
        return ()


def _nearest(rule: Rule, functions: Sequence[str], modules: Iterable[str]) -> tuple[str, ...]:
    """Functions that resemble what the rule includes, where its modules exist; else modules that resemble its own."""
    from difflib import get_close_matches

    wanted = [pattern for pattern in (rule.include if functions else rule.modules) if pattern != PROJECT_MODULES]
    known = functions or [*modules]
    close = (match for pattern in wanted for match in get_close_matches(_plain(pattern), known, n=NEAREST, cutoff=0.5))
    return tuple(dict.fromkeys(close))[:NEAREST]


def _plain(pattern: str) -> str:
    return pattern.replace("*", "").replace("?", "").strip(".")
