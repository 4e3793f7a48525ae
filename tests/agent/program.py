"""A program in a folder, imported into the test's process with the agent's importer in place: no threads, no sinks."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from flowtrace import constants
from flowtrace.attachment import Attachment
from flowtrace.config import Config, Rule
from flowtrace.events import ENTER
from flowtrace.importer import Importer
from flowtrace.recorder import Recorder
from flowtrace.splices import Splices


class Program:
    """Modules below a folder, and what was recorded of them."""

    def __init__(self, folder: Path, *rules: dict[str, Any]) -> None:
        self.folder = folder
        self.recorder = Recorder()
        self.recorder.state.strict = True
        self.said: list[dict[str, Any]] = []
        self.warned: list[str] = []
        self.attachment = Attachment(
            self.recorder,
            config(*rules),
            project=str(folder),
            describe={},
            say=lambda name, **fields: self.said.append({"event": name, **fields}),
            warn=self.warned.append,
        )
        self.splices = Splices(self.recorder)
        self.importer = Importer(self.attachment, self.splices)

    def write(self, name: str, source: str) -> Path:
        """A source file of the program."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    def load(self, name: str, source: str | None = None) -> Any:
        """Import a module, from this source where there is one."""
        if source is not None:
            self.write(name.replace(".", "/") + ".py", source)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def calls(self) -> list[str]:
        """The functions that were entered since this was last asked."""
        records, targets = list(self.recorder.queue), self.recorder.targets
        self.recorder.queue.clear()
        return [f"{targets[r[1]].module}:{targets[r[1]].qualname}" for r in records if r[0] == ENTER]

    def how(self, module: str) -> dict[str, str]:
        """How each target function of a module is traced, as its ATTACH event says."""
        event = next(event for event in reversed(self.said) if event.get("module") == module)
        return {function["name"]: function["how"] for function in event["functions"]}


def config(*rules: dict[str, Any]) -> Config:
    """A configuration with these rules, and nothing else that is not the default."""
    return Config(targets=tuple(msgspec.convert(rule, Rule) for rule in rules))


@contextlib.contextmanager
def program(folder: Path, *rules: dict[str, Any]) -> Iterator[Program]:
    """Such a program, as long as the block lasts; its modules are forgotten afterwards."""
    running = Program(folder, *rules)
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    constants.resolve = running.attachment.resolve
    running.importer.install()
    try:
        yield running
    finally:
        running.importer.remove()
        constants.resolve = None
        sys.path[:] = path
        for name in set(sys.modules) - before:
            spec = getattr(sys.modules[name], "__spec__", None)
            places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
            if any(place.startswith(str(folder)) for place in places):
                del sys.modules[name]
        sys.path_importer_cache.pop(str(folder), None)
