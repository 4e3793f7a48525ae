"""The example plugin, tested as any plugin can be: without a traced program."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import flowtrace_top
import pluggy
import pytest
from flowtrace_top import TopOptions, TopSink

from flowtrace.config import decode
from flowtrace.errors import ConfigError
from flowtrace.hooks import PROJECT, Specifications
from flowtrace.testing import make_batch, make_context


def end(name: str, micros: int) -> dict[str, Any]:
    """The end of a call."""
    return {"event": "EXIT", "class": "Shop", "function": name, "result": "void", "durationMicros": micros}


def test_lists_the_longest_first(tmp_path: Path) -> None:
    """Totals of all batches are ranked, and only so many are written."""
    sink = TopSink(TopOptions(size=2), make_context(directory=tmp_path))
    sink.open()
    sink.write(make_batch({"event": "START"}, end("pay", 1500), end("look", 10)))
    sink.write(make_batch(end("pay", 500), end("ship", 700)))
    sink.close(time.monotonic() + 1)

    lines = (tmp_path / "top.txt").read_text().splitlines()

    assert [line.split() for line in lines] == [
        ["2.000", "ms", "2", "calls", "Shop.pay"],
        ["0.700", "ms", "1", "calls", "Shop.ship"],
    ]


def test_options_are_checked() -> None:
    """A size that cannot be is refused by flowtrace itself."""
    with pytest.raises(ConfigError, match="size"):
        decode({"size": 0}, TopOptions)


def test_hooks() -> None:
    """Both hooks fit flowtrace's specifications and register what the README says."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specifications)
    manager.register(flowtrace_top)
    manager.check_pending()
    sinks: dict[str, Any] = {}
    values: dict[type, Any] = {}

    manager.hook.flowtrace_register_sinks(register=lambda name, factory, options: sinks.update({name: options}))
    manager.hook.flowtrace_register_values(register=lambda type, describe: values.update({type: describe}))

    assert sinks == {"top": TopOptions}
    assert values[Fraction](Fraction(3, 4)) == "3/4"
