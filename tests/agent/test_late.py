"""orjson, late: what stands for it writes the same bytes, and is gone with the first function that is traced."""

from __future__ import annotations

import json
import subprocess
import sys

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.late import _Substitute

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_substitute_writes_the_same_bytes(value: object) -> None:
    """For all that events which are no calls consist of."""
    text = orjson.dumps(value)
    assert _Substitute.dumps(value) == text
    assert _Substitute.loads(text) == orjson.loads(text)


def test_substitute_writes_what_json_does_not_know() -> None:
    """By a function, as orjson does."""
    value = {"a": [1 + 2j]}
    assert _Substitute.dumps(value, default=str) == orjson.dumps(value, default=str)


@pytest.mark.parametrize("text", ["\ud800", "a\udcff"])
def test_text_that_is_no_utf8_is_the_same_error(text: str) -> None:
    """Whoever calls has a way for it."""
    for library in (orjson, _Substitute):
        with pytest.raises(TypeError):
            library.dumps({"a": text})


def test_orjson_comes_with_the_first_function_that_is_traced() -> None:
    """And not before; the substitute becomes as fast as it."""
    code = (
        "import sys; from flowtrace import agent, late; from flowtrace.late import orjson\n"
        "before = 'orjson' in sys.modules, orjson.dumps([1]).decode()\n"
        "late.load(); late.load()\n"
        "import json, orjson as library\n"
        "after = orjson.dumps is library.dumps, orjson.loads is library.loads, type(orjson) is late.Library\n"
        "print(json.dumps([before, after]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[False, "[1]"], [True, True, True]]


def test_lines_are_made_by_orjson_as_soon_as_it_is_there() -> None:
    """Who makes the lines begins before the first function is traced, and does not go on with the substitute."""
    code = (
        "from flowtrace import late\n"
        "from flowtrace.events import ENTER, EXIT, Described, Ids, Lines\n"
        "lines = Lines(\n"
        "    describe=lambda _: Described('m', 'f'), ids=Ids(bytes), pid=1, wall_offset_ns=0, values_as_text=True\n"
        ")\n"
        "late.load()\n"
        "import json\n"
        "json.dumps = None\n"
        "lines.line((ENTER, 0, 1, 0, 7, 'Task-1', 1, None, ('a',), None, ('name',), 0))\n"
        "lines.line((EXIT, 0, 2, 0, 7, 'Task-1', 1, None, 'result', 1, 0, None, None, 0))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
