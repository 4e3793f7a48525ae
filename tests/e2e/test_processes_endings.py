"""However a program ends, it ends as it would untraced, and what it has called is delivered as far as is promised.

`docs/processes.md` has the table. What ends a process past Python, like ``os._exit`` or a crash, leaves Python no time
to deliver: there the tests wait until the calls before are in the file, and allow the last one to be missing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import harness
import pytest
from comparison import PROGRAMS, Comparison, Counted, by_name, calls_entered
from ledger import assert_balanced

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PYTHON = sys.executable


@pytest.fixture
def comparison(tracer: harness.Tracer) -> Comparison:
    """Runs a program without and with flowtrace."""
    return Comparison(tracer)


# -- by itself -------------------------------------------------------------------------------------------------------

ENDINGS = {
    "returns": "",
    "sys.exit": "sys.exit(3)",
    "sys.exit in a call": """
        def leave():
            count("leave")
            sys.exit("over")
        leave()
        """,
    "sys.exit in a thread": """
        def leave():
            count("leave")
            sys.exit(4)
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        works(3)
        """,
    "a thread ends after the program": """
        import atexit
        def late(main):
            count("late")
            main.join()
            time.sleep(0.2)
            works(5)
        threading.Thread(target=late, args=[threading.current_thread()]).start()
        atexit.register(works, 2)
        """,
    "raises": """
        def fail():
            count("fail")
            raise LookupError("no such thing")
        fail()
        """,
}


@pytest.mark.parametrize("form", ["script", "module"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_all_is_delivered_at_the_end(ending: str, form: str, comparison: Comparison) -> None:
    """A script and a module that end by themselves."""
    comparison.write(f"works(20)\n{ENDINGS[ending]}".replace("\n        ", "\n"))

    ended = comparison.run([PYTHON, "app.py"] if form == "script" else [PYTHON, "-m", "app"])

    comparison.check_all_delivered(ended)


AT_END = """
    import atexit

    def tried(what):
        try:
            return what()
        except RuntimeError as error:  # of 3.12, at this time
            return str(error)

    def start():
        thread = threading.Thread(target=works, args=[4])
        thread.start()
        thread.join()

    def fork():
        pid = os.fork()
        if pid == 0:
            works(2)
            return "child"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def last(*whats):
        count("last")
        works(3)
        for what in whats:
            print(tried(what), flush=True)

    atexit.register(last, start, fork)
    works(20)
    """


def test_functions_of_atexit_are_traced(comparison: Comparison) -> None:
    """They call, start a thread and fork as far as Python lets them, as untraced; the child ends like its parent."""
    # fault P8
    comparison.write(AT_END)
    config = {"targets": [{"modules": ["__main__"], "exclude": ["tried", "start", "fork"]}]}

    ended = comparison.run([PYTHON, "app.py"], config=config)

    comparison.check_all_delivered(ended)
    assert by_name(comparison.counted)["work"] >= 20 + 3


AT_ONCE = {
    "os._exit": "os._exit(5)",
    "abort": "os.abort()",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGQUIT": "os.kill(os.getpid(), signal.SIGQUIT)",
    "SIGUSR1": "os.kill(os.getpid(), signal.SIGUSR1)",
    "SIGALRM": "signal.setitimer(signal.ITIMER_REAL, 0.001); time.sleep(60)",
    "SIGPIPE": "signal.signal(signal.SIGPIPE, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGPIPE)",
    "exec": "os.execv(sys.executable, [sys.executable, '-c', 'print(7)'])",
}


@pytest.mark.parametrize("ending", AT_ONCE)
def test_end_past_python_loses_the_last_moment_only(ending: str, comparison: Comparison) -> None:
    """What was called `flush.interval` before is in the file, whole lines of it, and nothing twice."""  # fault C9, P6
    comparison.write(f"""
    works(20)
    wait()
    works(0)
    {AT_ONCE[ending]}
    """)

    def drive(program: Counted) -> None:
        program.wait_for_events("work", 20)
        program.go_on()

    ended = comparison.run([PYTHON, "app.py"], drive=drive)

    comparison.check_up_to(ended, "work", 20)


@pytest.mark.parametrize("way", ["execv", "execlp", "execve"])
def test_program_that_becomes_another_is_traced_on(way: str, comparison: Comparison) -> None:
    """The other program has the same process id and a START of its own; all that it called is delivered."""  # fault P5
    call = {
        "execv": "os.execv(sys.executable, [sys.executable, 'app.py', 'second'])",
        "execlp": "os.execlp(sys.executable, sys.executable, 'app.py', 'second')",
        "execve": "os.execve(sys.executable, [sys.executable, 'app.py', 'second'], dict(os.environ))",
    }[way]
    comparison.write(f"""
    if sys.argv[1:]:
        works(7)
        sys.exit(3)
    works(0)
    {call}
    """)

    ended = comparison.run([PYTHON, "app.py"])

    assert ended.returncode == 3
    starts = [place for place, event in enumerate(ended.events) if event["event"] == "START"]
    second = ended.events[starts[-1] :]
    assert {event["pid"] for event in ended.events} == {ended.pid}
    assert by_name(calls_entered(second)) == {"works": 1, "work": 7}
    harness.check_conservation(second)


HARD = {
    "os._exit": "os._exit(5)",
    "os._exit in a call": """
        def leave():
            count("leave")
            os._exit(5)
        leave()
        """,
    "os._exit in a thread": "threading.Thread(target=lambda: os._exit(5)).start(); time.sleep(60)",
    "os._exit in a child": """
        pid = os.fork()
        if pid == 0:
            works(3)
            os._exit(9)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
    "exec": """
        if sys.argv[1:]:
            sys.exit(5)
        os.execv(sys.executable, [sys.executable, "app.py", "second"])
        """,
    "exec that fails": """
        try:
            os.execv("none", ["none"])
        except FileNotFoundError:
            works(4)
        """,
}


