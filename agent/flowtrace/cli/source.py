"""The source of a configuration: which file it is, and what the file holds; nothing of it is understood here.

Imported by each start of `flowtrace-run`, so it imports nothing that Python has not imported anyway.
"""

from __future__ import annotations

import os
import stat
import sys

from flowtrace.errors import ConfigError

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_NAME = "flowtrace.yaml"
FILE_VARIABLE = "FLOWTRACE_CONFIG"
MAX_BYTES = 2**20

ON, OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

DELETED = os.path.join(os.devnull, "deleted")  # nothing lies below it, and nothing can be made there


class Source:
    """A configuration as it was found.

    Attributes:
        name: The file, relative to ``cwd``, or None where the defaults apply.
        is_named: Whether somebody named it, and it was not just there.
        cwd: The working directory, absolute.
        data: What the file holds, at most 1 MiB; empty without one.
    """

    def __init__(self, name: str | None, *, is_named: bool, cwd: str) -> None:
        self.name, self.is_named, self.cwd = name, is_named, cwd
        check_utf8(self.path, "this path", place=self.path)
        self.data = _data(self.path, name) if name is not None else b""

    @property
    def path(self) -> str:
        """The file; where there is none, the working directory."""
        return os.path.join(self.cwd, self.name or "")

    @property
    def is_regular(self) -> bool:
        """Whether it is a file that can be read again, and no pipe: ``--config <(generate)``."""
        return os.path.isfile(self.path)

    @property
    def directory(self) -> str:
        """What relative paths in it are relative to."""
        return os.path.dirname(os.path.abspath(self.path)) if self.is_regular else self.cwd


def _warn(line: str) -> None:
    if sys.stderr is not None:  # else `print` would take stdout, which is the program's
        print(f"flowtrace: {line}", file=sys.stderr)


def is_on(variable: str, environ: Mapping[str, str]) -> bool:
    """Whether a switch of the environment is on, as it is where it is unset or empty.

    Raises:
        ConfigError: it says neither on nor off.
    """
    text = environ.get(variable) or ON[0]
    if text.lower() not in ON + OFF:
        problem = f"{text[:60]!r} is neither on nor off; write one of {', '.join(ON)} or {', '.join(OFF)}"
        raise ConfigError(problem, place=variable)
    return text.lower() in ON


def working_directory(environ: Mapping[str, str]) -> str:
    """The working directory; where it is deleted, a path in `DELETED` that ends with the name that it had."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.path.join(DELETED, os.path.basename(environ.get("PWD", "").rstrip(os.sep)) or "nameless")


def find(
    config_path: str | None, environ: Mapping[str, str], cwd: str, *, warn: Callable[[str], None] = _warn
) -> Source:
    """Find the configuration, and read it.

    Args:
        config_path: The argument of ``--config``, or None.
        environ: Holds ``FLOWTRACE_CONFIG``.
        cwd: The working directory, absolute.
        warn: Takes the line that says why a file that was found is not used.

    Raises:
        ConfigError: the file that was named cannot be read, or is too large to be one; or none was named.
    """
    if config_path == "":
        raise ConfigError("names no file; write --config FILE", place="--config")
    named = config_path if config_path is not None else environ.get(FILE_VARIABLE) or None
    return Source(named if named is not None else _found(cwd, warn), is_named=named is not None, cwd=cwd)


def _found(cwd: str, warn: Callable[[str], None]) -> str | None:
    """The file that nobody named, seen from ``cwd``; None where the defaults apply."""
    if not os.path.lexists(os.path.join(cwd, FILE_NAME)):
        return None
    if reason := _distrust(os.path.join(cwd, FILE_NAME)):
        warn(f"{FILE_NAME} is ignored: {reason}; name it with --config to use it all the same")
        return None
    return FILE_NAME


def _distrust(path: str) -> str | None:
    """Why a file that nobody named is not to be used, or None: what it says decides which code runs."""
    try:
        link, file, folder = os.lstat(path), os.stat(path), os.stat(os.path.dirname(path))
    except OSError as error:
        return f"{error.strerror}".lower()
    if not stat.S_ISREG(file.st_mode):
        return "it is not a regular file"
    if not hasattr(os, "geteuid"):
        return None  # Windows: the mode bits say nothing about who may write
    if foreign := {link.st_uid, file.st_uid, folder.st_uid} - {os.geteuid(), 0}:
        return f"it or its directory belongs to another user (uid {foreign.pop()})"
    if file.st_mode & stat.S_IWOTH:
        return "anyone may write to it"
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        return "anyone may write to its directory"
    return None


def _data(path: str, place: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; name another file with --config or {FILE_VARIABLE}"
        if path.startswith(DELETED):
            problem = "cannot be read: the working directory is deleted; name the file by its whole path"
        raise ConfigError(problem, place=place) from None
    if len(data) > MAX_BYTES:
        raise ConfigError("is larger than 1 MiB; name a file that holds a config", place=place)
    return data


def check_utf8(text: str, what: str, *, place: str, key: str = "") -> None:
    """Refuse bytes that Python smuggled into a text of the operating system: JSON cannot carry them on.

    Raises:
        ConfigError: there are some.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} is not UTF-8; use other characters", place=ascii(place)[1:-1], key=key) from None
