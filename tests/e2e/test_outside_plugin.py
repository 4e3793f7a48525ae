"""A plugin that does not come with flowtrace, installed beside it as anybody would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import serving
from harness import ROOT, Ended, check_conservation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with a folder into which pip has installed the example plugin; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *options, str(ROOT / "plugins" / "example")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_its_sink_gets_the_events_of_a_server(tmp_path: Path, site: str) -> None:
    """The sink of the plugin counts exactly the calls that the file beside it holds."""
    sinks = [{"type": "file", "path": "traces/chat.jsonl"}, {"type": "top", "path": "top.txt", "size": 1000}]

    with serving(tmp_path, config={"sinks": sinks}, env={"PYTHONPATH": site}) as chat:
        with chat.join("Alice", "Bob"):
            pass
        chat.wait_until_empty()
        ended = chat.running.stop()

    calls = Counter(f"{event['class']}.{event['function']}" for event in ended.events if event["event"] == "ENTER")
    assert calls["ChatService.broadcast_to_room"] == 4
    assert listed(tmp_path / "top.txt") == calls
    check_conservation(ended.events, sink="top")


def test_its_values_are_shown_in_its_way(
    tmp_path: Path, site: str, write: Callable[[str, str], Path], run_traced: Callable[..., Ended]
) -> None:
    """Arguments of the type that the plugin describes are shown as it says."""
    script = write(
        "halve.py",
        """
        from fractions import Fraction
        def halve(value):
            return value / 2
        print(halve(Fraction(3, 4)))
        """,
    )

    ended = run_traced([sys.executable, str(script)], env={"PYTHONPATH": site})

    assert ended.stdout == "3/8\n", ended.stderr
    enter, leave = (event for event in ended.events if event["event"] in ("ENTER", "EXIT"))
    assert json.loads(enter["args"]) == {"value": "3/4"}
    assert json.loads(leave["result"]) == "3/8"


def test_without_it_its_type_is_unknown(tmp_path: Path, run_traced: Callable[..., Ended]) -> None:
    """Where the plugin is not installed, the launcher refuses its type in one line, and runs nothing."""
    ended = run_traced([sys.executable, "-c", "print('ran')"], config={"sinks": [{"type": "top"}]})

    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "sinks[0].type" in ended.stderr
    assert "top" in ended.stderr


def listed(path: Path) -> Counter[str]:
    """The calls by function in the list that the plugin has written."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return Counter({row[-1]: int(row[2]) for row in rows})
