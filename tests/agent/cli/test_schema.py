"""The schema for editors, and that docs/config.md tells people the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowtrace.cli.configuration import resolve
from flowtrace.cli.schema import config_schema, main
from flowtrace.cli.yaml_reader import read_yaml
from flowtrace.config import Options, Size
from flowtrace.errors import PluginError
from flowtrace.plugins import BUILTIN, Registry, SinkType, load

DOCUMENT = Path(__file__).parents[3] / "docs" / "config.md"


class Toy(Options, frozen=True, kw_only=True):
    """Plays with events.

    More than editors show.
    """

    limit: Size = Size("1MiB")
    labels: dict[str, int] = msgspec.field(default_factory=dict)
    parts: list[float] | None = None


@pytest.fixture
def schema() -> dict[str, Any]:
    """The schema with one sink of our own."""
    registry = Registry()
    registry.sinks["toy"] = SinkType(lambda options, context: NotImplemented, Toy, "here")
    return config_schema(registry)


def test_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """`flowtrace schema` prints JSON with the installed sinks."""
    assert main([]) == 0

    printed = json.loads(capsys.readouterr().out)
    sinks = printed["properties"]["sinks"]["items"]["oneOf"]
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"file", "http", "stdout"} <= {sink["properties"]["type"]["const"] for sink in sinks}


def test_broken_plugin_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that lacks a sink would mislead, so there is none."""
    monkeypatch.setattr("flowtrace.cli.schema.discover", lambda: ["no_such_plugin"])

    with pytest.raises(PluginError, match="no_such_plugin"):
        main([])


def test_keys_have_types_bounds_and_defaults(schema: dict[str, Any]) -> None:
    """Editors learn of each key what the decoder holds it to."""
    capture = schema["properties"]["capture"]

    assert capture["additionalProperties"] is False
    assert capture["properties"]["max_depth"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 32,
        "description": "How many levels of nested containers and objects to show.",
        "default": 3,
    }
    assert schema["properties"]["queue"]["properties"]["overflow"]["enum"] == ["block", "drop"]
    assert schema["properties"]["targets"]["items"]["required"] == ["modules"]
    assert schema["properties"]["targets"]["default"][0]["modules"] == ["@project"]


def test_sinks_are_told_apart_by_type(schema: dict[str, Any]) -> None:
    """The options of a plugin's sink are part of the schema."""
    [toy] = schema["properties"]["sinks"]["items"]["oneOf"]

    assert toy["description"] == "Plays with events."
    assert toy["required"] == ["type"]
    assert toy["properties"]["type"] == {"const": "toy"}
    assert toy["properties"]["limit"]["default"] == "1MiB"
    assert toy["properties"]["labels"] == {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "default": {},
    }
    assert toy["properties"]["parts"] == {
        "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}],
        "default": None,
    }


@pytest.mark.parametrize(
    ("text", "fits"),
    [("32MiB", True), ("1.5 kB", True), ("${SIZE}", True), ("${SIZE:-1MiB}", True), ("32", False), ("5s", False)],
)
def test_sizes_have_a_pattern(schema: dict[str, Any], text: str, fits: bool) -> None:
    """A size without a unit is underlined while it is typed; a reference is not."""
    alternatives = schema["properties"]["queue"]["properties"]["max_bytes"]["anyOf"]

    assert bool(re.search(alternatives[0]["pattern"], text)) is fits
    assert alternatives[1] == {"const": 0}


def leaves(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each key of a schema that holds no further keys, and its default."""
    for name, inner in schema["properties"].items():
        key = f"{prefix}{name}"
        kinds = [inner.get("items", inner), *inner.get("anyOf", [])]
        nested = [kind for kind in kinds if "properties" in kind]
        if not nested or inner.get("default", ...) is None:
            absent = "required" if name in schema["required"] else "the name of the working directory"
            yield key, inner.get("default", absent)
        for kind in nested:
            yield from leaves(kind, f"{key}[]." if "items" in inner else f"{key}.")


def table(heading: str) -> dict[str, str]:
    """The keys in the tables below a heading of docs/config.md, and what their column "default" says."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    section = re.split(rf"^#{{1,{heading.count('#')}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `([^`]+)` \| [^|]+ \| (.+?) \|", section, re.MULTILINE))


def described(heading: str, schema: dict[str, Any]) -> None:
    """Fail unless the document has exactly these keys with these defaults."""
    documented = table(heading)
    expected = {key: default for key, default in leaves(schema) if key != "type"}
    assert documented.keys() == expected.keys()
    for key, default in expected.items():
        assert read_yaml(documented[key].strip("`"), key) == default, key


def test_document_describes_each_key() -> None:
    """docs/config.md has each key of the config with its default."""
    schema = config_schema(Registry())
    del schema["properties"]["sinks"]["items"]
    del schema["properties"]["targets"]["items"]["properties"]["capture"]["properties"]  # those of `capture`

    described("## Keys", schema)


@pytest.mark.parametrize("sink", sorted(load([BUILTIN]).sinks))
def test_document_describes_each_option(sink: str) -> None:
    """docs/config.md has each option of each built-in sink with its default."""
    registry = load([BUILTIN])
    [schema] = [
        each
        for each in config_schema(registry)["properties"]["sinks"]["items"]["oneOf"]
        if each["properties"]["type"] == {"const": sink}
    ]

    described(f"### `type: {sink}`", schema)


def test_examples_of_the_document_work(tmp_path: Path) -> None:
    """Each YAML example in docs/config.md is a config."""
    examples = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

    assert examples
    for example in examples:
        (tmp_path / "flowtrace.yaml").write_text(example, encoding="utf-8")
        assert resolve("flowtrace.yaml", [], {"FLOWTRACE_TOKEN": "t0ken"}, str(tmp_path))
