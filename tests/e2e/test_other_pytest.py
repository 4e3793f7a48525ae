"""pytest and flowtrace in one process: its assertions explain what they explained, and what tests call is traced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import harness
import pytest
from other_tools import command, differences

Run = Callable[..., harness.Ended]
Write = Callable[[str, str], object]

PYTEST = [command("pytest"), "-p", "no:cacheprovider"]
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the plugins that happen to be installed take seconds

SHOP = '''
    """Sells."""

    def price(n):
        if n < 0:
            raise ValueError(f"{n} is less than nothing")
        return 2 * n

    def receipt(*names):
        assert names, "nothing bought"
        return {name: price(len(name)) for name in names}

    async def later(n):
        return price(n)
    '''
SUITE = """
    import asyncio
    import pytest
    import checks, shop

    @pytest.fixture
    def names():
        yield ["tea", "milk"]

    @pytest.fixture
    def broken():
        shop.price(-2)

    def test_passes(names):
        assert shop.receipt(*names) == {"tea": 6, "milk": 8}

    def test_compares(names):
        assert shop.receipt(*names) == {"tea": 6, "milk": 9, "cake": 1}

    def test_explains_calls():
        assert shop.price(shop.price(1)) > 4 and not shop.price(0)

    def test_explains_operators():
        x = 3
        assert (x, [y := shop.price(x)]) == (x, [7]), f"{y} it is"

    def test_raises_inside():
        total = shop.price(1)
        assert total
        shop.price(-total)

    def test_assertion_of_the_program():
        assert shop.receipt()

    def test_assertion_of_a_rewritten_module():
        checks.is_cheap(shop.price(5))

    def test_expects_another_error():
        with pytest.raises(ValueError, match="enough"):
            shop.price(-1)

    def test_needs_what_breaks(broken):
        pass

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.xfail(reason="odd", strict=True)
    def test_expected(n):
        assert shop.price(n) == 2

    def test_coroutine():
        assert asyncio.run(shop.later(2)) == 5

    def test_prints(capsys, capfd, caplog):
        print("out", shop.price(1))
        assert capsys.readouterr().out == "out 3"

    @pytest.mark.skip(reason="later")
    def test_skipped():
        shop.price(-1)
    """
CHECKS = """
    def is_cheap(n):
        limit = 3
        assert n < limit
    """
SHOWS = {
    "as it is": [],
    "everything": ["-vv", "--showlocals", "--tb=long", "-rA"],
    "short": ["--tb=short", "-q"],
    "as Python shows it": ["--tb=native"],
    "in a worker": ["-n", "1", "-p", "xdist"],
    "plain assertions": ["--assert=plain"],
    "at another place": ["--import-mode=importlib"],
}


@pytest.fixture
def suite(write: Write) -> None:
    """A module, its tests, most of which fail, and a helper whose assertions pytest rewrites as well."""
    write("shop.py", SHOP)
    write("checks.py", CHECKS)
    write("conftest.py", 'import pytest, sys\npytest.register_assert_rewrite("checks")\nsys.path.insert(0, ".")\n')
    write("test_shop.py", SUITE)


def said(ended: harness.Ended) -> list[str]:
    """What pytest printed, but for times and addresses."""
    return re.sub(r"0x[0-9a-f]+|\d+\.\d+s", "*", ended.stdout).splitlines()


@pytest.mark.parametrize("show", SHOWS)
def test_assertions_explain_the_same(show: str, suite: None, run_traced: Run, run_plain: Run) -> None:
    """Outcomes, explanations of assertions, tracebacks, local variables and captured output are as untraced."""
    # fault C10
    run = [*PYTEST, *SHOWS[show]]

    plain = run_plain(run, env=ALONE)
    traced = run_traced(run, env=ALONE)

    assert plain.returncode == traced.returncode == 1
    assert differences(said(plain), said(traced)) == ""
    assert traced.calls.count("shop.price") >= 2
    harness.check_conservation(traced.events)


def test_tests_are_traced_too(suite: None, run_traced: Run) -> None:
    """pytest compiles test modules itself, with its own assertions: these functions are traced like any."""
    traced = run_traced(PYTEST, env=ALONE)

    assert {call.partition(".")[0] for call in traced.calls} == {"shop", "test_shop", "checks"}


def test_first_module_is_attached(suite: None, run_traced: Run) -> None:
    """The module that is imported first has its ATTACH, although pytest's finder stands before ours."""
    traced = run_traced(PYTEST, env=ALONE)

    assert "shop" in {event["module"] for event in traced.events if event["event"] == "ATTACH"}


def test_tests_are_traced_without_rewriting(suite: None, run_traced: Run) -> None:
    """With ``--assert=plain`` Python's own loader compiles test modules, and tests and fixtures are calls."""
    traced = run_traced([*PYTEST, "--assert=plain"], env=ALONE)

    assert {"test_shop.names", "test_shop.test_passes", "checks.is_cheap", "shop.price"} <= set(traced.calls)


def test_tree_lands_in_captured_output(suite: None, run_traced: Run) -> None:
    """Without a configuration the tree goes to stderr, which pytest captures; a file sink keeps it out of reports."""
    run = [*PYTEST, "-k", "compares", "-s"]

    with_tree = run_traced(run, config=None, env=ALONE)
    with_file = run_traced(run, options=["--quiet"], env=ALONE)

    assert "price(n=3)" in with_tree.stderr + with_tree.stdout
    assert with_file.stderr == ""
    assert any(json.loads(event["args"]) == {"n": 3} for event in with_file.events if event["event"] == "ENTER")
