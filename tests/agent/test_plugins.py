"""Plugins: found by their entry points, loaded one by one, asked once, and never trusted to work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtrace import plugins, threads
from flowtrace.errors import ConfigError, FlowtraceError
from flowtrace.plugins import BUILTIN, discover, load
from flowtrace.testing import make_context

HEADER = """
from flowtrace.config import Options, Size
from flowtrace.hooks import hookimpl
from flowtrace.testing import MemorySink

class ToyOptions(Options, frozen=True, kw_only=True):
    limit: Size = Size("1MiB")

class Loose(__import__("msgspec").Struct):
    limit: int = 0

class Typed(Options, frozen=True, kw_only=True):
    type: str = ""

class Alien(Options, frozen=True, kw_only=True):
    limit: MemorySink

class Broken(Options, frozen=True, kw_only=True):
    limit: int = 0
    def __post_init__(self):
        raise SystemExit(self.limit) if self.limit else KeyError("oops")

def build(options, context):
    if options.limit == 13:
        raise RuntimeError("no such luck")
    return MemorySink()
"""

SINKS = "@hookimpl\ndef flowtrace_register_sinks(register): "
VALUES = "@hookimpl\ndef flowtrace_register_values(register): "
TOY = SINKS + "register('toy', build, ToyOptions)"

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a plugin module that can be imported by its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, body: str) -> str:
        (tmp_path / f"{name}.py").write_text(HEADER + body)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_registered_sink_is_built(write: Write) -> None:
    """A sink type of a plugin is decoded by its own options and built by its factory."""
    registry = load([write("toy_a", TOY)])

    [(name, sink)] = registry.build([{"type": "toy", "limit": "3KiB"}], lambda name: make_context())

    assert (name, type(sink).__name__) == ("toy", "MemorySink")
    assert registry.decode({"type": "toy", "limit": "3KiB"}) == registry.sinks["toy"].options(limit=3072)
    assert registry.problems == []


def test_values_are_registered(write: Write) -> None:
    """A plugin says how a type is shown; such a plugin is needed by every process."""
    registry = load([write("toy_b", VALUES + "register(complex, str)"), write("toy_c", TOY)])

    assert registry.values == {complex: str}
    assert registry.needed([]) == ("toy_b",)
    assert registry.needed([{"type": "toy"}]) == ("toy_b", "toy_c")


def test_attribute_of_a_module(write: Write) -> None:
    """An entry point may name an object inside a module."""
    body = "class Plugin:\n    @hookimpl\n    def flowtrace_register_sinks(self, register):\n"
    body += "        register('toy', build, ToyOptions)\nclass holder: plugin = Plugin()"

    registry = load([write("toy_d", body) + ":holder.plugin"])

    assert registry.sinks["toy"].plugin == "toy_d:holder.plugin"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            "import no_such_module",
            "fails: ModuleNotFoundError: No module named 'no_such_module'; repair or uninstall it",
        ),
        ("raise SystemExit(3)", "fails: SystemExit: 3; repair or uninstall it"),
        ("raise GeneratorExit", "fails: GeneratorExit; repair or uninstall it"),
        ("def broken(:", "fails: SyntaxError"),
        ("", "implements no hook; mark one of flowtrace_register_sinks, flowtrace_register_values with @hookimpl"),
        (TOY.removeprefix("@hookimpl"), "implements no hook"),
        (
            "@hookimpl\ndef flowtrace_register_sink(register): pass",
            "implements an unknown hook flowtrace_register_sink; did you mean 'flowtrace_register_sinks'?",
        ),
        ("@hookimpl\ndef flowtrace_register_sinks(registrar): pass", "fails: PluginValidationError"),
        (SINKS + "1 / 0", "fails: ZeroDivisionError: division by zero; repair or uninstall it"),
        (SINKS + "register('Toy', build, ToyOptions)", "registers a sink type 'Toy'; write a lower-case name"),
        (SINKS + "register(3, build, ToyOptions)", "registers a sink type 3; write a lower-case name"),
        (SINKS + "register('toy', None, ToyOptions)", "registers the sink type 'toy' with a factory that cannot be"),
        (SINKS + "register('toy', build, dict)", "has no strict options for the sink type 'toy'; derive them from"),
        (SINKS + "register('toy', build, Loose)", "has no strict options for the sink type 'toy'; derive them from"),
        (SINKS + "register('toy', build, Typed)", "has an option 'type' for the sink type 'toy'; rename it"),
        (SINKS + "[register('toy', build, ToyOptions) for _ in '12']", "registers the sink type 'toy' twice"),
        (VALUES + "register('int', str)", "calls register('int', ...) for values; pass a class and a function"),
        (VALUES + "register(int, None)", "calls register(<class 'int'>, ...) for values; pass a class and a function"),
        (VALUES + "[register(int, str) for _ in '12']", "describes builtins.int twice"),
    ],
)
def test_broken_plugin(write: Write, body: str, problem: str) -> None:
    """A plugin that cannot be used is named in one line, registers nothing and stops no other."""  # fault X8
    broken, whole = write("toy_broken", body), write("toy_whole", SINKS + "register('whole', build, ToyOptions)")

    registry = load([broken, whole])

    assert list(registry.sinks) == ["whole"]
    [error] = registry.problems
    assert str(error).startswith(f"plugin toy_broken {problem}")
    assert "\n" not in str(error)


def test_registers_all_or_nothing(write: Write) -> None:
    """What a plugin registered before it failed does not count."""
    registry = load([write("toy_e", TOY + "; 1 / 0")])

    assert not registry.sinks
    assert len(registry.problems) == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (TOY, "registers the sink type 'toy' that toy_f has registered; uninstall one of them"),
        (VALUES + "register(bytes, repr)", "describes builtins.bytes, as another plugin does already; uninstall one"),
    ],
)
def test_two_plugins_register_the_same(write: Write, body: str, problem: str) -> None:
    """The first keeps it, and the second is told who was first."""
    first, second = write("toy_f", TOY + "\n" + VALUES + "register(bytes, str)"), write("toy_g", body)

    registry = load([first, second, first])

    assert registry.sinks["toy"].plugin == "toy_f"
    assert registry.values == {bytes: str}
    [error] = registry.problems
    assert str(error).startswith(f"plugin toy_g {problem}")


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({}, "f.yaml: sinks[2].type: missing; known: alien, broken, toy"),
        ({"type": "tay"}, "f.yaml: sinks[2].type: no plugin registers a sink type 'tay'; did you mean 'toy'?"),
        ({"type": ["toy"]}, "f.yaml: sinks[2].type: no plugin registers a sink type a list; did you mean 'toy'?"),
        ({"type": "toy", "limt": 1}, "f.yaml: sinks[2].limt: unknown key; did you mean 'limit'?"),
        ({"type": "toy", "limit": "1"}, "f.yaml: sinks[2].limit: '1' is not a size; write a number with a unit"),
        (
            {"type": "alien", "limit": 1},
            "plugin toy_h cannot read sinks[2]: NotImplementedError: flowtrace cannot read ",
        ),
        ({"type": "broken"}, "plugin toy_h cannot read sinks[2]: KeyError: 'oops'"),
        ({"type": "broken", "limit": 3}, "plugin toy_h cannot read sinks[2]: SystemExit: 3"),
    ],
)
def test_sink_that_cannot_be_decoded(write: Write, spec: dict[str, Any], error: str) -> None:
    """A sink's options are held to its type as strictly as the agent's own keys."""  # fault F3
    registry = load([write("toy_h", TOY + "; register('broken', build, Broken); register('alien', build, Alien)")])

    with pytest.raises(FlowtraceError) as caught:
        registry.decode(spec, place="f.yaml", key="sinks[2]")

    assert str(caught.value).startswith(error)


def test_sinks_that_cannot_be_built_are_left_out(write: Write) -> None:
    """In the traced process a sink that fails costs one warning; names are unique."""  # fault F1
    registry, warnings = load([write("toy_i", TOY)]), list[str]()
    specs: list[dict[str, Any]] = [{"type": "toy"}, {"type": "gone"}, {"type": "toy", "limit": "13B"}, {"type": "toy"}]

    sinks = registry.build(specs, lambda name: make_context(warnings=warnings))

    assert [name for name, _ in sinks] == ["toy", "toy-3"]
    assert warnings == [
        "left out: sinks[1].type: no plugin registers a sink type 'gone'; known: toy",
        "left out: RuntimeError: no such luck",
    ]


ODD = """
import asyncio, sys

