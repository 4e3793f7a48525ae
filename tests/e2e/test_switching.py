"""Switching while threads call the functions concerned all the time: nothing is lost, doubled or broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
import pytest

from flowtrace.cli.main import main

SHOP = """
import asyncio, functools, types

def plain(name, n):
    return n + 1

def fails(name, n):
    raise ValueError(n)

def recursive(name, n, depth):
    return 0 if depth == 0 else 1 + recursive(name, n, depth - 1)

def counts(name, n):
    for i in range(3):
        yield n + i
    return "over"

def delegates(name, n):
    return (yield from counts(name, n))

def for_ever(name):
    n = 0
    while True:
        n += yield n

async def awaits(name, n):
    await asyncio.sleep(0)
    return await nested(name, n)

async def nested(name, n):
    await asyncio.sleep(0)
    return -n

async def streams(name, n):
    for i in range(3):
        await asyncio.sleep(0)
        yield n + i

def makes(name, n):
    def inner(m):
        return m + n
    return inner

def doubled(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)
    return wrapper

@doubled
def decorated(name, n):
    return n

handlers = []
handlers.append(lambda name, n: plain(name, n))

@handlers.append
def registered(name, n):
    return n + 2

class Cart:
    def method(self, name, n):
        return n * 2

    @classmethod
    def of_class(cls, name, n):
        return cls, n

    @staticmethod
    def static(name, n):
        return n

    @property
    def size(self):
        return 7

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return True

bound = Cart().method
partial = functools.partial(Cart.static, "partial")
closure = makes("", 0)

def codes():
    functions = [
        plain, fails, recursive, counts, delegates, for_ever, awaits, nested, streams, makes, closure, decorated,
        decorated.__wrapped__, handlers[1], Cart.method, Cart.of_class.__func__, Cart.static, Cart.size.fget,
        Cart.__exit__, bound.__func__, partial.func,
    ]
    with open(__file__) as file:
        compiled = [compile(file.read(), __file__, "exec")]
    for code in compiled:
        compiled += [each for each in code.co_consts if type(each) is types.CodeType]
    return {
        "codes": [id(function.__code__) for function in functions],
        "plain": [function.__name__ for function in functions if function.__code__ in compiled],
    }
"""

APP = """
import asyncio, json, os, sys, threading, time
import shop

progress, mistakes, over = {}, [], threading.Event()

def work(name, one_round):
    n = 0
    try:
        while not over.is_set():
            n += 1
            progress[name] = n
            one_round(name, n)
            if n % 3 == 0:
                time.sleep(0.002)
    except BaseException as error:
        mistakes.append(f"{name}: {type(error).__name__}: {error}")
        raise

def functions(name, n):
    assert shop.plain(name, n) == n + 1
    assert shop.decorated(name, n) == 2 * n
    assert [handle(name, n) for handle in shop.handlers] == [n + 1, n + 2]
    assert shop.makes(name, n)(1) == n + 1
    try:
        shop.fails(name, n)
    except ValueError as error:
        assert error.args == (n,)
    else:
        raise AssertionError("did not raise")

def methods(name, n):
    assert shop.bound(name, n) == 2 * n
    assert shop.partial(n) == n
    assert shop.Cart.of_class(name, n) == (shop.Cart, n)
    assert shop.Cart().size == 7
    with shop.Cart():
        raise KeyError

def recursion(name, n):
    assert shop.recursive(name, n, 15) == 15

def generators(name, n):
    assert list(shop.counts(name, n)) == [n, n + 1, n + 2]
    gen = shop.delegates(name, n)
    values = []
    try:
        while True:
            values.append(next(gen))
    except StopIteration as stop:
        assert stop.value == "over"
    assert values == [n, n + 1, n + 2]
    assert next(shop.counts(name, n)) == n  # and is closed

eternal = shop.for_ever("eternal")
sums = next(eternal)
def one_generator(name, n):
    global sums
    sums += n
    assert eternal.send(n) == sums

def coroutines(name, n):
    async def all_of_it():
        both = await asyncio.gather(shop.awaits(name, n), shop.awaits(name, n))
        assert both == [-n, -n]
        assert [x async for x in shop.streams(name, n)] == [n, n + 1, n + 2]
        await asyncio.sleep(0)
    runner.run(all_of_it())

kinds = [functions, methods, recursion, generators, one_generator, coroutines]
workers = [threading.Thread(target=work, args=(kind.__name__, kind)) for kind in kinds]
runner = asyncio.Runner()
for worker in workers:
    worker.start()
