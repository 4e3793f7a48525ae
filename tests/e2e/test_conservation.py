"""Many threads at once, and a queue that makes them wait: everything arrives, once and in order."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ENDURANCE, Ended
from ledger import assert_balanced

PROGRAM = str(Path(__file__).with_name("burst.py"))
THREADS = 64
CALLS = 10_000_000 if ENDURANCE else 1_000_000


@pytest.mark.timeout(3600 if ENDURANCE else 120)
def test_nothing_of_a_burst_is_lost(tmp_path: Path, run_traced: Callable[..., Ended]) -> None:
    """64 threads make a million calls: each is in the file, in the order of its thread."""
    # fault T1
    config = {
        "targets": [{"modules": ["__main__"]}],
        "queue": {"overflow": "block", "block_timeout": "1h"},
        "flush": {"shutdown_timeout": "60s"},
        "sinks": [{"type": "file", "path": f"{tmp_path}/traces/{{pid}}.jsonl", "rotate": {"max_size": "64GiB"}}],
    }

    ended = run_traced([sys.executable, PROGRAM, str(THREADS), str(CALLS // THREADS)], config=config, timeout=3000)

    made = json.loads(ended.stdout)["calls"]
    result = assert_balanced(ended.traces)
    shutil.rmtree(ended.traces)  # hundreds of megabytes, which pytest would keep
    assert ended.returncode == 0, ended.stderr
    assert (result.calls, result.accounts[0].missing) == (made, 0)
    assert made >= CALLS
