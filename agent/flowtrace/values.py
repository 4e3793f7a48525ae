"""Values: what a traced function was given and returned, as bounded and redacted JSON, made without running its code.

Everything here runs in the caller's thread at the moment of the call. No method, property or metaclass of the
traced program is ever called: types are told by identity, and what an object stores is read as
`flowtrace.introspection` does it. So a lazy query stays lazy, a proxy unresolved and a broken ``__repr__`` unnoticed.
What a call costs is bounded by the limits, not by the size of the values: what is read counts against ``max_bytes``
even where it is not shown. The one exception is a dict or set whose first entries were removed: finding the first that
is left takes about a nanosecond for each. No reference to a value outlives the call.
"""

from __future__ import annotations

import collections
import functools
import gc
import re
import types
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from flowtrace.descriptions import SLOW_NS, Descriptions
from flowtrace.introspection import (
    args_of,
    exact_text,
    filename_of,
    first_items,
    group_of,
    is_hollow,
    raised_at,
    title_of,
)
from flowtrace.jsontext import Cut, Rest, dumps, fit, unused
from flowtrace.redaction import MARKER, MAX_TEXT, Redactor
from flowtrace.renderings import RENDERED, SCALARS, inline, int_text
from flowtrace.secretforms import COMMANDS
from flowtrace.shapes import Names, Shape, Weak, examine, stored_fields
from flowtrace.typed import Any, NamedTuple

CYCLE = "<cycle>"
UNCAPTURABLE = "<uncapturable>"
CHANGED = "<changed while it was read>"  # another thread resized the dict or set
# What stands for an exception that could not be captured; shorter than any `max_bytes`.
LOST_EXCEPTION, LOST_RECURSION_ERROR, LOST_MEMORY_ERROR = (
    dumps({"type": name, "message": "", "at": None}) for name in (UNCAPTURABLE, "RecursionError", "MemoryError")
)

_MARGIN = 256  # characters read beyond a cut, so that a secret across it is still recognised
PLAIN_INT = 10**12  # from here on an int may be a card number, or too large for JSON
_ABOVE_CARDS = 10**16
_MAX_SHAPES = 4096
_MAX_NAMES = 4096
_MAX_TEXTS = 4096
_MAX_FIELDS = 128  # of a class that are remembered
_LONG = 4096  # characters of one argument of an exception
_LONGEST_NAME = 128  # characters that are remembered: the names are the program's own texts
_WORK_OF_A_SHAPE = 32  # bytes that finding out how to show a class counts for


# Ours to swallow. Anything else that comes up in here was thrown in from outside (KeyboardInterrupt,
# gevent.Timeout, the exception of a signal handler) and belongs to the program.
_OWN_FAILURES = (
    ArithmeticError, AttributeError, BufferError, LookupError, MemoryError, NameError, ReferenceError, RuntimeError,
    SystemError, TypeError, ValueError,
)  # fmt: skip


class Limits(NamedTuple):
    """How much of a call's values is recorded.

    Attributes:
        max_depth: Levels of nesting; an argument itself is level 1.
        max_items: Elements of a list, keys of a dict, fields of an object.
        max_string: Characters of a text; at most 7,936.
        max_bytes: The JSON of all arguments together, or of a result.
    """

    max_depth: int = 3
    max_items: int = 32
    max_string: int = 256
    max_bytes: int = 8192


class Scalars(NamedTuple):
    """Which values the recorder may queue as they are, to be encoded later: immutable ones that nothing is done to.

    That is None, bool, int within ``PLAIN_INT``, finite float, and ASCII text that is neither cut nor redacted.

    Attributes:
        max_string: Characters of a text.
        unchecked: Characters of a text that holds no secret, whatever it is.
        unchecked_word: The same of one that consists of letters and digits.
        is_clean: Whether any other text holds none.
        room: How many characters texts that are not `unchecked` may have together, in arguments of these names;
            below 0: none of them may be queued as they are.
    """

    max_string: int
    unchecked: int
    unchecked_word: int
    is_clean: Callable[[str], bool]
    room: Callable[[tuple[str, ...]], int]


