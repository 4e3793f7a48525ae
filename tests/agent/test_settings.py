"""Settings: what the launcher hands on, and what the traced process reads of it, attribute for attribute."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from msgspec import UNSET, Struct

from flowtrace.config import (
    Capture,
    CaptureOverride,
    Config,
    Duration,
    Flush,
    Quantity,
    Queue,
    Ready,
    Resolved,
    Rule,
    Size,
    handed_on,
    plain,
)  # fmt: skip
from flowtrace.settings import read, settings
from flowtrace_plugins.options import FileOptions, HttpOptions, Rotate
from tests.agent.test_config import configs


def alike(struct: object, read: object) -> bool:
    """Whether what was read has the fields of a struct, with quantities as numbers."""
    if isinstance(struct, Struct):
        values = {name: getattr(struct, name) for name in struct.__struct_fields__}
        said = {name: value for name, value in values.items() if value is not UNSET}
        return said.keys() == vars(read).keys() and all(alike(said[name], getattr(read, name)) for name in said)
    if isinstance(struct, tuple):
        return isinstance(read, tuple) and len(struct) == len(read) and all(map(alike, struct, read))
    return type(read) is (int if isinstance(struct, Quantity) else type(struct)) and struct == read


def handed(config: Config, **more: Any) -> Resolved:
    """What the process gets that is to be traced by a configuration."""
    given: dict[str, Any] = {"plugins": (), "ready": (None,) * len(config.sinks), "directory": "/d", "project": "/p"}
    return read(handed_on(Resolved(config=config, **given | more)))


@given(configs)
def test_process_has_the_attributes_of_the_structs(config: Config) -> None:
    """Whatever the configuration says, the process finds it under the same names."""
    assert alike(config, handed(config).config)


def test_what_the_launcher_found_out_arrives() -> None:
    """Beside the configuration: plugins, directories, where it is from."""
    told = {"plugins": ("a", "b:c"), "directory": "/srv", "project": "/app", "file": "/srv/a.yaml", "sets": ("a=1",)}
    got = handed(Config(sinks=()), **told)
    assert {name: getattr(got, name) for name in told} == told


def test_quantities_are_numbers() -> None:
    """Bytes and nanoseconds: nothing is left to be parsed."""
    config = Config(queue=Queue(max_bytes=Size("1MiB")), flush=Flush(shutdown_timeout=Duration("250ms")))
    got = handed(config).config
    assert (got.queue.max_bytes, got.flush.shutdown_timeout) == (2**20, 250_000_000)


def test_sink_that_is_ready_has_its_options_only_once() -> None:
    """Its factory and complete options; what stands in the file, headers for one, is not there a second time."""
    options = plain(FileOptions(path="a", rotate=Rotate(max_size=Size("1MiB"))))
    sinks = ({"type": "file", "path": "a"}, {"type": "top", "size": "1KiB", "by": {"name": [1]}})

    got = handed(Config(sinks=sinks), ready=(Ready(factory="m:f", options=options), None))

    assert got.config.sinks == ({"type": "file"}, sinks[1])
    assert got.ready[0] is not None
    assert got.ready[0].factory == "m:f"
    assert (got.ready[0].options.path, got.ready[0].options.rotate.max_size) == ("a", 2**20)  # type: ignore[attr-defined]
    assert got.ready[1] is None


def test_names_that_a_user_chooses_are_no_attributes() -> None:
    """Headers become pairs, whatever they are called."""
    options = HttpOptions(url="http://localhost/", headers={"X-One": "1", "__class__": "2"})
    assert dict(settings(plain(options)).headers) == options.headers


def test_rule_says_only_what_differs() -> None:
    """What a rule leaves open is absent."""
    rule = Rule(modules=("m",), capture=CaptureOverride(max_items=1))
    (got,) = handed(Config(targets=(rule,), capture=Capture(max_items=5))).config.targets
    assert vars(got.capture) == {"max_items": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": []}'])
def test_text_of_something_else_is_an_error(text: str) -> None:
    """It is said in one line then, and the process is not traced."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        read(text)


def test_msgspec_is_not_imported() -> None:
    """Nor pluggy, nor what they import, by a process with the built-in sinks."""
    code = (
        "import sys; from flowtrace import agent, settings; import flowtrace_plugins.file, flowtrace_plugins.stdout\n"
        "print({'msgspec', 'pluggy', 'typing_extensions', 'wrapt', 'flowtrace.config'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_plain_data_becomes_attributes() -> None:
    """Mappings have attributes, lists become tuples, the rest stays."""
    assert settings({"a": [1, {"b": None}]}) == SimpleNamespace(a=(1, SimpleNamespace(b=None)))
