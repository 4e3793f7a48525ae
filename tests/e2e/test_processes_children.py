"""Whichever way a program makes other processes, each delivers what it has called itself, and no call of another's."""

from __future__ import annotations

import filecmp
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from comparison import Comparison, Counted, by_name, calls_entered
from harness import ENDURANCE

PYTHON = sys.executable
METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture
def comparison(tracer: harness.Tracer) -> Comparison:
    """Runs a program without and with flowtrace."""
    return Comparison(tracer)


# -- multiprocessing and executors -----------------------------------------------------------------------------------

TARGETS = ["__main__", "__mp_main__", "app", "inner"]
MULTIPROCESSING = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    def leave(status):
        count("leave")
        work(1)
        sys.exit(status)

    def main():
        multiprocessing.set_start_method({method!r})
        for target, args in ((works, [3]), (leave, [5])):
            process = multiprocessing.Process(target=target, args=args)
            process.start()
            process.join()
            print(process.exitcode)
        with multiprocessing.Pool(2, maxtasksperchild=3) as pool:
            print(pool.map(work, range(10), chunksize=1))
            pool.close()
            pool.join()
        with ProcessPoolExecutor(2) as executor:
            print(list(executor.map(work, range(10))))
        with multiprocessing.Pool(2) as pool:
            print(pool.map(work, range(10)))
            pool.terminate()
            pool.join()

    if __name__ == "__main__":
        main()
    """


@pytest.mark.parametrize("method", METHODS)
def test_workers_deliver_all_that_they_were_given(method: str, comparison: Comparison) -> None:
    """Processes, pools that replace or terminate their workers, and executors."""  # fault P4
    comparison.write(MULTIPROCESSING.format(method=method))
    config = {"targets": [{"modules": TARGETS, "exclude": ["main"]}]}

    ended = comparison.run([PYTHON, "app.py"], config=config)

    comparison.check_all_delivered(ended)
    assert by_name(comparison.counted)["work"] == 3 + 1 + 3 * 10


TERMINATED = """
    import multiprocessing

    def child(pipe, busy):
        works(3)
        pipe.send("ready")
        n = 0
        while busy:
            n += 1
        time.sleep(60)

    if __name__ == "__main__":
        multiprocessing.set_start_method({method!r})
        for busy in (False, True):
            here, there = multiprocessing.Pipe()
            process = multiprocessing.Process(target=child, args=(there, busy))
            process.start()
            here.recv()
            process.terminate()
            process.join()
            print(process.exitcode)
    """


@pytest.mark.parametrize("method", METHODS)
def test_process_that_is_terminated_has_delivered_what_it_did(method: str, comparison: Comparison) -> None:
    """``Process.terminate`` ends it by SIGTERM, whether it sleeps or is busy; nothing is missing."""  # fault P4, P7
    comparison.write(TERMINATED.format(method=method))
    config = {"targets": [{"modules": TARGETS, "exclude": ["child"]}]}

    ended = comparison.run([PYTHON, "app.py"], config=config)

    assert ended.stdout == "-15\n-15\n"
    comparison.check_all_delivered(ended)


# -- fork ------------------------------------------------------------------------------------------------------------

FORKS = """
    def record():
        while not over:
            work(1)
            time.sleep(0.005)

    def turn():
        pass

    def spin():
        turns = 0
        while not over:
            starts.acquire()
            for _ in range({turns}):
                turn()
            turns += {turns}
        for _ in range(turns):
            count("turn")

    def is_inside(thread):
        frame = sys._current_frames().get(thread.ident)
        return frame is not None and "/flowtrace/" in frame.f_code.co_filename

    def fork():
        starts.release(2)
        for _ in range(20):
            time.sleep(0)
            if any(map(is_inside, spinning)):
                break
        met.append(any(map(is_inside, spinning)))
        pid = os.fork()
        if pid:
            return pid
        work(1)
        if len(met) % 4 == 0:
            count("unfinished")
            os._exit(0)
        sys.exit(0)

    over, met, starts = [], [], threading.Semaphore(0)
    sys.setswitchinterval(1e-5)
    spinning = [threading.Thread(target=spin) for _ in range(2)]
    threads = [*spinning, *(threading.Thread(target=record) for _ in range(6))]
    for thread in threads:
        thread.start()
    children = []
    for number in range({times}):
        children.append(fork())
        if len(children) == {together} or number == {times} - 1:
            for pid in children:
                assert os.waitpid(pid, 0)[1] == 0
            children.clear()
    over.append(1)
    starts.release(2)
    for thread in threads:
        thread.join()
    with open("met", "w") as file:
        file.write(str(sum(met)))
    """


@pytest.mark.parametrize("is_pure", [True, False], ids=["in Python", "in C"])
@pytest.mark.timeout(2_000)
def test_forks_while_threads_record(comparison: Comparison, tracer: harness.Tracer, is_pure: bool) -> None:
    """No child hangs, each delivers its own calls and none of its parent's; by `os._exit`, at most its own.

    Two of the eight threads call without a pause when the fork comes: in Python, one fork in five meets one within the
    agent; in C, hardly any, for there a thread is interrupted where Python is called only.
    """
    # fault P1, P2, C9
    times = 1_000 if ENDURANCE else 200  # on each Python
    comparison.write(FORKS.format(times=times, turns=30, together=4))
    config = {
        "targets": [{"modules": TARGETS, "exclude": ["record", "spin", "fork", "is_inside"]}],
        "queue": {"max_events": 1 << 20, "max_bytes": "512MiB"},
        "flush": {"shutdown_timeout": "60s"},
    }

    env = {"FLOWTRACE_PURE_PYTHON": "1"} if is_pure else None
    ended = comparison.run(
        [PYTHON, "-Wignore", "app.py"], config=config, env=env, timeout_s=900
    )  # of threads and forks

    events = sorted(ended.events, key=lambda event: int(event["seq"]))  # of all files of a process that rotates them
    unfinished = {pid for pid, name in comparison.counted if name == "unfinished"}
    assert len(unfinished) == times // 4
    comparison.check_up_to(ended, "work", times - len(unfinished))
    for calls in (comparison.counted, delivered := calls_entered(events)):
        for pid, name in list(calls):
            if pid in unfinished:
                del calls[pid, name]
    assert delivered == comparison.counted
    harness.check_conservation([event for event in events if event["pid"] not in unfinished])
    if is_pure:
        assert int((tracer.folder / "met").read_text()) > times // 20, (
            "hardly a fork came while a thread was in the agent"
        )


THREAD = """
    def child(pipe, busy):
        works(3)
        os.write(pipe, b".")
        while busy:
            pass
        time.sleep(60)

    def parent():
        for busy in (False, True):
            here, there = os.pipe()
            pid = os.fork()
            if pid == 0:
                child(there, busy)
            os.read(here, 1)
            os.kill(pid, signal.SIGTERM)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    thread = threading.Thread(target=parent)
    thread.start()
    thread.join()
    works(2)
    """


def test_child_of_a_thread_is_ended_by_a_signal(comparison: Comparison) -> None:
    """Whether it sleeps or computes. From 3.13 on it loses the last moment: handlers cannot be relied on there."""
    # fault P7
    comparison.write(THREAD)
    config = {"targets": [{"modules": TARGETS, "exclude": ["child", "parent"]}]}

    ended = comparison.run([PYTHON, "-Wignore", "app.py"], config=config)  # of threads and forks

    assert ended.stdout == "-15\n-15\n"
    comparison.check_up_to(ended, "work", 2)
    harness.check_conservation(ended.processes[ended.pid])
    if sys.version_info < (3, 13):
        comparison.check_all_delivered(ended)


def test_fork_that_python_does_not_know_of(comparison: Comparison) -> None:
    """A child that C code has forked delivers nothing of its parent's, waits for no thread, and ends as untraced."""
    # fault P3
    comparison.write("""
    import ctypes

    works(20)
    pid = ctypes.PyDLL(None).fork()
    works(3)
    if pid == 0:
        sys.exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    works(5)
    """)

    ended = comparison.run([PYTHON, "app.py"])

    assert ended.stdout == "4\n"
    comparison.check_up_to(ended, "work", 28)
    own = ended.processes[ended.pid]
    harness.check_conservation(own)
    assert by_name(calls_entered(own)) == {"works": 3, "work": 28}


