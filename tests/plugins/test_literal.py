"""JSON values as short text for a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace_plugins.literal import cells, clip, escaped, fit, literal

NASTY = "a\x1b[31m\r\n\x00\u202e\u2028\ud800\x9b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        ("it's", '"it\'s"'),
        ([1, ["a"]], "[1, ['a']]"),
        ({"Type": "join"}, "{'Type': 'join'}"),
        ({"@type": "app.models.Message", "Type": "join", "n": [1]}, "Message(Type='join', n=[1])"),
        ({"@type": "Empty"}, "Empty()"),
        ({"@type": "app.Name", "value": "x"}, "Name('x')"),
        ("<starlette.websockets.WebSocket>", "<WebSocket>"),
        ("<class app.Room>", "<Room>"),
        ("<cycle>", "<cycle>"),
        ("<b>bold</b>", "'<b>bold</b>'"),
        (["a", "… 5 more"], "['a', … 5 more]"),
        ("… and so on", "'… and so on'"),
        ({"a": 1, "…": "7 more"}, "{'a': 1, … 7 more}"),
    ],
)
def test_values_look_like_python(value: object, text: str) -> None:
    """Each kind of JSON value is written as Python would, objects by the name of their type."""
    assert literal(value) == text


def test_control_characters_are_escaped() -> None:
    """Nothing in a value, key, field or type name can move the cursor or turn the text around."""  # fault U19
    values: list[object] = [NASTY, "<" + NASTY, {NASTY: 1}, {"…": NASTY}, {"@type": NASTY, NASTY: NASTY}]

    texts = [escaped(NASTY), *map(literal, values)]

    assert all(text.isprintable() for text in texts)
    assert "\\x1b[31m" in texts[1]


@pytest.mark.parametrize(
    ("text", "room", "clipped"),
    [
        ("short", 5, "short"),
        ("longer text", 6, "longe…"),
        ("'longer text'", 8, "'longe…'"),
        ("Message(Type='join')", 12, "Message(Ty…)"),
        ("Message(Type='join')", 7, "Messag…"),
        ("名前名前", 5, "名前…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_clip(text: str, room: int, clipped: str) -> None:
    """What is cut ends in an ellipsis, and closes the bracket or quote it opened."""
    assert clip(text, room) == clipped


@given(st.text(), st.integers(0, 30))
def test_clip_keeps_to_its_room(text: str, room: int) -> None:
    """No text takes more columns than it was given."""
    assert cells(clip(text, room)) <= room


def test_short_texts_stay_whole() -> None:
    """What short texts leave is shared by the long ones."""
    assert fit(["'general'", "x" * 50, "y" * 50], 49) == ["'general'", "x" * 19 + "…", "y" * 19 + "…"]