class Odd(BaseException):
    def __str__(self):
        raise SystemExit

def odd(options, context):
    raise {error}
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("SystemExit(3)", "SystemExit: 3"),
        ("GeneratorExit", "GeneratorExit"),
        ("asyncio.CancelledError", "CancelledError"),
        ("BaseException('x')", "BaseException: x"),
        ("MemoryError", "MemoryError"),
        ("Odd", "Odd"),
    ],
)
def test_sink_whose_factory_raises_anything_is_left_out(write: Write, error: str, said: str) -> None:
    """No plugin keeps the program from starting, by whatever its factory raises."""  # fault S18
    body = ODD.format(error=error) + SINKS + "register('odd', odd, ToyOptions); register('toy', build, ToyOptions)"
    registry, warnings = load([write("toy_odd", body)]), list[str]()

    sinks = registry.build([{"type": "odd"}, {"type": "toy"}], lambda name: make_context(warnings=warnings))

    assert [name for name, _ in sinks] == ["toy"]
    assert warnings == [f"left out: {said}"]


SLOW = """
import time

heard = []

def slow(options, context):
    until = time.monotonic() + 10
    while not heard and time.monotonic() < until:
        time.sleep(0.001)
    return MemorySink()
"""


def test_factory_that_takes_long_is_spoken_of(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program waits for it, and its user wonders; a quick one is not spoken of."""
    monkeypatch.setattr(plugins, "LONG_S", 0.01)
    registry = load([write("toy_slow", SLOW + SINKS + "register('slow', slow, ToyOptions)")])
    warnings: list[str] = []
    monkeypatch.setattr("toy_slow.heard", warnings)

    [(name, _)] = registry.build([{"type": "slow"}], lambda name: make_context(warnings=warnings))

    assert name == "slow"
    assert warnings == [
        "its factory has not returned for 0.01 s, and the program waits; what waits belongs in open()",
    ]


def test_factory_is_not_watched_where_no_thread_can_start(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sink is built all the same."""  # fault T10

    def start_none(function: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "start", start_none)
    registry = load([write("toy_alone", TOY)])

    [(name, _)] = registry.build([{"type": "toy"}], lambda name: make_context())

    assert name == "toy"


def test_interrupt_while_a_sink_is_built_is_passed_on(write: Write) -> None:
    """Ctrl-C is the user's, and ends the program; so too while a plugin is imported."""
    body = ODD.format(error="KeyboardInterrupt") + SINKS + "register('odd', odd, ToyOptions)"
    registry = load([write("toy_interrupted", body)])

    with pytest.raises(KeyboardInterrupt):
        registry.build([{"type": "odd"}], lambda name: make_context())
    with pytest.raises(KeyboardInterrupt):
        load([write("toy_interrupted_too", "raise KeyboardInterrupt")])


def distribution(folder: Path, name: str, entry_points: str) -> None:
    """Write the metadata of an installed distribution."""
    (folder / name).mkdir(parents=True)
    (folder / name / "entry_points.txt").write_text(entry_points, encoding="utf-8")


def test_discovers_entry_points(tmp_path: Path) -> None:
    """Plugins are the entry points of the group flowtrace, of wheels and of develop installs."""
    distribution(
        tmp_path / "a", "kafka_sink-1.0.dist-info", "[console_scripts]\nx = y\n\n[flowtrace]\nkafka = kafka:it\n"
    )
    distribution(tmp_path / "a", "other.egg-info", "[flowtrace]\n# comment = no\no = other.plugin : it [extra]\n")
    distribution(tmp_path / "a", "none-1.dist-info", "[flowtrace.more]\nx = y\n")
    (tmp_path / "a" / "bare-1.dist-info").mkdir()

    found = discover([str(tmp_path / "missing"), str(tmp_path / "a"), str(tmp_path / "a" / "other.egg-info")])

    assert found == [BUILTIN, "kafka:it", "other.plugin:it"]


def test_first_distribution_of_a_name_counts(tmp_path: Path) -> None:
    """As with imports, what comes first on the path hides the same distribution further behind."""
    distribution(tmp_path / "a", "Kafka_Sink-2.dist-info", "[flowtrace]\nk = new\n")
    distribution(tmp_path / "b", "kafka_sink-1.dist-info", "[flowtrace]\nk = old\n")

    assert discover([str(tmp_path / "a"), str(tmp_path / "b")]) == [BUILTIN, "new"]


def test_unreadable_metadata_is_passed_over(tmp_path: Path) -> None:
    """Broken metadata of a foreign distribution is not flowtrace's to complain about."""
    distribution(tmp_path, "a-1.dist-info", "")
    (tmp_path / "a-1.dist-info" / "entry_points.txt").write_bytes(b"\xff[flowtrace]\nx = y\n")

    assert discover([str(tmp_path)]) == [BUILTIN]


def test_discovers_what_importlib_metadata_does() -> None:
    """The short cut finds in this environment what the standard library finds."""
    from importlib.metadata import entry_points

    known = {entry_point.value for entry_point in entry_points(group="flowtrace")}

    assert set(discover()) == known | {BUILTIN}


def test_builtin_sinks_come_through_the_same_door() -> None:
    """stdout, file and http are registered by a plugin like any other."""
    registry = load([BUILTIN])

    assert registry.problems == []
    assert set(registry.sinks) == {"stdout", "file", "http"}
    assert {sink.plugin for sink in registry.sinks.values()} == {BUILTIN}


def test_agent_works_without_the_builtin_plugin(tmp_path: Path) -> None:
    """Without the folder of built-in sinks, nothing is found and nothing fails."""
    agent = str(Path(sys.modules["flowtrace.plugins"].__file__ or "").parent.parent)
    code = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'flowtrace_plugins' else real(name)\n"
        f"sys.path.insert(0, {agent!r})\n"
        "from flowtrace.plugins import discover, load\n"
        "print(discover([]), load(discover([])).sinks)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[] {}\n"


def test_import_is_light() -> None:
    """The traced process does not pay for discovering plugins."""
    code = "import sys, flowtrace.plugins; print({'yaml', 'importlib.metadata', 'difflib'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_unregistered_type_without_plugins() -> None:
    """Without any plugin the error still says what is known."""
    with pytest.raises(ConfigError, match="no plugin registers a sink type 'file'; known: none"):
        load([]).decode({"type": "file"})
