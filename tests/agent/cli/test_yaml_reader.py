"""The reader of YAML: documents mean what YAML 1.2 says, and nothing in them runs or grows."""

from __future__ import annotations

import json

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtrace.cli.yaml_reader import read_yaml
from flowtrace.config import Capture, CaptureOverride, Config, Queue, Rule, Size, decode
from flowtrace.errors import ConfigError


def bomb(levels: int) -> str:
    """Aliases of aliases: ten to the power of ``levels`` values in a few lines."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "f:"),
        ("a: !!python/name:os.system x", "f:1:4: a: the tag"),
        ("a: 1\na: 2", "f:2:1: a: written twice"),
        (bomb(9), "f:5:"),
        ("[" * 100_000, "f:1:34: nested deeper"),
        ("\x07", "f: not YAML: "),
    ],
)
def test_without_libyaml(monkeypatch: pytest.MonkeyPatch, text: str, error: str) -> None:
    """PyYAML's parser in Python, used where it was built without libyaml, is held to the same."""  # fault F2
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)

    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "f")

    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[true, False, TRUE]", [True, False, True]),
        ("[on, off, yes, no, y, n]", ["on", "off", "yes", "no", "y", "n"]),
        ("[~, null, Null, '']", [None, None, None, ""]),
        ("[1, -2, +3, 0o17, 0x1F, 007]", [1, -2, 3, 15, 31, 7]),
        ("[1.5, .5, 1e3, -1.]", [1.5, 0.5, 1000.0, -1.0]),
        ("[.inf, .nan, 1_000, 1:30, 2024-01-01]", [".inf", ".nan", "1_000", "1:30", "2024-01-01"]),
        ("['1', \"true\", 'null']", ["1", "true", "null"]),
        ("{on: 1, 2: b, null: c}", {"on": 1, "2": "b", "null": "c"}),
        ("a: &x {b: [1]}\nc: *x", {"a": {"b": [1]}, "c": {"b": [1]}}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ],
)
def test_plain_words_mean_what_they_do_in_yaml_1_2(text: str, value: object) -> None:
    """Only true and false are booleans, and only JSON's kinds of values exist."""
    assert read_yaml(text, "f") == value


texts = st.text(st.characters(codec="utf-8", max_codepoint=0xFFFF, categories=["L", "N", "P", "S", "Zs"]), max_size=9)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
@settings(deadline=None)  # a loaded machine takes its time
def test_reads_json(value: object) -> None:
    """YAML 1.2 contains JSON, so a JSON document gives what it means."""
    text = json.dumps(value)

    assert read_yaml(text, "f") == value


@given(
    st.builds(
        Config,
        service=st.from_regex(r"[a-z$ ]{1,9}x", fullmatch=True),
        targets=st.just(
            (Rule(modules=("a.*", "@project"), capture=CaptureOverride(args=False, max_bytes=Size("1KiB"))),)
        ),
        capture=st.builds(Capture, max_items=st.integers(0, 99), max_bytes=st.integers(64, 2**24).map(Size)),
        queue=st.builds(Queue, overflow=st.sampled_from(["drop", "block"])),
        values=st.sampled_from(["text", "object"]),
    )
)
@settings(deadline=None)  # a loaded machine takes its time
def test_yaml_round_trip(config: Config) -> None:
    """A config written as YAML by anyone's writer is the same config."""
    text = yaml.safe_dump(msgspec.to_builtins(config, enc_hook=str))

    assert decode(read_yaml(text, "f"), Config) == config
