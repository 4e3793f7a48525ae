"""The config's structs: bounds, errors that name the key, and the way there and back through JSON."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.config import (
    Capture,
    CaptureOverride,
    Config,
    Duration,
    Flush,
    Queue,
    Redact,
    Rule,
    Sampling,
    Size,
    decode,
    from_json,
    to_json,
)
from flowtrace.errors import ConfigError

KIB, MIB = 2**10, 2**20

names = st.text(st.characters(codec="utf-8", exclude_characters="/\\", categories=("L", "N", "P")), min_size=1)
globs = st.from_regex(r"[\w*?\[\]]{1,8}(\.[\w*?\[\]]{1,8}){0,2}", fullmatch=True)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def sizes(low: int, high: int) -> st.SearchStrategy[Size]:
    """Sizes from ``low`` to ``high`` bytes."""
    return st.integers(low, high).map(Size)


def durations(low: str, high: str) -> st.SearchStrategy[Duration]:
    """Durations from ``low`` to ``high``."""
    return st.integers(Duration(low), Duration(high)).map(Duration)


limits: dict[str, st.SearchStrategy[Any]] = {
    "args": st.booleans(),
    "result": st.booleans(),
    "max_depth": st.integers(0, 32),
    "max_items": st.integers(0, 100_000),
    "max_string": st.integers(0, 1_000_000),
    "max_bytes": sizes(64, 16 * MIB),
}
rules = st.builds(
    Rule,
    modules=st.lists(globs | st.just("@project"), min_size=1, max_size=3).map(tuple),
    include=st.lists(globs, max_size=2).map(tuple),
    exclude=st.lists(globs, max_size=2).map(tuple),
    capture=st.fixed_dictionaries({}, optional=limits).map(lambda keys: CaptureOverride(**keys)),
)
configs = st.builds(
    Config,
    service=names.map(lambda name: name[:255]),
    targets=st.lists(rules, min_size=1, max_size=3).map(tuple),
    capture=st.builds(Capture, **limits),
    redact=st.builds(Redact, names=st.lists(names, max_size=3).map(tuple), defaults=st.booleans()),
    sampling=st.builds(Sampling, rate=st.floats(0, 1)),
    queue=st.builds(
        Queue,
        max_events=st.integers(1, 2**24),
        max_bytes=sizes(64 * KIB, 2**36),
        overflow=st.sampled_from(["drop", "block"]),
        block_timeout=durations("1ms", "1h"),
    ),
    flush=st.builds(
        Flush, interval=durations("1ms", "1h"), shutdown_timeout=durations("0", "1h"), hard_exits=st.booleans()
    ),
    sinks=st.lists(st.dictionaries(names, plain, max_size=3), max_size=3).map(tuple),
    values=st.sampled_from(["text", "object"]),
)


@given(configs)
def test_json_round_trip(config: Config) -> None:
    """What the launcher writes is what the traced process reads."""
    assert from_json(to_json(config)) == config


def test_json_of_another_version_is_refused() -> None:
    """The traced process does not guess what an unknown key means."""
    with pytest.raises(msgspec.ValidationError):
        from_json(b'{"sampler": {}}')


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], "expected a mapping, got a list"),
        ({"capture": {"max_itms": 3}}, "capture.max_itms: unknown key; did you mean 'max_items'?"),
        ({"zzz": 3}, "zzz: unknown key; known: capture, flush, keep, propagation, "),
        ({"capture": {"max_items": "ten"}}, "capture.max_items: expected a whole number, got 'ten'"),
        ({"capture": {"max_items": True}}, "capture.max_items: expected a whole number, got true"),
        ({"capture": {"max_items": -1}}, "capture.max_items: expected a whole number >= 0, got -1"),
        ({"capture": {"args": "off"}}, "capture.args: expected true or false, got 'off'"),
        ({"capture": None}, "capture: expected a mapping, got nothing"),
        ({"capture": {"max_bytes": "1B"}}, "capture.max_bytes: 1B is out of range; write a size from 64B to 16MiB"),
        ({"service": 12}, "service: expected text, got 12; put it in quotes"),
        ({"service": "a/b"}, "service: 'a/b' is no name; write a printable one without slashes"),
        ({"service": ""}, "service: '' is no name"),
        ({"sampling": {"rate": 1.5}}, "sampling.rate: expected a number <= 1.0, got 1.5"),
        ({"sampling": {"rate": float("nan")}}, "sampling.rate: expected a number >= 0.0, got nan"),
        ({"queue": {"max_bytes": "32 parsecs"}}, "queue.max_bytes: '32 parsecs' is not a size; write a number with a"),
        ({"queue": {"max_bytes": 5}}, "queue.max_bytes: 5 has no unit; write a size such as 32MiB"),
        ({"queue": {"max_bytes": -5}}, "queue.max_bytes: -5 has no unit"),
        ({"queue": {"max_bytes": []}}, "queue.max_bytes: expected a size such as 32MiB, got a list"),
        ({"queue": {"max_bytes": True}}, "queue.max_bytes: expected a size such as 32MiB, got true"),
        ({"queue": {"max_bytes": 0}}, "queue.max_bytes: 0B is out of range; write a size from 64KiB to 64GiB"),
        ({"queue": {"overflow": "blok"}}, "queue.overflow: 'blok' is not one of drop, block; did you mean 'block'?"),
        ({"flush": {"interval": 0}}, "flush.interval: 0s is out of range; write a duration from 1ms to 1h"),
        ({"targets": []}, "targets: expected a list of length >= 1, got a list"),
        ({"targets": [{}]}, "targets[0].modules: missing; this key has no default"),
        ({"targets": [{"modules": "app"}]}, "targets[0].modules: expected a list, got 'app'"),
        ({"targets": [{"modules": ["@projct"]}]}, "targets[0].modules[0]: '@projct' is no module; did you mean '@proj"),
        ({"targets": [{"modules": ["a/b.py"]}]}, "targets[0].modules[0]: 'a/b.py' is not a dotted name; write one"),
        ({"targets": [{"modules": ["a"], "include": ["@project"]}]}, "targets[0].include[0]: '@project' is no name of"),
        ({"targets": [{"modules": ["a"], "capture": {"max_byts": 1}}]}, "targets[0].capture.max_byts: unknown key;"),
        ({"targets": [{"modules": ["a"], "capture": {"args": None}}]}, "targets[0].capture.args: expected true or f"),
        ({"sinks": {"type": "file"}}, "sinks: expected a list, got a mapping"),
    ],
)
def test_config_errors(data: object, error: str) -> None:
    """Whatever cannot be used is named with its file, its key and what to write."""  # fault F3
    with pytest.raises(ConfigError) as caught:
        decode(data, Config, place="flowtrace.yaml")

    assert str(caught.value).startswith(f"flowtrace.yaml: {error}")
    assert "\n" not in str(caught.value)


def test_import_is_light() -> None:
    """The traced process does not import YAML, pluggy or importlib.metadata for its config."""
    code = "import sys, flowtrace.config; print({'yaml', 'pluggy', 'importlib.metadata', 'difflib'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
