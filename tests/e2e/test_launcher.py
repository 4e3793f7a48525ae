"""`flowtrace-run` leaves a program what it is: its output, its status, its signals, its view of itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent

import harness
import pytest

Run = Callable[..., harness.Ended]
Start = Callable[..., harness.Running]
Write = Callable[[str, str], Path]

MIRROR = """
    import json, sys

    def module(attributes):
        spec = attributes["__spec__"]
        return {
            "names": sorted(attributes),
            "values": {name: attributes[name] for name in ("__name__", "__file__", "__package__", "__doc__")},
            "cached": attributes.get("__cached__"),
            "loader": [type(attributes["__loader__"]).__name__, getattr(attributes["__loader__"], "path", None)],
            "spec": spec and [spec.name, spec.origin, type(spec.loader).__name__, spec.cached, spec.parent],
            "is main": sys.modules["__main__"].__dict__ is attributes,
        }

    def mirror():
        about = {name: getattr(sys, name) for name in ("argv", "path", "orig_argv", "flags", "warnoptions")}
        return {"module": module(globals()), "sys": about, "depth": depth()}

    def depth():
        frame, depth = sys._getframe(), 0
        while frame and frame.f_globals is globals():
            frame, depth = frame.f_back, depth + 1
        return depth

    print(json.dumps(mirror(), indent=1))
    """

COMMANDS = {  # as given to flowtrace-run, and what to type without it
    "console script": (["tool", "--flag", "a b"], None),
    "python script.py": ([sys.executable, "app.py", "x"], None),
    "python with options": ([sys.executable, "-O", "-X", "utf8", "app.py", "x"], None),
    "python folder/script.py": ([sys.executable, "folder/app.py"], None),
    "python -m module": ([sys.executable, "-m", "package.module", "-c"], None),
    "python -m package": ([sys.executable, "-m", "package"], None),
    "python -c": ([sys.executable, "-c", "from package import module"], None),
    "script.py": (["folder/app.py", "x"], [sys.executable, "folder/app.py", "x"]),
    "-m module": (["-m", "package.module", "x"], [sys.executable, "-m", "package.module", "x"]),
}


@pytest.fixture
def programs(tmp_path: Path, write: Write) -> None:
    """The same program as a script, in a folder, in a package and as a command."""
    for name in ("app.py", "folder/app.py", "package/module.py", "package/__main__.py"):
        write(name, MIRROR)
    write("package/__init__.py", "")
    tool = write("bin/tool", MIRROR)
    tool.write_text(f"#!{sys.executable}\n{tool.read_text()}")
    tool.chmod(0o755)


@pytest.mark.parametrize("form", COMMANDS)
def test_program_sees_itself_as_without_flowtrace(
    form: str, programs: None, tmp_path: Path, run_traced: Run, run_plain: Run
) -> None:
    """``sys.argv``, ``sys.path``, the module ``__main__`` and its frames are those of the untraced program."""
    traced_command, plain_command = COMMANDS[form]
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    traced = run_traced(traced_command, options=["--quiet"], env=env)
    plain = run_plain(plain_command or traced_command, env=env)

    assert (traced.stderr, traced.returncode) == ("", 0)
    seen, expected = json.loads(traced.stdout), json.loads(plain.stdout)
    if plain_command:  # flowtrace-run has chosen the interpreter: its own, whatever that is called
        del seen["sys"]["orig_argv"][0], expected["sys"]["orig_argv"][0]
    assert seen == expected
    if form != "console script":  # which lies beside the project, as in bin/ of an environment: no .py file
        assert "mirror" in {event["function"] for event in traced.events if event["event"] == "ENTER"}
    harness.check_conservation(traced.events)


ENDINGS = {
    "returns": "print(work(1))",
    "exits with 3": "import sys; work(1); sys.exit(3)",
    "exits with a message": "import sys; sys.exit(f'over: {work(1)}')",
    "raises": "work(0)",
    "raises from": """
        try:
            work(0)
        except ZeroDivisionError as error:
            raise LookupError("no such thing") from error
        """,
    "raises a group": "raise ExceptionGroup('two', [ValueError(1), TypeError(work(2))])",
    "raises in a generator": """
        def numbers():
            yield work(1)
            yield work(0)
        list(numbers())
        """,
    "raises in a coroutine": """
        import asyncio
        async def main():
            await asyncio.sleep(0)
            return work(0)
        asyncio.run(main())
        """,
    "raises in an import": "import broken",
    "imports what has no syntax": "import unparsable",
    "imports what is missing": "import package_that_does_not_exist",
    "is interrupted": "raise KeyboardInterrupt",
    "is interrupted in a call": """
        def interrupt(): raise KeyboardInterrupt
        interrupt()
        """,
    "terminates itself": "import os, signal; work(1); os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(9)",
    "kills itself": "import os, signal; work(1); os.kill(os.getpid(), signal.SIGKILL)",
    "leaves at once": "import os; work(1); os._exit(4)",
    "fails at exit": "import atexit; atexit.register(work, 0)",
    "fails in a thread": "import threading; t = threading.Thread(target=work, args=(0,)); t.start(); t.join()",
    "closes its streams": "import os, sys; sys.stdout.close(); os.close(2); work(1)",
    "warns": "import warnings; warnings.warn('old', DeprecationWarning, stacklevel=1)",
}


@pytest.mark.parametrize("form", ["script", "module"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_program_ends_as_without_flowtrace(
    ending: str, form: str, write: Write, run_traced: Run, run_plain: Run
) -> None:
    """Exit status, output and tracebacks are those of the untraced program, text for text."""
    write("broken.py", "def fail():\n    return {}['key']\n\nfail()\n")
    write("unparsable.py", "def fail(:\n")
    write("app.py", "def work(n):\n    return 1 // n\n\n" + dedent(ENDINGS[ending]))
    command = [sys.executable, "app.py"] if form == "script" else [sys.executable, "-m", "app"]

    traced = run_traced(command, options=["--quiet"])
    plain = run_plain(command)

    assert traced.returncode == plain.returncode
    assert (traced.stdout, _without_addresses(traced.stderr)) == (plain.stdout, _without_addresses(plain.stderr))
    if ending not in ("kills itself", "leaves at once"):
        harness.check_conservation(traced.events)


def _without_addresses(text: str) -> str:
    return re.sub("0x[0-9a-f]+", "0x...", text)


@pytest.mark.parametrize(("form", "lost"), [(["-m", "app"], 0), (["app.py"], 6)], ids=["module", "script"])
def test_recursion_goes_as_deep_as_without_flowtrace(
    form: list[str], lost: int, write: Write, run_traced: Run, run_plain: Run
) -> None:
    """Instrumented code adds no frame; only a script stands on frames of ``runpy``, six levels at most."""  # fault C6
    write(
        "app.py",
        """
        def dive(n):
            try:
                return dive(n + 1)
            except RecursionError:
                return n
        print(dive(0))
        """,
    )
    plain = int(run_plain([sys.executable, *form]).stdout)
    traced = run_traced([sys.executable, *form])
    assert plain - lost <= int(traced.stdout) <= plain
    harness.check_conservation(traced.events, failures=1)  # at the limit, a call of the agent's own finds no room


def test_stdin_and_stdout_pass_byte_for_byte(write: Write, run_traced: Run) -> None:
    """What the program reads and writes is what was given to it and what it wrote, whatever the bytes."""
    write("copy.py", "import sys\ndef copy(): sys.stdout.buffer.write(sys.stdin.buffer.read())\ncopy()\n")
    data = bytes(range(256)) * 1_000

    ended = run_traced([sys.executable, "copy.py"], stdin=data)

    assert ended.stdout.encode("utf-8", "surrogateescape") == data
    assert ended.calls == ["__main__.copy"]


def test_stream_that_the_agent_does_not_write_to_stays_empty(write: Write, run_traced: Run) -> None:
    """With ``--quiet`` and a file as the sink, nothing of flowtrace's is on either stream."""
    write("app.py", "def f(): pass\nf()\n")
    ended = run_traced([sys.executable, "app.py"], options=["--quiet"])
    assert (ended.stdout, ended.stderr) == ("", "")