DAEMON = """
    works(2)
    if os.fork():
        os._exit(0) if {at_once} else sys.exit(0)
    os.setsid()
    if os.fork():
        os._exit(0) if {at_once} else sys.exit(0)
    os.umask(0)
    works(3)
    os.closerange(0, 1024)
    files = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    files += [os.open(f"data-{{n}}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for n in range(20)]
    for step in range(20):
        works(1)
        for file in files[3:]:
            os.write(file, b"mine\\n")
        time.sleep(0.01)
    count("daemon")
    """


@pytest.mark.parametrize("at_once", [True, False])
def test_daemon_is_traced_and_its_files_are_its_own(
    at_once: bool, comparison: Comparison, tracer: harness.Tracer
) -> None:
    """It forks twice and closes all descriptors: no line lands in files that got their numbers."""  # fault P11
    comparison.write(DAEMON.format(at_once=at_once))

    def drive(program: Counted) -> None:
        program.wait_for("daemon")
        [daemon] = [pid for pid, name in program.calls if name == "daemon"]
        harness.wait_until(lambda: not is_alive(daemon), "the daemon is over")
        program.running.wait()
        for path in tracer.folder.glob("data-*"):
            assert path.read_text() == "mine\n" * 20
            path.unlink()

    ended = comparison.run([PYTHON, "app.py"], drive=drive)

    [daemon] = [pid for pid, name in comparison.counted if name == "daemon"]
    del comparison.counted[daemon, "daemon"]
    comparison.check_up_to(ended, "work", 3 + 20)
    delivered = calls_entered(ended.events)
    assert {name: delivered[daemon, name] for name in ("works", "work")} == {"works": 21, "work": 23}
    harness.check_conservation(ended.processes[daemon], elsewhere=[event.get("parentId") for event in ended.events])
    if not at_once:
        assert delivered == comparison.counted


