"""Entry points: which plugins are installed, read from the files of distributions.

Read here because to import ``importlib.metadata`` takes 30 ms, half of what a start may cost, and this 3 ms for 500
distributions. As there, the first distribution of a name counts.
Format: https://packaging.python.org/en/latest/specifications/entry-points/.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GROUP = "flowtrace"
BUILTIN = "flowtrace_plugins"


def entry_points(path: Iterable[str]) -> list[str]:
    """The values of all entry points in the group ``flowtrace``, as ``module`` or ``module:attribute``.

    Args:
        path: The folders to look in.
    """
    found: list[str] = []
    seen: set[str] = set()
    for folder in path:
        for file, distribution in _entry_point_files(folder):
            if distribution not in seen:
                seen.add(distribution)
                found += _values(file)
    return found


def _entry_point_files(folder: str) -> Iterator[tuple[str, str]]:
    """Of each distribution in ``folder``, where its entry points would be and its normalised name."""
    try:
        names = sorted(os.listdir(folder or os.curdir))
    except OSError:
        return  # sys.path may name archives and what does not exist
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if suffix in ("dist-info", "egg-info"):
            distribution = stem.partition("-")[0].replace(".", "_").lower()
            yield os.path.join(folder, name, "entry_points.txt"), distribution


def _values(file: str) -> list[str]:
    try:
        with open(file, encoding="utf-8") as lines:
            text = lines.read()
    except (OSError, UnicodeDecodeError):
        return []
    values, section = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif section == GROUP and "=" in line and not line.startswith("#"):
            values.append(line.partition("=")[2].partition("[")[0].replace(" ", ""))
    return values
