"""Queues, test runners and green threads that make and end processes in ways of their own."""

from __future__ import annotations

import os
import signal
import sys

import harness
import pytest
from comparison import PROGRAMS, Comparison, Counted, by_name, calls_entered

PYTHON = sys.executable


@pytest.fixture
def comparison(tracer: harness.Tracer) -> Comparison:
    """Runs a program without and with flowtrace."""
    return Comparison(tracer)


# -- celery ----------------------------------------------------------------------------------------------------------

TASKS = """
    import celery

    app = celery.Celery(
        "tasks",
        broker="filesystem://",
        broker_transport_options={"data_folder_in": "queue", "data_folder_out": "queue", "polling_interval": 0.05},
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )

    @app.task
    def add(n):
        count("add")
        return works(n)
    """
JOBS = 12
CELERY = [
    *("-m", "celery", "-A", "tasks", "worker", "--concurrency", "2", "--pool", "prefork", "--loglevel", "ERROR"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]


@pytest.mark.parametrize("is_recycled", [False, True], ids=["for ever", "three tasks each"])
def test_workers_of_celery(is_recycled: bool, comparison: Comparison, tracer: harness.Tracer) -> None:
    """Every task that was done `flush.interval` before the end is delivered, and with `flush.hard_exits` every task.

    Workers that are replaced leave by ``os._exit``, the others are killed when their parent ends.
    """
    # fault P13
    options = ["--max-tasks-per-child", "3"] if is_recycled else []
    comparison.write(TASKS, "tasks.py")
    (tracer.folder / "queue").mkdir()
    comparison.write(f"import tasks\nfor n in range({JOBS}):\n    tasks.add.delay(2)\n", "send.py")

    def drive(program: Counted) -> None:
        environment = {"PYTHONPATH": str(PROGRAMS), "COUNTED_CALLS": os.devnull}
        assert tracer.run_plain([PYTHON, "send.py"], env=environment).returncode == 0
        program.wait_for("work", 2 * JOBS)
        program.wait_for_events("work", 2 * JOBS)
        program.running.process.send_signal(signal.SIGTERM)

    ended = comparison.run(
        [PYTHON, *CELERY, *options],
        drive=drive,
        config={"flush": {"hard_exits": is_recycled}},
        compares_streams=False,
    )

    assert by_name(comparison.counted)["add"] == JOBS
    delivered = calls_entered(ended.events)
    assert delivered == comparison.counted, f"missing: {comparison.counted - delivered}"
    harness.check_conservation(ended.processes[ended.pid])


# -- pytest-xdist ----------------------------------------------------------------------------------------------------

SUITE = """
    import pytest
    import shop

    @pytest.mark.parametrize("n", range(20))
    def test_sells(n):
        assert shop.works(n) == list(range(n))

    def test_fails():
        assert shop.works(1) == []
    """


def test_workers_of_xdist(comparison: Comparison) -> None:
    """The tests of two workers are delivered by the process that ran them, up to the last one."""  # fault P13
    comparison.write("", "shop.py")
    comparison.write(SUITE, "test_shop.py")
    run = ["-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-p", "xdist"]
    config = {"targets": [{"modules": ["shop"]}]}

    ended = comparison.run(
        [PYTHON, *run], config=config, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, compares_streams=False
    )

    assert ended.returncode == 1
    assert by_name(comparison.counted) == {"works": 21, "work": sum(range(20)) + 1}
    comparison.check_all_delivered(ended)


# -- gevent ----------------------------------------------------------------------------------------------------------

GREEN = """
    {before}
    import gevent

    def busy(n):
        count("busy")
        while n:
            work(n)
            n -= 1
            gevent.sleep(0)

    def whirl():
        count("whirl")
        for n in range(2_000_000):
            if not n % 100_000:
                work(n)

    gevent.joinall([gevent.spawn(busy, 20) for _ in range(10)])
    whirl()
    thread = threading.Thread(target=works, args=[5])
    thread.start()
    thread.join()
    {end}
    """
PATCHES = {
    "not patched": "",
    "patched": "from gevent import monkey; monkey.patch_all()",
    "patched late": "import concurrent.futures, subprocess, queue, ssl; from gevent import monkey; monkey.patch_all()",
}
ENDS = {
    "returns": "",
    "exits": "sys.exit(3)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("patch", PATCHES)
def test_green_threads(patch: str, end: str, comparison: Comparison) -> None:
    """What they call is delivered, wherever the program has patched, and however it ends."""  # fault T6
    comparison.write(GREEN.format(before=PATCHES[patch], end=ENDS[end]))

    ended = comparison.run([PYTHON, "-Wignore", "app.py"])  # of what is patched late

    comparison.check_all_delivered(ended)
    assert by_name(comparison.counted)["work"] == 200 + 20 + 5


@pytest.mark.parametrize("patch", PATCHES)
def test_green_threads_of_a_child(patch: str, comparison: Comparison) -> None:
    """After a fork the agent's threads are the system's own as well."""  # fault P1, T6
    comparison.write(f"""
    {PATCHES[patch]}
    import gevent

    works(20)
    pid = os.fork()
    if pid == 0:
        gevent.joinall([gevent.spawn(works, 5) for _ in range(3)])
        sys.exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """)

    ended = comparison.run([PYTHON, "-Wignore", "app.py"])

    assert ended.stdout == "4\n"
    comparison.check_all_delivered(ended)
    assert by_name(comparison.counted)["work"] == 20 + 15


def test_events_are_delivered_while_the_loop_of_gevent_turns(comparison: Comparison) -> None:
    """The agent's threads are the system's own: a loop that never comes to rest keeps nothing back."""  # fault T6
    comparison.write("""
    from gevent import monkey; monkey.patch_all()
    import gevent

    def turn():
        while not os.path.exists("go-on"):
            work(1)
            gevent.sleep(0.001)

    gevent.joinall([gevent.spawn(turn) for _ in range(5)])
    """)

    def drive(program: Counted) -> None:
        program.wait_for("work", 100)
        program.wait_for_events("work", 100)
        program.go_on()

    config = {"targets": [{"modules": ["__main__"], "exclude": ["turn"]}]}
    ended = comparison.run([PYTHON, "app.py"], drive=drive, config=config)

    comparison.check_all_delivered(ended)


@pytest.mark.parametrize("patch", PATCHES)
def test_events_are_delivered_while_a_green_thread_yields_to_none(patch: str, comparison: Comparison) -> None:
    """A loop that computes on and on, and lets no other green thread run, keeps nothing back."""  # fault T6
    comparison.write(f"""
    {PATCHES[patch]}
    import gevent

    def whirl():
        n = 0
        while not os.path.exists("go-on"):
            n += 1
            if n % 20_000 == 0:
                work(n)

    def wait_in_vain():
        gevent.sleep(0)
        print("only now", os.path.exists("go-on"))

    gevent.joinall([gevent.spawn(wait_in_vain), gevent.spawn(whirl)])
    """)

    def drive(program: Counted) -> None:
        program.wait_for("work", 3)
        program.wait_for_events("work", 3)
        program.go_on()

    config = {"targets": [{"modules": ["__main__"], "exclude": ["whirl", "wait_in_vain"]}]}
    ended = comparison.run([PYTHON, "-Wignore", "app.py"], drive=drive, config=config)  # of what is patched late

    assert ended.stdout == "only now True\n"
    comparison.check_all_delivered(ended)
