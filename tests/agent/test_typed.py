"""What stands for `typing` in the traced process."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import typing

import pytest

from flowtrace.typed import NamedTuple


class Point(NamedTuple):
    """A place."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        """Of both."""
        return self.x + self.y


class Twin(typing.NamedTuple):
    """A place."""

    x: int
    y: int = 0


def test_named_tuples_are_those_of_typing() -> None:
    """In all that somebody could ask of the class."""
    names = ("_fields", "_field_defaults", "__doc__", "__module__", "__bases__", "__match_args__")
    assert [getattr(Point, name) for name in names] == [getattr(Twin, name) for name in names]
    assert typing.get_type_hints(Point) == typing.get_type_hints(Twin)
    assert (Point.__name__, Point.__qualname__) == ("Point", "Point")


def test_named_tuples_are_tuples_with_names() -> None:
    """And with what else the body of the class holds; nothing more is stored in them."""
    point = Point(1)

    assert (point, point.sum, point._replace(y=2)) == ((1, 0), 1, Point(x=1, y=2))
    assert [copy.copy(point), pickle.loads(pickle.dumps(point))] == [point, point]
    with pytest.raises(AttributeError):
        point.z = 3  # type: ignore[attr-defined]


def test_typing_is_not_imported_at_the_start() -> None:
    """Nor what only it needs."""
    code = "import sys; from flowtrace import agent; from flowtrace_plugins import file; print('typing' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "False"
