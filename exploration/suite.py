"""One package: its sources unpacked, an environment with it and its test requirements, and runs of its suite.

Downloads and environments stay in the cache; they are made anew when what they were made from changes. A run works on
a fresh copy of the sources, at a path that is the same for all runs, so that nothing but tracing tells runs apart.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from exploration.outcomes import Outcomes, read
from exploration.packages import HERE, Package, completed, requirements_of, version_of
from exploration.processes import Done, Processes

PROJECT = HERE.parent
PYTEST = (
    *("-m", "pytest", "--rootdir=.", "--continue-on-collection-errors"),
    "--timeout=300",  # suites have shorter ones, which say more about the machine than about tracing
)
RUNNERS = {"xdist": ("-n0",), "pytest_randomly": ("-p", "no:randomly")}  # by plugin: tests in order, in one process
PREPARE_TIMEOUT_S, RUN_TIMEOUT_S = 1_200, 1_800
RAN = (0, 1)  # pytest's status where all tests ran, and some failed


class SuiteError(Exception):
    """A suite could not be prepared, or not run; the message says which command failed and where its output is."""


class Run(NamedTuple):
    """A run of a suite: folder of what it left, pytest's status (a signal as a negative number), CPU time, outcomes."""

    folder: Path
    status: int
    cpu_s: float
    outcomes: Outcomes

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log.txt"


