"""Disks that fill up, for the tests of the sinks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest


@pytest.fixture
def failing_write(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the next ``os.write`` take only so many bytes and the one after it fail, once."""

    def prepare(taken: int, error: int = errno.ENOSPC) -> None:
        write, steps = os.write, ["short", "fail"]

        def failing(fd: int, data: bytes) -> int:
            match steps.pop(0) if steps else "work":
                case "short" if taken:
                    return write(fd, bytes(data)[:taken])
                case "short" | "fail":
                    steps.clear()
                    raise OSError(error, os.strerror(error))
            return write(fd, data)

        monkeypatch.setattr(os, "write", failing)

    return prepare
