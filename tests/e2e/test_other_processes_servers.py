"""gunicorn's processes deliver every call, as those of uvicorn do.

Its own workers end by ``sys.exit``. Those of uvicorn run the server to its end, which raises the signal once more:
gunicorn's class for them has put the default actions back for it, which would end the process past `atexit`.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

import harness
import pytest
from comparison import Comparison
from serving import serve

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
UVICORN = ["-k", "uvicorn_worker.UvicornWorker", "served:app"]
PRELOAD = pytest.mark.parametrize("preload", [False, True], ids=["no preload", "preload"])
WORKERS = {
    "sync": ["-k", "sync", "served:wsgi"],
    "threads": ["-k", "gthread", "--threads", "3", "served:wsgi"],
    "gevent": ["-k", "gevent", "served:wsgi"],
}


@pytest.fixture
def comparison(tracer: harness.Tracer) -> Comparison:
    """Runs a program without and with flowtrace."""
    return Comparison(tracer)


def check_gunicorn(comparison: Comparison, worker: Sequence[str], number: int, port: int, *, preload: bool) -> None:
    """Run two workers and compare."""
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "2", *(["--preload"] if preload else [])]

    ended = serve(comparison, ["gunicorn", *options, *worker], port, processes=1 if preload else 2, number=number)

    comparison.check_all_delivered(ended)


@SIGNALS
@PRELOAD
@pytest.mark.parametrize("kind", WORKERS)
def test_workers_of_gunicorn(
    kind: str, preload: bool, number: signal.Signals, comparison: Comparison, free_port: int
) -> None:
    """They deliver all, whether they import the application or are forked with it."""  # fault P13
    if kind == "threads" and number == signal.SIGINT:
        pytest.skip("untraced, they hang now and then when both the terminal and the first process tell them to end")
    check_gunicorn(comparison, WORKERS[kind], number, free_port, preload=preload)


@SIGNALS
@PRELOAD
def test_workers_of_uvicorn(preload: bool, number: signal.Signals, comparison: Comparison, free_port: int) -> None:
    """They deliver all, the calls of the application's shutdown included."""  # fault P7, P13
    check_gunicorn(comparison, UVICORN, number, free_port, preload=preload)
