"""Fixtures of the tests that start real processes; what they give is described in `harness`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import harness
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder as ``e2e``."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[harness.Tracer]:
    """Runs commands, traced and not; what it started is gone when the test ends."""
    tracer = harness.Tracer(tmp_path)
    yield tracer
    tracer.end()


@pytest.fixture
def run_traced(tracer: harness.Tracer) -> Callable[..., harness.Ended]:
    """``run_traced(args, config=..., options=..., cwd=..., env=..., stdin=..., timeout=...)``: see `Tracer.run`."""
    return tracer.run


@pytest.fixture
def run_plain(tracer: harness.Tracer) -> Callable[..., harness.Ended]:
    """The same command without flowtrace."""
    return tracer.run_plain


@pytest.fixture
def start_traced(tracer: harness.Tracer) -> Callable[..., harness.Running]:
    """``start_traced(args, port=...)`` for programs that run until they are stopped: see `Tracer.start`."""
    return tracer.start


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """``write("package/module.py", source)`` makes a file in the test's folder; the source may be indented."""

    def write(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
        return path

    return write


@pytest.fixture
def check_conservation() -> Callable[..., None]:
    """``check_conservation(events)``: nothing is missing that is not counted; see `harness.check_conservation`."""
    return harness.check_conservation
