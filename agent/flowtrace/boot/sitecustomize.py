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
    if _is_helper() or _is_subinterpreter() or _is_privileged():
        return
    try:
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            raise RuntimeError("builds of Python without the GIL are not supported")
        from flowtrace.config import Resolved, from_json

        resolved = from_json(text, Resolved)
        from flowtrace.agent import start

        start(resolved)
    except Exception as error:
        if "FLOWTRACE_STRICT" in os.environ:
            raise
        if isinstance(error, ModuleNotFoundError) and '"quiet":true' in text:
            return  # another Python, which has no flowtrace
        where = sys.executable or "this Python"
        os.write(2, f"flowtrace: {where}: not traced: {type(error).__name__}: {error}\n".encode())


def _is_helper() -> bool:
    """multiprocessing's resource tracker and fork server run no code of the program; the server's children do."""
    command = sys.orig_argv[-1] if "-c" in sys.orig_argv else ""
    return command.startswith("from multiprocessing.resource_tracker")


def _is_subinterpreter() -> bool:
    """They get a ``sitecustomize`` too, but no signal handlers, no daemon threads and no say in forks."""
    try:
        import _interpreters as interpreters  # type: ignore[import-not-found, unused-ignore]
    except ImportError:  # before 3.13
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found, no-redef, unused-ignore]
    current = interpreters.get_current()
    return int(current[0] if isinstance(current, tuple) else current) != 0


def _is_privileged() -> bool:
    """Whether this process may do more than whoever started it, whose environment says what is to be traced where."""
    ids = [getattr(os, f"get{name}", lambda: 0)() for name in ("uid", "euid", "gid", "egid")]
    return ids[0] != ids[1] or ids[2] != ids[3]


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


def _stay_in_front() -> None:
    """Of the command that puts a ``sitecustomize`` in front of ours that runs no other: ours runs it."""
    if "opentelemetry-instrument" not in map(os.path.basename, sys.orig_argv[:2]):
        return
    here = os.path.dirname(os.path.abspath(__file__))

    def before(event: str, _: object) -> None:
        if event == "os.exec":
            entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            first = [entry for entry in entries if entry == here]
            os.environ["PYTHONPATH"] = os.pathsep.join([*first, *(entry for entry in entries if entry != here)])

    sys.addaudithook(before)


_start()
_stay_in_front()
_run_the_users_own()