def is_alive(pid: int) -> bool:
    """Whether a process runs that may be nobody's child any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


# -- other programs --------------------------------------------------------------------------------------------------


def test_programs_that_are_started_deliver_their_own(comparison: Comparison) -> None:
    """In every way that Python has to start one, and the same one again."""
    comparison.write("""
    import asyncio, subprocess

    async def start(command):
        count("start")
        process = await asyncio.create_subprocess_exec(*command)
        return await process.wait()

    if sys.argv[1:]:
        works(3)
        sys.exit(int(sys.argv[1]))
    command = [sys.executable, "app.py", "6"]
    print(subprocess.run(command).returncode)
    print(subprocess.run(command, close_fds=False).returncode)
    print(subprocess.run(command, preexec_fn=lambda: None, start_new_session=True).returncode)
    print(subprocess.run(" ".join(command), shell=True).returncode)
    print(os.waitstatus_to_exitcode(os.system(" ".join(command))))
    print(os.spawnv(os.P_WAIT, sys.executable, command))
    pid = os.posix_spawn(sys.executable, command, os.environ)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(asyncio.run(start(command)))
    """)

    ended = comparison.run([PYTHON, "app.py"])

    assert ended.stdout == "6\n" * 8
    comparison.check_all_delivered(ended)
    assert len(ended.processes) == 9


VERSION = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"


def other_pythons() -> list[str]:
    """One interpreter of each version that this machine has, without flowtrace."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    paths = [str(path) for path in sorted(folder.glob("*/bin/python"))]
    names = ["python2.7", *(f"python3.{minor}" for minor in range(6, 16))]
    paths += [path for name in names if (path := shutil.which(name))]
    found: dict[str, str] = {}
    for path in paths:
        version = subprocess.run([path, "-c", VERSION], capture_output=True, text=True, check=False).stdout
        if version and subprocess.run([path, "-c", "import flowtrace"], capture_output=True, check=False).returncode:
            found.setdefault(version, path)
    return list(found.values())


def test_other_python_without_flowtrace_runs_without_noise(comparison: Comparison) -> None:
    """A program may call Pythons of any version; those that have no flowtrace run untraced."""
    pythons = other_pythons()
    if not pythons:
        pytest.skip("no other Python on this machine")
    comparison.write(f"""
    import subprocess
    works(2)
    for python in {pythons!r}:
        print(subprocess.run([python, "-c", "print(7)"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    """)

    ended = comparison.run([PYTHON, "app.py"], env={"FLOWTRACE_STRICT": None})

    assert ended.stdout.count("b'7\\n'") == len(pythons)
    comparison.check_all_delivered(ended)


WHICH = "import sys, flowtrace.agent as a; sys.stdout.write('%d.%d %s' % (*sys.version_info[:2], a.__file__))"