@pytest.mark.parametrize("ending", HARD)
def test_hard_exits_deliver_all_where_that_is_asked_for(ending: str, comparison: Comparison) -> None:
    """With ``flush.hard_exits`` what waits is delivered before ``os._exit`` and ``os.exec*``."""  # fault C9, P5
    comparison.write("works(20)" + "\n" + HARD[ending].replace("\n        ", "\n"))

    ended = comparison.run([PYTHON, "app.py"], config={"flush": {"hard_exits": True, "interval": "1s"}})

    entered = calls_entered(ended.events)
    assert entered == comparison.counted, f"missing: {comparison.counted - entered}"
    spans = [event["spanId"] for event in ended.events if event["event"] == "ENTER"]
    assert len(set(spans)) == len(spans)
    if ending != "exec":
        for events in ended.processes.values():
            assert events[-1]["event"] == "STOP"


def test_daemon_threads_may_be_alive_at_the_end(comparison: Comparison) -> None:
    """They record up to the end: of each thread all calls up to it, in order, and what is under way stays open."""
    comparison.write("""
    def step(thread, n):
        count("step")
    def steps(thread):
        count("steps")
        for n in range(1 << 30):
            step(thread, n)
    for number in range(4):
        threading.Thread(target=steps, args=[number], daemon=True).start()
    time.sleep(0.3)
    works(20)
    """)
    room = {"queue": {"max_events": 1 << 20, "max_bytes": "512MiB"}, "flush": {"shutdown_timeout": "60s"}}

    ended = comparison.run([PYTHON, "app.py"], config=room, compares_streams=False)

    stop = ended.events[-1]
    assert stop["event"] == "STOP"
    assert_balanced(ended.traces)  # what was recorded while STOP was said is in the file and in STOP, or in neither
    comparison.check_up_to(ended, "work", 20)
    spans = {event["spanId"] for event in ended.events if event["event"] in ("EXIT", "EXCEPTION")}
    threads: dict[str, list[dict[str, object]]] = {}
    for event in ended.events:
        if event["event"] == "ENTER" and event["function"] == "step":
            threads.setdefault(event["thread"], []).append(event)
    assert len(threads) == 4
    for entered in threads.values():
        numbers = [int(str(event["args"]).rpartition(":")[2].rstrip("}")) for event in entered]
        assert numbers == list(range(len(numbers)))
        assert all(event["spanId"] in spans for event in entered[:-1])  # the last may have been under way
    assert stop["openCalls"] <= 8  # in each thread `steps` and one `step`


# -- by signals ------------------------------------------------------------------------------------------------------

