"""coverage.py and flowtrace in one process: the same lines and branches are measured, and all calls are traced."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest
from other_tools import SAMPLES, TRACE_SAMPLES, cases, command, copy_samples, needs

import flowtrace

pytestmark = needs("coverage")

Run = Callable[..., harness.Ended]
Write = Callable[[str, str], Path]

CORES = [
    pytest.param("ctrace", "--branch"),
    pytest.param("pytrace", "--branch"),
    pytest.param("sysmon", "--source=.", marks=needs("coverage", version=(3, 12))),
    pytest.param("sysmon", "--branch", marks=needs("coverage", version=(3, 14))),
]
CASES = ["watcher.py", "nothing", *SAMPLES]


KINDS = ("executed_lines", "missing_lines", "excluded_lines", "executed_branches", "missing_branches")


@pytest.fixture
def measured(tmp_path: Path, run_plain: Run) -> Callable[[], dict[str, Any]]:
    """``measured()``: what coverage.py has written of the files of the program; and nothing is left behind."""

    def measured() -> dict[str, Any]:
        parts = sorted(tmp_path.glob(".coverage.*"))
        combined = [run_plain([command("coverage"), "combine", "--quiet"])] if parts else []
        done = run_plain([command("coverage"), "json", "--quiet", "--show-contexts", "-o", "coverage.json"])
        assert [(ended.returncode, ended.stderr) for ended in [*combined, done]] == [(0, "")] * (len(combined) + 1)
        (tmp_path / ".coverage").unlink()
        files = json.loads((tmp_path / "coverage.json").read_text())["files"]
        if "site-packages" in flowtrace.__file__:  # else it is being developed, and measured as what is
            assert not [name for name in files if os.path.isabs(name)]
        own = {name: file for name, file in files.items() if not os.path.isabs(name)}
        contexts = {
            f"{name}:{line}": sorted(contexts)
            for name, file in own.items()
            for line, contexts in file["contexts"].items()
        }
        return {f"{name} {kind}": own[name].get(kind) for name in own for kind in KINDS} | contexts

    return measured


def changed(expected: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    """What has been measured in one run only, or not the same: as it should be, and as it is."""
    names = expected.keys() | got.keys()
    return {name: [expected.get(name), got.get(name)] for name in names if expected.get(name) != got.get(name)}


@pytest.mark.parametrize(("core", "option"), CORES)
def test_same_lines_and_branches_are_measured(
    core: str, option: str, tmp_path: Path, run_traced: Run, run_plain: Run, measured: Callable
) -> None:
    """`flowtrace-run coverage run`: executed and missing lines and branches are those of an untraced run."""
    # fault C10
    copy_samples(tmp_path)
    run = [command("coverage"), "run", option, *CASES]

    plain = run_plain(run, env={"COVERAGE_CORE": core})
    expected = measured()
    traced = run_traced(run, config=TRACE_SAMPLES, env={"COVERAGE_CORE": core})

    assert (plain.returncode, traced.returncode) == (0, 0), traced.stderr
    assert changed(expected, measured()) == {}
    assert all(len(expected[f"{name}.py executed_lines"]) > 100 for name in SAMPLES)
    harness.check_conservation(traced.events)
    assert cases(tmp_path) <= set(traced.calls)


@pytest.mark.parametrize("core", ["ctrace", pytest.param("sysmon", marks=needs("coverage", version=(3, 12)))])
def test_measuring_that_begins_before_tracing(
    core: str, tmp_path: Path, write: Write, run_traced: Run, run_plain: Run, measured: Callable
) -> None:
    """With COVERAGE_PROCESS_START coverage.py starts first, in child processes too; the script is traced as well."""
    # fault C10
    write("settings", f"[run]\nparallel = true\nconcurrency = thread\ncore = {core}\nsource = .\n")
    write("shop.py", "def price(n):\n    if n:\n        return n * 2\n    return 0\n")
    write(
        "main.py",
        """
        import multiprocessing
        import shop

        def total():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                total = shop.price(0) + sum(pool.map(shop.price, [1, 2]))
                pool.close()
                pool.join()
                return total

        if __name__ == "__main__":
            print(total())
        """,
    )
    env = {"COVERAGE_PROCESS_START": str(tmp_path / "settings")}

    plain = run_plain([sys.executable, "main.py"], env=env)
    expected = measured()
    traced = run_traced([sys.executable, "main.py"], env=env)

    assert (traced.stdout, traced.returncode) == (plain.stdout, plain.returncode) == ("6\n", 0), traced.stderr
    assert changed(expected, measured()) == {}
    assert expected["shop.py missing_lines"] == []
    assert sorted(traced.calls) == ["__main__.total", "shop.price", "shop.price", "shop.price"]


SUITE = """
    import pytest, shop

    @pytest.fixture
    def basket():
        yield [1, 2]

    def test_total(basket):
        assert shop.total(basket) == 6

    @pytest.mark.parametrize("n", [0, 1])
    def test_price(n):
        assert shop.price(n) == 2 * n

    def test_negative():
        with pytest.raises(ValueError, match="-1"):
            shop.price(-1)
    """
SHOP = """
    def price(n):
        if n < 0:
            raise ValueError(n)
        elif n > 100:
            return None
        return 2 * n

    def total(basket):
        return sum(price(n) for n in basket if n)
    """


@pytest.mark.parametrize("workers", ["0", "2"])
@needs("pytest_cov")
def test_pytest_cov_measures_the_same(
    workers: str, write: Write, run_traced: Run, run_plain: Run, measured: Callable
) -> None:
    """`flowtrace-run pytest --cov`: lines, branches, the tests that ran them, and the report are as untraced."""
    # fault C10
    write("shop.py", SHOP)
    write("test_shop.py", SUITE)
    write("settings", "[run]\nsource = .\nbranch = true\n")
    run = [command("pytest"), "-q", "-n", workers, "-p", "no:cacheprovider", "--cov", "--cov-config=settings"]
    run += ["--cov-context=test", "--cov-report=term-missing", "-p", "xdist", "-p", "pytest_cov"]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the plugins that happen to be installed take seconds

    plain = run_plain(run, env=alone)
    expected = measured()
    traced = run_traced(run, env=alone, config={"targets": [{"modules": ["shop"]}]})

    assert plain.returncode == traced.returncode == 0, traced.stdout + traced.stderr
    assert without_times(traced.stdout) == without_times(plain.stdout)
    assert changed(expected, measured()) == {}
    assert "test_shop.py::test_price[0]|run" in expected["shop.py:7"]
    assert traced.calls.count("shop.price") == 5


def without_times(text: str) -> str:
    """What pytest says, but for how long it took."""
    return re.sub(r"in \d+\.\d+s", "in a while", text)
