"""What the agent says on stderr: once what is traced, and each warning once, on one line and without secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtrace import announcement
from flowtrace.announcement import Announcement, ForkSilence, Warnings, plural
from flowtrace.config import Config, Started
from flowtrace.instrument import Function
from flowtrace.patcher import Traced
from flowtrace.redaction import Redactor

Said = Callable[[], str]


class Scene:
    """An announcement, what it looks at, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.is_importing = 100.0, False
        self.modules: dict[str, Traced] = {}
        monkeypatch.setattr(announcement, "time", types.SimpleNamespace(monotonic=lambda: self.now))

    def announcement(
        self, *, quiet: bool = False, root: bool = True, sinks: tuple[str, ...] = ("file",)
    ) -> Announcement:
        """The announcement of this process, which is the program itself or (not ``root``) one that it started."""
        started = Started(
            config=Config(service="shop"),
            plugins=(),
            ready=(),
            run="0" * 16,
            directory="/",
            project="/",
            quiet=quiet,
            root_pid=os.getpid() if root else 1,
        )
        return Announcement(
            started,
            sinks=sinks,
            modules=self.modules,
            warnings=Warnings(str),
            is_importing=lambda: self.is_importing,
        )

    def attach(self, name: str, *ways: str) -> None:
        """Add a module with one function for each of these ways of being traced."""
        functions = [Function(f"f{line}", line, "function", how) for line, how in enumerate(ways)]  # type: ignore[arg-type]
        self.modules[name] = Traced(name, f"/{name}.py", functions, [], [])


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Nothing is attached yet."""
    return Scene(monkeypatch)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    """What went to the file descriptor of stderr since the last call."""
    return lambda: capfd.readouterr().err


# -- what is traced --------------------------------------------------------------------------------------------------


def test_line_is_said_once_imports_rest(scene: Scene, said: Said) -> None:
    """Nothing is said while modules are being attached; one line when that has ended, and never again."""
    some = scene.announcement()
    for name in ("a", "b", "c"):
        scene.attach(name, "instrumented", "wrapper")
        scene.now += announcement.SETTLED_S
        some.when_settled()
    assert said() == ""

    for _ in range(3):
        scene.now += announcement.SETTLED_S
        some.when_settled()
    some.at_exit()

    assert said() == f"flowtrace: shop, pid {os.getpid()}: 6 functions in 3 modules traced, to file\n"


def test_import_that_is_under_way_is_waited_for(scene: Scene, said: Said) -> None:
    """A target that takes long to import delays the line, though not for ever."""
    some = scene.announcement()
    scene.attach("a", "instrumented")
    scene.is_importing = True
    some.when_settled()
    scene.now += announcement.IMPORTING_S - 1
    some.when_settled()
    assert said() == ""

    scene.now += 1
    some.when_settled()
    assert "1 function in 1 module traced" in said()


def test_nothing_is_said_before_the_first_module(scene: Scene, said: Said) -> None:
    """A program that imports its modules late is not announced as one without targets."""
    some = scene.announcement()
    for _ in range(5):
        scene.now += 100.0
        some.when_settled()
    assert said() == ""


def test_short_program_is_announced_at_its_end(scene: Scene, said: Said) -> None:
    """What ended before imports came to rest is said then."""
    some = scene.announcement(sinks=("file", "stdout"))
    scene.attach("a", "instrumented")
    some.at_exit()
    some.at_exit()
    assert said() == f"flowtrace: shop, pid {os.getpid()}: 1 function in 1 module traced, to file, stdout\n"


def test_program_without_targets_is_told_so(scene: Scene, said: Said) -> None:
    """Where nothing was traced, the line says why."""
    scene.announcement(sinks=()).at_exit()
    line = said()
    assert "0 functions in 0 modules traced, to no sink; no target was imported here" in line


def test_helper_process_without_targets_says_nothing(scene: Scene, said: Said) -> None:
    """A process that the program started for other ends, such as a resource tracker, is silent."""
    scene.announcement(root=False).at_exit()
    assert said() == ""


def test_helper_process_with_targets_says_so(scene: Scene, said: Said) -> None:
    """A worker that traces has a line of its own."""
    scene.attach("a", "instrumented")
    scene.announcement(root=False).at_exit()
    assert "1 function in 1 module traced" in said()


def test_quiet(scene: Scene, said: Said) -> None:
    """With ``--quiet`` nothing is said of what is traced."""
    some = scene.announcement(quiet=True)
    scene.attach("a", "instrumented")
    some.when_settled()
    scene.now += 100.0
    some.when_settled()
    some.at_exit()
    assert said() == ""


def test_functions_that_cannot_be_traced_are_counted_apart(scene: Scene, said: Said) -> None:
    """What is not traced is no part of the sum; modules without target functions are not counted."""
    scene.attach("a", "instrumented", "not traced", "not traced")
    scene.attach("b", "wrapper")
    scene.attach("empty")
    scene.announcement().at_exit()
    assert "2 functions in 2 modules traced (2 cannot be), to file" in said()


@pytest.mark.parametrize(("count", "text"), [(0, "0 modules"), (1, "1 module"), (2, "2 modules")])
def test_plural(count: int, text: str) -> None:
    """One is one, all else are several."""
    assert plural(count, "module") == text


# -- warnings --------------------------------------------------------------------------------------------------------


def test_each_warning_is_said_once(said: Said) -> None:
    """The same text is not repeated; another is said."""
    warnings = Warnings(str)
    for text in ("away", "away", "back", "away"):
        warnings.warn(text)
    assert said() == "flowtrace: away\nflowtrace: back\n"


def test_forked_process_says_it_again(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once is once per process."""
    warnings = Warnings(str)
    warnings.warn("away")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    warnings.warn("away")
    assert said() == "flowtrace: away\n" * 2