# -- where it is started ---------------------------------------------------------------------------------------------

SURROUNDINGS = """
    import os, sys
    def seen(): return [sys.stdin is None, sys.stdout is None, sys.stderr is None, os.path.exists(".")]
    with open(sys.argv[1], "w") as file: print(seen(), file=file)
    sys.exit(5)
    """

PLACES = {  # in which a shell starts the launcher
    "stdin is closed": "exec {command} <&-",
    "stdout is closed": "exec {command} >&-",
    "stderr is closed": "exec {command} 2>&-",
    "no standard streams": "exec {command} <&- >&- 2>&-",
    "the working directory is deleted": "mkdir gone && cd gone && rmdir ../gone && exec {command}",
    "it is deleted, without PWD": "mkdir gone && cd gone && rmdir ../gone && unset PWD && exec {command}",
}


def started_in(place: str, *command: str | Path) -> list[str]:
    """A shell's command for one of the places."""
    return ["/bin/sh", "-c", PLACES[place].format(command=shlex.join(map(str, command)))]


@pytest.mark.parametrize("place", PLACES)
def test_launcher_starts_wherever_it_is_started(place: str, tmp_path: Path, write: Write, run_plain: Run) -> None:
    """What Python runs with closed streams or in a deleted folder runs traced, and sees the same."""  # fault P12
    app = write("app.py", SURROUNDINGS)
    sink = {"type": "file", "path": "traces/{pid}.jsonl"}  # beside the configuration
    config = write("config.yaml", json.dumps({"targets": [{"modules": ["__main__"]}], "sinks": [sink]}))
    launch = [*harness.launcher(), "--quiet", "--config", config]

    traced = run_plain(started_in(place, *launch, sys.executable, app, tmp_path / "traced"))
    plain = run_plain(started_in(place, sys.executable, app, tmp_path / "plain"))

    assert (traced.returncode, traced.stdout, traced.stderr) == (5, "", "")
    assert (plain.returncode, plain.stdout, plain.stderr) == (5, "", "")
    assert (tmp_path / "traced").read_text() == (tmp_path / "plain").read_text()
    assert traced.calls == ["__main__.seen"]
    harness.check_conservation(traced.events)


