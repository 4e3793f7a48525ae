"""Names of functions that give a secret; tests/agent/test_redaction.py has the names of values."""

from __future__ import annotations

import pytest

from flowtrace.secretnames import gives_secret


@pytest.mark.parametrize("name", ["get_token", "db_password", "apiKey", "load_credentials", "_secret", "newSession"])
def test_what_is_named_after_a_secret_gives_it(name: str) -> None:
    """Properties, getters and factories."""
    assert gives_secret(name)


@pytest.mark.parametrize("name", ["check_token", "set_password", "resetPassword", "is_secret", "__verify_password"])
def test_what_does_something_with_a_secret_gives_something_else(name: str) -> None:
    """Its result is shown."""
    assert not gives_secret(name)
