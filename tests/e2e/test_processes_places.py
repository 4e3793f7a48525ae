"""Where a program finds little to live on, it starts, runs and ends as untraced, and says why less is traced."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys

import harness
import pytest
from comparison import Comparison, Counted, by_name, calls_entered

PYTHON = sys.executable
HUGE_STACK = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_STACK, (4 << 30, resource.getrlimit(resource.RLIMIT_STACK)[1]))
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def comparison(tracer: harness.Tracer) -> Comparison:
    """Runs a program without and with flowtrace."""
    return Comparison(tracer)


PLACES = {  # what the program is started from, by a shell
    "the working directory is deleted": "mkdir -p gone && cd gone && rmdir ../gone && exec {python} {app}",
    "the working directory is gone for its children": (
        'exec {python} -c \'import os, subprocess; os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone");'
        ' subprocess.run(["{python}", "{app}"], check=True)\''
    ),
    "no HOME": "unset HOME; exec {python} {app}",
    "no variables but those of flowtrace": "unset HOME PATH USER LANG TMPDIR; exec {python} {app}",
    "no standard streams": "exec {python} {app} <&- >&- 2>&-",
    "umask 0": "umask 0; exec {python} {app}",
    "few descriptors": "ulimit -n 12; exec {python} {app}",
}


@pytest.mark.parametrize("place", PLACES)
def test_program_runs_and_is_traced_wherever_it_is_started(
    place: str, comparison: Comparison, tracer: harness.Tracer
) -> None:
    """Neither the folder nor the environment has to be there; trace files have mode 0600 under any umask."""
    # fault P12
    comparison.write("works(20)")
    app = tracer.folder / "app.py"
    tracer.traces.mkdir()
    for name in ("counted", "counted-plain"):
        (tracer.folder / name).touch()
    command = PLACES[place].format(python=PYTHON, app=app)

    ended = comparison.run(["/bin/sh", "-c", command], config={"targets": [{"modules": ["__main__"]}]})

    assert ended.returncode == 0
    comparison.check_all_delivered(ended)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tracer.traces.iterdir()} == {0o600}


def test_sink_that_cannot_be_opened_is_left_out(comparison: Comparison, tracer: harness.Tracer) -> None:
    """One line says why, one how much was lost; the program runs, and another sink gets everything."""  # fault P12
    comparison.write("works(20)")
    tracer.traces.mkdir()
    (tracer.folder / "file").touch()
    sinks = [
        {"type": "file", "path": f"{tracer.folder}/file/below/{{pid}}.jsonl"},
        {"type": "file", "path": f"{tracer.traces}/{{pid}}.jsonl"},
    ]

    ended = comparison.run([PYTHON, "app.py"], config={"sinks": sinks}, compares_streams=False)

    assert ended.stdout == ""
    problem, loss = ended.stderr.splitlines()
    assert problem.startswith("flowtrace: sink file: cannot open")
    assert "did not reach file" in loss
    assert calls_entered(ended.events) == comparison.counted


# -- no room for threads ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread needs as much room as its stack may take")
def test_program_runs_where_no_thread_can_start(comparison: Comparison, tracer: harness.Tracer) -> None:
    """It is not traced, one line says so, and neither its threads nor its end are other than untraced."""  # fault T10
    comparison.write("""
    works(20)
    try:
        threading.Thread(target=works, args=[3]).start()
    except RuntimeError as error:
        print(error)
    sys.exit(6)
    """)
    (tracer.folder / "limited.py").write_text(HUGE_STACK)

    ended = comparison.run([PYTHON, "-S", "limited.py", PYTHON, "app.py"], compares_streams=False)

    assert (ended.returncode, ended.stdout) == (6, "can't start new thread\n")
    assert by_name(comparison.counted) == {"works": 1, "work": 20}
    assert [line for line in ended.stderr.splitlines() if "is not traced: can't start new thread" in line]
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread needs as much room as its stack may take")
def test_child_runs_where_no_thread_can_start(comparison: Comparison) -> None:
    """When the room is gone at a fork, the child runs untraced and ends as ever, and the parent loses nothing."""
    # fault T10
    comparison.write("""
    import resource
    works(20)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    threading.stack_size(4 << 30)
    pid = os.fork()
    if pid == 0:
        works(3)
        sys.exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    works(5)
    """)

    ended = comparison.run([PYTHON, "app.py"], compares_streams=False)

    assert (ended.returncode, ended.stdout) == (0, "4\n")
    assert "Traceback" not in ended.stderr
    harness.check_conservation(ended.processes[ended.pid])
    comparison.check_up_to(ended, "work", 25)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="limits of processes do not hold for root")
def test_program_runs_where_its_user_may_start_nothing(comparison: Comparison, tracer: harness.Tracer) -> None:
    """The limit of processes counts threads too."""  # fault T10
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    (tracer.folder / "limited.py").write_text(
        f"import os, resource, sys\nresource.setrlimit(resource.RLIMIT_NPROC, (1, {limit}))\n"
        "os.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    comparison.write("works(20)")

    ended = comparison.run([PYTHON, "-S", "limited.py", PYTHON, "app.py"], compares_streams=False)

    assert ended.returncode == 0
    assert by_name(comparison.counted) == {"works": 1, "work": 20}
    assert "is not traced: can't start new thread" in ended.stderr


# -- when the clock is set -------------------------------------------------------------------------------------------

A_DAY = 86_400
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

typedef int (*Clock)(clockid_t, struct timespec *);

int clock_gettime(clockid_t id, struct timespec *now) {
    int status = ((Clock)dlsym(RTLD_NEXT, "clock_gettime"))(id, now);
    if (id == CLOCK_REALTIME && access("clock-is-set", F_OK) == 0) now->tv_sec += JUMP;
    return status;
}
"""


