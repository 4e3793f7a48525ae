"""One package: its sources unpacked, an environment with it and its test requirements, and runs of its suite.

Downloads, sources and environments stay in the cache; they are made anew when what they were made from changes. A run
works on a fresh copy of the sources, so that nothing that one run leaves behind changes the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PROJECT = HERE.parent
CONSTRAINTS = HERE / "constraints.txt"
PYTEST = (
    *("-m", "pytest", "--rootdir=.", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"),
    "--timeout=300",  # suites have shorter ones, which say more about the machine than about tracing
)
RUN_TIMEOUT_S = 1_800


class SuiteError(Exception):
    """A suite could not be prepared; the message says which command failed and where its output is."""


class Package(NamedTuple):
    """An entry of ``packages.toml``.

    Attributes:
        name: Of the distribution on PyPI.
        version: Of the distribution.
        kind: What it is among the others for.
        targets: Globs of modules, all of whose functions are traced.
        requires: What its tests need beside pytest.
        arguments: Of pytest, from the root of the unpacked source distribution.
        build: Constraints on what it is built with.
        omit: Files and folders of the source distribution that are not there when the tests run.
        short: Whether it belongs to the short subset.
    """

    name: str
    version: str
    kind: str
    targets: Sequence[str]
    requires: Sequence[str] = ()
    arguments: Sequence[str] = ("tests",)
    build: Sequence[str] = ()
    omit: Sequence[str] = ()
    short: bool = False


class Run(NamedTuple):
    """What a run of a suite left: folder of its files, pytest's status (a negative signal number), CPU time."""

    folder: Path
    status: int
    cpu_s: float

    @property
    def report(self) -> Path:
        """The junit XML."""
        return self.folder / "junit.xml"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log.txt"


def packages() -> list[Package]:
    """All packages, in the order of ``packages.toml``."""
    with open(HERE / "packages.toml", "rb") as file:
        return [Package(name=name, **entry) for name, entry in tomllib.load(file).items()]


class Suite:
    """The suite of one package in a folder of its own below ``cache``.

    With ``tests_too`` the functions of the test modules are targets as well. pytest then leaves their assertions as
    they are: it would load the modules by a loader of its own, and the agent leaves code that others rewrite alone.
    """

    def __init__(self, package: Package, cache: Path, *, tests_too: bool = False) -> None:
        self.package = package
        self._targets = [*package.targets, *(["@project"] if tests_too else [])]
        self._options = ["--assert=plain"] if tests_too else []
        made_from = repr((package.version, package.requires, package.build, sys.version, CONSTRAINTS.read_text()))
        digest = hashlib.sha256(made_from.encode()).hexdigest()[:12]
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        self.folder = cache / f"{package.name}-{package.version}-{python}-{digest}"
        self.python = self.folder / "venv" / "bin" / "python"
        self._source = self.folder / "source"
        self._constraints = self.folder / "constraints.txt"

    def prepare(self) -> None:
        """Download, unpack and install, unless that has been done.

        Raises:
            SuiteError: one of these failed.
        """
        done = self.folder / "prepared"
        if done.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._constraints.write_text("\n".join((CONSTRAINTS.read_text(), *self.package.build)))
        self._command(sys.executable, "-m", "venv", self.folder / "venv")
        pip = (self.python, "-m", "pip", "--disable-pip-version-check")
        name = self.package.name
        wanted = f"{name}=={self.package.version}"
        self._command(*pip, "download", "--no-deps", "--no-binary", name, wanted, "--dest", self.folder / "sdist")
        self._unpack()
        needed = ("pytest", "pytest-timeout", *self.package.requires)
        self._command(*pip, "install", self._source, "--editable", PROJECT, *needed)
        done.touch()

    def _unpack(self) -> None:
        (archive,) = (self.folder / "sdist").glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(self.folder / "unpacked", filter="data")
        (root,) = (self.folder / "unpacked").iterdir()
        root.rename(self._source)

    def _command(self, *command: object) -> None:
        log = self.folder / "prepare.txt"
        environ = os.environ | {
            "PIP_CONSTRAINT": str(self._constraints),
            "PIP_BUILD_CONSTRAINT": str(self._constraints),
        }
        environ.pop("PYTHONPATH", None)
        with open(log, "ab") as output:
            done = subprocess.run(
                [str(each) for each in command],
                cwd=self._source if self._source.exists() else self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
            )
        if done.returncode:
            raise SuiteError(f"{self.package.name}: {' '.join(map(str, command))} failed, see {log}")

    def run(self, name: str, *, traced: bool) -> Run:
        """Run the suite; ``name`` is that of the folder for what it leaves."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        omitted = shutil.ignore_patterns(*self.package.omit) if self.package.omit else None
        shutil.copytree(self._source, folder / "source", symlinks=True, ignore=omitted)
        (folder / "pytest.ini").touch()  # where the package has no such file, pytest must not find ours
        command = [str(self.python), *PYTEST, f"--junitxml={folder / 'junit.xml'}"]
        command += [*self._options, *self.package.arguments]
        if traced:
            config = self._config(folder)
            command = [str(self.python.with_name("flowtrace-run")), "--quiet", "--config", str(config), *command]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            status, cpu_s = _run(command, self._environ(temporary), cwd=folder / "source", log=folder / "log.txt")
        shutil.rmtree(folder / "source", ignore_errors=True)
        return Run(folder, status, cpu_s)

    def _config(self, folder: Path) -> Path:
        file = folder / "flowtrace.yaml"
        path = str(folder / "trace" / "{pid}.jsonl")
        sink = {"type": "file", "path": path, "rotate": {"max_size": "1024GiB"}}
        rule = {"modules": self._targets}
        file.write_text(json.dumps({"service": self.package.name, "targets": [rule], "sinks": [sink]}))
        return file

    def _environ(self, temporary: str) -> dict[str, str]:
        """Little of ours, and nothing that differs from run to run but the folder for files.

        That one has a short path, for tests make sockets in it.
        """
        kept = {name: os.environ[name] for name in ("PATH", "SSL_CERT_FILE", "LD_LIBRARY_PATH") if name in os.environ}
        return kept | {
            "PATH": f"{self.python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
            "HOME": temporary,
            "TMPDIR": temporary,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "COLUMNS": "120",
            "PYTHONHASHSEED": "0",
        }


def _run(command: Sequence[str], environ: Mapping[str, str], *, cwd: Path, log: Path) -> tuple[int, float]:
    """Exit status, and CPU seconds of the process and the children it waited for."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        timer = threading.Timer(RUN_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
