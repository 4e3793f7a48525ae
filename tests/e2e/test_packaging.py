"""The wheel is complete: it installs into an empty environment and works there, with and without the built-in sinks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import harness
import pytest

Write = Callable[[str, str], Path]

NATIVE = f"flowtrace/_native{sysconfig.get_config_var('EXT_SUFFIX')}"

PROGRAM = "def double(n): return 2 * n\nprint(double(21))\n"

PLUGIN = """
    import msgspec
    from flowtrace.config import Options
    from flowtrace.hooks import hookimpl

    class MemoOptions(Options, frozen=True):
        path: str

    class MemoSink:
        def __init__(self, options, context):
            self.path = options.path
        def open(self): pass
        def write(self, batch):
            with open(self.path, "ab") as file:
                file.write(batch.body)
        def flush(self): pass
        def close(self, deadline): pass

    @hookimpl
    def flowtrace_register_sinks(register):
        register("memo", MemoSink, MemoOptions)
    """


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    wheel, _ = _built(harness.ROOT, tmp_path_factory.mktemp("wheel"))
    return wheel


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, what it requires, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    _run([folder / "bin/python", "-m", "pip", "install", "--quiet", wheel])
    return folder


def _built(source: Path, folder: Path, **changes: str) -> tuple[Path, str]:
    """The wheel that pip makes of a source, and what is said meanwhile."""
    pip = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", folder, source]
    done = _done(pip, **changes)
    [wheel] = folder.glob("*.whl")
    return wheel, done.stdout + done.stderr


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _run(command: list[str | Path], *, cwd: Path | None = None, **changes: str) -> str:
    return _done(command, cwd=cwd, **changes).stdout


def _done(command: list[str | Path], *, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    env = harness.environment(**{"PYTHONPATH": None, **changes})
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def test_wheel_holds_what_it_should_and_no_more(wheel: Path) -> None:
    """Types, license, commands, the built-in plugin and the boot folder are in it; the chat and the tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [info] = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()

    assert not [name for name in names if name.endswith(".c")]
    for name in ("flowtrace/py.typed", "flowtrace_plugins/py.typed", "flowtrace/boot/sitecustomize.py"):
        assert name in names
    assert f"{info}/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {"flowtrace", "flowtrace_plugins", info}
    assert "flowtrace-run = flowtrace.cli.run:main" in entry_points
    assert "flowtrace = flowtrace.cli.main:main" in entry_points
    assert "[flowtrace]\nbuiltin = flowtrace_plugins" in entry_points


@harness.needs_compiler
def test_wheel_is_compiled_for_one_python(wheel: Path, environment: Path) -> None:
    """Where there is a compiler, the wheel holds the compiled module, and its tag says which Python that is for."""
    python, abi, platform = wheel.stem.split("-")[2:]
    assert python == abi == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert platform != "any"
    assert [name for name in _names(wheel) if name.startswith("flowtrace/_native.c")] == [NATIVE]
    code = "import flowtrace._native; print(flowtrace._native.__file__)"
    assert _run([environment / "bin/python", "-Pc", code]).endswith(f"site-packages/{NATIVE}\n")


def test_wheel_without_a_compiler_is_pure_python(environment: Path, tmp_path: Path, write: Write) -> None:
    """Where nothing compiles, the build says so and succeeds, and a program is traced all the same."""
    wheel, said = _built(harness.ROOT, tmp_path / "wheel", CC="no-such-compiler")
    assert "flowtrace._native is not compiled, flowtrace will run in pure Python" in said
    assert wheel.name.endswith("-py3-none-any.whl")
    shutil.unpack_archive(wheel, tmp_path / "pure", "zip")
    write("program.py", PROGRAM)
    config = write("config.yaml", json.dumps({"sinks": [{"type": "file", "path": f"{tmp_path}/traces/{{pid}}.jsonl"}]}))

    command: list[str | Path] = [environment / "bin/flowtrace-run", "--config", config, "python", "program.py"]
    out = _run(command, cwd=tmp_path, PYTHONPATH=str(tmp_path / "pure"))
    code = "import flowtrace, importlib.util as u; print(flowtrace.__file__, u.find_spec('flowtrace._native'))"
    found = _run([environment / "bin/python", "-Pc", code], PYTHONPATH=str(tmp_path / "pure"))

    assert found == f"{tmp_path}/pure/flowtrace/__init__.py None\n"
    assert out == "42\n"
    harness.check_conservation(harness.read_events(tmp_path / "traces"))


def test_source_distribution_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The source distribution holds all that it takes to build the wheel, compiled if that one is."""
    _run([sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path], cwd=harness.ROOT)
    [source] = tmp_path.glob("*.tar.gz")
    again, _ = _built(source, tmp_path)
    assert again.name == wheel.name
    assert _names(again) == _names(wheel)


def test_installed_wheel_traces_a_program(environment: Path, tmp_path: Path, write: Write) -> None:
    """Outside the checkout, ``flowtrace-run python program.py`` writes a complete trace."""
    write("program.py", PROGRAM)
    sink = {"type": "file", "path": f"{tmp_path}/traces/{{pid}}.jsonl"}
    config = write("config.yaml", json.dumps({"sinks": [sink]}))

    out = _run([environment / "bin/flowtrace-run", "--config", config, "python", "program.py"], cwd=tmp_path)

    assert out == "42\n"
    events = harness.read_events(tmp_path / "traces")
    assert [event["function"] for event in events if event["event"] == "ENTER"] == ["double"]
    harness.check_conservation(events)


@pytest.mark.parametrize("command", ["flowtrace", "flowtrace-run"])
def test_installed_commands_say_their_version(command: str, environment: Path, wheel: Path) -> None:
    """The version that the commands tell is that of the wheel."""
    version = wheel.name.split("-")[1]
    assert _run([environment / "bin" / command, "--version"]) == f"flowtrace {version}\n"


def test_agent_works_without_the_built_in_plugins(environment: Path, tmp_path: Path, write: Write) -> None:
    """With their folder deleted, a program is traced all the same, to the sink of somebody else's plugin."""
    stripped = tmp_path / "stripped"
    venv.create(stripped, symlinks=True)
    [installed], [packages] = (list(folder.glob("lib/python*/site-packages")) for folder in (environment, stripped))
    shutil.copytree(installed, packages, dirs_exist_ok=True, ignore=shutil.ignore_patterns("flowtrace_plugins", "pip"))
    write("plugin/memo.py", PLUGIN)
    write("plugin/memo-1.0.dist-info/entry_points.txt", "[flowtrace]\nmemo = memo\n")
    write("program.py", PROGRAM)
    config = write("config.yaml", json.dumps({"sinks": [{"type": "memo", "path": f"{tmp_path}/memo.jsonl"}]}))

    launch = "from flowtrace.cli.run import main; main()"
    command: list[str | Path] = [stripped / "bin/python", "-Pc", launch, "--config", config, "python", "program.py"]
    out = _run(command, cwd=tmp_path, PYTHONPATH=str(tmp_path / "plugin"))

    assert out == "42\n"
    events = harness.read_events(tmp_path)
    assert [event["function"] for event in events if event["event"] == "ENTER"] == ["double"]
    harness.check_conservation(events, sink="memo")
