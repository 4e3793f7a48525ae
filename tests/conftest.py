"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import harness
import pytest


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """``wait_until(condition, "what is awaited")`` returns what the condition gives, as soon as that is true."""
    return harness.wait_until


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    return harness.free_port()
