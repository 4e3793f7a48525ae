"""Configuration in the launcher: find the file, read it without trusting it, apply ``--set``, check every key.

`resolve` is all that the commands call. YAML is read in the launcher only; the traced process gets the result as JSON.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from flowtrace.cli.yaml_reader import read_yaml
from flowtrace.config import Config, Resolved, decode, joined, shown, to_json
from flowtrace.errors import ConfigError, FlowtraceError, PluginError
from flowtrace.plugins import discover, load

FILE_NAME = "flowtrace.yaml"
FILE_VARIABLE = "FLOWTRACE_CONFIG"
SET = "--set"
MAX_BYTES = 2**20


def _warn(line: str) -> None:
    print(f"flowtrace: {line}", file=sys.stderr)


def resolve(
    config_path: str | None,
    sets: Sequence[str],
    environ: Mapping[str, str],
    cwd: str,
    *,
    quiet: bool = False,
    warn: Callable[[str], None] = _warn,
) -> Resolved:
    """Find, read and check the configuration.

    Args:
        config_path: The argument of ``--config``, or None.
        sets: The arguments of ``--set``, as ``key=value``.
        environ: Holds ``FLOWTRACE_CONFIG`` and what ``${NAME}`` refers to.
        cwd: The working directory, absolute.
        quiet: Handed on.
        warn: Takes the line that says why a file that was found is not used.

    Returns:
        What the traced process needs; its run id is new.

    Raises:
        ConfigError: a file cannot be read or a value cannot be used; one line for the user.
        PluginError: an installed plugin cannot be loaded.
    """
    named = config_path if config_path is not None else environ.get(FILE_VARIABLE) or None
    name = named if named is not None else _found(cwd, warn)
    path = os.path.join(cwd, name or "")
    _check_utf8(path, "this path", place=path)
    draft = _Draft(name, environ, cwd)
    for text in sets:
        draft.set(text)
    draft.data.setdefault("service", _service(cwd))
    registry = load(discover())
    if registry.problems:
        raise registry.problems[0]
    try:
        config = decode(draft.data, Config)
        if config.redact.patterns:
            from flowtrace.redaction import Redactor  # else not needed before the traced process

            Redactor(patterns=config.redact.patterns)
        for index, spec in enumerate(config.sinks):
            registry.decode(spec, key=f"sinks[{index}]")
    except FlowtraceError as error:
        raise draft.attributed(error) from None
    return Resolved(
        config=config,
        plugins=registry.needed(config.sinks),
        run=os.urandom(8).hex(),
        directory=_directory(name, cwd),
        project=cwd,
        quiet=quiet,
        root_pid=os.getpid(),
        file=None if named is None else path,
        sets=tuple(sets),
    )


def _service(cwd: str) -> str:
    name = os.path.basename(os.path.normpath(cwd))
    return name if name and name.isprintable() and "\\" not in name else "python"


def _directory(name: str | None, cwd: str) -> str:
    path = os.path.abspath(os.path.join(cwd, name or ""))
    return os.path.dirname(path) if os.path.isfile(path) else cwd  # else a pipe: --config <(generate)


def _found(cwd: str, warn: Callable[[str], None]) -> str | None:
    """The file that nobody named, seen from ``cwd``; None where the defaults apply."""
    if not os.path.lexists(os.path.join(cwd, FILE_NAME)):
        return None
    if reason := _distrust(os.path.join(cwd, FILE_NAME)):
        warn(f"{FILE_NAME} is ignored: {reason}; name it with --config to use it all the same")
        return None
    return FILE_NAME


def _distrust(path: str) -> str | None:
    """Why a file that nobody named is not to be used, or None: what it says decides which code runs."""
    try:
        link, file, folder = os.lstat(path), os.stat(path), os.stat(os.path.dirname(path))
    except OSError as error:
        return f"{error.strerror}".lower()
    if not stat.S_ISREG(file.st_mode):
        return "it is not a regular file"
    if not hasattr(os, "geteuid"):
        return None  # Windows: the mode bits say nothing about who may write
    if foreign := {link.st_uid, file.st_uid, folder.st_uid} - {os.geteuid(), 0}:
        return f"it or its directory belongs to another user (uid {foreign.pop()})"
    if file.st_mode & stat.S_IWOTH:
        return "anyone may write to it"
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        return "anyone may write to its directory"
    return None


_REFERENCE = re.compile(r"\$\$|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


class _Draft:
    """Plain data on its way to a `Config`, and where each part of it comes from.

    Args:
        name: The config file, relative to ``cwd``, or None.
    """

    def __init__(self, name: str | None, environ: Mapping[str, str], cwd: str) -> None:
        self.data: dict[str, Any] = {}
        self._place = name or ""
        self._environ = environ
        self._filled_in: dict[str, str] = {}  # the value of a variable: the reference it replaced
        self._set_keys: list[str] = []
        if name is not None:
            data = read_yaml(_text(os.path.join(cwd, name), name), name)
            if not isinstance(data, dict | None):
                raise ConfigError(f"expected keys such as 'targets:', got {shown(data)}", place=name)
            self.data = self._filled(data or {}, "", place=name)

    def set(self, text: str) -> None:
        """Apply the argument of one ``--set``."""
        key, equals, value = text.partition("=")
        steps = _steps(key) if equals else None
        if not steps:
            raise ConfigError(f"{shown(text)} is not key=value; write one such as sinks[0].format=json", place=SET)
        _check_utf8(text, "the text", place=SET)
        head = steps[0]
        if head in ("targets", "sinks") and self.data.get(str(head)) is None:
            self.data[str(head)] = msgspec.json.decode(to_json(Config()))[head]
        parsed = self._filled(read_yaml(value, SET, key=key), key, place=SET)
        self._set_keys.append(_assign(self.data, steps, parsed))

    def attributed(self, error: FlowtraceError) -> FlowtraceError:
        """The error with the place its value comes from, and without what variables stand for."""
        if not isinstance(error, ConfigError):
            return PluginError(self._concealed(str(error)))
        own = any(_covers(key, error.key) or _covers(error.key, key) for key in self._set_keys)
        return ConfigError(self._concealed(error.problem), place=SET if own else self._place, key=error.key)

    def _filled(self, value: Any, key: str, *, place: str) -> Any:
        """``value`` with the references in its texts replaced."""
        if isinstance(value, dict):
            return {name: self._filled(inner, joined(key, name), place=place) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._filled(inner, joined(key, f"[{i}]"), place=place) for i, inner in enumerate(value)]
        if isinstance(value, str):
            return _REFERENCE.sub(lambda match: self._looked_up(match, key, place), value)
        return value

    def _looked_up(self, match: re.Match[str], key: str, place: str) -> str:
        name, default = match.groups()
        if match[0] == "$$":
            return "$"
        if name is None:
            raise ConfigError("'${' begins no ${NAME}; write $${ for the text itself", place=place, key=key)
        value = self._environ.get(name)
        if default is not None and not value:
            return str(default)
        if value is None:
            problem = f"the environment variable {name} is not set; set it or write ${{{name}:-default}}"
            raise ConfigError(problem, place=place, key=key)
        _check_utf8(value, f"the value of {name}", place=place, key=key)
        self._filled_in[value] = f"${{{name}}}"
        return value

    def _concealed(self, problem: str) -> str:
        for value in sorted(filter(None, self._filled_in), key=len, reverse=True):
            for text in {value, repr(value)[1:-1]}:
                cut = (text[:length] + "..." for length in range(min(len(text), 60), 3, -1))  # what `shown` leaves
                for variant in (text, *cut):
                    edge = "" if len(variant) > 3 else r"\b"  # '5' must not be replaced within '65536'
                    problem = re.sub(f"{edge}{re.escape(variant)}{edge}", self._filled_in[value], problem)
        return problem


def _covers(key: str, other: str) -> bool:
    return other == key or other.startswith((f"{key}.", f"{key}["))


def _steps(key: str) -> list[str | int | None] | None:
    """The names and indexes of ``sinks[0].format``, with None for ``[+]``; None in all for what is no path."""
    if not re.fullmatch(r"[^.\[\]\s]+(\.[^.\[\]\s]+|\[(\d{1,5}|\+)\])*", key):
        return None
    tokens = re.findall(r"\[(.+?)\]|([^.\[\]]+)", key)
    return [name or (None if index == "+" else int(index)) for index, name in tokens]


def _assign(node: Any, steps: Sequence[str | int | None], value: object, path: str = "") -> str:
    """Put ``value`` where ``steps`` lead to, making what is missing on the way; returns the exact path."""
    step: Any = steps[0]
    rest = steps[1:]
    if not isinstance(node, dict if isinstance(step, str) else list):
        kind = "mapping" if isinstance(step, str) else "list"
        raise ConfigError(f"is no {kind}; set it as a whole", place=SET, key=path)
    if isinstance(node, list):
        step = len(node) if step is None else step
        if step > len(node):
            raise ConfigError(f"the number of entries is {len(node)}; write [+] to add one", place=SET, key=path)
        node += [None] * (step == len(node))
    path = joined(path, step if isinstance(step, str) else f"[{step}]")
    if not rest:
        node[step] = value
        return path
    if (node[step] if isinstance(node, list) else node.get(step)) is None:
        node[step] = {} if isinstance(rest[0], str) else []
    return _assign(node[step], rest, value, path)


def _check_utf8(text: str, what: str, *, place: str, key: str = "") -> None:
    """Refuse bytes that Python smuggled into a text of the operating system: JSON cannot carry them on."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} is not UTF-8; use other characters", place=ascii(place)[1:-1], key=key) from None


def _text(path: str, place: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; name another file with --config or {FILE_VARIABLE}"
        raise ConfigError(problem, place=place) from None
    if len(data) > MAX_BYTES:
        raise ConfigError("is larger than 1 MiB; name a file that holds a config", place=place)
    try:
        if b"\0" not in data:
            return data.decode("utf-8-sig")
        problem = "holds a NUL byte"
    except UnicodeDecodeError as error:
        problem = f"holds the byte 0x{data[error.start]:02x} at offset {error.start}"
    raise ConfigError(f"is not UTF-8 text: it {problem}; name a YAML file or save it as UTF-8", place=place)
