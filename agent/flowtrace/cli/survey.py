"""A survey of what a configuration would trace: modules are found and read, never imported."""

from __future__ import annotations

import importlib.machinery
import os
import re
import sys
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flowtrace.config import PROJECT_MODULES, Config, Rule
from flowtrace.instrument import Function, instrument
from flowtrace.selection import ModuleRules, Selection, is_own

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
        reason: Why it selects nothing, where that is known.
    """

    rule: Rule
    modules: tuple[Module, ...]
    nearest: tuple[str, ...] = ()
    reason: str = ""

    @property
    def selects_nothing(self) -> bool:
        """Whether no function is, or may turn out to be, a target by this rule."""
        return not any(module.functions or not _is_readable(module.file) for module in self.modules)


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
    candidates: dict[int, dict[str, str]] = {id(rule): {} for rule in config.targets}
    for name, file in sorted(found.items()):
        rules = selection.module(name, file)
        if rules is None:
            continue
        everything = _read(name, file, rules)
        for each_rule, _ in rules.rules:
            candidates[id(each_rule)][name] = file
        for rule in config.targets:
            mine = tuple(each for each in everything.functions if rules.rule(each.qualname) is rule)
            if mine or (everything.problem and any(rule is each for each, _ in rules.rules)):
                by_rule[id(rule)].append(everything._replace(functions=mine))
    for rule in config.targets:
        if "__main__" in rule.modules:
            by_rule[id(rule)].append(Module("__main__", "-", (), "is whatever program is run"))
    report = (Matches(rule, tuple(by_rule[id(rule)])) for rule in config.targets)
    return [
        _explained(matches, candidates[id(matches.rule)], found) if not matches.modules else matches
        for matches in report
    ]


def _modules(config: Config, selection: Selection, project: str, path: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and files of modules, more than may be targets; what is found first in the path counts."""
    patterns = [pattern for rule in config.targets for pattern in rule.modules if pattern != PROJECT_MODULES]
    seen: set[str] = set()
    folders = dict.fromkeys([project, *map(os.path.abspath, path)])
    others = frozenset(map(os.path.realpath, folders))  # src/shop.py is shop, not src.shop, where src is in the path
    for folder in folders:
        modules = _walk(folder, "", patterns, selection, others) if os.path.isdir(folder) else _archived(folder)
        for name, file in modules:
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
        if suffix == ".py" and not stem.isidentifier():
            yield name, entry.path  # a script, which nobody can import
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


def _archived(path: str) -> Iterator[tuple[str, str]]:
    """The modules in a zip file."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for file in archive.namelist():
            stem, suffix = os.path.splitext(file)
            name = stem.removesuffix("/__init__").replace("/", ".")
            if suffix in (".py", ".pyc") and all(map(str.isidentifier, name.split("."))):
                yield name, os.path.join(path, file)


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


def _is_readable(file: str) -> bool:
    return not file.endswith(_C) and os.path.isfile(file)  # else it lies in an archive


def _read(name: str, file: str, rules: ModuleRules) -> Module:
    if not _is_readable(file):
        what = "is written in C" if file.endswith(_C) else "lies in an archive"
        return Module(name, file, (), f"{what}: what it defines is known when it is imported")
    try:
        return Module(name, file, _functions(file, rules))
    except (OSError, SyntaxError, ValueError, ImportError, RecursionError) as error:
        return Module(name, file, (), f"{file}: cannot be read: {type(error).__name__}: {error}")


def _functions(file: str, rules: ModuleRules | None = None) -> tuple[Function, ...]:
    """The functions in a file of source or bytecode that rules select, or all of them; nothing of it is run."""
    if file.endswith(".pyc"):
        code = importlib.machinery.SourcelessFileLoader("", file).get_code("")
        assert code is not None  # it raises instead
    else:
        with open(file, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(stream.read(), file, "exec", dont_inherit=True)
    return instrument(code, lambda each: _PARTS if rules is None or rules.rule(each.qualname) else None).functions


def _all_functions(file: str) -> tuple[Function, ...]:
    try:
        return _functions(file) if _is_readable(file) else ()
    except (OSError, SyntaxError, ValueError, ImportError, RecursionError):
        return ()


_C = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_PARTS: Any = types.SimpleNamespace(enter=None, leave=None, suspend=None, resumed=None)  # nothing calls them


def _explained(matches: Matches, candidates: Mapping[str, str], found: Mapping[str, str]) -> Matches:
    """The same with what may help to mend a rule that selects nothing."""
    rule = matches.rule
    functions = [function.qualname for file in candidates.values() for function in _all_functions(file)]
    if functions and (nearest := _nearest(rule.include, functions)):
        return matches._replace(nearest=nearest)
    if reason := next(filter(None, (_reason(pattern, found) for pattern in rule.modules)), ""):
        return matches._replace(reason=reason)
    if candidates and not functions:
        return matches._replace(reason=f"no function is defined in {', '.join([*candidates][:NEAREST])}")
    return matches if functions else matches._replace(nearest=_nearest(rule.modules, found))


def _reason(pattern: str, found: Mapping[str, str]) -> str:
    """Why a pattern selects nothing, as far as its text says; empty where nothing is known."""
    if pattern in sys.builtin_module_names:
        return f"{pattern} is built into Python and is not traced"
    if is_own(pattern):
        return "flowtrace does not trace itself"
    if any(name.startswith(pattern + ".") for name in found):
        what = "is only the package itself" if pattern in found else "is a folder without code of its own"
        return f"{pattern} {what}; write {pattern}.* for the modules inside"
    module, dot, _ = pattern.rpartition(".")
    while dot:
        inside = pattern.removeprefix(module + ".")
        names = (each.qualname for each in _all_functions(found.get(module, "")))
        fitting = next((name for name in names if f"{name}.".startswith(inside + ".")), None)
        if fitting:
            include = inside if fitting == inside else f"{inside}.*"
            return f"{inside} is defined in the module {module}; write modules: [{module}], include: ['{include}']"
        module, dot, _ = module.rpartition(".")
    return ""


def _nearest(patterns: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Known names that resemble one of the patterns."""
    from difflib import get_close_matches

    wanted = [_plain(pattern) for pattern in patterns if pattern != PROJECT_MODULES]
    names = [*known]
    close = (match for name in wanted for match in get_close_matches(name, names, n=NEAREST, cutoff=0.5))
    return tuple(dict.fromkeys(close))[:NEAREST]


def _plain(pattern: str) -> str:
    return pattern.replace("*", "").replace("?", "").strip(".")
