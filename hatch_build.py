"""Compiles `flowtrace._native` for the wheel; where that does not work, the wheel is one in pure Python."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE, SOURCE = "flowtrace._native", "agent/flowtrace/_native.c"


class NativeHook(BuildHookInterface):
    """Called by hatchling around the build of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, and adds what came of it: to the wheel, or beside its source where the installation is editable."""
        self._folder = tempfile.mkdtemp()
        file = f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
        try:
            if version == "editable":
                self._compile_beside(Path(self.root, SOURCE).with_name(file))
            else:
                build_data["force_include"][str(self._compiled())] = f"flowtrace/{file}"
                build_data["pure_python"], build_data["infer_tag"] = False, True
        except Exception as error:  # noqa: BLE001  # whatever it is, flowtrace works without
            self.app.display_warning(f"{MODULE} is not compiled, flowtrace will run in pure Python: {error}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what was compiled, which is in the wheel by now."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _compile_beside(self, file: Path) -> None:
        file.unlink(missing_ok=True)  # what an older source gave must not stay if this one fails
        unfinished = file.with_name(f".{os.getpid()}{file.name}")
        shutil.copy(self._compiled(), unfinished)
        unfinished.replace(file)  # at once: another process may be importing it

    def _compiled(self) -> Path:
        """The shared library, made by setuptools, which knows how each Python wants it."""
        if sys.implementation.name != "cpython":
            raise NotImplementedError(f"it is made for CPython, this is {sys.implementation.name}")

        from setuptools import Distribution, Extension

        distribution = Distribution({"ext_modules": [Extension(MODULE, [str(Path(self.root, SOURCE))])]})
        command = distribution.get_command_obj("build_ext")
        command.build_lib = command.build_temp = self._folder
        command.ensure_finalized()
        command.run()
        [compiled] = map(Path, command.get_outputs())
        return compiled