@pytest.mark.parametrize("jump_s", [A_DAY, -A_DAY])
def test_clock_that_is_set_changes_no_duration(jump_s: int, comparison: Comparison, tracer: harness.Tracer) -> None:
    """`timestamp` goes on from where START set it, whatever the wall clock says; a child that is forked begins anew."""
    # fault P10
    library = tracer.folder / "clock.so"
    compiler = shutil.which("cc") or pytest.skip("no C compiler to make a clock with")
    command = [compiler, "-shared", "-fPIC", f"-DJUMP=({jump_s})", "-xc", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=CLOCK.encode(), check=True)
    comparison.write("""
    def nap():
        count("nap")
        before = time.time()
        open("clock-is-set", "w").close()
        time.sleep(0.1)
        print(round((time.time() - before) / 86_400), flush=True)

    nap()
    pid = os.fork()
    works(2)
    if pid:
        os.waitpid(pid, 0)
    """)

    def drive(program: Counted) -> None:
        program.running.wait()
        (tracer.folder / "clock-is-set").unlink()

    ended = comparison.run([PYTHON, "app.py"], env={"LD_PRELOAD": str(library)}, drive=drive)

    assert ended.stdout == f"{jump_s // A_DAY}\n"
    comparison.check_all_delivered(ended)
    parent = ended.processes.pop(ended.pid)
    [(child_start, *_)] = [events for pid, events in ended.processes.items() if pid != ended.pid]
    start, times = parent[0], [event["timestamp"] for event in parent]
    [nap] = [event for event in parent if event["event"] == "EXIT" and event["function"] == "nap"]
    assert 100 <= nap["durationMillis"] < 1_000 * harness.DEADLINE_S
    assert times == sorted(times)
    assert times[-1] - times[0] < 1_000 * harness.DEADLINE_S
    assert abs(start["timestamp"] - start["wallNanos"] // 1_000_000) < 1_000 * harness.DEADLINE_S
    assert abs(anchor_s(child_start) - anchor_s(start) - jump_s) < harness.DEADLINE_S


def anchor_s(start: harness.Event) -> float:
    """What START says that is to be added to the monotonic clock to get the wall clock."""
    return float(start["wallNanos"] - start["monotonicNanos"]) / 1e9
