"""The limits and the address of the chat, each with a default that an environment variable replaces."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be set; a field ``port`` is read from ``CHAT_PORT``, and so on."""

    host: str = "localhost"
    port: int = 5001
    max_username_length: int = 32
    max_message_length: int = 4096
    max_messages_per_second: int = 20
    max_clients_per_room: int = 1000
    # Twice a full room: everybody else leaving at once must not make a healthy client look slow.
    max_queued_messages: int = 2000
    close_timeout_s: int = 5

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings, leaving the default where a variable is absent.

        Raises:
            SystemExit: A number is not a whole number of at least 1; the message names the variable.
        """
        values: dict[str, str | int] = {}
        for field in fields(cls):
            variable = f"CHAT_{field.name.upper()}"
            if variable in environment:
                text = environment[variable]
                values[field.name] = text if field.type is str else _positive(variable, text)
        return cls(**values)  # type: ignore[arg-type]


def _positive(variable: str, text: str) -> int:
    if text.isdecimal() and text.isascii() and int(text) >= 1:
        return int(text)
    raise SystemExit(f"{variable}={text!r} is not a whole number of at least 1: correct it or unset it")
