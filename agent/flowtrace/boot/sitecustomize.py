"""Imported by Python at start-up, because `flowtrace-run` put this folder first on PYTHONPATH.

Leaves at once where there is nothing to trace; starts the agent; then runs the ``sitecustomize`` that Python would
have run without us. Nothing here may raise: a traced program starts like an untraced one.

Whatever Python the program starts reads this file, so it is written in what Python 2.7 and 3.11 have in common.
"""

import gc
import importlib
import os
import sys


def _start():
    text = os.environ.get("FLOWTRACE_RESOLVED")
    if not text:
        return
    where, is_quiet = sys.executable or "this Python", '"quiet":true' in text
    if sys.version_info < (3, 11):
        if not is_quiet:
            os.write(2, ("flowtrace: %s: not traced: it is older than Python 3.11\n" % where).encode("utf-8"))
        return
    if _is_helper() or _is_subinterpreter() or _is_privileged():
        return
    try:
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            raise RuntimeError("builds of Python without the GIL are not supported")
        _start_agent(text)
    except KeyboardInterrupt:  # somebody's Ctrl-C
        raise
    except BaseException as error:
        if "FLOWTRACE_STRICT" in os.environ:
            raise
        if isinstance(error, ImportError) and is_quiet:
            return  # another Python, which has no flowtrace
        os.write(2, ("flowtrace: %s: not traced: %s: %s\n" % (where, type(error).__name__, error)).encode("utf-8"))


def _start_agent(text):
    """Without collections meanwhile: modules and classes are no garbage, and to look for some takes 4 ms."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        from flowtrace.settings import read

        started = read(text)
        from flowtrace.agent import start

        start(started)
    finally:
        if was_enabled:
            gc.enable()


def _is_helper():
    """multiprocessing's resource tracker and fork server run no code of the program; the server's children do."""
    command = sys.orig_argv[-1] if "-c" in sys.orig_argv else ""
    return command.startswith("from multiprocessing.resource_tracker")


def _is_subinterpreter():
    """They get a ``sitecustomize`` too, but no signal handlers, no daemon threads and no say in forks."""
    try:
        import _interpreters as interpreters  # type: ignore[import-not-found, unused-ignore]
    except ImportError:  # before 3.13
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found, no-redef, unused-ignore]
    current = interpreters.get_current()
    return int(current[0] if isinstance(current, tuple) else current) != 0


def _is_privileged():
    """Whether this process may do more than whoever started it, whose environment says what is to be traced where."""
    ids = [getattr(os, "get" + name, lambda: 0)() for name in ("uid", "euid", "gid", "egid")]
    return ids[0] != ids[1] or ids[2] != ids[3]


def _run_the_users_own():
    """Import the next ``sitecustomize`` on the path in our place, as if this folder were not there."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    if sys.version_info < (3, 11):
        ours = sys.modules.pop("sitecustomize")
        try:
            importlib.import_module("sitecustomize")
        except ImportError:
            sys.modules["sitecustomize"] = ours
        return
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _stay_in_front():
    """Of the command that puts a ``sitecustomize`` in front of ours that runs no other: ours runs it."""
    if "opentelemetry-instrument" not in map(os.path.basename, getattr(sys, "orig_argv", [])[:2]):
        return
    here = os.path.dirname(os.path.abspath(__file__))

    def before(event, _):
        if event == "os.exec":
            entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            first = [entry for entry in entries if entry == here]
            os.environ["PYTHONPATH"] = os.pathsep.join(first + [entry for entry in entries if entry != here])

    sys.addaudithook(before)


_start()
_stay_in_front()
_run_the_users_own()
