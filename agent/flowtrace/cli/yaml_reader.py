"""The reader of YAML: one document as plain data, without trusting it, and errors that name line and column."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from flowtrace.config import joined, shown
from flowtrace.errors import ConfigError

MAX_DEPTH = 32
MAX_VALUES = 20_000  # each alias counts as all that it stands for

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; no key of a config is"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def read_yaml(text: str, place: str, *, key: str = "") -> Any:
    """Turn one YAML document into dicts, lists, texts, numbers, booleans and None.

    YAML 1.2 in what plain words mean (only ``true`` and ``false`` are booleans, so ``off`` is a text); no tags,
    no duplicate keys, at most 32 levels and 20,000 values, aliases counted as what they stand for.

    Args:
        text: The document; empty gives None.
        place: Where it is from, for errors; line and column are added.
        key: The key of the config that it is the value of, if it is not a whole file; then the place says enough.

    Raises:
        ConfigError: it is not such a document.
    """
    return _Reader(text, place, key).document()


class _Reader:
    """Builds plain data from parser events, without PyYAML's constructors; nothing is built before it is counted."""

    def __init__(self, text: str, place: str, key: str) -> None:
        import yaml  # 15 ms that a run without a file does not pay

        self._yaml = yaml
        self._place, self._key = place, key
        self._events: Iterator[Any] = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0

    def document(self) -> Any:
        try:
            next(self._events)  # the start of the stream
            if isinstance(next(self._events), self._yaml.StreamEndEvent):
                return None
            value = self._value(next(self._events), self._key, depth=0)
            next(self._events)  # the end of the document
            if not isinstance(after := next(self._events), self._yaml.StreamEndEvent):
                self._fail("a second document begins here; keep one", after)
        except self._yaml.MarkedYAMLError as error:
            problem = ", ".join(filter(None, (error.context, error.problem)))
            if "maximum nesting depth" in problem:  # libyaml looks ahead, and from 0.2.6 on no deeper than 1,000
                self._fail(_TOO_DEEP, None, error.problem_mark)
            if "cannot start any token" in problem:
                problem += "; indent with spaces, and put text that begins with @ in quotes"
            self._fail(f"not valid YAML: {problem}", None, error.problem_mark or error.context_mark)
        except self._yaml.reader.ReaderError as error:
            raise ConfigError(f"not YAML: {error.reason} (position {error.position})", place=self._place) from None
        return value

    def _fail(self, problem: str, event: Any, mark: Any = None, key: str = "") -> NoReturn:
        mark = mark or (event and event.start_mark)
        place = self._place if self._key or not mark else f"{self._place}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(problem, place=place, key=key) from None

    def _value(self, event: Any, key: str, *, depth: int) -> Any:
        self._count(1, event)
        if depth > MAX_DEPTH:
            self._fail(_TOO_DEEP, event)
        if isinstance(event, self._yaml.AliasEvent):
            return self._alias(event, key)
        if event.tag is not None:
            self._fail(f"the tag {shown(event.tag)} is not allowed; write plain YAML", event, key=key)
        before = self._values
        if isinstance(event, self._yaml.ScalarEvent):
            value = self._scalar(event, key) if event.implicit[0] else event.value
        elif isinstance(event, self._yaml.SequenceStartEvent):
            value = self._list(key, depth=depth)
        else:
            value = self._dict(key, depth=depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._values - before + 1
        return value

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES} values, aliases counted; shorten it", event)

    def _alias(self, event: Any, key: str) -> Any:
        if event.anchor not in self._anchors:  # an anchor around its own alias is not there yet either
            self._fail(f"the alias *{event.anchor} stands for nothing above it; add the anchor", event, key=key)
        value, values = self._anchors[event.anchor]
        self._count(values, event)
        return copy.deepcopy(value)  # --set may change one and not the other

    def _list(self, key: str, *, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), self._yaml.SequenceEndEvent):
            items.append(self._value(event, joined(key, f"[{len(items)}]"), depth=depth + 1))
        return items

    def _dict(self, key: str, *, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            if not isinstance(event, self._yaml.ScalarEvent) or event.tag is not None:
                self._fail("a key must be plain text", event, key=key)
            inner = joined(key, event.value)
            if event.value in items:
                self._fail("written twice; remove one of the two", event, key=inner)
            items[event.value] = self._value(next(self._events), inner, depth=depth + 1)
        return items

    def _scalar(self, event: Any, key: str) -> Any:
        text = event.value
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        number: float | None = None
        if _INTEGER.fullmatch(text):
            number = int(text, {"o": 8, "x": 16}.get(text[1:2], 10)) if len(text) <= 20 else math.inf
        elif _FLOAT.fullmatch(text):
            number = float(text)
        if number is None:
            return text
        if abs(number) >= (2**63 if isinstance(number, int) else math.inf):
            self._fail(f"the number {shown(text)} is too large; put it in quotes if it is text", event, key=key)
        return number
