"""The test double that plugin authors get."""

from __future__ import annotations

import os

import pytest

from flowtrace.errors import SinkError
from flowtrace.testing import MemorySink, make_batch, make_context


def test_memory_sink_keeps_what_it_is_given() -> None:
    """Lines, events and the order of calls can be looked at."""
    sink = MemorySink()

    sink.open()
    sink.write(make_batch({"seq": 1}, {"seq": 2}, id="r-1-1"))
    sink.flush()
    sink.close(0.0)

    assert sink.calls == ["open", "write", "flush", "close"]
    assert sink.lines == [b'{"seq":1}', b'{"seq":2}']
    assert sink.events == [{"seq": 1}, {"seq": 2}]


def test_memory_sink_fails_on_demand() -> None:
    """The failures come first, one for each call, and then batches are taken."""
    sink = MemorySink(failures=[SinkError("away"), SystemExit()])
    batch = make_batch({"seq": 1}, id="r-1-1")

    for kind in (SinkError, SystemExit):
        with pytest.raises(kind):
            sink.write(batch)
    sink.write(batch)

    assert sink.tries == ["r-1-1"] * 3
    assert sink.batches == [batch]


def test_context_collects_what_a_sink_says() -> None:
    """Warnings and losses end up in the lists that were passed in."""
    warnings: list[str] = []
    losses: list[tuple[str, int]] = []
    context = make_context(directory="somewhere", warnings=warnings, losses=losses)

    context.warn("careful")
    context.lost("spool full", 3)

    assert (warnings, losses) == (["careful"], [("spool full", 3)])
    assert (context.directory, context.pid) == (os.path.abspath("somewhere"), os.getpid())
