"""orjson, imported when the first function is traced, and what stands for it until then.

It imports dataclasses, and so inspect, ast and tokenize: 14 ms that a process which traces nothing need not pay. That
one has a START and a STOP to write, which Python's own json does as well, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable

from flowtrace.typed import TYPE_CHECKING, Any


class Library:
    """What is used of orjson: each function an attribute, as fast to call as that of the module."""


class _Substitute(Library):
    """The same for a few events. In a class of its own, so that nothing has to be asked once orjson is there."""

    @staticmethod
    def dumps(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
        import json

        text = json.dumps(value, default=default, ensure_ascii=False, separators=(",", ":"))
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise TypeError(str(error)) from None  # as orjson does for lone surrogates

    @staticmethod
    def loads(text: str | bytes) -> Any:
        import json

        return json.loads(text)


if TYPE_CHECKING:
    import orjson as orjson
else:
    orjson = _Substitute()


def load() -> None:
    """Import orjson, unless it is there."""
    library: Any = orjson
    if isinstance(library, _Substitute):
        import orjson as module

        vars(library).update(dumps=module.dumps, loads=module.loads)
        library.__class__ = Library  # type: ignore[assignment]
