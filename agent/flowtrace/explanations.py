"""Explanations: what is wrong with a value of the configuration, at which key, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import UnionType

from flowtrace.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import msgspec

DecodeHook = Callable[[type, Any], object]  # what msgspec calls for types that it does not know

_NOUNS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


class OptionError(ValueError):
    """One option of a struct cannot be used; raise it in ``__post_init__`` to name the key that is at fault.

    Attributes:
        key: The key, relative to the struct, such as ``max_size`` or ``headers.Authorization``.
    """

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(problem)


def shown(value: object) -> str:
    """``value`` as it may stand in an error message: short, one line, and no containers."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:56] + "..." + text[:1] * isinstance(value, str)


def joined(*keys: str) -> str:
    """Dotted paths put behind each other: ``sinks[0]`` and ``rotate.keep`` are ``sinks[0].rotate.keep``."""
    path = "".join(k if k.startswith("[") else f".{k}" for k in keys if k).removeprefix(".")
    return path if path.isprintable() else repr(path)[1:-1]  # a key may hold anything; errors stay one line


def nearest(word: str, known: list[str]) -> str:
    """The remedy for an unknown word: the known one it resembles, or all of them."""
    from difflib import get_close_matches  # only ever needed on the way to an error

    match = get_close_matches(word.casefold(), known, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(sorted(known)) or 'none'}"


def explain(error: msgspec.ValidationError, data: Any, kind: Any, *, dec_hook: DecodeHook) -> tuple[str, str]:
    """msgspec's one sentence as the key it is about and the problem with it.

    Args:
        error: What ``msgspec.convert`` raised.
        data: What it was given.
        kind: The type it was to become.
        dec_hook: The hook it was given.
    """
    message, _, where = str(error).rpartition(" - at `") if " - at `" in str(error) else (str(error), "", "")
    key, kinds = "", [kind]
    for name, index in re.findall(r"\.([^.\[`]+)|\[(\d+|\.\.\.)\]", where):
        step: Any = name or (_culprit(data, kinds, dec_hook) if index == "..." else int(index))
        if step is None:
            break  # within a type that only msgspec knows; the key so far must do
        kinds = [inner for outer in kinds for inner in _within(outer, step)]
        data = data[step]
        key = joined(key, f"[{index}]" if isinstance(step, int) else step)
    if isinstance(error.__cause__, OptionError):
        return joined(key, error.__cause__.key), message
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", message, re.DOTALL):
        known = [field.encode_name for outer in kinds for field in _fields(outer)]
        return joined(key, unknown[1]), f"unknown key; {nearest(unknown[1], known)}"
    if missing := re.fullmatch("Object missing required field `(.*)`", message):
        return joined(key, missing[1]), "missing; this key has no default"
    if message.startswith("Invalid enum value"):
        known = [choice for outer in kinds for choice in _choices(outer)]
        return key, f"{shown(data)} is not one of {', '.join(known)}; {nearest(str(data), known)}"
    if wrong := re.fullmatch("Expected `([^`]+)`( .*?)?(, got `.*)?", message):
        nouns = " or ".join(_NOUNS.get(noun, noun) for noun in wrong[1].split(" | "))
        if where.startswith("key`"):
            return key, f"has a key that is not {nouns}{wrong[2] or ''}"
        remedy = "; put it in quotes" if wrong[1] == "str" and isinstance(data, int | float) else ""
        return key, f"expected {nouns}{wrong[2] or ''}, got {shown(data)}{remedy}"
    return key, message


def _culprit(mapping: dict[str, Any], kinds: list[Any], dec_hook: DecodeHook) -> str | None:
    """The key that msgspec calls ``[...]``: the first whose value does not decode."""
    import msgspec  # as below: the traced process has it only for plugins that need it

    for key, value in mapping.items():
        for kind in [inner for outer in kinds for inner in _within(outer, key)]:
            try:
                msgspec.convert(value, kind, dec_hook=dec_hook)
            except msgspec.ValidationError:
                return key
    return None


def _flat(kind: Any) -> list[Any]:
    """A type without its annotations; of a union, each of its types."""
    import typing  # as below: the traced process explains no mistakes

    if typing.get_origin(kind) is typing.Annotated:
        return _flat(kind.__origin__)
    if typing.get_origin(kind) in (typing.Union, UnionType):
        return [flat for part in typing.get_args(kind) for flat in _flat(part)]
    return [kind]


def _within(kind: Any, step: str | int) -> list[Any]:
    """The types that may stand at ``step`` inside a value of type ``kind``."""
    from typing import get_args

    fields = [field.type for field in _fields(kind) if field.encode_name == step]
    items = [[part for part in get_args(flat) if part is not ...][-1:] for flat in _flat(kind)]
    return fields or [item for found in items for item in found]


def _fields(kind: Any) -> list[msgspec.structs.FieldInfo]:
    import msgspec

    structs = [flat for flat in _flat(kind) if isinstance(flat, type) and issubclass(flat, msgspec.Struct)]
    return [field for struct in structs for field in msgspec.structs.fields(struct)]


def _choices(kind: Any) -> list[str]:
    from typing import Literal, get_args, get_origin

    return [str(choice) for flat in _flat(kind) if get_origin(flat) is Literal for choice in get_args(flat)]