def another_venv(folder: Path) -> str:
    """An environment of this Python's version that has flowtrace by way of a ``.pth`` file."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", "--symlinks", folder], check=True)
    packages, path = site.getsitepackages()[0], folder / "lib/python{}.{}/site-packages".format(*sys.version_info)
    (path / "ours.pth").write_text(f"import site; site.addsitedir({packages!r})\n")
    return str(folder / "bin/python")


def another_version(folder: Path) -> str:
    """The Python of an environment beside the one that runs the tests, of another version, that has this flowtrace."""
    own, source = _which(PYTHON, folder)
    for path in sorted(Path(sys.prefix).parent.glob("*/bin/python")):
        version, file = _which(str(path), folder)
        if version not in (own, "") and filecmp.cmp(file, source, shallow=False):
            return str(path)
    pytest.skip("no other version of Python here has this flowtrace")


def _which(python: str, folder: Path) -> tuple[str, str]:
    """The version of a Python, and the file of its flowtrace; two empty texts where it has none."""
    done = subprocess.run([python, "-c", WHICH], cwd=folder, capture_output=True, text=True, check=False)
    version, _, file = done.stdout.partition(" ")
    return version, file


@pytest.mark.parametrize("make", [another_venv, another_version], ids=lambda make: str(make.__name__))
def test_other_python_with_flowtrace_is_traced(
    make: Callable[[Path], str], comparison: Comparison, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A program that starts another environment's Python: both deliver what they called, one below the other."""
    comparison.write("""
    import subprocess

    if sys.argv[2:]:
        works(5)
        sys.exit(4)

    def start():
        count("start")
        return subprocess.run([sys.argv[1], "app.py", sys.argv[1], "there"]).returncode

    works(2)
    print(start())
    """)

    ended = comparison.run([PYTHON, "app.py", make(tmp_path_factory.mktemp("other"))])

    assert ended.stdout == "4\n"
    comparison.check_all_delivered(ended)
    assert by_name(comparison.counted) == {"start": 1, "works": 2, "work": 2 + 5}
    assert len({event["traceId"] for event in ended.events if event.get("function") in ("start", "works")}) == 2


def test_build_without_the_gil_runs_untraced(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The agent counts on the GIL: where there is none, one line says that it does not start."""  # fault T7
    folder = tmp_path_factory.mktemp("free-threaded")
    python = another_venv(folder)
    [packages] = folder.glob("lib/*/site-packages")
    (packages / "free.pth").write_text("import sys; sys._is_gil_enabled = lambda: False\n")
    comparison.write("works(2)\nprint(sys._is_gil_enabled())")

    ended = comparison.run([python, "app.py"], env={"FLOWTRACE_STRICT": None}, compares_streams=False)

    assert ended.stdout == "False\n"
    assert ended.stderr.endswith("without the GIL are not supported\n")
    assert ended.stderr.count("\n") == 1
    assert ended.events == []


# -- interpreters in the process -------------------------------------------------------------------------------------


def test_other_interpreters_of_the_process_run_untraced(comparison: Comparison) -> None:
    """A sub-interpreter, in the main thread and in another, says nothing, records nothing, and ends."""  # fault T8
    comparison.write("""
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters

    def inside():
        interpreter = interpreters.create()
        interpreters.run_string(interpreter, "import sys; sys.path.insert(0, '.'); import inner; inner.shout()")
        interpreters.destroy(interpreter)

    works(2)
    inside()
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    inside()
    works(2)
    """)
    comparison.write("def shout(): os.write(1, b'in there\\n')", "inner.py")
    config = {"targets": [{"modules": TARGETS, "exclude": ["inside"]}]}

    ended = comparison.run([PYTHON, "app.py"], config=config)

    assert ended.stdout == "in there\n" * 3
    comparison.check_all_delivered(ended)


@pytest.mark.xfail(sys.version_info >= (3, 12), reason="it is the script, not its folder", strict=True)
def test_other_interpreters_of_a_script_import_what_is_beside_it(comparison: Comparison) -> None:
    """Since 3.12 they begin with the ``sys.path`` of the program: its first entry is the folder of the script."""
    comparison.write("""
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    interpreters.run_string(interpreters.create(), "import os, sys; os.write(1, sys.path[0].encode())")
    works(1)
    """)

    ended = comparison.run([PYTHON, "app.py"])

    comparison.check_all_delivered(ended)
