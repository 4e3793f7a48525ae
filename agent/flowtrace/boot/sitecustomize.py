"""Imported by Python at start-up, because `flowtrace-run` put this folder first on PYTHONPATH.

Leaves at once where there is nothing to trace; starts the agent; then runs the ``sitecustomize`` that Python would
have run without us. Nothing here may raise: a traced program starts like an untraced one.
"""

import os
import sys


def _start() -> None:
    text = os.environ.get("FLOWTRACE_RESOLVED")
    if not text:
        return
    try:
        from flowtrace.config import Resolved, from_json

        resolved = from_json(text, Resolved)
        if _is_helper():
            return
        from flowtrace.agent import start

        start(resolved)
    except Exception as error:
        if "FLOWTRACE_STRICT" in os.environ:
            raise
        where = sys.executable or "this Python"
        os.write(2, f"flowtrace: {where}: not traced: {type(error).__name__}: {error}\n".encode())


def _is_helper() -> bool:
    """multiprocessing's resource tracker and fork server run no code of the program; the server's children do."""
    command = sys.orig_argv[-1] if "-c" in sys.orig_argv else ""
    return command.startswith("from multiprocessing.resource_tracker")


def _run_the_users_own() -> None:
    """Import the next ``sitecustomize`` on the path in our place, as if this folder were not there."""
    from importlib.machinery import PathFinder

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_start()
_run_the_users_own()
