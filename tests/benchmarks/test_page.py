"""The page about performance says what the benchmarks have found, and nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, as it is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("page")


def test_page_says_what_was_found(page: ModuleType) -> None:
    """Whoever measures anew, or changes a table, writes the page anew: ``python benchmarks/page.py``."""
    text = page.PAGE.read_text()

    assert page.filled(text) == text


def test_section_without_a_place_is_a_mistake(page: ModuleType) -> None:
    """Nothing that was found is left out."""
    with pytest.raises(ValueError, match=r"performance\.md has 0 places for short"):
        page.filled("# Performance\n")
