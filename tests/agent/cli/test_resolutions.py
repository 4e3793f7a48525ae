"""Earlier resolutions: used where nothing has changed that they depend on, never where something may be a secret."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowtrace.cli import resolutions
from flowtrace.cli.configuration import understood
from flowtrace.cli.resolutions import MAX_KEPT, Resolutions
from flowtrace.cli.run import BOOT
from flowtrace.cli.source import Source, find
from flowtrace.config import handed_on

CONFIG = "service: shop\nsinks: [{type: file, path: calls.jsonl}]\n"


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    """Where they are kept; not there yet."""
    return tmp_path / "caches/flowtrace"


@pytest.fixture
def kept(tmp_path: Path, caches: Path) -> Resolutions:
    """Those of this test."""
    return Resolutions({"XDG_CACHE_HOME": str(caches.parent)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a configuration."""
    path = tmp_path / "work"
    path.mkdir()
    (path / "flowtrace.yaml").write_text(CONFIG)
    return path


def source(folder: Path, config: str | None = None) -> Source:
    return find(config, {}, str(folder))


def keep(kept: Resolutions, found: Source, *sets: str, environ: dict[str, str] | None = None) -> str:
    """Find out what a source comes to, and keep it."""
    resolved = understood(found, sets, environ or {})
    text = handed_on(resolved)
    kept.keep(found, resolved, text)
    return text


def test_what_was_found_out_is_known_the_next_time(kept: Resolutions, folder: Path) -> None:
    """The text is the same, byte for byte."""
    assert kept.get(source(folder)) is None
    text = keep(kept, source(folder))
    assert kept.get(source(folder)) == text


def test_defaults_are_kept_too(kept: Resolutions, folder: Path) -> None:
    """Where there is no file, and where an empty one was named: these differ in what a reload reads."""
    (folder / "flowtrace.yaml").unlink()
    (folder / "empty.yaml").touch()
    texts = [keep(kept, found) for found in (source(folder), source(folder, "empty.yaml"))]
    assert [kept.get(found) for found in (source(folder), source(folder, "empty.yaml"))] == texts
    assert len(set(texts)) == 2


def _edit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "flowtrace.yaml").write_text(CONFIG + "#")
    return folder


def _move(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return folder.rename(folder.with_name("elsewhere"))


def _upgrade(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resolutions, "__version__", "99")
    return folder


def _other_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    return folder


def _other_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(folder)
    return folder


def _plugin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = folder / "site"
    (site / "other-1.dist-info").mkdir(parents=True)
    (site / "other-1.dist-info/entry_points.txt").write_text("[flowtrace]\nother = other\n")
    monkeypatch.syspath_prepend(site)
    return folder


@pytest.mark.parametrize("change", [_edit, _move, _upgrade, _other_python, _other_path, _plugin])
def test_what_has_changed_is_found_out_anew(
    change: Callable[[Path, pytest.MonkeyPatch], Path], kept: Resolutions, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a resolution depends on."""
    keep(kept, source(folder))
    assert kept.get(source(change(folder, monkeypatch))) is None


def test_changed_code_of_ours_is_noticed(
    kept: Resolutions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default that was edited, in a checkout of the same version."""
    code = tmp_path / "site/flowtrace/config.py"
    code.parent.mkdir(parents=True)
    code.touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    keep(kept, source(folder))
    assert kept.get(source(folder)) is not None
    os.utime(code, (1, 1))
    assert kept.get(source(folder)) is None


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("service: ${NAME}", ()),
        ("service: costs$$", ()),
        (CONFIG, ("service=x",)),
        ("sinks: [{type: http, url: 'https://localhost/', headers: {X-Key: abc}}]", ()),
    ],
)
def test_what_may_hold_a_secret_is_not_kept(
    text: str, sets: tuple[str, ...], kept: Resolutions, folder: Path, caches: Path
) -> None:
    """Variables and the command line often do, and what is sent somewhere."""
    (folder / "flowtrace.yaml").write_text(text)
    keep(kept, source(folder), *sets, environ={"NAME": "x"})
    assert not caches.exists()


