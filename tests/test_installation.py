"""What the tests import is what was installed: the compiled module with it, and under tox not the source tree."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import harness
import pytest

import flowtrace


@harness.needs_compiler
def test_compiled_module_is_installed() -> None:
    """Where there is a compiler, the installation has compiled, so that no test passes in pure Python by mistake."""
    spec = importlib.util.find_spec("flowtrace._native")
    assert spec is not None, "compile it: pip install -e . says why, with --verbose"
    assert isinstance(spec.loader, ExtensionFileLoader)
    assert Path(str(spec.origin)).parent == Path(flowtrace.__file__).parent


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="not started by tox")
def test_tox_tests_the_wheel() -> None:
    """Each Python of tox imports its own wheel, not the sources beside the tests."""
    assert Path(flowtrace.__file__).is_relative_to(sys.prefix)
