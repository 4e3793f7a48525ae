"""``flowtrace ctl``: a running process is switched off and on, gets an edited configuration, and answers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chat_server
import harness
import httpx
import pytest

LOOP = """
    import time

    def tick(n, text="x" * 20):
        return n

    def tock(n, password="hunter2"):
        return n

    n = 0
    while True:
        n = tock(tick(n)) + 1
        if n == 10:
            print("ready", flush=True)
        time.sleep(0.001)
    """

Start = Callable[..., harness.Running]
Write = Callable[[str, str], Path]


def ctl(pid: int, *words: str) -> subprocess.CompletedProcess[str]:
    """What ``flowtrace ctl`` says to that process, and its status."""
    command = [sys.executable, "-c", "import sys; from flowtrace.cli.main import main; sys.exit(main())", "ctl"]
    return subprocess.run(
        [*command, str(pid), "--timeout", "60", *words], capture_output=True, text=True, timeout=90, check=False
    )


def done(pid: int, *words: str) -> str:
    """What it says, where it does what it is asked."""
    ended = ctl(pid, *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def start(write: Write, start_traced: Start) -> Callable[..., harness.Running]:
    """Start a program of this source, and wait until it says that it is ready."""

    def start(source: str = LOOP, **options: Any) -> harness.Running:
        write("app.py", source)
        running = start_traced([sys.executable, "app.py"], **options)
        harness.wait_until(lambda: "ready" in running.stdout, f"the program runs\n{running.stderr}")
        return running

    return start


def edit(running: harness.Running, **keys: Any) -> None:
    """Change these keys of the configuration that the harness has written."""
    path = running.traces.parent / "config.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def calls(events: Sequence[harness.Event], function: str) -> list[dict[str, Any]]:
    """The arguments of the calls of a function."""
    return [json.loads(event["args"]) for event in chat_server.entered([*events], function)]


def test_process_is_switched_off_and_on(start: Start) -> None:
    """While it is off nothing is recorded; the totals balance at the end."""
    running = start()
    pid = running.pid

    off, state, on, again = done(pid, "off"), done(pid, "status"), done(pid, "on"), done(pid, "status")
    ended = running.stop()

    assert re.fullmatch(rf"pid {pid}: off, [23] functions switched\n", off)  # 3: the script itself, while it runs
    assert re.fullmatch(rf"pid {pid}: on, [23] functions switched\n", on)
    assert state.startswith(f"pid {pid}: off, 2 functions in 1 module; file ")
    assert again.startswith(f"pid {pid}: on, 2 functions in 1 module; file ")
    harness.check_conservation(ended.events)


@pytest.mark.parametrize(
    "wait",
    [
        "time.sleep(1000)",
        "threading.Lock().acquire() and lock.acquire()",
        "os.read(os.pipe()[0], 1)",
        "signal.pause()",
        "[sum(range(5_000_000)) for _ in iter(int, 1)]",
        "asyncio.run(asyncio.sleep(1000))",
        "threading.Thread(target=time.sleep, args=[1000]).start()",
    ],
)
def test_answers_whatever_the_program_does(wait: str, start: Start) -> None:
    """Its threads may sleep, wait for locks, for input or for signals, or compute in C: none of them is needed."""
    running = start(f"""
        import asyncio, os, signal, threading, time
        def f(): ...
        lock = threading.Lock()
        lock.acquire()
        print("ready", flush=True)
        {wait}
        """)
    assert done(running.pid, "off").startswith(f"pid {running.pid}: off, ")
    running.kill()


def test_answers_however_rarely_events_are_sent(start: Start) -> None:
    """With a `flush.interval` of an hour too."""
    running = start(config={"flush": {"interval": "1h"}})
    assert ": off, " in done(running.pid, "off")
    harness.check_conservation(running.stop().events)


def test_answers_while_a_sink_hangs(start: Start) -> None:
    """Where calls wait for room, which a sink does not make, `off` frees the program of it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = {"type": "http", "url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        queue = {"overflow": "block", "max_bytes": "64KiB"}
        running = start(
            """
            import os, time
            def f(data): ...
            print("ready", flush=True)
            while not os.path.exists("off"):
                f("x" * 200)
            print("went on", flush=True)
            """,
            config={"queue": queue, "sinks": [sink], "flush": {"shutdown_timeout": "100ms"}},
        )
        pid = running.pid
        harness.wait_until(lambda: ", 0 waiting" not in (first := done(pid, "status")) and first == done(pid, "status"))

        assert ": off, " in done(pid, "off")

        (running.traces.parent / "off").touch()
        harness.wait_until(lambda: "went on" in running.stdout, "the program goes on")


def test_stopped_process_is_not_switched_later(start: Start) -> None:
    """What was not taken in time is taken back: it is not carried out when nobody expects it any more."""
    running = start()
    os.kill(running.pid, signal.SIGSTOP)

    late = ctl(running.pid, "off", "--timeout", "0.5")
    os.kill(running.pid, signal.SIGCONT)

    assert (late.returncode, "does not answer" in late.stderr) == (3, True)
    assert done(running.pid, "status").startswith(f"pid {running.pid}: on, ")
    running.stop()


def test_untraced_process_does_not_answer() -> None:
    """A process that flowtrace-run did not start is left alone, and status 3 says so."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as untraced:
        ended = ctl(untraced.pid, "off", "--timeout", "0.5")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.endswith("does not answer; was it started by flowtrace-run?\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_process_of_another_user_is_not_controlled(start: Start) -> None:
    """Who may not send it signals is told so at once."""
    running = start()
    imports = "import locale, os, shutil, sys; from flowtrace.cli import ctl, main"  # while it still may read them
    code = f"{imports}; os.setuid(65534); sys.exit(main.main())"
    command = [sys.executable, "-c", code, "ctl", str(running.pid), "off"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert ended.stderr == (
        f"flowtrace ctl: process {running.pid} belongs to another user; only its owner can control it\n"
    )
    running.stop()


def test_process_that_is_not_there_is_said() -> None:
    """An unknown process is one line and status 3."""
    ended = ctl(2**22 + 1, "off")
    assert ended.returncode == 3
    assert ended.stderr == f"flowtrace ctl: there is no process {2**22 + 1}\n"


# -- reload ----------------------------------------------------------------------------------------------------------


def test_bad_configuration_keeps_the_old_one(write: Write, start: Start) -> None:
    """What cannot be changed in a running process is refused with one line there and here; it goes on recording."""
    sinks = write("sinks.yaml", "sinks: []")
    running = start()

    refused = ctl(running.pid, "reload", "--config", str(sinks))
    ended = running.stop()

    said = "service: cannot be changed without a restart; the old configuration stays\n"
    assert (refused.returncode, refused.stderr) == (1, f"flowtrace ctl: {said}")
    assert f"flowtrace: pid {running.pid}: reload: {said}" in ended.stderr
    harness.check_conservation(ended.events)


def test_limits_and_redaction_change(start: Start) -> None:
    """From the first call that shows the new limits on, all do; the same with what is redacted."""
    running = start(config={"redact": {"defaults": False}})
    edit(running, redact={"names": ["password"]}, capture={"max_string": 3})

    assert done(running.pid, "reload").startswith(f"pid {running.pid}: reloaded, ")
    harness.wait_until(lambda: "hunter2" not in str(calls(running.events, "tock")[-1:]), "it is redacted")
    ended = running.stop()

    texts = [args["text"] for args in calls(ended.events, "tick")]
    passwords = [args["password"] for args in calls(ended.events, "tock")]
    assert (texts[0], passwords[0]) == ("x" * 20, "hunter2")
    for values in (texts, passwords):
        first = next(index for index, value in enumerate(values) if value != values[0])
        assert values == [values[0]] * first + [values[first]] * (len(values) - first)
    harness.check_conservation(ended.events)


def test_sampling_and_queue_change(start: Start) -> None:
    """A queue of one event, and no trace at all, are in force at once."""
    running = start()
    edit(running, queue={"max_events": 1})
    done(running.pid, "reload")
    harness.wait_until(lambda: any(event["event"] == "LOSS" for event in running.events), "calls are left out")
    edit(running, sampling={"rate": 0.0})
    done(running.pid, "reload")

    ended = running.stop()

    harness.check_conservation(ended.events)
    assert ended.events[-1]["skippedCalls"] > 0


def test_process_is_reloaded_as_it_was_started(write: Write, start: Start) -> None:
    """With the file, the ``--set`` options, the variables and the directory of its start, wherever it has gone."""
    running = start(
        "import os; os.chdir('/')" + LOOP.replace("\n    ", "\n"),
        options=["--set", 'targets[0].modules=["${MODULES}"]'],
        env={"MODULES": "app"},
    )
    edit(running, capture={"max_string": 3})

    assert done(running.pid, "reload").startswith(f"pid {running.pid}: reloaded, ")
    harness.wait_until(lambda: calls(running.events, "tick")[-1]["text"] != "x" * 20, "it is cut")
    running.stop()


# -- several processes -----------------------------------------------------------------------------------------------


def test_workers_are_switched_one_by_one(tmp_path: Path) -> None:
    """Each worker of a server answers for itself; requests that they serve while off are not recorded."""
    with chat_server.serving(tmp_path, "--workers", "2") as chat:
        harness.wait_until(lambda: chat.running.stderr.count("Application startup complete") == 2, "2 workers")
        from_environment = harness.wait_until(
            lambda: len(found := chat_server.entered(chat.running.events, "from_environment")) == 2 and found
        )
        workers = [event["pid"] for event in from_environment]
        for words, requests in [("off", 8), ("on", 5)]:
            for pid in workers:
                assert f"pid {pid}: {words}, " in done(pid, words)
            for _ in range(requests):
                httpx.get(f"http://127.0.0.1:{chat.port}/rooms", timeout=30).raise_for_status()
        ended = chat.running.stop()

    harness.check_conservation(ended.events)
    handled = [
        event for event in chat_server.entered(ended.events, "list_rooms") if event["module"] == "sample_app.api"
    ]
    assert len(handled) == 5


def test_child_that_is_forked_while_it_is_off_stays_off(start: Start) -> None:
    """Until it is switched on itself; the parent stays as it was."""
    running = start("""
        import os, pathlib, time
        def f(who): ...
        print("ready", flush=True)
        while not os.path.exists("fork"):
            time.sleep(0.01)
        who = "parent" if (pid := os.fork()) else "child"
        print(pid, flush=True)
        while not os.path.exists("stop"):
            f(who)
            time.sleep(0.01)
        if pid:
            os.wait()
        """)
    done(running.pid, "off")
    (running.traces.parent / "fork").touch()
    child = int(harness.wait_until(lambda: next(iter([*running.stdout.split()][1:]), None), "it forks") or 0)
    if child == 0:
        child = int(harness.wait_until(lambda: [*running.stdout.split()][2:], "both say so")[0])

    assert f"pid {child}: on, " in done(child, "on")
    harness.wait_until(lambda: calls(running.events, "f"), "the child records")
    (running.traces.parent / "stop").touch()
    ended = running.wait()

    harness.check_conservation(ended.events)
    assert {args["who"] for args in calls(ended.events, "f")} == {"child"}


# -- what is hard to find --------------------------------------------------------------------------------------------

REPORT = """
    import gc, json, os, sys, time
    import shop

    def wait_for(name):
        while not os.path.exists(name):
            time.sleep(0.005)

    print("ready", flush=True)
    wait_for("switched")
    shop.use()
    """


def test_frozen_functions_are_switched(start: Start, write: Write) -> None:
    """Servers freeze what they have imported before they fork."""
    write("shop.py", "import gc\ndef f(): ...\ngc.freeze()\ndef use(): ...\n")
    running = start(
        REPORT.replace("import shop", "import shop; gc.freeze()"), config={"targets": [{"modules": ["shop"]}]}
    )
    assert done(running.pid, "off") == f"pid {running.pid}: off, 2 functions switched\n"
    running.kill()


def test_function_that_names_another_module_becomes_a_target(start: Start, write: Write) -> None:
    """Libraries set ``__module__`` to the place from which a function is to be imported."""
    write("shop.py", "def f(): ...\nf.__module__ = 'public'\ndef use(): f()\n")
    running = start(REPORT, config={"targets": [{"modules": ["nothing"]}]})
    edit(running, targets=[{"modules": ["shop"]}])
    done(running.pid, "reload")
    (running.traces.parent / "switched").touch()
    assert running.wait().calls == ["shop.use", "shop.f"]


WRAPPED = "import dataclasses\n@dataclasses.dataclass\nclass Item:\n    n: int\ndef use(): Item(1)\n"
WITH_INIT = {"modules": ["shop"], "include": ["use", "Item.__init__"]}


@pytest.mark.parametrize(
    ("before", "after", "recorded"),
    [
        (WITH_INIT, {"modules": ["shop"], "include": ["use"]}, ["shop.use"]),
        ({"modules": ["nothing"]}, WITH_INIT, ["shop.use", "Item.__init__"]),
    ],
)
def test_wrappers_follow_a_reload(
    before: dict[str, Any], after: dict[str, Any], recorded: list[str], start: Start, write: Write
) -> None:
    """Generated functions, which get wrappers, become targets and cease to be."""
    write("shop.py", WRAPPED)
    running = start(REPORT, config={"targets": [before]})
    edit(running, targets=[after])
    done(running.pid, "reload")
    (running.traces.parent / "switched").touch()
    assert running.wait().calls == recorded


OWN_CODE = pytest.mark.xfail(strict=True, reason="a body under way makes functions of its own instrumented code")


@pytest.mark.parametrize("command", ["off", pytest.param("reload", marks=OWN_CODE)])
def test_functions_made_by_a_call_under_way_are_silent(command: str, start: Start, write: Write) -> None:
    """A call that began before ends in the trace; functions that it makes afterwards and are no targets do not."""
    write("shop.py", "def use(): ...\ndef runs(wait):\n    wait()\n    def made(): ...\n    made()\n")
    running = start(
        REPORT.replace('print("ready", flush=True)', "").replace(
            'wait_for("switched")', 'shop.runs(lambda: print("ready", flush=True) or wait_for("switched"))'
        ),
        config={"targets": [{"modules": ["shop"]}]},
    )
    edit(running, targets=[{"modules": ["shop"], "include": ["runs"]}])
    done(running.pid, command)
    (running.traces.parent / "switched").touch()
    assert running.wait().calls == ["shop.runs"]


def test_module_that_is_imported_while_it_is_switched_off(start: Start, write: Write) -> None:
    """When its import is over, all its functions have plain code."""
    write(
        "shop.py",
        """
        import os, time
        print("ready", flush=True)
        while not os.path.exists("switched"):
            time.sleep(0.005)
        def late(): ...
        exec("def plain(): ...")
        def use(): print(late.__code__.co_code == plain.__code__.co_code)
        """,
    )
    running = start("import shop\nshop.use()\n", config={"targets": [{"modules": ["shop"]}]})
    done(running.pid, "off")
    (running.traces.parent / "switched").touch()
    assert running.wait().stdout == "ready\nTrue\n"


def test_module_whose_file_has_changed_is_traced_as_it_runs(start: Start, write: Write) -> None:
    """What becomes a target is the code that runs, not what its file holds meanwhile; ATTACH says what was done."""
    shop = write("shop.py", "def use(): ...\n")
    running = start(REPORT, config={"targets": [{"modules": ["nothing"]}]})
    shop.write_text("def use(): print('changed')\n")
    edit(running, targets=[{"modules": ["shop"]}])
    done(running.pid, "reload")
    (running.traces.parent / "switched").touch()
    ended = running.wait()

    assert (ended.calls, ended.stdout) == (["shop.use"], "ready\n")
    attached = [event["functions"] for event in ended.events if event["event"] == "ATTACH"]
    assert [(function["name"], function["how"]) for functions in attached for function in functions] == [
        ("use", "instrumented")
    ]
