"""Servers deliver every call of every one of their processes, up to the last one that their shutdown makes."""

from __future__ import annotations

import signal
from pathlib import Path

import harness
import pytest
from comparison import Comparison, Counted
from serving import answers_again, request, serve, touch

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


@pytest.fixture
def comparison(tracer: harness.Tracer) -> Comparison:
    """Runs a program without and with flowtrace."""
    return Comparison(tracer)


@SIGNALS
@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn(workers: int, number: signal.Signals, comparison: Comparison, free_port: int) -> None:
    """One process, or several; after the signal the calls of the shutdown are delivered as well."""
    command = ["uvicorn", "served:app", "--port", str(free_port), "--workers", str(workers)]

    ended = serve(comparison, command, free_port, processes=workers, number=number)

    comparison.check_all_delivered(ended)


def test_uvicorn_that_reloads(comparison: Comparison, tmp_path: Path, free_port: int) -> None:
    """A changed file ends one traced process and starts the next; neither loses anything."""

    def change(program: Counted) -> None:
        before = request(free_port)
        touch(tmp_path / "served.py")
        harness.wait_until(lambda: answers_again(free_port, before), "another process serves")

    ended = serve(comparison, ["uvicorn", "served:app", "--port", str(free_port), "--reload"], free_port, drive=change)

    comparison.check_all_delivered(ended)
    assert len({pid for pid, name in comparison.counted if name == "handle"}) == 2
