"""Settings: the configuration as the traced process has it, read from the JSON that the launcher hands on.

They have the attributes of the structs in `flowtrace.config`, and are taken for these by type checkers. The structs
themselves stay in the launcher: it has checked everything, and to import msgspec takes longer than all of this.
"""

from __future__ import annotations

from types import SimpleNamespace

from flowtrace.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowtrace.config import Started


def read(text: str) -> Started:
    """What `flowtrace.config.handed_on` has written, with or without what differs from run to run.

    Raises:
        ValueError: it is not JSON.
        KeyError: it is something else.
        TypeError: likewise.
    """
    from json import loads

    data = loads(text)
    sinks = tuple(data["config"].pop("sinks"))  # of which the plugins know what is in them
    started: Started = settings(data)
    vars(started.config)["sinks"] = sinks
    return started


def settings(value: Any) -> Any:
    """Plain data with attributes for keys, and tuples for lists."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: settings(inner) for name, inner in value.items()})
    return tuple(map(settings, value)) if isinstance(value, list) else value
