"""Settings from environment variables."""

import pytest

from sample_app.settings import Settings


def test_defaults_hold_where_nothing_is_set() -> None:
    """Without variables the limits are the documented ones."""
    settings = Settings.from_environment({"PATH": "/bin"})

    assert settings == Settings()
    assert (settings.host, settings.port) == ("localhost", 5001)
    assert (settings.max_message_length, settings.max_messages_per_second) == (4096, 20)
    assert (settings.max_clients_per_room, settings.max_username_length) == (1000, 32)


def test_variable_replaces_a_default() -> None:
    """Each field has its variable, upper case after CHAT_."""
    settings = Settings.from_environment({"CHAT_PORT": "8080", "CHAT_HOST": "0.0.0.0", "CHAT_MAX_MESSAGE_LENGTH": "5"})

    assert settings == Settings(port=8080, host="0.0.0.0", max_message_length=5)


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "many", "٣"])
def test_number_that_is_none_stops_the_start(value: str) -> None:
    """A wrong value ends the program with one line that names variable and value."""
    with pytest.raises(SystemExit) as stop:
        Settings.from_environment({"CHAT_PORT": value})

    assert stop.value.code == f"CHAT_PORT={value!r} is not a whole number of at least 1: correct it or unset it"