while not os.path.exists("stop"):
    time.sleep(0.005)
    if os.path.exists("probe"):
        os.unlink("probe")
        report = {"progress": dict(progress), **shop.codes()}
        with open("report.tmp", "w") as file:
            json.dump(report, file)
        os.rename("report.tmp", "report")
over.set()
for worker in workers:
    worker.join()
eternal.close()
runner.close()
print("mistakes:", mistakes)
"""

FUNCTIONS = 21  # that the shop says the code of
NOTHING_IS_LEFT_OUT = {"overflow": "block", "block_timeout": "1m"}
EVERYTHING = {"modules": ["shop"], "exclude": ["codes"]}
THREADS = {"functions", "methods", "recursion", "generators", "one_generator", "coroutines"}


class Shop:
    """A program whose threads call all kinds of functions, again and again, and check what they get."""

    def __init__(self, folder: Path, tracer: harness.Tracer, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._tracer, self._capsys = folder, tracer, capsys
        (folder / "shop.py").write_text(SHOP)
        (folder / "app.py").write_text(APP)

    def start(self, **config: Any) -> None:
        """Start it, traced."""
        config = {"targets": [EVERYTHING], "queue": NOTHING_IS_LEFT_OUT} | config
        self.running = self._tracer.start([sys.executable, "app.py"], config=config)
        self.goes_on()

    def ctl(self, *words: str, status: int = 0) -> str:
        """What ``flowtrace ctl`` says to it."""
        ended = main(["ctl", str(self.running.pid), *words, "--timeout", "60"])
        out, err = self._capsys.readouterr()
        assert ended == status, out + err
        return str(out + err)

    def probe(self) -> dict[str, Any]:
        """How far each thread has come, and the ids of the code objects of its functions."""
        (self.folder / "probe").touch()
        path = self.folder / "report"
        harness.wait_until(path.exists, f"it reports\n{self.running.stderr}")
        report = json.loads(path.read_text())
        path.unlink()
        return dict(report)

    def goes_on(self, rounds: int = 5) -> dict[str, Any]:
        """Wait until each of its six threads has made some rounds more."""
        before = self.probe()["progress"]

        def after() -> dict[str, Any] | None:
            report = self.probe()
            now = report["progress"]
            return (
                report if len(now) == len(THREADS) and all(now[k] >= before.get(k, 0) + rounds for k in now) else None
            )

        return dict(harness.wait_until(after, f"all threads go on\n{self.running.stderr}"))

    def reload(self, *rules: dict[str, Any], status: int = 0, **keys: Any) -> str:
        """Edit its configuration and put it in force."""
        path = self.folder / "config.yaml"
        config = json.loads(path.read_text()) | keys | {"targets": rules}
        path.write_text(json.dumps(config))
        return self.ctl("reload", status=status)

    def window(self) -> Window:
        """What happens from now on, until each thread has made some rounds."""
        began = self.probe()
        return Window(began["progress"], self.goes_on()["progress"])

    def end(self) -> list[harness.Event]:
        """Let it end; its results were right throughout, and its events are complete."""
        (self.folder / "stop").touch()
        ended = self.running.wait()
        assert (ended.returncode, ended.stdout) == (0, "mistakes: []\n"), ended.stderr
        harness.check_conservation(ended.events)
        assert ended.events[-1]["lost"]["file"] == ended.events[-1]["openCalls"] == 0
        return ended.events


@pytest.fixture
def shop(tmp_path: Path, tracer: harness.Tracer, capsys: pytest.CaptureFixture[str]) -> Shop:
    """The shop, not started."""
    return Shop(tmp_path, tracer, capsys)


class Window(NamedTuple):
    """A stretch of time, as the rounds between which each thread was."""

    began: dict[str, int]
    ended: dict[str, int]

    def functions(self, events: Sequence[harness.Event]) -> set[str]:
        """Those that were called in rounds that lie wholly within."""
        return {function for function, name, n in calls(events) if self.began[name] < n < self.ended[name]}


def calls(events: Sequence[harness.Event]) -> Iterator[tuple[str, str, int]]:
    """Function, thread and round of the calls that have them among their arguments."""
    for event in events:
        args = json.loads(event["args"]) if event["event"] == "ENTER" else {}
        if args.get("name") in THREADS and "n" in args:
            yield event["function"], args["name"], args["n"]


def test_switched_off_and_on_in_hot_loops(shop: Shop) -> None:
    """Off, no call is recorded and each function has the code that Python compiled, the same object each time."""
    shop.start()
    on, off, silent = [shop.probe()], [], []
    for _ in range(8):
        assert ": off, " in shop.ctl("off")
        silent.append(shop.window())
        off.append(shop.probe())
        assert ": on, " in shop.ctl("on")
        on += [shop.probe(), shop.goes_on()]
    events = shop.end()

    assert [len(state["plain"]) for state in off] == [FUNCTIONS] * len(off)
    assert [state["plain"] for state in on] == [[]] * len(on)
    assert all(state["codes"] == off[0]["codes"] for state in off)
    assert all(state["codes"] == on[0]["codes"] for state in on)
    assert {name for _, name, _ in calls(events)} == THREADS - {"one_generator"}
    assert [window.functions(events) for window in silent] == [set()] * len(silent)


def test_targets_come_and_go_in_hot_loops(shop: Shop) -> None:
    """Each reload holds for all threads at once: what is a target no more is plain, what becomes one is recorded."""
    some = {"modules": ["shop"], "include": ["plain", "counts", "nested", "Cart.method"]}
    none = {"modules": ["shop_that_is_not"]}
    shop.start()
    seen = []
    for rules in [(some,), (none,), (some, EVERYTHING), (none,), (EVERYTHING,)] * 2:
        assert ": reloaded, " in shop.reload(*rules)
        seen.append((rules, shop.window(), shop.probe()))
    events = shop.end()

    everything = {function for function, _, _ in calls(events)}
    assert len(everything) > 10
    for rules, window, state in seen:
        if none in rules:
            assert (window.functions(events), len(state["plain"])) == (set(), FUNCTIONS)
        elif EVERYTHING in rules:
            assert (window.functions(events), state["plain"]) == (everything, [])
        else:
            assert window.functions(events) == {"plain", "counts", "nested", "method"}
            assert len(state["plain"]) == FUNCTIONS - 5  # the method is there twice


def test_reload_while_off(shop: Shop) -> None:
    """It stays off under the new rules, and these hold when it is switched on."""
    shop.start()
    shop.ctl("off")
    shop.reload({"modules": ["shop"], "include": ["plain"]})
    off, state = shop.window(), shop.probe()
    shop.ctl("on")
    on = shop.window()
    events = shop.end()

    assert (off.functions(events), len(state["plain"])) == (set(), FUNCTIONS)
    assert on.functions(events) == {"plain"}


def test_modules_imported_before_they_become_targets(shop: Shop) -> None:
    """Functions are found wherever they are: in registries, closures, bound methods, partials, under decorators."""
    shop.start(targets=[{"modules": ["shop_that_is_not"]}])
    before = shop.probe()
    shop.reload(EVERYTHING)
    window, on = shop.window(), shop.probe()
    shop.ctl("off")
    off = shop.goes_on()
    events = shop.end()

    assert (len(before["plain"]), on["plain"], len(off["plain"])) == (FUNCTIONS, [], FUNCTIONS)
    assert {"plain", "registered", "method", "decorated", "counts", "nested"} <= window.functions(events)


def test_late_target_gets_back_its_very_code(shop: Shop) -> None:
    """Switched off, a function has the code object that it had before it became a target."""
    shop.start(targets=[{"modules": ["shop_that_is_not"]}])
    before = shop.probe()
    shop.reload(EVERYTHING)
    shop.ctl("off")
    after = shop.probe()
    shop.end()
    assert after["codes"] == before["codes"]


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"targts": []}, 2),
        ({"service": "other"}, 1),
        ({"sinks": []}, 1),
    ],
)
def test_bad_edit_keeps_the_old_configuration(keys: dict[str, Any], status: int, shop: Shop) -> None:
    """One line says so, and the threads go on being recorded as before."""  # fault F3
    shop.start()
    before = shop.probe()["codes"]

    said = shop.reload({"modules": ["shop_that_is_not"]}, status=status, **keys)

    window, after = shop.window(), shop.probe()["codes"]
    events = shop.end()
    assert (said.count("\n"), said.endswith("the old configuration stays\n")) == (1, True)
    assert next(iter(keys)) in said
    assert after == before
    assert "plain" in window.functions(events)


def test_half_written_file_keeps_the_old_configuration(shop: Shop) -> None:
    """What ends in the middle is no YAML: one line says so."""  # fault F6
    shop.start()
    path = shop.folder / "config.yaml"
    path.write_text(path.read_text()[:-20])

    said = shop.ctl("reload", status=2)

    window = shop.window()
    events = shop.end()
    assert (said.count("\n"), said.endswith("the old configuration stays\n")) == (1, True)
    assert "plain" in window.functions(events)
