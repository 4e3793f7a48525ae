"""The agent as a whole, started in a process of its own with a sink that remembers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowtrace.cli.run import started
from flowtrace.config import Queue, Resolved, Rule, handed_on
from tests.agent.program import config

PLUGIN = """
from flowtrace.config import Options
from flowtrace.hooks import hookimpl
from flowtrace.testing import MemorySink

sinks = []

class MemoryOptions(Options, frozen=True, kw_only=True):
    pass

def make(options, context):
    sinks.append(MemorySink())
    return sinks[-1]

@hookimpl
def flowtrace_register_sinks(register):
    register("memory", make, MemoryOptions)

class Puzzle:
    pass

@hookimpl
def flowtrace_register_values(register):
    register(Puzzle, lambda puzzle: 1 / 0)
"""

SHOP = """
import asyncio

async def buys(n):
    await asyncio.sleep(0)
    return n

def f(x):
    return x
"""

START = """
import asyncio, json, os, sys, threading
from flowtrace.agent import start
from flowtrace.settings import read
import memory_plugin

agent = start(read(sys.argv[1]))
def finish(**more):
    agent.stop()
    print(json.dumps({"events": [s.events for s in memory_plugin.sinks], **more}))
"""


class Scene:
    """Runs a script in a process where the agent has been started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "memory_plugin.py").write_text(PLUGIN)
        (folder / "shop.py").write_text(SHOP)

    def run(
        self, script: str, *, before: str = "", returncode: int = 0, stderr: str = "", **changes: Any
    ) -> dict[str, Any]:
        """What the script hands to ``finish``; ``before`` runs first, ``changes`` are to the configuration."""
        rules = {"service": "test", "targets": (Rule(modules=("shop",)),), "sinks": ({"type": "memory"},), **changes}
        resolved = Resolved(
            config=msgspec.structs.replace(config(), **rules), plugins=("memory_plugin",), ready=(None,),
            directory=str(self.folder), project=str(self.folder),
        )  # fmt: skip
        (self.folder / "script.py").write_text(before + START + script)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), *sys.path]), "FLOWTRACE_STRICT": "1"}
        ended = subprocess.run(
            [sys.executable, "script.py", started(handed_on(resolved), quiet=True)],
            cwd=self.folder, env=env, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert ended.returncode == returncode, ended.stderr
        assert re.sub(r"pid \d+", "pid PID", ended.stderr) == stderr
        return json.loads(ended.stdout) if ended.stdout else {}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A folder with a program and a plugin whose sink remembers."""
    return Scene(tmp_path)


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def test_a_process_tells_its_start_what_is_attached_and_its_end(scene: Scene) -> None:
    """START is first, ATTACH tells of each module, STOP is last; the totals hold."""
    (events,) = scene.run("import shop\nshop.f(1)\nfinish()\n")["events"]

    assert [event["event"] for event in events] == ["START", "ATTACH", "ENTER", "EXIT", "STOP"]
    assert [event["seq"] for event in events] == list(range(5))
    assert (events[0]["schema"], events[0]["service"], events[0]["sinks"]) == (1, "test", ["memory"])
    assert events[1]["functions"][1] == {"name": "f", "line": 8, "how": "instrumented"}
    assert events[-1]["recorded"] == events[-1]["delivered"]["memory"] == 4


STRIKE = """
import os, signal
import flowtrace.threads

moments = []
start_thread = flowtrace.threads.start

def moment():
    moments.append(None)
    if len(moments) == {number}:
        os.kill(os.getpid(), signal.SIGTERM)

def start_struck(function):
    moment()
    start_thread(function)
    moment()

flowtrace.threads.start = start_struck
"""


@pytest.mark.parametrize("number", range(1, 5))
def test_signal_while_threads_are_started_loses_nothing(scene: Scene, number: int) -> None:
    """Before and behind the start of each, the sink's and the dispatcher's: START is delivered, nothing waited for."""
    # fault P7
    scene.run("print('went on', file=sys.stderr)", before=STRIKE.format(number=number), returncode=-signal.SIGTERM)


def test_full_queue_is_said_with_its_remedy(scene: Scene) -> None:
    """What was lost is one line on stderr, with the count that STOP has and what helps."""
    lost = "10 events did not reach memory; the queue was full"
    said = f"flowtrace: pid PID: {lost}: queue.overflow: block waits instead, a larger queue holds more\n"
    script = "import shop\nfor _ in range(5): shop.f(1)\nfinish()\n"

    (events,) = scene.run(script, stderr=said, queue=Queue(max_events=0))["events"]

    assert events[-1]["lost"] == {"memory": 10}


def test_description_that_fails_is_said_and_counted(scene: Scene) -> None:
    """Once, on stderr; STOP says how many values could not be shown."""
    script = "import shop\nfor _ in range(5): shop.f(memory_plugin.Puzzle())\nfinish()\n"
    failed = "raised ZeroDivisionError for the third time; it is used no more"
    said = f"a plugin's description of <memory_plugin.Puzzle> {failed}"

    (events,) = scene.run(script, stderr=f"flowtrace: {said}\n")["events"]

    assert events[-1]["uncapturedValues"] == 3
    assert (events[-1]["failures"], len(of_kind(events, "EXIT"))) == (0, 5)


def test_events_name_their_task(scene: Scene) -> None:
    """Inside an asyncio task the event has its name, elsewhere it has none."""
    script = (
        "import shop\nasync def main():\n    await asyncio.create_task(shop.buys(1), name='first')\n    shop.f(2)\n"
        "shop.f(0)\nasyncio.run(main())\nfinish()\n"
    )

    (events,) = scene.run(script)["events"]

    enters = of_kind(events, "ENTER")
    assert [event.get("task") for event in enters[:2]] == [None, "first"]
    assert enters[2]["task"].startswith("Task-")
    assert [event["function"] for event in enters] == ["f", "buys", "f"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_a_process_of_its_own(scene: Scene) -> None:
    """It delivers its own events only, under its own pid and ids, below the call it was forked in."""  # fault P1
    script = (
        "import shop\n"
        "shop.f(1)\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        shop.f(2)\n"
        "        agent.stop()\n"
        "        os.write(write, json.dumps(memory_plugin.sinks[-1].events).encode())\n"
        "    finally:\n"
        "        os._exit(0)\n"
        "os.wait(), os.close(write)\n"
        "shop.f(3)\n"
        "finish(child=json.loads(os.read(read, 100_000)))\n"
    )

    ended = scene.run(script)

    parent, child = ended["events"][0], ended["child"]
    assert [event["args"] for event in of_kind(parent, "ENTER")] == ['{"x":1}', '{"x":3}']
    assert [event["args"] for event in of_kind(child, "ENTER")] == ['{"x":2}']
    assert [event["event"] for event in child] == ["START", "ATTACH", "ENTER", "EXIT", "STOP"]
    assert {event["pid"] for event in child}.isdisjoint(event["pid"] for event in parent)
    assert not {e["spanId"] for e in of_kind(child, "ENTER")} & {e["spanId"] for e in of_kind(parent, "ENTER")}
    assert child[-1]["recorded"] == child[-1]["delivered"]["memory"] == 4


def test_switched_off_nothing_is_recorded(scene: Scene) -> None:
    """Between off and on there is no event, whatever is called or imported."""
    script = (
        "agent.switch(on=False)\nimport shop\nshop.f(1)\nagent.switch(on=True)\nshop.f(2)\n"
        "agent.switch(on=False)\nshop.f(3)\nfinish()\n"
    )

    (events,) = scene.run(script)["events"]

    assert [event["args"] for event in of_kind(events, "ENTER")] == ['{"x":2}']


def test_switched_off_libraries_have_their_own_code(scene: Scene) -> None:
    """What is spliced has the code that Python compiled, also where it is imported meanwhile; and comes back."""
    got = scene.run(
        "import shop, http.client, wsgiref.handlers\n"
        "def lengths():\n"
        "    from starlette.applications import Starlette\n"
        "    spliced = http.client.HTTPConnection.endheaders, wsgiref.handlers.BaseHandler.run, Starlette.__call__\n"
        "    return [len(each.__code__.co_code) for each in spliced]\n"
        "agent.switch(on=False)\noff = lengths()\nagent.switch(on=True)\non = lengths()\n"
        "agent.switch(on=False)\nfinish(off=off, on=on, again=lengths())\n"
    )

    assert got["off"] == got["again"]
    assert all(off < on for off, on in zip(got["off"], got["on"], strict=True))


@pytest.mark.parametrize("after", ["reload", "switch off, reload, switch on"])
def test_propagation_may_be_changed_while_the_program_runs(scene: Scene, after: str) -> None:
    """A reload decides whether requests are told where they belong."""
    got = scene.run(
        "import http.client, msgspec, shop\n"
        "from flowtrace.config import Propagation\n"
        "class Connection(http.client.HTTPConnection):\n"
        "    sent = b''\n"
        "    def send(self, data): self.sent += data\n"
        "def sends():\n"
        "    agent.recorder.current.set((1, 2))\n"
        "    connection = Connection('a')\n"
        "    connection.request('GET', '/')\n"
        "    agent.recorder.current.set(None)\n"
        "    return b'traceparent' in connection.sent\n"
        "before = sends()\n"
        "def change():\n"
        "    new = read(sys.argv[1])\n"
        "    new.config.propagation.send = False\n"
        "    agent.reload(new)\n"
        + ("change()\n" if after == "reload" else "agent.switch(on=False)\nchange()\nagent.switch(on=True)\n")
        + "shop.f(1)\nfinish(before=before, after=sends())\n"
    )

    assert (got["before"], got["after"]) == (True, False)
    assert of_kind(got["events"][0], "ENTER")


def test_what_only_a_start_can_change_is_refused(scene: Scene) -> None:
    """A reload with another service is an error, and the old configuration stays."""
    script = (
        "import shop, msgspec\n"
        "from flowtrace.errors import ConfigError\n"
        "new = read(sys.argv[1])\n"
        "new.config.service, new.config.targets = 'other', ()\n"
        "try:\n    agent.reload(new)\nexcept ConfigError as error:\n    said = str(error)\n"
        "shop.f(1)\nfinish(said=said)\n"
    )

    ended = scene.run(script)

    assert "service" in ended["said"]
    assert len(of_kind(ended["events"][0], "ENTER")) == 1


def test_stopping_twice_is_stopping_once(scene: Scene) -> None:
    """A second stop, from atexit or a signal handler, does nothing; calls afterwards still work."""
    (events,) = scene.run("import shop\nagent.stop()\nassert shop.f(1) == 1\nfinish()\n")["events"]

    assert [event["event"] for event in events] == ["START", "ATTACH", "STOP"]


def test_request_at_the_end_changes_nothing(scene: Scene) -> None:
    """What ``flowtrace ctl`` asks while the agent stops does not make it record what nobody delivers."""
    script = (
        "import shop\nagent.stop()\nagent.switch(on=False)\nagent.switch(on=True)\nagent.reload(agent._resolved)\n"
        "shop.f(1)\nfinish(queued=len(agent.recorder.queue))\n"
    )
    assert scene.run(script)["queued"] == 1  # the ATTACH of the reload


def test_threads_that_outlive_the_stop_harm_nothing(scene: Scene) -> None:
    """Calls made while and after the agent stops run as ever, and the totals hold."""
    script = (
        "import shop\n"
        "over = threading.Event()\n"
        "def work():\n    while not over.wait(0.001): assert shop.f(1) == 1\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "while not memory_plugin.sinks[0].batches: pass\n"
        "agent.stop()\n"
        "over.set()\n"
        "for thread in threads: thread.join()\n"
        "events = memory_plugin.sinks[0].events\n"
        "print(json.dumps({'stop': events[-1], 'count': len(events)}))\n"
    )

    ended = scene.run(script)

    stop = ended["stop"]
    assert stop["event"] == "STOP"
    assert stop["delivered"]["memory"] == ended["count"] - 1
    assert stop["recorded"] == stop["delivered"]["memory"] + stop["lost"]["memory"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [0, 1])
def test_forking_warns_of_the_programs_own_threads_only(scene: Scene, threads: int) -> None:
    """Python 3.12 warns where a process with several threads forks; those of the agent are no reason."""
    script = (
        "import warnings\n"
        "over = threading.Event()\n"
        f"for _ in range({threads}): threading.Thread(target=over.wait).start()\n"
        "filters = list(warnings.filters)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    if os.fork() == 0: os._exit(0)\n"
        "os.wait()\n"
        "over.set()\n"
        "finish(warned=len(caught), same=filters == warnings.filters)\n"
    )

    ended = scene.run(script)

    assert ended["warned"] == (threads if sys.version_info >= (3, 12) else 0)
    assert ended["same"]