DELETED = [place for place in PLACES if "deleted" in place]


@pytest.mark.parametrize("place", DELETED)
def test_deleted_folder_needs_no_configuration(place: str, tmp_path: Path, write: Write, run_plain: Run) -> None:
    """The defaults find nothing below it to trace, and the program runs."""
    app = write("app.py", SURROUNDINGS)
    ended = run_plain(started_in(place, *harness.launcher(), sys.executable, app, tmp_path / "seen"))
    assert (ended.returncode, ended.stdout, "Traceback" in ended.stderr) == (5, "", False)
    assert "no target was imported here" in ended.stderr
    assert (tmp_path / "seen").exists()


@pytest.mark.parametrize("place", DELETED)
def test_relative_configuration_in_a_deleted_folder(place: str, tmp_path: Path, write: Write, run_plain: Run) -> None:
    """It cannot be found: one line says why and what to write, and the program is not started."""
    app = write("app.py", SURROUNDINGS)
    launch = [*harness.launcher(), "--config", "../config.yaml"]
    ended = run_plain(started_in(place, *launch, sys.executable, app, tmp_path / "seen"))
    problem = "cannot be read: the working directory is deleted; name the file by its whole path"
    assert (ended.returncode, ended.stderr) == (2, f"flowtrace-run: ../config.yaml: {problem}\n")
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize("place", DELETED)
def test_relative_sink_in_a_deleted_folder(place: str, tmp_path: Path, write: Write, run_plain: Run) -> None:
    """One line says that it cannot be opened there; the program runs, and the folder is not made anew."""
    app = write("app.py", SURROUNDINGS)
    launch = [*harness.launcher(), "--quiet", "--set", "sinks=[{type: file, path: traces/calls.jsonl}]"]
    ended = run_plain(started_in(place, *launch, sys.executable, app, tmp_path / "seen"))
    problem, *_ = ended.stderr.splitlines()
    assert ended.returncode == 5
    assert re.match(r"flowtrace: sink file: cannot open /dev/null/deleted/.*traces/calls\.jsonl: ", problem)
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("calls.jsonl"))


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_mistake_is_not_said_on_stdout(closed: str, run_plain: Run) -> None:
    """Where stderr is closed, the status alone tells: stdout is the program's."""
    ended = run_plain(["/bin/sh", "-c", f"{shlex.join(harness.launcher())} no-such-command {closed}"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (127, "", "")


def test_distrust_is_not_said_on_stdout(tmp_path: Path, write: Write, run_plain: Run) -> None:
    """Nor is that a configuration was passed over."""
    write("flowtrace.yaml", "{}").chmod(0o666)
    program = [*harness.launcher(), sys.executable, "-c", "print(1)"]
    ended = run_plain(["/bin/sh", "-c", f"{shlex.join(program)} 2>&-"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")


# -- what cannot be run ----------------------------------------------------------------------------------------------


def test_unknown_command_is_one_line_and_127(run_traced: Run) -> None:
    """As in a shell, a command that does not exist gives 127."""
    ended = run_traced(["no-such-command"])
    assert (ended.returncode, ended.stderr) == (127, "flowtrace-run: no-such-command: command not found\n")


def test_missing_path_is_one_line_and_127(run_traced: Run) -> None:
    """A path that leads nowhere gives 127 too."""
    ended = run_traced(["./bin/none"])
    assert ended.returncode == 127
    assert ended.stderr.startswith("flowtrace-run: ./bin/none: no such file")
    assert ended.stderr.count("\n") == 1


def test_file_that_is_not_executable_is_one_line_and_126(write: Write, run_traced: Run) -> None:
    """As in a shell, what exists and cannot be executed gives 126."""
    write("data.txt", "")
    ended = run_traced(["./data.txt"])
    assert (ended.returncode, ended.stderr.count("\n")) == (126, 1)
    assert "./data.txt: cannot be executed: Permission denied" in ended.stderr


def test_no_command_is_a_usage_error(run_traced: Run) -> None:
    """Without a COMMAND there is nothing to do: usage, and 2."""
    ended = run_traced([], config=None)
    assert ended.returncode == 2
    assert "usage: flowtrace-run" in ended.stderr
    assert "no COMMAND to run" in ended.stderr


BAD_CONFIGS = {
    "unknown key": ("targest: []", "targest"),
    "unknown nested key": ("capture: {max_dept: 3}", "capture.max_dept"),
    "wrong type": ("capture: {max_depth: deep}", "capture.max_depth"),
    "no unit": ("queue: {max_bytes: 1000}", "queue.max_bytes"),
    "out of range": ("sampling: {rate: 1.5}", "sampling.rate"),
    "not YAML": ("targets: [", "config.yaml"),
    "a tag that runs code": ("service: !!python/object/apply:os.getcwd []", "tag"),
    "two documents": ("service: a\n---\nservice: b\n", "second document"),
    "not a mapping": ("- a\n- b\n", "expected keys"),
    "no targets": ("targets: []", "targets"),
    "unknown sink": ("sinks: [{type: fiel}]", "file"),
    "unknown option of a sink": ("sinks: [{type: file, path: x, rotat: {}}]", "sinks[0].rotat"),
    "option missing": ("sinks: [{type: file}]", "sinks[0].path"),
    "variable not set": ("service: ${NOT_SET_AT_ALL}", "NOT_SET_AT_ALL"),
    "not text": ("service: \x00", "NUL"),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_bad_configuration_stops_the_launcher(kind: str, tmp_path: Path, write: Write, run_traced: Run) -> None:
    """One line that names the file and the place, status 2, and the program is not started."""  # fault F1, F3
    text, expected = BAD_CONFIGS[kind]
    write("app.py", "open('started', 'w').close()")

    ended = run_traced([sys.executable, "app.py"], config=text)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("flowtrace-run: ")
    assert ended.stderr.count("\n") == 1
    assert "config.yaml" in ended.stderr
    assert expected in ended.stderr
    assert not (tmp_path / "started").exists()


def test_missing_configuration_stops_the_launcher(tmp_path: Path, write: Write, run_traced: Run) -> None:
    """A file that was named and is not there is an error, not a reason to use the defaults."""  # fault F1
    write("app.py", "open('started', 'w').close()")
    ended = run_traced([sys.executable, "app.py"], config=None, options=["--config", "none.yaml"])
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "none.yaml: cannot be read" in ended.stderr
    assert not (tmp_path / "started").exists()


# -- switches --------------------------------------------------------------------------------------------------------


def test_no_configuration_shows_a_tree_of_the_project_on_stderr(write: Write, run_traced: Run) -> None:
    """Without any file, what lies below the working directory is traced, for people to see."""
    write("app.py", "import json\ndef double(n): return 2 * n\nprint(json.dumps(double(21)))\n")
    ended = run_traced([sys.executable, "app.py"], config=None)
    assert ended.stdout == "42\n"
    assert "double(n=21)" in ended.stderr
    assert "42" in ended.stderr
    assert "dumps" not in ended.stderr


def test_set_changes_a_key(write: Write, run_traced: Run) -> None:
    """``--set`` wins over the file."""
    write("app.py", "def f(a): pass\nf(1)\n")
    ended = run_traced([sys.executable, "app.py"], options=["--set", "capture.args=false", "--set", "service=shop"])
    assert ended.events[0]["service"] == "shop"
    assert [event["args"] for event in ended.events if event["event"] == "ENTER"] == [None]


@pytest.mark.parametrize("value", ["0", "false", "no", "off", "FALSE"])
def test_enabled_0_runs_the_program_untraced(value: str, write: Write, run_traced: Run) -> None:
    """``FLOWTRACE_ENABLED=0`` leaves no trace, not even in the environment."""
    write(
        "app.py",
        "import os, sys\nprint([n for n in os.environ if n.startswith('FLOWTRACE_R')], 'flowtrace' in sys.modules)",
    )
    ended = run_traced([sys.executable, "app.py"], env={"FLOWTRACE_ENABLED": value})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[] False\n", "")
    assert not ended.traces.exists()


def test_one_line_per_process_says_what_is_traced(write: Write, run_traced: Run) -> None:
    """Each process that traces something says so once."""
    write("child.py", "def g(): pass\ng()\n")
    write("app.py", "import subprocess, sys\ndef f(): subprocess.run([sys.executable, 'child.py'])\nf()\n")
    ended = run_traced([sys.executable, "app.py"])
    lines = ended.stderr.splitlines()
    assert sorted(lines) == sorted(
        f"flowtrace: test, pid {pid}: 1 function in 1 module traced, to file" for pid in ended.processes
    )
    assert len(lines) == 2


# -- the user's own environment --------------------------------------------------------------------------------------


def test_own_sitecustomize_still_runs(write: Write, run_traced: Run, run_plain: Run) -> None:
    """The ``sitecustomize`` that Python would have run without flowtrace runs once, under its own name."""
    text = "import sys\nif sys.orig_argv[1:] == ['app.py']: print('mine:', __name__, __file__, __spec__.name)"
    folder = write("site/sitecustomize.py", text).parent
    write("app.py", "import sys; print(sys.modules['sitecustomize'].__file__, sys.path)")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))

    traced = run_traced([sys.executable, "app.py"], env={"PYTHONPATH": path})
    plain = run_plain([sys.executable, "app.py"], env={"PYTHONPATH": path})

    assert traced.stdout == plain.stdout
    assert traced.stdout.count("mine:") == 1


def test_failing_own_sitecustomize_fails_as_without_flowtrace(write: Write, run_traced: Run, run_plain: Run) -> None:
    """An error in the user's ``sitecustomize`` is reported by Python, and the program runs."""
    text = "import sys\nif sys.orig_argv[1:] == ['app.py']: 1 / 0"  # the launcher is a Python too
    folder = write("site/sitecustomize.py", text).parent
    write("app.py", "print('runs')")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))

    traced = run_traced([sys.executable, "app.py"], env={"PYTHONPATH": path}, options=["--quiet"])
    plain = run_plain([sys.executable, "app.py"], env={"PYTHONPATH": path})

    assert (traced.returncode, traced.stdout, traced.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_pythonpath_of_the_user_is_kept(write: Write, run_traced: Run) -> None:
    """Folders of ``PYTHONPATH`` stay importable, in the program and in its children."""
    folder = write("extra/extra.py", "print('extra')").parent
    write(
        "app.py", "import extra, subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import extra'], check=True)\n"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    ended = run_traced([sys.executable, "app.py"], env={"PYTHONPATH": path})
    assert (ended.returncode, ended.stdout) == (0, "extra\nextra\n"), ended.stderr


# -- signals ---------------------------------------------------------------------------------------------------------

LOOP = """
    import time

    def tick(n):
        return n

    def main():
        n = 0
        while True:
            n = tick(n) + 1
            if n == 10:
                print("ready", flush=True)
            time.sleep(0.001)

    main()
    """


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_ends_the_program_and_delivers_the_last_events(
    number: signal.Signals, write: Write, start_traced: Start
) -> None:
    """The status is that of the signal, and everything up to it is in the file."""  # fault P7
    write("app.py", LOOP)
    running = start_traced([sys.executable, "app.py"])
    harness.wait_until(lambda: "ready" in running.stdout, "the program runs")

    ended = running.stop(number)

    assert ended.returncode == -number
    assert ended.calls.count("__main__.tick") >= 10
    assert _is_closed(ended, open_calls=[] if number == signal.SIGINT else ["main"])


def test_handler_of_the_program_is_not_replaced(write: Write, start_traced: Start) -> None:
    """What the program does on SIGTERM is its own decision, also where it restores the default later."""  # fault P7
    write("app.py", "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n" + dedent(LOOP))
    running = start_traced([sys.executable, "app.py"])
    harness.wait_until(lambda: "ready" in running.stdout, "the program runs")
    ended = running.stop()
    assert ended.returncode == 7
    harness.check_conservation(ended.events)


def _is_closed(ended: harness.Ended, *, open_calls: Sequence[str]) -> bool:
    """Whether only ``open_calls`` were under way when the process was killed, and all else is conserved."""
    enters = {event["spanId"]: event["function"] for event in ended.events if event["event"] == "ENTER"}
    leaves = {event["spanId"] for event in ended.events if event["event"] in ("EXIT", "EXCEPTION")}
    still_open = {span: name for span, name in enters.items() if span not in leaves}
    stop = ended.events[-1]
    return (
        stop["event"] == "STOP"
        and stop["recorded"] == stop["delivered"]["file"] + stop["lost"]["file"]
        and set(still_open.values()) - {"tick"} == set(open_calls)
    )


# -- children --------------------------------------------------------------------------------------------------------

POOL = """
    import multiprocessing, os, sys

    def work(n):
        return n * n

    def main():
        multiprocessing.set_start_method({method!r})
        process = multiprocessing.Process(target=work, args=(1,))
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
        with multiprocessing.Pool(2) as pool:
            print(pool.map(work, range(20)))
            pool.close()
            pool.join()

    if __name__ == "__main__":
        main()
    """


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_are_traced(method: str, write: Write, run_traced: Run) -> None:
    """Each worker has a file of its own, complete from START to STOP."""  # fault P4
    write("app.py", POOL.format(method=method))

    ended = run_traced([sys.executable, "app.py"])

    assert (ended.returncode, ended.stdout) == (0, f"{[n * n for n in range(20)]}\n"), ended.stderr
    harness.check_conservation(ended.events)
    workers = {event["pid"] for event in ended.events if event.get("function") == "work"}
    assert len(workers) >= 2
    assert ended.pid not in workers
    assert sum(event["event"] == "ENTER" and event["function"] == "work" for event in ended.events) == 21


def test_forked_child_goes_on_below_the_parents_call(write: Write, run_traced: Run) -> None:
    """What a forked child calls has the caller in the parent above it, and nothing is delivered twice."""  # fault P1
    write(
        "app.py",
        """
        import os, sys
        def leaf(n): return n
        def main():
            leaf(0)
            pid = os.fork()
            if pid == 0:
                leaf(1)
                sys.exit(5)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(main())
        """,
    )

    ended = run_traced([sys.executable, "app.py"])

    assert ended.stdout == "5\n"
    harness.check_conservation(ended.events)
    [main] = [event for event in ended.events if event["event"] == "ENTER" and event["function"] == "main"]
    leaves = [event for event in ended.events if event["event"] == "ENTER" and event["function"] == "leaf"]
    assert {event["parentId"] for event in leaves} == {main["spanId"]}
    assert {event["pid"] for event in leaves} == set(ended.processes)
    assert {event["traceId"] for event in leaves} == {main["traceId"]}


def test_subprocess_that_starts_python_is_traced(write: Write, run_traced: Run) -> None:
    """A program's children are traced as it is, each with its own file; START names the parent."""
    write("child.py", "def g(): pass\ng()\n")
    write("app.py", "import subprocess, sys\ndef f(): subprocess.run([sys.executable, 'child.py'], check=True)\nf()\n")
    ended = run_traced([sys.executable, "app.py"])
    starts = {event["pid"]: event["parentPid"] for event in ended.events if event["event"] == "START"}
    [child] = set(starts) - {ended.pid}
    assert starts[child] == ended.pid
    assert len({event["run"] for event in ended.events if event["event"] == "START"}) == 1
    harness.check_conservation(ended.events)


AT_ONCE = """
import os, signal, sys, time

def ends(number):
    pid = os.fork()
    if pid == 0:
        time.sleep(20)
        os._exit(0)
    os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # so that the parent goes on first
for number in (signal.SIGTERM, signal.SIGHUP):
    print({ends(number) for _ in range(20)}, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux says which processor to use")
def test_child_that_is_ended_as_soon_as_it_is_forked(write: Write, run_traced: Run) -> None:
    """No signal is forgotten between the fork and the first instruction in the child."""  # fault P7
    write("app.py", AT_ONCE)
    ended = run_traced([sys.executable, "app.py"])

    assert ended.stdout.splitlines() == ["{-15} set()", "{-1} set()"]


@pytest.mark.skipif(not hasattr(os, "setresuid") or os.geteuid() != 0, reason="only root can give its rights away")
@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_process_with_more_rights_than_its_starter_is_not_traced(kind: str, write: Write, run_traced: Run) -> None:
    """Whoever starts a program that is setuid does not decide what is seen of it."""  # fault X9
    inner = write("inner.py", "def shown(): return 1\nshown()\n")
    write(
        "app.py",
        f"""
        import os, subprocess, sys
        def drop(): os.setres{kind}(65534, 0, 0)
        def main():
            for before in (None, drop):
                subprocess.run([sys.executable, {str(inner)!r}], preexec_fn=before, check=True)
        main()
    """,
    )
    ended = run_traced([sys.executable, "app.py"], options=["--quiet"])

    assert ended.returncode == 0, ended.stderr
    assert ended.calls.count("__main__.shown") == 1


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_isolated_python_is_not_traced(option: str, write: Write, run_traced: Run) -> None:
    """Options that keep the environment out keep the agent out."""  # fault X9
    write("app.py", "def shown(): return 1\nshown()\n")
    ended = run_traced([sys.executable, option, "app.py"])

    assert (ended.returncode, ended.events) == (0, [])


@pytest.mark.parametrize("quiet", [True, False])
def test_other_python_that_has_no_flowtrace_runs_untraced(quiet: bool, write: Write, run_traced: Run) -> None:
    """It says so in one line on its stderr, which `--quiet` keeps empty: the program may read it."""
    write("other/flowtrace/__init__.py", "raise ModuleNotFoundError('no flowtrace here')\n")
    write(
        "app.py",
        """
        import os, subprocess, sys
        path = os.pathsep.join([os.environ["PYTHONPATH"], "other"])
        command = [sys.executable, "-c", "print(7)"]
        env = {**os.environ, "PYTHONPATH": path}
        env.pop("FLOWTRACE_STRICT")
        print(subprocess.run(command, env=env, capture_output=True, text=True))
    """,
    )
    ended = run_traced([sys.executable, "app.py"], options=["--quiet"] if quiet else [])

    assert "stdout='7\\n'" in ended.stdout
    assert ("stderr=''" in ended.stdout) is quiet
