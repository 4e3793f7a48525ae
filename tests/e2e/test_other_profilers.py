"""A profiler and flowtrace in one process: it counts the program's calls as without flowtrace, and they are traced."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from other_tools import SAMPLES, TRACE_SAMPLES, cases, command, copy_samples, differences, needs

Run = Callable[..., harness.Ended]
Write = Callable[[str, str], Path]

CASES = ["watcher.py", "nothing", *SAMPLES]
STATISTICS = """
    import json, os, pstats

    stats = pstats.Stats("profile").stats
    print(json.dumps([[os.path.basename(file), line, name, calls, primitive, sorted(map(str, callers))]
        for (file, line, name), (primitive, calls, _, _, callers) in sorted(stats.items())
        if os.path.dirname(file) == os.getcwd() and name != "<lambda>"]))  # two in a line are one
    """
ALLOCATIONS = """
    import tracemalloc

    def keeps(n):
        return [str(i) * 9 for i in range(n)]

    def outer(n):
        kept = keeps(n)
        return kept, [bytes(i + 100) for i in range(n)]

    tracemalloc.start()
    kept = outer(1000)
    statistics = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)]).statistics("lineno")
    for one in sorted(statistics, key=lambda one: one.traceback[0].lineno):
        if one.count > 10:  # a list or tuple more or less: whether they are from CPython's free lists is chance
            print(one.traceback[0].lineno, round(one.count, -1))
    """


def test_cprofile_counts_the_same(tmp_path: Path, write: Write, run_traced: Run, run_plain: Run) -> None:
    """cProfile counts each function of the program as often as untraced, with the same callers."""
    # fault C10
    copy_samples(tmp_path)
    write("statistics_.py", STATISTICS)
    run = [sys.executable, "-m", "cProfile", "-o", "profile", *CASES]

    def counted() -> list[object]:
        shown: list[object] = json.loads(run_plain([sys.executable, "statistics_.py"]).stdout)
        return shown

    assert run_plain(run).returncode == 0
    expected = counted()
    traced = run_traced(run, config=TRACE_SAMPLES)

    assert traced.returncode == 0, traced.stderr
    assert len(expected) > 300
    assert differences(expected, counted()) == ""
    assert cases(tmp_path) <= set(traced.calls)
    harness.check_conservation(traced.events)


def calls_seen_by_viztracer(path: Path) -> Counter[str]:
    """How often each function was called, as VizTracer has written it."""
    events = json.loads(path.read_text())["traceEvents"]
    return Counter(event["name"] for event in events if event.get("ph") == "X")


@needs("viztracer")
def test_viztracer_sees_the_same_calls(tmp_path: Path, run_traced: Run, run_plain: Run) -> None:
    """`flowtrace-run viztracer` has as many events of each function of the program as viztracer alone."""
    # fault C10
    copy_samples(tmp_path)
    run = [command("viztracer"), "--quiet", "--ignore_c_function", "--include_files", str(tmp_path), "-o"]

    plain = run_plain([*run, "plain.json", *CASES])
    traced = run_traced([*run, "traced.json", *CASES], config=TRACE_SAMPLES)

    assert (plain.returncode, traced.returncode) == (0, 0), traced.stderr
    expected = calls_seen_by_viztracer(tmp_path / "plain.json")
    assert len(expected) > 250
    assert calls_seen_by_viztracer(tmp_path / "traced.json") == expected
    assert cases(tmp_path) <= set(traced.calls)
    harness.check_conservation(traced.events)


def test_tracemalloc_counts_the_same(write: Write, run_traced: Run, run_plain: Run) -> None:
    """tracemalloc finds as many blocks of memory allocated by each line of the program as untraced."""
    # fault C10
    write("main.py", ALLOCATIONS)

    plain = run_plain([sys.executable, "main.py"])
    traced = run_traced([sys.executable, "main.py"], options=["--quiet"])

    assert len(plain.stdout.splitlines()) == 2
    assert (traced.stdout, traced.stderr) == (plain.stdout, plain.stderr)
    assert traced.calls == ["__main__.outer", "__main__.keeps"]


def test_profiles_show_what_tracing_costs(write: Write, run_traced: Run) -> None:
    """A profiler of all functions shows flowtrace's too, by the file they are from."""
    write("shop.py", "def price(n):\n    return n\n")
    write(
        "main.py",
        """
        import cProfile, pstats, shop

        with cProfile.Profile() as profile:
            shop.price(2)
        for (file, _, name), (_, calls, *_) in pstats.Stats(profile).stats.items():
            print(file, name, calls)
        """,
    )

    shown = run_traced([sys.executable, "main.py"]).stdout.splitlines()

    assert [line.rpartition("/")[2] for line in shown if "shop.py" in line] == ["shop.py price 1"]
    assert [line for line in shown if "/flowtrace/recorder.py" in line]


SCRIPT_RUNNERS = [
    pytest.param([command("coverage"), "run"], marks=needs("coverage"), id="coverage run"),
    pytest.param([command("viztracer"), "--quiet"], marks=needs("viztracer"), id="viztracer"),
    pytest.param([sys.executable, "-m", "pdb", "-c", "continue", "-c", "quit"], id="pdb"),
    pytest.param([sys.executable, "-m", "cProfile", "-o", "profile"], id="cProfile"),
]


@pytest.mark.parametrize("runner", SCRIPT_RUNNERS)
def test_script_that_a_tool_compiles_is_not_traced(runner: list[str], write: Write, run_traced: Run) -> None:
    """What these tools run they compile themselves: the functions of the script are no calls, those it imports are."""
    write("shop.py", "def price(n):\n    return n\n")
    write("main.py", "import shop\n\ndef main():\n    shop.price(2)\n\nmain()\n")

    traced = run_traced([*runner, "main.py"])

    assert traced.calls == ["shop.price"]
    harness.check_conservation(traced.events)