def test_what_plugins_of_others_say_is_not_kept(
    kept: Resolutions, folder: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their code may say something else the next time."""
    site = folder / "site"
    site.mkdir()
    (site / "other_values.py").write_text(
        "from flowtrace.hooks import hookimpl\n@hookimpl\ndef flowtrace_register_values(register): pass\n"
    )
    _plugin(folder, monkeypatch)
    (site / "other-1.dist-info/entry_points.txt").write_text("[flowtrace]\nother = other_values\n")
    keep(kept, source(folder))
    assert not caches.exists()


def test_pipe_is_not_kept(kept: Resolutions, folder: Path, caches: Path) -> None:
    """``--config <(generate)`` is read once, and says something else each time."""
    reader, writer = os.pipe()
    os.write(writer, CONFIG.encode())
    os.close(writer)
    found = source(folder, f"/dev/fd/{reader}")
    os.close(reader)
    keep(kept, found)
    assert not caches.exists()


@pytest.mark.parametrize(
    "environ",
    [
        {"XDG_CACHE_HOME": "{}", "FLOWTRACE_CACHE": "0"},
        {"XDG_CACHE_HOME": "relative", "HOME": ""},
        {"HOME": "relative"},
        {},
    ],
)
def test_nowhere_to_keep_it(environ: dict[str, str], folder: Path, tmp_path: Path, caches: Path) -> None:
    """Switched off, or a user without a home."""
    kept = Resolutions({name: value.format(caches.parent) for name, value in environ.items()})
    keep(kept, source(folder))
    assert kept.get(source(folder)) is None
    assert not caches.exists()


def test_home_is_the_default(folder: Path, tmp_path: Path) -> None:
    """As the specification of the XDG directories has it."""
    keep(Resolutions({"HOME": str(tmp_path), "XDG_CACHE_HOME": "relative"}), source(folder))
    assert len(list((tmp_path / ".cache/flowtrace").iterdir())) == 1


def test_others_cannot_read_it(kept: Resolutions, folder: Path, caches: Path) -> None:
    """A configuration may name files and hosts."""
    keep(kept, source(folder))
    (file,) = caches.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (caches, file)] == [0o700, 0o600]


def _open_folder(file: Path) -> None:
    file.parent.chmod(0o777)


def _open_file(file: Path) -> None:
    file.chmod(0o606)


def _link(file: Path) -> None:
    file.symlink_to(file.rename(file.with_name("other")))


def _linked_folder(file: Path) -> None:
    file.parent.symlink_to(file.parent.rename(file.parent.with_name("other")))


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def _cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _noise(file: Path) -> None:
    file.write_bytes(b"\xff\n{}")


TAMPERINGS = [_open_folder, _open_file, _link, _linked_folder, _pipe, _cut_off, _empty, _directory, _noise]


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_what_is_not_as_we_left_it_is_not_used(
    tamper: Callable[[Path], None], kept: Resolutions, folder: Path, caches: Path
) -> None:
    """Others may have written it, or it is broken; to keep it again ends in no error either."""
    text = keep(kept, source(folder))
    (file,) = caches.iterdir()
    tamper(file)
    assert kept.get(source(folder)) is None
    assert keep(kept, source(folder)) == text


def test_what_belongs_to_others_is_not_used(kept: Resolutions, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the file says what is traced, and so what is run."""
    keep(kept, source(folder))
    for name in ("getuid", "geteuid"):
        monkeypatch.setattr(os, name, lambda: 4_000_000)
    assert kept.get(source(folder)) is None


def test_folder_that_cannot_be_made_is_no_error(folder: Path, tmp_path: Path) -> None:
    """A file is in its place."""
    (tmp_path / "file").touch()
    kept = Resolutions({"XDG_CACHE_HOME": str(tmp_path / "file")})
    keep(kept, source(folder))
    assert kept.get(source(folder)) is None


def test_disk_that_is_full_is_no_error(kept: Resolutions, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left then that would be taken for a resolution."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        keep(kept, source(folder))
    assert kept.get(source(folder)) is None


def test_only_so_many_are_kept(kept: Resolutions, folder: Path, caches: Path) -> None:
    """The oldest go first."""
    texts = []
    for number in range(MAX_KEPT + 3):
        (folder / f"{number}.yaml").write_text(f"service: s{number}")
        texts.append(keep(kept, source(folder, f"{number}.yaml")))
        newest = max(caches.iterdir(), key=lambda path: path.stat().st_ctime_ns)
        os.utime(newest, (number, number))
    assert len(list(caches.iterdir())) == MAX_KEPT
    assert kept.get(source(folder, f"{MAX_KEPT + 2}.yaml")) == texts[-1]
    assert kept.get(source(folder, "0.yaml")) is None


def test_launcher_imports_no_yaml_a_second_time(folder: Path, tmp_path: Path) -> None:
    """Nor anything else that reads or checks a configuration; the program gets the same."""
    code = (
        "import os, sys\nfrom flowtrace.cli import run\n"
        "def execve(program, command, environ):\n"
        "    heavy = {'yaml', 'msgspec', 'pluggy', 'argparse', 'typing', 're'} & sys.modules.keys()\n"
        "    print(sorted(heavy), environ[run.ENVIRONMENT_VARIABLE].partition(',\"run\":')[0])\n"
        "os.execve = execve\nrun.main(['--quiet', sys.executable])"
    )
    path = os.pathsep.join([os.path.dirname(os.path.dirname(BOOT)), *filter(None, sys.path)])
    environ = {"HOME": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-SPc", code]  # what site-packages import at start is not ours
    outputs = [
        subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    heavy, _, resolution = outputs[0].partition(" {")
    assert "'yaml'" in heavy
    assert outputs[1] == "[] {" + resolution
