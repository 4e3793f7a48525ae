"""Calls from signal handlers, finalizers and weakref callbacks, wherever they strike: all goes on, nothing is lost."""

from __future__ import annotations

import json
import shutil
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
FEWEST = {"made": 1_000, "signals": 20, "finalizers": 20, "callbacks": 20}  # in a second
CONFIG: dict[str, Any] = {
    "targets": [{"modules": ["__main__"], "exclude": ["watch", "strike"]}],
    "queue": {"overflow": "block", "block_timeout": "1h"},
    "flush": {"shutdown_timeout": "30s"},
    "sinks": [{"type": "file", "path": "traces/{pid}.jsonl", "rotate": {"max_size": "64GiB"}}],
}
EARLY = """
    import os
    import random
    import sys

    def call(number):
        return number

    class Reseeded(random.Random):
        def __setattr__(self, name, value):
            call(0)

    random._inst.__class__ = Reseeded  # `random` has had its hook before the agent
    if child := os.fork():
        os.waitpid(child, 0)
    for number in range(100):
        call(number)
"""
COLLECTED = """
    import gc
    import os
    import sys

    def call(number):
        return number

    class Dying:
        def __del__(self):
            call(0)

    def litter():
        one, other = Dying(), Dying()
        one.other, other.other = other, one

    for allocations in range(0, 100, 2):
        gc.disable()
        gc.collect()
        for _ in range(30):
            litter()
        gc.set_threshold(gc.get_count()[0] + allocations, 100, 100)
        gc.enable()
        if not (child := os.fork()):
            call(1)
            sys.exit()
        os.waitpid(child, 0)
"""
IMPORTING = """
    import logging
    import os
    import sys
    import threading
    import time

    class Watch:
        def find_spec(self, name, path, target=None):
            if name == "wrapt.importer":
                is_in_the_midst.set()
                time.sleep(0.2)

    def fork():
        is_in_the_midst.wait(10)
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)

    is_in_the_midst = threading.Event()
    sys.meta_path.insert(0, Watch())
    thread = threading.Thread(target=fork)
    thread.start()
    import first_target
    thread.join()
    sys.exit(not is_in_the_midst.is_set())
"""

pytestmark = pytest.mark.timeout(1200 if ENDURANCE else 400)


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
    told = json.loads(ended.stdout)
    assert account.calls + account.stop["suppressedCalls"] == told["made"]
    check_struck(told)
    shutil.rmtree(ended.traces)  # gigabytes in the long form, which pytest would keep


def test_forks_in_a_storm_are_processes_of_their_own(run_traced: Callable[..., Ended]) -> None:
    """Children forked while others record have complete traces, and end; the parent's is complete."""
    # fault P1, P2
    ended = run_traced([sys.executable, "-W", "ignore", PROGRAM, str(SECONDS), "fork"], config=CONFIG, timeout=300)

    assert ended.returncode == 0, ended.stderr
    result = assert_balanced(ended.traces, ordered=ORDERED)
    parent, *children = sorted(result.accounts, key=lambda account: account.pid != ended.pid)
    assert parent.stop is not None
    told = json.loads(ended.stdout)
    assert parent.calls + parent.stop["suppressedCalls"] == told["made"]
    check_struck(told)
    assert len(children) > SECONDS
    for child in children:
        assert child.stop is not None
        assert (child.missing, child.stop["failures"]) == (0, 0)
        assert child.calls >= 20 * 3
    shutil.rmtree(ended.traces)


def check_struck(told: dict[str, int]) -> None:
    """There was a storm: of each kind so many in each second, on a machine that has other things to do as well."""
    print(told)  # for who runs it with -s
    assert {kind: times // SECONDS for kind, times in told.items() if times < FEWEST[kind] * SECONDS} == {}


def test_child_that_calls_before_the_agent_knows_of_the_fork_begins_once(
    run_traced: Callable[..., Ended], write: Callable[[str, str], Path]
) -> None:
    """Hooks of other modules come before the agent's: what they call begins the child, and the hook nothing."""
    # fault P1
    ended = run_traced([sys.executable, str(write("early.py", EARLY))], config=CONFIG)

    assert ended.returncode == 0, ended.stderr
    result = assert_balanced(ended.traces)
    assert sorted(account.calls for account in result.accounts) == [100, 102]


def test_children_forked_in_the_midst_of_collections_begin_with_start(
    run_traced: Callable[..., Ended], write: Callable[[str, str], Path]
) -> None:
    """Wherever the collector runs while a child becomes one of its own: no finalizer's call comes before START."""
    # fault P1, T3
    ended = run_traced(
        [sys.executable, "-W", "ignore", str(write("collected.py", COLLECTED))], config=CONFIG, timeout=300
    )

    assert ended.returncode == 0, ended.stderr
    result = assert_balanced(ended.traces, ordered=ORDERED)
    assert len(result.accounts) == 1 + 50
    assert all(account.missing == 0 and account.calls for account in result.accounts)


def test_thread_forks_while_the_first_target_is_imported(
    run_traced: Callable[..., Ended], write: Callable[[str, str], Path]
) -> None:
    """What the agent imports then needs locks that `logging` takes before a fork: neither waits for the other."""
    # fault P1
    write("first_target.py", "def f(): pass")
    config = CONFIG | {"targets": [{"modules": ["first_target"]}]}

    ended = run_traced(
        [sys.executable, "-W", "ignore", str(write("importing.py", IMPORTING))], config=config, timeout=30
    )

    assert ended.returncode == 0, ended.stderr
