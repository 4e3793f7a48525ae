"""Runs the probe untraced, traced, and traced but switched off: once each, however many processes share the tests."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import py_compile
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parent / "samples"

# features whose modules are not in the folder of features, but made of its files; and how they are called
BUILT = {"namespace": "space.inside", "zipped": "in_zip.inside", "sourceless": "compiled", "large": "large"}
if sys.version_info >= (3, 12):
    BUILT["type_parameters"] = "type_parameters"
PORTIONS = {"one": ("beside.py", "method.py"), "two": ("inside.py", "sync.py")}  # of the namespace package
STEMS = sorted(path.stem for path in (SAMPLES / "features").glob("[!_]*.py"))
FEATURES = {stem: f"samples.features.{stem}" for stem in ["frozen", *STEMS]} | BUILT  # in the order of their import
EXTENSION = "_statistics"
TARGETS = ["samples.features.*", *BUILT.values(), EXTENSION]


@dataclass(frozen=True)
class Run:
    """A run of the probe.

    Attributes:
        report: What it has seen, by feature and aspect.
        ended: The process, its streams and its trace.
    """

    report: dict[str, dict[str, Any]]
    ended: harness.Ended

    @property
    def said(self) -> str:
        """What it wrote to its streams, addresses of objects left out."""
        return re.sub("0x[0-9a-f]{6,}", "0x", f"{self.ended.stdout}\n{self.ended.stderr}")

    @functools.cached_property
    def events(self) -> list[harness.Event]:
        """What its processes have traced."""
        return self.ended.events


class Runs:
    """The runs of one session of tests.

    Args:
        folder: Shared by all processes of the session.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Run] = {}

    def __getitem__(self, mode: str) -> Run:
        """The run that is called ``plain``, ``on`` or ``off``."""
        if mode not in self._known:
            folder = self._folder / mode
            with _alone(self._folder / f"{mode}.lock"):
                if not folder.exists():
                    folder.mkdir()
                    _run(folder, mode, self._built())
            report, ended = json.loads((folder / "report.json").read_text()), json.loads((folder / "ended").read_text())
            self._known[mode] = Run(report, harness.Ended(*ended, folder / "traces"))
        return self._known[mode]

    def _built(self) -> list[Path]:
        folder = self._folder / "built"  # one for all runs: its path is part of the code
        with _alone(self._folder / "built.lock"):
            if not folder.exists():
                build(folder)
        return [folder, folder / "archive.zip", *(folder / portion for portion in PORTIONS)]


def _run(folder: Path, mode: str, built: list[Path]) -> None:
    features, report = folder / "features.json", folder / "report.json"
    features.write_text(json.dumps(FEATURES))
    path = os.pathsep.join(map(str, [*built, SAMPLES.parent]))
    environment = {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(HERE / "probe.py"), str(features), str(report), mode]
    tracer = harness.Tracer(folder)
    if mode == "plain":
        ended = tracer.run_plain(command, env=environment)
    else:
        room = {"queue": {"max_events": 1 << 20, "max_bytes": "256MiB"}, "flush": {"shutdown_timeout": "60s"}}
        config = {"targets": [{"modules": TARGETS}], "capture": {"max_depth": 1}, **room}
        ended = tracer.run(command, env=environment, config=config, options=["--quiet"])
    assert ended.returncode == 0, ended.stderr
    (folder / "ended").write_text(json.dumps([ended.pid, ended.returncode, ended.stdout, ended.stderr]))


def build(folder: Path) -> None:
    """Make the modules of `BUILT` of files of the samples."""
    source = SAMPLES / "features/sync.py"
    for portion, (name, origin) in PORTIONS.items():
        (folder / portion / "space").mkdir(parents=True)
        shutil.copy(source.with_name(origin), folder / portion / "space" / name)
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("in_zip/__init__.py", "")
        archive.write(source, "in_zip/inside.py")
    py_compile.compile(str(source), str(folder / "compiled.pyc"), dfile=str(folder / "compiled.py"), doraise=True)
    shutil.copy(SAMPLES / "type_parameters.txt", folder / "type_parameters.py")
    (folder / "large.py").write_text(large())


def large() -> str:
    """Functions with more names, constants, lines and longer jumps than one byte of an instruction's argument holds."""
    names = [f"name_{number}" for number in range(300)]
    assigned = "".join(f"        {name} = {number}.5\n" for number, name in enumerate(names))
    lines = [
        "def many(see, value):\n    for turn in range(2):\n        try:\n            kept = see(value)\n",
        "        except ArithmeticError:\n            continue\n",
        assigned,
        f"        inner = lambda: ({', '.join(names)})\n        kept = see(value)\n",
        f"    return sum(inner()), {' + '.join(names)}\n\n\n",
        f"def steps(see, value, {', '.join(names)}):\n    while {names[-1]}:\n        {names[-1]} -= 1\n",
        *(f"        yield {name}, {number + 1000}\n" for number, name in enumerate(names[:60])),
        "        kept = see(value)\n\n\n",
        f"def use(see, value):\n    return many(see, value), len(list(steps(see, value, {', '.join(['1'] * 300)})))\n",
    ]
    return "".join(lines)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock between processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
