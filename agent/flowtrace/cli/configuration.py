"""Configuration in the launcher: read the file without trusting it, apply ``--set``, check every key.

`resolve` is all that the commands call. YAML is read in the launcher only; the traced process gets the result as JSON.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from flowtrace.cli.source import Source, check_utf8, find
from flowtrace.cli.yaml_reader import read_yaml
from flowtrace.config import Config, Resolved, decode, joined, shown, to_json
from flowtrace.errors import ConfigError, FlowtraceError, PluginError
from flowtrace.plugins import discover, load

SET = "--set"


def resolve(config_path: str | None, sets: Sequence[str], environ: Mapping[str, str], cwd: str) -> Resolved:
    """Find, read and check the configuration: `flowtrace.cli.source.find`, then `understood`."""
    return understood(find(config_path, environ, cwd), sets, environ)


def understood(source: Source, sets: Sequence[str], environ: Mapping[str, str]) -> Resolved:
    """What a source says, checked.

    Args:
        source: The configuration as it was found.
        sets: The arguments of ``--set``, as ``key=value``.
        environ: Holds what ``${NAME}`` refers to.

    Returns:
        What the traced process needs.

    Raises:
        ConfigError: a value cannot be used; one line for the user.
        PluginError: an installed plugin cannot be loaded.
    """
    draft = _Draft(source, environ)
    for text in sets:
        draft.set(text)
    draft.data.setdefault("service", _service(source.cwd))
    registry = load(discover())
    if registry.problems:
        raise registry.problems[0]
    try:
        config = decode(draft.data, Config)
        if config.redact.patterns:
            from flowtrace.redaction import Redactor  # else not needed before the traced process

            Redactor(patterns=config.redact.patterns)
        ready = tuple(registry.ready(spec, key=f"sinks[{index}]") for index, spec in enumerate(config.sinks))
    except FlowtraceError as error:
        raise draft.attributed(error) from None
    return Resolved(
        config=config,
        plugins=registry.needed(spec for spec, of_it in zip(config.sinks, ready, strict=True) if of_it is None),
        ready=ready,
        directory=source.directory,
        project=source.cwd,
        file=source.path if source.is_named else None,
        sets=tuple(sets),
    )


def _service(cwd: str) -> str:
    name = os.path.basename(os.path.normpath(cwd))
    return name if name and name.isprintable() and "\\" not in name else "python"


_REFERENCE = re.compile(r"\$\$|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


class _Draft:
    """Plain data on its way to a `Config`, and where each part of it comes from."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self.data: dict[str, Any] = {}
        self._place = name = source.name or ""
        self._environ = environ
        self._filled_in: dict[str, str] = {}  # the value of a variable: the reference it replaced
        self._set_keys: list[str] = []
        if source.data:
            data = read_yaml(_text(source.data, name), name)
            if not isinstance(data, dict | None):
                raise ConfigError(f"expected keys such as 'targets:', got {shown(data)}", place=name)
            self.data = self._filled(data or {}, "", place=name)

    def set(self, text: str) -> None:
        """Apply the argument of one ``--set``."""
        key, equals, value = text.partition("=")
        steps = _steps(key) if equals else None
        if not steps:
            raise ConfigError(f"{shown(text)} is not key=value; write one such as sinks[0].format=json", place=SET)
        check_utf8(text, "the text", place=SET)
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
        check_utf8(value, f"the value of {name}", place=place, key=key)
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


def _text(data: bytes, place: str) -> str:
    try:
        if b"\0" not in data:
            return data.decode("utf-8-sig")
        problem = "holds a NUL byte"
    except UnicodeDecodeError as error:
        problem = f"holds the byte 0x{data[error.start]:02x} at offset {error.start}"
    raise ConfigError(f"is not UTF-8 text: it {problem}; name a YAML file or save it as UTF-8", place=place)
