"""Calls from signal handlers, finalizers and weakref callbacks, wherever they strike: all goes on, nothing is lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import ENDURANCE, Ended
from ledger import assert_balanced

PROGRAM = str(Path(__file__).with_name("storm.py"))
SECONDS = 60 if ENDURANCE else 5
ORDERED = sys.version_info >= (3, 12)  # before, the collector runs in allocations: after a number was taken, too
CONFIG: dict[str, Any] = {
    "targets": [{"modules": ["__main__"], "exclude": ["watch", "strike"]}],
    "queue": {"overflow": "block", "block_timeout": "1h"},
    "flush": {"shutdown_timeout": "30s"},
}

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("queue", ["32MiB", "256KiB"])
def test_calls_from_anywhere_are_recorded_once(run_traced: Callable[..., Ended], queue: str) -> None:
    """Each call is in the file or was made while the agent itself was at work, which is counted; the program ends.

    With the small queue, handlers and finalizers also strike while a call waits for room.
    """
    # fault T2, T3, T4
    config = CONFIG | {"queue": CONFIG["queue"] | {"max_bytes": queue}}

    ended = run_traced([sys.executable, PROGRAM, str(SECONDS)], config=config, timeout=300)

    assert ended.returncode == 0, ended.stderr
    result = assert_balanced(ended.traces, ordered=ORDERED)
    (account,) = result.accounts
    assert account.stop is not None
    assert (account.missing, account.open, account.stop["failures"]) == (0, {}, 0)
    assert account.calls + account.stop["suppressedCalls"] == json.loads(ended.stdout)["made"]
    assert account.calls > 1_000 * SECONDS


def test_forks_in_a_storm_are_processes_of_their_own(run_traced: Callable[..., Ended]) -> None:
    """Children forked while others record have complete traces, and end; the parent's is complete."""
    # fault P1, P2
    ended = run_traced([sys.executable, "-W", "ignore", PROGRAM, str(SECONDS), "fork"], config=CONFIG, timeout=300)

    assert ended.returncode == 0, ended.stderr
    result = assert_balanced(ended.traces, ordered=ORDERED)
    parent, *children = sorted(result.accounts, key=lambda account: account.pid != ended.pid)
    assert parent.stop is not None
    assert parent.calls + parent.stop["suppressedCalls"] == json.loads(ended.stdout)["made"]
    assert len(children) > SECONDS
    for child in children:
        assert child.stop is not None
        assert (child.missing, child.stop["failures"]) == (0, 0)
        assert child.calls >= 20 * 3