class Encoder:
    """Turns values into JSON text; shared by all threads.

    No method raises, except what was thrown into the thread from outside: a value that defeats them becomes
    ``"<uncapturable>"``, an exception nothing, and is counted in ``failures``.

    Args:
        limits: Bounds of what is recorded.
        redactor: Decides what is a secret.
        describe: How to show instances of exactly these types.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        redactor: Redactor,
        describe: Descriptions | Mapping[type, Callable[[Any], object]] | None = None,
    ) -> None:
        self.failures = 0
        self._max_depth, self._max_items, self._max_bytes = limits.max_depth, limits.max_items, limits.max_bytes
        self._max_string = min(limits.max_string, MAX_TEXT - _MARGIN)
        self._is_clean, self._scrub, self._is_secret = redactor.is_clean, redactor.scrub, redactor.is_secret_name
        self._scrub_arguments = redactor.scrub_arguments
        self._max_read = limits.max_items * 8  # of what an object stores, since not all of that is shown
        self._closed_path = (0,) * limits.max_depth  # in a key nothing is opened
        self._lost_arguments = fit({"…": UNCAPTURABLE}, self._max_bytes)
        self._lost_result = fit(UNCAPTURABLE, self._max_bytes)
        self._plain_names: Names = {}  # parameters that are known not to be secret
        self._plain_keys: set[int] = set()  # the same of keys, by their hashes
        self._clean_texts: set[int] = set()  # what holds no secret, by their hashes too
        self._shapes: dict[int, Shape] = {}
        self._descriptions = describe if isinstance(describe, Descriptions) else Descriptions(describe or {})
        self._known: dict[int, Callable[[Any, _Call], object]] = {
            **dict.fromkeys(RENDERED, self._rendered),
            **{id(kind): self._bytes for kind in (bytes, bytearray)},
            **{id(kind): self._list for kind in (list, tuple)},
            **{id(kind): self._collection for kind in (set, frozenset, collections.deque)},
            **{id(kind): self._dict for kind in (dict, collections.OrderedDict, collections.defaultdict)},
            id(types.MappingProxyType): self._proxy,
            id(memoryview): self._memoryview,
            id(re.Pattern): self._pattern,
            id(slice): self._slice,
            **{id(kind): self._scalar for kind in (type(None), bool, int, float)},
        }
        self._unchecked = min(redactor.unchecked, self._max_string)
        self._unchecked_word = min(redactor.unchecked_word, self._max_string)
        self.scalar_arguments = self.scalar_results = Scalars(
            self._max_string, self._unchecked, self._unchecked_word, redactor.is_clean, self._room
        )
        self._undescribed = dict(self._known)
        self._known.update(dict.fromkeys({*self._descriptions} - SCALARS, self._by_description))
        self._forms: dict[str, Callable[[Any, _Call, Shape], object]] = {
            "object": self._object, "dict": self._dict_subclass, "named tuple": self._named_tuple,
            "collection": self._collection_subclass, "text": self._text_subclass, "number": self._number_subclass,
            "library": self._library_value, "enum": self._enum, "exception": self._exception, "class": self._class,
            "secret": lambda value, call, shape: MARKER, "name": lambda value, call, shape: shape.name,
        }  # fmt: skip

    def arguments(self, values: dict[str, object]) -> bytes:
        """The arguments of a call as a JSON object, in the order given.

        Measured: 1.4 µs for ``{"a": 1, "b": "text"}``, 5 µs for a pydantic model of six fields, 40 µs for a websocket
        with its scope, 1 ms for objects without end.
        """
        try:
            call = _Call(self._max_bytes)
            plain = self._fields(values.items(), len(values), call, {}, self._plain_names)
            text = dumps(plain)
            return text if len(text) <= self._max_bytes else fit(plain, self._max_bytes)
        except _OWN_FAILURES:
            self.failures += 1  # nothing may be called here: there may be no stack left to call it with
            return self._lost_arguments

    def result(self, value: object) -> bytes:
        """What a call returned, as JSON; ``null`` for None."""
        if value is None:
            return b"null"
        try:
            return self._json(self._plain(value, _Call(self._max_bytes)))
        except _OWN_FAILURES:
            self.failures += 1
            return self._lost_result

    def hidden_result(self, value: object) -> bytes:
        """The same of a function whose name says that it gives a secret."""
        return self.result(value) if _holds_nothing(value) else fit(MARKER, self._max_bytes)

    def exception(self, error: BaseException) -> bytes:
        """The exception as ``{"type", "message", "at"}``; ``at`` is the file and line that raised it, or null.

        Empty where it cannot be captured, as for want of stack: another call that it leaves may have more.
        """
        try:
            call = _Call(self._max_bytes)
            message = self._text(self._message(error, call), call)
            return self._json({"type": title_of(type(error)), "message": message, "at": raised_at(error)})
        except _OWN_FAILURES:
            self.failures += 1
            return b""

    def _room(self, names: tuple[str, ...]) -> int:
        is_pair = any(name in _NAME for name in names)  # as in set_header(name="Authorization", value="…")
        for name in names:
            if name not in self._plain_names and ((is_pair and name in _VALUE) or not self._remember(name)):
                return -1
        text = dumps(names)
        # escaped, a character has six; numbers and short texts come with their signs
        return (self._max_bytes - len(text) - 40 * len(names)) // 6 if text.isascii() else -1

    def _remember(self, name: str) -> bool:
        """Note a parameter or field whose name is no secret, and say so; most programs have few hundred of them."""
        if self._is_secret(name):
            return False
        if name in _VALUE:
            return True  # but another argument may be its name: `_hides` looks closer, each time
        if len(self._plain_names) >= _MAX_NAMES:
            self._plain_names = {}  # another thread may be about to read from the old one
        if len(name) <= _LONGEST_NAME:
            self._plain_names[name] = name, len(name) + 4
        return True

    def _json(self, plain: object) -> bytes:
        text = dumps(plain)
        return text if len(text) <= self._max_bytes else fit(plain, self._max_bytes)

    def _plain(self, value: Any, call: _Call) -> object:
        """The value as exact dict, list, str, int, float, bool and None; orjson calls user code for anything else."""
        kind = type(value)
        if kind is str:
            return self._text(value, call)
        call.left -= 6
        return value if value is None else self._other(value, kind, call)

    def _other(self, value: Any, kind: type, call: _Call) -> object:
        """The same of all that is not text; 6 bytes of it have been counted."""
        number = id(kind)
        known = self._known.get(number)
        if known is not None:
            return known(value, call)
        shape = self._shapes.get(number)
        if shape is None or shape.kind() is not kind:
            shape = self._shape_of(kind, call)
        shown = self._forms[shape.form](value, call, shape)
        if type(shown) is str:
            call.left -= len(shown)
        return shown

    # Texts and numbers

    def _text(self, text: str, call: _Call) -> str:
        size = len(text)
        if size > self._max_string:
            return self._long_text(text[: self._max_string + _MARGIN], size, call)
        if (
            size > self._unchecked
            and not (size <= self._unchecked_word and text.isalnum())
            and not self._is_harmless(text)
        ):
            text = self._scrub(text)
        call.left -= size + 3
        return text

    def _is_harmless(self, text: str) -> bool:
        """Whether a text of which nothing is cut holds no secret."""
        number = hash(text)
        if number in self._clean_texts:
            return True
        if not self._is_clean(text):
            return False
        if len(self._clean_texts) >= _MAX_TEXTS:
            self._clean_texts.clear()
        self._clean_texts.add(number)
        return True

    def _long_text(self, start: str, size: int, call: _Call) -> str:
        call.left -= self._max_string + 20
        return Cut(self._cut(start), size, size - self._max_string, "chars")

    def _cut(self, start: str) -> str:
        """The first characters of a longer text, given with a margin.

        The margin may end in half a secret that nothing recognised, and what was redacted before it moves it to
        the left: so at least as much as the margin is left out, or all that follows the last redaction.
        """
        scrubbed, margin = self._scrub(start), len(start) - self._max_string
        alike = margin if scrubbed is start else _common_suffix(start, scrubbed, margin)
        return scrubbed[: min(self._max_string, len(scrubbed) - alike)]

    def _scalar(self, value: Any, call: _Call) -> object:
        kind = type(value)
        if kind is float:
            return value if value - value == 0.0 else repr(value)  # JSON has no NaN and no infinity
        return value if kind is not int or -PLAIN_INT < value < PLAIN_INT else self._large_int(value)

    def _large_int(self, value: int) -> object:
        if 0 < value < _ABOVE_CARDS and self._scrub(str(value)) == MARKER:
            return MARKER
        return value if value.bit_length() < 64 else int_text(value)

    def _rendered(self, value: Any, call: _Call) -> str:
        text = RENDERED[id(type(value))](value)
        call.left -= len(text)
        return text

    def _slice(self, value: slice, call: _Call) -> str:
        return self._text(RENDERED[id(slice)](value), call)

    def _pattern(self, value: re.Pattern[Any], call: _Call) -> str:
        return self._text(f"<pattern {inline(value.pattern)}>", call)

    def _bytes(self, value: bytes | bytearray, call: _Call) -> str:
        return self._byte_text(bytes(value[: self._max_string + _MARGIN]), len(value), call)

    def _memoryview(self, value: memoryview, call: _Call) -> str:
        try:
            if value.ndim != 1 or value.format != "B":
                return f"<memoryview of {value.nbytes} bytes>"
            start, size = value[: self._max_string + _MARGIN].tobytes(), value.nbytes
        except ValueError:
            return "<memoryview, released>"
        return self._byte_text(start, size, call)

    def _byte_text(self, start: bytes, size: int, call: _Call) -> str:
        text = start.decode("latin-1")
        whole = size <= self._max_string
        literal = repr((self._scrub(text) if whole else self._cut(text)).encode("latin-1"))
        call.left -= max(len(literal), len(start))
        return Cut(literal, size, 0 if whole else size - self._max_string, "bytes")

    # Built-in containers

    def _list(self, value: Any, call: _Call) -> object:
        total = len(value)
        if total and len(call.path) >= self._max_depth and id(value) not in call.path:
            return _closed(type(value), total)
        return self._array(value, value[: self._max_items], total, call, type(value))

    def _collection(self, value: Any, call: _Call, base: Any = None) -> object:
        base = base or type(value)
        total = base.__len__(value)
        if base in _HASHED and is_hollow(base.__sizeof__(value), total):
            return _closed(base, total)
        try:
            items = list(islice(base.__iter__(value), self._max_items))
        except RuntimeError:
            return CHANGED
        return self._array(value, items, total, call, base)

    def _array(self, owner: object, items: Any, total: int, call: _Call, kind: type) -> object:
        path = call.path
        if path and id(owner) in path:
            return CYCLE
        if len(path) >= self._max_depth and total:
            return _closed(kind, total)
        shown: list[object]
        if total and id(type(items[0])) in _NUMBERS and total == len(items) and total * 6 < call.left:
            shown = [
                item
                for item in items
                if (type(item) is int or type(item) is float or type(item) is bool) and -PLAIN_INT < item < PLAIN_INT
            ]
            if len(shown) == total:
                call.left -= total * 6
                return shown
        call.path = (*path, id(owner))
        shown = []
        for item in items[:2]:
            if type(item) is str and item.rpartition("/")[2] in COMMANDS:
                items = self._command(items)
                break
        is_pair, hide = len(items) == total == 2, False
        for item in items:
            if call.left <= 0:
                break
            is_text = type(item) is str
            if hide and not _holds_nothing(item):
                shown.append(MARKER)
            elif is_text:
                shown.append(self._text(item, call))
            else:
                call.left -= 6
                shown.append(item if item is None else self._other(item, type(item), call))
            # as in ["mysql", "--password", "…"]
            hide = ((is_pair and len(shown) == 1) or (is_text and item[:1] == "-")) and self._is_header(item)
        if len(shown) < total:
            shown.append(Rest(total - len(shown), "… {} more" if kind is list else f"… {{}} more ({kind.__name__})"))
        call.path = path
        return shown

    def _command(self, items: Any) -> Any:
        """The arguments of a program that takes passwords by options without a telling name."""
        if any(type(item) is not str or len(item) > MAX_TEXT for item in items):
            return items
        return self._scrub_arguments(items)

    def _is_header(self, name: Any) -> bool:
        """Whether this, the first of two, names a secret, as in ``(b"authorization", b"Bearer …")``."""
        if type(name) is bytes:
            name = name[:128].decode("latin-1")
        elif type(name) is not str and issubclass(type(name), str):
            name = str.__getitem__(name, slice(0, 129))
        return type(name) is str and len(name) <= 128 and "=" not in name and self._is_secret(name)

    def _dict(self, value: Any, call: _Call) -> object:
        total, path = dict.__len__(value), call.path
        if path and id(value) in path:
            return CYCLE
        if (len(path) >= self._max_depth and total) or is_hollow(dict.__sizeof__(value), total):
            return _closed(dict, total)
        pairs = first_items(value, self._max_items)  # in one step: other threads may change it
        if pairs is None:
            return CHANGED
        if total <= self._max_items and type(value) is dict:
            copy = self._flat_dict(pairs, call)
            if copy is not None:
                return copy
        return self._items(value, pairs, total, call, {})

    def _flat_dict(self, pairs: list[tuple[Any, Any]], call: _Call) -> dict[str, object] | None:
        """A copy, where all keys are known to be harmless and all values are short scalars; else None."""
        size, known, clean, most = 0, self._plain_keys, self._clean_texts, self._max_string
        unchecked, unchecked_word = self._unchecked, self._unchecked_word
        for key, item in pairs:
            if type(key) is not str or (hash(key) not in known and not self._learn(key)):
                return None
            kind = type(item)
            if kind is str:
                length = len(item)
                if (
                    length > unchecked
                    and (length > unchecked_word or not item.isalnum())
                    and (length > most or (hash(item) not in clean and not self._is_harmless(item)))
                ):
                    return None
                size += length
            elif kind is int:
                if not -PLAIN_INT < item < PLAIN_INT:
                    return None
            elif item is not None and kind is not bool and (kind is not float or item - item != 0.0):
                return None
        shown: dict[str, object] = dict(pairs)
        size += len("".join(shown)) + 9 * len(shown)
        if size >= call.left:
            return None
        call.left -= size
        return shown or None

    def _learn(self, key: str) -> bool:
        """Note a key that neither is, nor announces, nor contains a secret, and say so."""
        if len(key) > _LONGEST_NAME or key in _VALUE or key in _NAME or not self._is_clean(key) or self._is_secret(key):
            return False
        if len(self._plain_keys) >= _MAX_NAMES:
            self._plain_keys.clear()
        self._plain_keys.add(hash(key))  # no text of the program is kept alive
        return True

    def _proxy(self, value: Any, call: _Call) -> object:
        target = gc.get_referents(value)[0]  # asking the proxy itself would ask what it stands for
        return self._dict(target, call) if type(target) is dict else "<mappingproxy>"

    def _items(
        self, owner: object, pairs: list[tuple[Any, Any]], total: int, call: _Call, shown: dict[str, object]
    ) -> object:
        path = call.path
        call.path = (*path, id(owner))
        count, known, most = 0, self._plain_keys, self._max_string
        for key, item in pairs:
            if call.left <= 0:
                break
            count += 1
            if type(key) is str and len(key) <= most and hash(key) in known:
                text, hide = key, False
                call.left -= len(key) + 3
            else:
                text, secret = self._examined_key(key, pairs, call)
                hide = secret and not _holds_nothing(item)
            while text in shown:
                text = f"{text} #{count}"
            if hide:
                shown[text] = MARKER
            elif type(item) is str:
                shown[text] = self._text(item, call)
            else:
                call.left -= 6
                shown[text] = item if item is None else self._other(item, type(item), call)
        if count < total:
            shown[unused("…", shown)] = Rest(total - count, "{} more")
        call.path = path
        return shown

    def _examined_key(self, key: Any, pairs: list[tuple[Any, Any]], call: _Call) -> tuple[str, bool]:
        """The text of a key, and whether it is the name of a secret."""
        if type(key) is not str:
            text = self._key(key, call)
            return text, self._is_header(text) or self._is_header(key) or self._names_secret(key, call)
        text, secret = self._text(key, call), self._is_secret(key)
        if key in _VALUE and any(_is_name(each) and self._is_header(it) for each, it in pairs):
            secret = True  # {"name": "Authorization", "value": "…"}
        return str(text) if type(text) is Cut else text, secret  # orjson wants keys to be exact

    def _key(self, key: Any, call: _Call) -> str:
        kind = type(key)
        if kind is tuple or kind is frozenset or kind is types.MappingProxyType:
            call.left -= 16
            return f"<{kind.__name__}>"
        outer, call.path = call.path, self._closed_path
        plain = self._plain(key, call)
        call.path = outer
        return str(plain) if type(plain) in (str, Cut) or id(kind) in SCALARS else self._shape_of(kind, call).name

    def _names_secret(self, key: Any, call: _Call) -> bool:
        """Whether one of the parts of a key, as of ``("db", "password")``, is the name of a secret."""
        if type(key) is not tuple and type(key) is not frozenset:
            return False
        parts = list(islice(key, self._max_items))
        call.left -= 16 * len(parts)
        return any(map(self._is_header, parts))

    def _fields(
        self,
        fields: Any,
        total: int,
        call: _Call,
        shown: dict[str, object],
        names: Names,
        shape: Shape | None = None,
    ) -> dict[str, object]:
        """As ``_items``, for names out of the program's source: texts, unlike each other and no secrets themselves.

        Args:
            fields: Pairs of a name and a value.
            total: How many there are, with those that were not read.
            shown: What they are added to.
            names: Those that are no secret: how they are shown, and what that takes; nothing where they are not.
            shape: Where these are what an object stores, so that not all are shown, and some under other names.
        """
        before = len(shown)
        last: str | None = None  # the text of the last that is no such scalar
        hidden = size = 0  # bytes that are not yet taken from what is left: those of the scalars since the last other
        unchecked, unchecked_word = self._unchecked, self._unchecked_word
        most, clean = self._max_string, self._clean_texts
        for name, item in fields:
            if type(name) is str and name in names:
                text, cost = names[name]
                if not cost:
                    hidden += 1
                    continue
                kind = type(item)
                if text not in shown:
                    if kind is str:
                        length = len(item)
                        if (
                            length <= unchecked
                            or (length <= unchecked_word and item.isalnum())
                            or (length <= most and hash(item) in clean)
                        ):
                            size += cost + length + 3
                            shown[text] = item
                            continue
                    elif (
                        item is None
                        or kind is bool
                        or (kind is int and -PLAIN_INT < item < PLAIN_INT)
                        or (kind is float and item - item == 0.0)
                    ):
                        size += cost + 6
                        shown[text] = item
                        continue
                else:
                    text = unused(text, shown)
                hide = False
            else:  # not met before, or to be looked at each time
                own = name if shape is None else self._note(name, shape)
                if own is None:
                    hidden += 1
                    continue
                kind = type(item)
                text, cost = own if own not in shown else unused(own, shown), len(own) + 4
                hide = self._hides(own, item, islice(fields, len(shown) - before + hidden), shape)
            left = call.left - size
            if left <= 0:
                break
            size, last = 0, text
            if kind is str or hide:
                call.left = left - cost
                shown[text] = MARKER if hide else self._text(item, call)
            else:
                call.left = left - cost - 6
                shown[text] = self._other(item, kind, call)
        call.left = left = call.left - size
        missing = total - hidden - len(shown) + before
        if missing or left <= 0:
            self._unshow(shown, before, last, call)
            hidden = 0 if shape is None else sum(self._shown_name(name, shape) is None for name, _ in fields)
            missing = total - hidden - len(shown) + before
            if missing > 0:
                shown[unused("…", shown)] = Rest(missing, "{} more")
        return shown

    def _unshow(self, shown: dict[str, Any], before: int, last: str | None, call: _Call) -> None:
        """Take back the scalars before which nothing was left, down to the last of what is not a scalar."""
        while len(shown) > before and (text := next(reversed(shown))) is not last:
            item = shown[text]
            size = len(text) + 4 + (len(item) + 3 if type(item) is str else 6)
            if call.left + size > 0:
                break
            call.left += size
            del shown[text]

    def _hides(self, name: str, value: object, before: Iterable[tuple[Any, Any]], shape: Shape | None) -> bool:
        """Whether there is a secret to hide: by its name, or as in ``set_header(name="Authorization", value="…")``."""
        announced = False
        if name in _VALUE:
            for each, item in before:
                if (each if shape is None else self._shown_name(each, shape)) in _NAME:
                    announced = self._is_header(item)
        return (announced or not self._remember(name)) and not _holds_nothing(value)

    def _note(self, name: Any, shape: Shape) -> str | None:
        """As `_shown_name`; remembered, where it need not be looked at each time."""
        text = self._shown_name(name, shape)
        if type(name) is str and len(name) <= _LONGEST_NAME:
            if len(shape.names) >= _MAX_FIELDS:
                shape.names = {}  # not cleared: another thread may be about to read from it
            if text is None:
                shape.names[name] = "", 0
            elif self._remember(text) and text not in _VALUE:
                shape.names[name] = text, len(text) + 4
        return text

    def _shown_name(self, name: Any, shape: Shape) -> str | None:
        """How a stored field is shown; None for not at all."""
        return shape.aliases.get(name, name) if type(name) is str and name[:1] != "_" else None

    # Instances of other classes

    def _shape_of(self, kind: type, call: _Call) -> Shape:
        shape = self._shapes.get(id(kind))
        if shape is None or shape.kind() is not kind:  # the id of a class that is gone may be given to another
            call.left -= _WORK_OF_A_SHAPE
            shape = examine(kind)
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            if shape.settled:
                forget = functools.partial(self._shapes.pop, id(kind))  # called with the reference: what pop gives then
                shape.kind = Weak(kind, forget)
                self._shapes[id(kind)] = shape
        return shape

    def _by_description(self, value: Any, call: _Call) -> object:
        number = id(type(value))
        if number not in self._descriptions:  # dropped
            if number in self._undescribed:
                self._known[number] = self._undescribed[number]
            else:
                self._known.pop(number, None)
            return self._plain(value, call)
        name = self._shape_of(type(value), call).name
        plain, failed = self._descriptions.ask(value, call, name)
        self.failures += failed
        described_again = id(type(plain)) in self._descriptions  # there is no description of descriptions
        return name if described_again else self._plain(plain, call)

    def _class(self, value: Any, call: _Call, shape: Shape) -> str:
        return f"<class {self._shape_of(value, call).name[1:-1]}>"

    def _library_value(self, value: Any, call: _Call, shape: Shape) -> object:
        return self._plain(shape.render(value), call)

    def _number_subclass(self, value: Any, call: _Call, shape: Shape) -> object:
        return {"@type": shape.title, "value": self._plain(shape.render(value), call)}

    def _text_subclass(self, value: Any, call: _Call, shape: Shape) -> object:
        base: Any = shape.base
        start, size = base.__getitem__(value, slice(0, self._max_string + _MARGIN)), base.__len__(value)
        if base is not str:
            text = self._byte_text(bytes(start), size, call)
        else:
            text = self._text(start, call) if size <= self._max_string else self._long_text(start, size, call)
        return {"@type": shape.title, "value": text}

    def _collection_subclass(self, value: Any, call: _Call, shape: Shape) -> object:
        return {"@type": shape.title, "value": self._collection(value, call, shape.base)}

    def _dict_subclass(self, value: Any, call: _Call, shape: Shape) -> object:
        total = dict.__len__(value)
        if id(value) in call.path:
            return CYCLE
        if len(call.path) >= self._max_depth or is_hollow(dict.__sizeof__(value), total):
            return {"@type": shape.title, "value": _closed(dict, total)}
        pairs = first_items(value, self._max_items)
        return CHANGED if pairs is None else self._items(value, pairs, total, call, {"@type": shape.title})

    def _named_tuple(self, value: Any, call: _Call, shape: Shape) -> object:
        if len(call.path) >= self._max_depth:
            return shape.name
        items = tuple.__getitem__(value, slice(0, self._max_items))
        fields = list(zip(shape.fields, items, strict=False))
        return self._opened(value, fields, tuple.__len__(value), call, shape)

    def _enum(self, value: Any, call: _Call, shape: Shape) -> str:
        number = None
        for key, item in stored_fields(value, shape, self._max_items)[0]:
            if type(key) is str and key == "_name_" and type(item) is str:
                return self._text(f"{shape.title}.{exact_text(item)}", call)
            if type(key) is str and key == "_value_":
                number = item
        return self._text(f"{shape.title}({inline(number)})", call)

    def _exception(self, value: Any, call: _Call, shape: Shape) -> object:
        args = args_of(value)
        if id(value) in call.path:
            return CYCLE
        if len(call.path) >= self._max_depth:
            return shape.name
        return self._opened(value, [("args", args)], 1, call, shape)

    def _object(self, value: Any, call: _Call, shape: Shape) -> object:
        """The stored fields.

        An object whose class does not declare them is opened inside another only if both are of one package: of
        a chat client its fields are wanted, those of its websocket, event loop and web framework are not.
        """
        path, package = call.path, call.package
        if path and id(value) in path:
            return CYCLE
        if len(path) >= self._max_depth or not (shape.declared or not package or package == shape.package):
            return shape.name
        fields, unread = stored_fields(value, shape, self._max_read)
        total = len(fields) + unread
        left = call.left - len(fields)
        if total > self._max_items:
            fields = [field for field in fields if self._shown_name(field[0], shape) is not None]
            total = len(fields) + unread
            fields = fields[: self._max_items]
        call.left = left - len(shape.title) - 10
        call.path, call.package = (*path, id(value)), shape.package
        shown = self._fields(fields, total, call, {"@type": shape.title}, shape.names, shape)
        call.path, call.package = path, package
        if not shape.declared and (len(shown) == 1 or not fields):
            call.left = left
            return shape.name
        return shown

    def _opened(self, value: object, fields: Any, total: int, call: _Call, shape: Shape) -> dict[str, object]:
        call.left -= len(shape.title) + 10
        path, package = call.path, call.package
        call.path, call.package = (*path, id(value)), shape.package
        shown = self._fields(fields, total, call, {"@type": shape.title}, self._plain_names)
        call.path, call.package = path, package
        return shown

    # Exceptions that end a call

    def _message(self, error: BaseException, call: _Call) -> str:
        """What ``str(error)`` says, where the program's class does not say something else, from stored values."""
        args, shape = args_of(error), self._shape_of(type(error), call)
        base: Any = shape.base
        if len(args) == 1 and type(args[0]) is str and base is not KeyError:
            text: str = args[0]
            return text
        if not args:
            stored, _ = stored_fields(error, shape, self._max_items)
            fields = [(name, item) for name, item in stored if type(name) is str and name[:1] != "_"]
            return ", ".join(f"{name}={self._named(name, item, call)}" for name, item in fields)
        if issubclass(base, OSError) and len(args) == 2:
            filename = filename_of(error)
            args = (*args, filename if id(type(filename)) in SCALARS else self._key(filename, call))
        if issubclass(base, BaseExceptionGroup) and type(args[0]) is str:
            return f"{args[0][:_LONG]} ({len(group_of(error))} sub-exceptions)"
        shown = args[: self._max_items]
        if len(shown) == len(args) and all(id(type(arg)) in SCALARS and not _is_long(arg) for arg in args):
            try:
                return str(base(*args))  # the interpreter's own class, given exact scalars: no code of the program
            except _OWN_FAILURES:  # it was made with other arguments
                pass
        more = f", … {len(args) - len(shown)} more" if len(args) > len(shown) else ""
        return ", ".join(self._inline(arg, call) for arg in shown) + more

    def _named(self, name: str, value: object, call: _Call) -> str:
        return MARKER if self._is_secret(name) and not _holds_nothing(value) else self._inline(value, call)

    def _inline(self, value: object, call: _Call) -> str:
        """A value inside a text: scalars as Python writes them, paths and the like as they are, containers as JSON."""
        kind = type(value)
        if kind is list or kind is tuple or kind is dict:
            return dumps(self._plain(value, call)).decode()
        return inline(value) if id(kind) in SCALARS else self._key(value, call)