DISPOSITIONS = {
    "default": "",
    "handler that exits": "signal.signal(number, lambda *_: (works(2), sys.exit(7)))",
    "handler that goes on": "signal.signal(number, lambda *_: (works(2), over.append(1)))",
    "ignored": "signal.signal(number, signal.SIG_IGN)",
    "handler of the loop": """
        import asyncio
        async def serve():
            count("serve")
            over = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(number, over.set)
            count("ready")
            await over.wait()
            works(2)
        asyncio.run(serve())
        sys.exit(8)
        """,
    "waited for": """
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        count("ready")
        assert signal.sigwait([number]) == number
        works(2)
        sys.exit(9)
        """,
    "waited for in a thread": """
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        def serve():
            count("serve")
            assert signal.sigwait([number]) == number
            works(2)
            over.append(1)
        threading.Thread(target=serve).start()
        """,
    "blocked for a while": """
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        count("ready")
        wait()
        works(2)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        """,
    "handler that was taken back": """
        before = signal.signal(number, lambda *_: None)
        signal.signal(number, before)
        """,
    "handler that hands on": """
        hand_on = lambda *_: (works(2), signal.signal(number, before), signal.raise_signal(number))
        before = signal.signal(number, hand_on)
        """,
}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_signal_does_what_it_does_untraced(number: signal.Signals, disposition: str, comparison: Comparison) -> None:
    """The default action and handlers of any kind end the program as ever, and all that it called is delivered."""
    # fault P7
    comparison.write(
        f"number, over = signal.Signals({int(number)}), []\nworks(20)\n"
        + DISPOSITIONS[disposition].replace("\n        ", "\n")
        + """
for step in range(3_000):
    if step == 0:
        count("ready")
    if over or os.path.exists("go-on"):
        works(3)
        break
    time.sleep(0.01)
"""
    )

    def drive(program: Counted) -> None:
        program.wait_for("ready")
        program.running.process.send_signal(number)
        if disposition in ("ignored", "blocked for a while"):
            program.go_on()

    ended = comparison.run([PYTHON, "app.py"], drive=drive)

    del comparison.counted[ended.pid, "ready"]
    comparison.check_all_delivered(ended)


STARTS, START_S = 12, 0.5  # so many moments of a start that takes about so long
WATCHED = """
def watch():
    main = threading.main_thread().ident
    while "_stop_and_die" not in functions(sys._current_frames()[main]):
        time.sleep(0.001)
    count("stopping")
    time.sleep(60)

def functions(frame):
    while frame:
        yield frame.f_code.co_name
        frame = frame.f_back

works(2_000)
threading.Thread(target=watch, daemon=True).start()
count("ready")
time.sleep(60)
"""


def test_second_signal_does_not_cut_off_what_the_first_delivers(comparison: Comparison, tracer: harness.Tracer) -> None:
    """While a slow reader keeps the sink waiting, another SIGTERM changes nothing: all is delivered, and once."""
    # fault P7
    comparison.write(WATCHED)
    output, counted = tracer.folder / "output", tracer.folder / "counted"
    os.mkfifo(output)
    reader = os.open(output, os.O_RDONLY | os.O_NONBLOCK)
    running = tracer.start(
        ["/bin/sh", "-c", f"exec {PYTHON} app.py > output"],
        options=["--quiet"],
        config={
            "sinks": [{"type": "stdout", "format": "json"}],
            "targets": [{"modules": ["__main__"], "exclude": ["watch", "functions"]}],
            "flush": {"shutdown_timeout": "30s"},
        },
        env={"PYTHONPATH": str(PROGRAMS), "COUNTED_CALLS": str(counted)},
    )
    program = Counted(running, file=counted, signpost=output, is_traced=True)

    program.wait_for("ready")
    running.process.send_signal(signal.SIGTERM)
    program.wait_for("stopping")
    running.process.send_signal(signal.SIGTERM)
    os.set_blocking(reader, True)
    with open(reader, "rb") as stream:
        events = [json.loads(line) for line in stream]

    assert running.wait().returncode == -signal.SIGTERM
    assert by_name(calls_entered(events)) == {"works": 1, "work": 2_000}
    assert sorted(event["seq"] for event in events) == list(range(len(events)))
    assert events[-1]["event"] == "STOP"
    assert events[-1]["lost"] == {"stdout": 0}


def test_signal_during_the_start_ends_the_program(comparison: Comparison, tracer: harness.Tracer) -> None:
    """Whenever SIGTERM comes, in the launcher, the agent or the first import, it is what the program dies of."""
    comparison.write("import asyncio, json, logging\nworks(20)\ncount('ready')\ntime.sleep(60)")
    counted = tracer.folder / "counted"
    env = {"PYTHONPATH": str(PROGRAMS), "COUNTED_CALLS": str(counted)}

    for step in range(STARTS):
        running = tracer.start([PYTHON, "app.py"], options=["--quiet"], env=env)
        until = time.monotonic() + step * START_S / STARTS
        harness.wait_until(lambda until=until: time.monotonic() >= until)
        ended = running.stop()

        assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, ""), f"after {step * START_S / STARTS:.3f} s"
        for events in ended.processes.values():
            assert events[0]["event"] == "START"
            if events[-1]["event"] == "STOP":
                assert events[-1]["recorded"] == len(events) - 1