class Suite:
    """The suite of one package.

    With ``tests_too`` the functions of the test modules are targets as well. pytest then leaves their assertions as
    they are: it would load the modules by a loader of its own, and the agent leaves code that others rewrite alone.

    Args:
        package: Which one.
        cache: Folder of downloads and environments.
        processes: Runs the commands.
        say: Takes lines that tell how it goes.
        tests_too: See above.
    """

    def __init__(
        self, package: Package, cache: Path, processes: Processes, say: Callable[[str], None], *, tests_too: bool
    ) -> None:
        self.package = package
        self.doing = "waiting"
        self._cache, self._processes, self._say, self._tests_too = cache, processes, say, tests_too
        self._since = time.monotonic()

    @property
    def doing_for_s(self) -> float:
        """How long it has been doing what it does."""
        return time.monotonic() - self._since

    def _begin(self, what: str) -> None:
        self.doing, self._since = what, time.monotonic()

    # -- preparation ---------------------------------------------------------------------------------------------------

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Download, unpack and install, unless that has been done; hold the folder against other explorations.

        Raises:
            SuiteError: one of these failed, or the folder is held.
        """
        archive = self._downloaded()
        made_from = (
            archive.name,
            self.package.requires,
            sys.version,
            PROJECT,
            (PROJECT / "pyproject.toml").read_text(),
        )
        digest = hashlib.sha256(repr(made_from).encode()).hexdigest()[:8]
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        self.folder = self._cache / f"{archive.name.removesuffix('.tar.gz')}-{python}-{digest}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SuiteError(f"{self.package.name}: another exploration works in {self.folder}") from None
            if not (self.folder / "prepared").exists():
                self._prepare(archive)
            (installed,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
            self.package = completed(self.package, self._source, installed)._replace(version=version_of(self._source))
            self._in_order = [
                option for name, each in RUNNERS.items() if (installed / name).exists() for option in each
            ]
            yield

    @property
    def _source(self) -> Path:
        return self.folder / "source"

    @property
    def _python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    def _downloaded(self) -> Path:
        """The archive with the sources; which version is the newest, only the index knows."""
        name, version = self.package.name, self.package.version
        kept = self._cache / "downloads" / name / (version or "newest")
        kept.mkdir(parents=True, exist_ok=True)
        archives = list(kept.glob("*.tar.gz")) if version else []
        if not archives:
            self._begin("downloading")
            with tempfile.TemporaryDirectory(dir=kept) as folder:
                pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "--dest", folder)
                self._command(*pip, f"{name}=={version}" if version else name, log=kept / "log.txt", cwd=kept)
                archives = [path.rename(kept / path.name) for path in Path(folder).glob("*.tar.gz")]
        if not archives:
            raise SuiteError(f"{name}: its source distribution is no .tar.gz, see {kept / 'log.txt'}")
        return archives[0]

    def _prepare(self, archive: Path) -> None:
        self._begin("preparing")
        for name in ("venv", "source", "unpacked"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        log = self.folder / "prepare.txt"
        log.unlink(missing_ok=True)
        with tarfile.open(archive) as tar:
            tar.extractall(self.folder / "unpacked", filter="data")
        (root,) = (path for path in (self.folder / "unpacked").iterdir() if path.is_dir())
        root.rename(self._source)
        self._command(sys.executable, "-m", "venv", "--without-pip", self.folder / "venv", log=log, cwd=self.folder)
        pip: tuple[object, ...] = (
            sys.executable,
            "-m",
            "pip",
            "--python",
            self._python,
            "install",
            "--disable-pip-version-check",
        )
        pip += ("--editable", PROJECT, "pytest", "pytest-timeout", "pytest-reportlog")
        if self.package.requires is None:
            wanted = requirements_of(self._source)
            self._say(f"{self.package.name}: installing {' '.join(wanted).replace(str(self._source), '.')}")
            try:
                self._command(*pip, *wanted, log=log, cwd=self._source)
            except SuiteError as error:
                self._say(f"{error}; without what its tests require, then: --requires says what they need")
                self._command(*pip, self._source, log=log, cwd=self._source)
        else:
            self._command(*pip, self._source, *self.package.requires, log=log, cwd=self._source)
        (self.folder / "prepared").touch()

    def _command(self, *command: object, log: Path, cwd: Path) -> None:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        words = [str(each) for each in command]
        done = self._processes.run(words, cwd=cwd, environ=environ, log=log, timeout_s=PREPARE_TIMEOUT_S)
        if done.status:
            errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR: ")]
            reason = errors[-1] if errors else f"status {done.status} of {' '.join(words)}"
            raise SuiteError(f"{self.package.name}: {reason}, see {log}")

    # -- runs ----------------------------------------------------------------------------------------------------------

    def run(self, name: str, *, traced: bool, files: Sequence[str] = ()) -> Run:
        """Run the suite, or these files of it; ``name`` is that of the folder for what it leaves."""
        self._begin(f"running {name}")
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        report = folder / "report.jsonl"
        command = [str(self._python), *PYTEST, *self._in_order, f"--report-log={report}"]
        command += [*(["--assert=plain"] if self._tests_too else []), *self.package.options]
        command += [*(files or self.package.tests)]
        if traced:
            launcher = self._python.with_name("flowtrace-run")
            command = [str(launcher), "--quiet", "--config", str(self._config(folder)), *command]
        done = self._in_fresh_copy(command, log=folder / "log.txt")
        return Run(folder, done.status, done.cpu_s, read(report))

    def _in_fresh_copy(self, command: Sequence[str], *, log: Path) -> Done:
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        omit = {str(self._source): self.package.omit}  # by folder, as copytree asks
        shutil.copytree(self._source, work / "source", symlinks=True, ignore=lambda folder, _: omit.get(folder, ()))
        (work / "pytest.ini").touch()  # where the package has no such file, pytest must not find ours
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            environ = self._environ(temporary)
            return self._processes.run(command, cwd=work / "source", environ=environ, log=log, timeout_s=RUN_TIMEOUT_S)

    def _config(self, folder: Path) -> Path:
        """A configuration that traces everything and loses nothing: it waits for room in the queue."""
        file = folder / "flowtrace.yaml"
        sink = {"type": "file", "path": str(folder / "trace" / "{pid}.jsonl"), "rotate": {"max_size": "1024GiB"}}
        config = {
            "service": self.package.name,
            "targets": [{"modules": [*self.package.targets, *(["@project"] if self._tests_too else [])]}],
            "queue": {"max_events": 1_000_000, "max_bytes": "256MiB", "overflow": "block", "block_timeout": "1m"},
            "flush": {"shutdown_timeout": "2m"},
            "propagation": {"accept": False, "send": False},  # suites of HTTP clients look at every header
            "sinks": [sink],
        }
        file.write_text(json.dumps(config))
        return file

    def _environ(self, temporary: str) -> dict[str, str]:
        """Little of ours, and nothing that differs from run to run but the folder for files.

        That one has a short path, for tests make sockets in it.
        """
        kept = {name: os.environ[name] for name in ("PATH", "SSL_CERT_FILE", "LD_LIBRARY_PATH") if name in os.environ}
        return kept | {
            "PATH": f"{self._python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}",
            "HOME": temporary,
            "TMPDIR": temporary,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "COLUMNS": "120",
            "CI": "true",  # hypothesis then takes the same examples each time, and has no deadlines
            "PYTHONHASHSEED": "0",
        }