class _Call:
    """The state of one capture: bytes left, time left for descriptions, ids of the open containers, package of the
    innermost open object.
    """

    __slots__ = ("left", "package", "path", "patience_ns")

    def __init__(self, left: int) -> None:
        self.left, self.patience_ns = left, SLOW_NS
        self.path: tuple[int, ...] = ()
        self.package = ""


_NUMBERS = frozenset(map(id, (int, float, bool)))  # a class may have a metaclass with a hash of its own
_NAME = frozenset({"name", "Name", "key", "Key", "header", "field", "attr", "k"})
_VALUE = frozenset({"value", "Value", "val", "v"})
_HASHED = (set, frozenset)
_CLOSED: dict[type, str] = {tuple: "(… {} items)", set: "{{… {} items}}", dict: "{{… {} keys}}", list: "[… {} items]"}


def _closed(kind: type, total: int) -> str:
    """A container of Python's own that is not opened: its brackets and how much is in it."""
    return (_CLOSED.get(kind) or f"{kind.__name__}([… {{}} items])").format(total)


def _is_name(key: Any) -> bool:
    return type(key) is str and key in _NAME


def _holds_nothing(value: Any) -> bool:
    """Whether there is nothing to hide: None, a yes or no, an empty text or container."""
    if value is None or value is True or value is False:
        return True
    kind = type(value)
    return (kind is str or kind is bytes or kind is list or kind is dict or kind is tuple) and len(value) == 0


def _is_long(value: Any) -> bool:
    kind = type(value)
    return ((kind is str or kind is bytes) and len(value) > _LONG) or (kind is int and value.bit_length() > 512)


def _common_suffix(one: str, other: str, most: int) -> int:
    """How many characters two texts have in common at their ends, counted up to ``most``."""
    pairs = zip(islice(reversed(one), most), reversed(other), strict=False)
    return next((count for count, (left, right) in enumerate(pairs) if left != right), min(most, len(other)))
