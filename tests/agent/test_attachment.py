"""What is attached while the program runs: switched off and on, and under other rules."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.engine import codes
from tests.agent.program import Program, config, program

SHOP = """
import dataclasses, functools

def f(x):
    return x + 1

def outer():
    def inner(y):
        return y
    return inner

class Shop:
    def buy(self, what):
        return what

    @staticmethod
    def hours():
        return 9

@functools.lru_cache
def cached(x):
    return x

def counts(n):
    for i in range(n):
        yield f(i)

@dataclasses.dataclass
class Item:
    name: str

    def label(self):
        return self.name
"""
RULE = {"modules": ["shop"]}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Program, Any]]:
    """A traced program and its module."""
    with program(tmp_path, RULE) as running:
        yield running, running.load("shop", SHOP)


def functions(module: Any) -> list[Any]:
    """The functions of `SHOP`, wherever they are."""
    return [module.f, module.outer, module.Shop.buy, module.Shop.hours, module.cached.__wrapped__, module.counts]


def test_rule_changes_only_what_it_names_of_capture(tmp_path: Path) -> None:
    """What a rule leaves open is as it is for all functions."""
    rules = {**RULE, "include": ["f"], "capture": {"result": False, "max_items": 1}}, RULE
    with program(tmp_path, *rules) as running:
        running.load("shop", SHOP)
        f, buy = (next(t for t in running.recorder.targets if t.qualname == name) for name in ("f", "Shop.buy"))

    assert [(target.args, target.result) for target in (f, buy)] == [(True, False), (True, True)]
    assert [target.encoder.result([1, 2]).count(b"2") for target in (f, buy)] == [0, 1]


def test_switching_off_gives_back_the_very_code(shop: tuple[Program, Any]) -> None:
    """Off, each function has the code that Python compiled; on, the instrumented one, the same objects each time."""
    running, module = shop
    instrumented = [function.__code__ for function in functions(module)]
    plain = compile(SHOP, module.__file__, "exec", dont_inherit=True)

    switched = running.attachment.switch(on=False)
    off = [function.__code__ for function in functions(module)]
    module.Shop().buy(1), module.cached(1), list(module.counts(2))
    silent = running.calls()
    running.attachment.switch(on=True)

    assert switched >= len(off)
    assert silent == []
    assert all(code in codes(plain) for code in off)
    assert all(one.__code__ is other for one, other in zip(functions(module), instrumented, strict=True))


def test_closures_made_before_and_after_are_switched(shop: tuple[Program, Any]) -> None:
    """Functions made by functions follow, those made while it was off too."""
    running, module = shop
    before = module.outer()
    running.attachment.switch(on=False)
    meanwhile = module.outer()
    running.attachment.switch(on=True)
    running.calls()

    before(1), meanwhile(2), module.outer()(3)

    assert running.calls().count("shop:outer.<locals>.inner") == 3


def test_what_runs_when_it_is_switched_ends_as_it_began(shop: tuple[Program, Any]) -> None:
    """A generator under way goes on, and its span ends."""
    running, module = shop
    generator = module.counts(3)
    next(generator)

    running.attachment.switch(on=False)
    rest = list(generator)

    assert rest == [2, 3]
    assert [record[0] for record in running.recorder.queue][-1] == 1
    assert running.calls() == ["shop:counts", "shop:f"]


def test_a_module_imported_while_it_is_off_is_ready(tmp_path: Path) -> None:
    """It runs its plain code, and is traced when switched on."""
    with program(tmp_path, RULE) as running:
        running.attachment.switch(on=False)
        module = running.load("shop", SHOP)
        module.f(1)
        assert running.calls() == []

        running.attachment.switch(on=True)
        module.f(1)

        assert running.calls() == ["shop:f"]


def test_generated_code_is_a_target_only_by_name(tmp_path: Path) -> None:
    """A dataclass's ``__init__`` is traced where a rule names it without a wildcard."""
    with program(tmp_path, {"modules": ["shop"], "include": ["Item.__init__", "Item.label"]}) as running:
        module = running.load("shop", SHOP)

        assert module.Item("x").label() == "x"

        assert running.calls() == ["shop:Item.__init__", "shop:Item.label"]


def test_other_rules_take_effect_at_once(shop: tuple[Program, Any]) -> None:
    """After a reload what was traced and no longer is has its plain code, and the other way round."""
    running, module = shop

    running.attachment.reload(config({"modules": ["shop"], "include": ["Shop.*"]}), project=str(running.folder))
    module.f(1), module.Shop().buy(2)

    assert running.calls() == ["shop:Shop.buy"]
    assert module.f.__code__ in codes(compile(SHOP, module.__file__, "exec", dont_inherit=True))
    running.attachment.reload(config(RULE), project=str(running.folder))
    module.f(1), module.Shop().buy(2)
    assert running.calls() == ["shop:f", "shop:Shop.buy"]


def test_a_module_imported_before_becomes_a_target(tmp_path: Path) -> None:
    """What exists of its functions is traced, wherever it is kept, whatever became of the file since."""
    with program(tmp_path, {"modules": ["nothing"]}) as running:
        module = running.load("shop", SHOP)
        buy = module.Shop().buy
        running.write("shop.py", SHOP.replace("x + 1", "x + 2"))

        running.attachment.reload(config({"modules": ["shop*"]}), project=str(tmp_path))

        assert (module.f(1), buy(2)) == (2, module.Shop().buy(2))
        assert running.calls() == ["shop:f", "shop:Shop.buy", "shop:Shop.buy"]


def test_nothing_is_left_after_detaching(shop: tuple[Program, Any]) -> None:
    """A module that is no target any more has its plain code, and an ATTACH without functions says so."""
    running, module = shop

    running.attachment.reload(config({"modules": ["nothing"]}), project=str(running.folder))

    assert "shop" not in running.attachment.modules
    assert running.how("shop") == {}
    module.f(1)
    assert running.calls() == []


@pytest.mark.parametrize("is_traced_there", [True, False])
def test_functions_pickled_by_value_run_elsewhere(tmp_path: Path, *, is_traced_there: bool) -> None:
    """cloudpickle takes a traced function apart; it runs in a process with the agent and in one without."""
    # fault P13
    cloudpickle = pytest.importorskip("cloudpickle")
    with program(tmp_path, RULE) as running:
        module = running.load("shop", SHOP + "\nasync def c(x):\n    return f(x)\n")
        cloudpickle.register_pickle_by_value(module)
        data = cloudpickle.dumps([module.outer(), module.counts, module.c, module.f])
        cloudpickle.unregister_pickle_by_value(module)

    text = (
        "import asyncio, pickle, sys\n"
        "inner, counts, c, f = pickle.loads(sys.stdin.buffer.read())\n"
        "print(inner(5), list(counts(2)), asyncio.run(c(1)), f(1))\n"
    )
    ended = subprocess.run([sys.executable, "-c", text], input=data, capture_output=True, check=False)
    assert ended.stdout.decode().split("\n")[0].rstrip("\r") == "5 [1, 2] 2 2", ended.stderr.decode()

    if is_traced_there:
        with program(tmp_path, {"modules": ["nothing"]}) as other:
            inner, counts, coroutine, f = cloudpickle.loads(data)
            seen = inner(5), list(counts(2)), asyncio.run(coroutine(1)), f(1)
            assert seen == (5, [1, 2], 2, 2)
            assert set(other.calls()) == {"shop:outer.<locals>.inner", "shop:counts", "shop:c", "shop:f"}
