"""The example plugin: installed as a stranger's package is, and found by its entry point."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "plugins" / "example"

LOAD = """
import pathlib, sys, time
import pluggy
from flowtrace.config import decode
from flowtrace.hooks import PROJECT, Specifications
from flowtrace.testing import make_batch, make_context

manager = pluggy.PluginManager(PROJECT)
manager.add_hookspecs(Specifications)
manager.load_setuptools_entrypoints(PROJECT, name="top")
manager.check_pending()
sinks = {}
manager.hook.flowtrace_register_sinks(register=lambda name, factory, options: sinks.update({name: (factory, options)}))
factory, options = sinks["top"]
sink = factory(decode({"path": "list.txt"}, options), make_context(directory=sys.argv[1]))
sink.open()
sink.write(make_batch({"event": "EXIT", "class": "Shop", "function": "pay", "durationMicros": 1500}))
sink.close(time.monotonic() + 1)
"""


def run(*arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python, with a directory first on its path."""
    places = [str(path)] * bool(path) + sys.path
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)


@pytest.mark.e2e
def test_installed_plugin_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """After ``pip install`` the sink of the example can be built from YAML and writes its list."""
    site = tmp_path / "site"
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []

    installed = run("-m", "pip", "install", "-q", "--no-deps", *isolation, "--target", site, EXAMPLE)
    loaded = run("-c", LOAD, tmp_path, path=site)

    assert (installed.returncode, loaded.returncode) == (0, 0), installed.stderr + loaded.stderr
    assert (tmp_path / "list.txt").read_text() == "       1.500 ms        1 calls  Shop.pay\n"


def test_example_passes_its_own_test() -> None:
    """The test that the example shows to plugin authors passes."""
    result = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", EXAMPLE, EXAMPLE, path=EXAMPLE
    )

    assert result.returncode == 0, result.stdout + result.stderr