def test_warnings_have_an_end(said: Said) -> None:
    """A sink that words each failure differently does not fill the terminal for ever."""
    warnings = Warnings(str)
    for number in range(1_100):
        warnings.warn(f"batch {number} failed")
    assert said().count("\n") == 1_000


def test_warning_is_one_line_without_control_characters(said: Said) -> None:
    """Line ends, colours and bells in what a server answered do not reach the terminal."""  # fault X5
    Warnings(str).warn("no\r\nsuch\x1b[31m red\x07\x00 thing\u2028here \udc80 ü")
    assert said() == "flowtrace: no such\\x1b[31m red\\x07\\x00 thing here \\xdc80 ü\n"


def test_secrets_in_warnings_are_hidden(said: Said) -> None:
    """What an error says of a URL or a header is redacted like any value."""  # fault X3
    Warnings(Redactor().scrub).warn("cannot reach https://me:hunter2@example.com/v1")
    text = said()
    assert "hunter2" not in text
    assert "example.com/v1" in text


def run(code: str, tmp_path: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run ``code`` in a process of its own."""
    command = [sys.executable, "-c", f"from flowtrace.announcement import Warnings\n{code}"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, env=environ, cwd=tmp_path, check=False, timeout=60, **options)


def test_program_without_stderr_is_not_disturbed(tmp_path: Path) -> None:
    """Where nobody can hear it, a warning raises nothing."""  # fault S1
    done = run("import os\nos.close(2)\nWarnings(str).warn('x')\nprint('on')", tmp_path, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"on\n")


REPLACED = """
import os
{before}
warnings = Warnings(str)
warnings.warn("first")
{after}
warnings.warn("second")
print("on")
"""
OWN_FILE = "os.closerange(2, 9); assert os.open('mine', os.O_CREAT | os.O_RDWR) == 2"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("", OWN_FILE, b"flowtrace: first\n"),
        (OWN_FILE.replace("mine", "log"), OWN_FILE, b""),
        ("os.close(2)", OWN_FILE, b""),
        ("", "os.dup2(os.open('mine', os.O_CREAT | os.O_RDWR), 2)", b"flowtrace: first\n"),
        ("", "os.dup2(os.pipe()[1], 2)", b"flowtrace: first\n"),
        ("", "copy = os.dup(2); os.close(2); os.dup2(copy, 2)", b"flowtrace: first\nflowtrace: second\n"),
    ],
    ids=["closed", "a file before", "closed before", "a file in its place", "a pipe in its place", "the same again"],
)
def test_nothing_is_written_into_what_is_not_stderr(before: str, after: str, said: bytes, tmp_path: Path) -> None:
    """Where number 2 belongs to a file of the program's, or leads elsewhere than at the start, it gets no line."""
    # fault P11
    code = REPLACED.format(before=before, after=after)

    done = run(code, tmp_path, capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"on\n", said)
    mine = tmp_path / "mine"
    assert not (mine.exists() and mine.read_bytes())


def test_stderr_of_the_program_is_passed_by(tmp_path: Path) -> None:
    """``sys.stderr`` may be replaced, closed or None: the line goes to the descriptor."""
    done = run("import sys\nsys.stderr = None\nWarnings(str).warn('x')", tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"flowtrace: x\n")


def test_filter_stays_until_python_has_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the dispatcher's turns fall: not taken out while a fork is under way, nor at once where it is over."""
    scene = Scene(monkeypatch)
    silence = ForkSilence(own_threads=lambda: 1)

    def is_there() -> bool:
        return any(each is silence._filter for each in warnings.filters)

    with warnings.catch_warnings():
        silence.begin()
        silence.end_when_due()
        under_way = is_there()
        silence.end_in_parent()
        silence.end_when_due()
        just_over = is_there()
        scene.now += announcement.WARNED_S + 0.1
        silence.end_when_due()

        assert (under_way, just_over, is_there()) == (True, sys.version_info >= (3, 13), False)
