"""Carriers: what goes along with work that is handed over; tests/e2e/test_connected.py has it done by real programs."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from flowtrace import carriers as carriers_module
from flowtrace import constants
from flowtrace.carriers import Carriers, remote
from flowtrace.events import Ids
from flowtrace.recorder import LOST, SKIPPED, Entry, Recorder
from flowtrace.splices import Splices
from flowtrace.tracecontext import Remote, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Spliced:
    """Carriers that are at work in this process."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.recorder.state.strict = True
        self.current = self.recorder.current
        self.ids = Ids(lambda count: bytes(range(1, count + 1)))
        self.carriers = Carriers(self.current, self.ids, sends=lambda: True)
        self.splices = Splices(self.recorder)
        self.carriers.install(self.splices)


@pytest.fixture
def spliced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spliced]:
    """Carriers at work; afterwards the standard library has its own code again."""
    some = Spliced()
    monkeypatch.setattr(constants, "arrive", some.carriers.arrive)
    monkeypatch.setattr(constants, "resolve", lambda name: None)
    monkeypatch.setenv("FLOWTRACE_RESOLVED", "{}")
    some.splices.imported()
    yield some
    some.splices.switch(on=False)


def test_what_others_are_told() -> None:
    """A span under its ids; where a request has begun, whoever has sent it; where nothing is recorded, that."""
    ids = Ids(lambda count: bytes(range(1, count + 1)))
    away = Remote(TRACE, SPAN)

    assert remote(None, ids) is None
    assert remote((7, 9), ids) == Remote(ids.trace(7), ids.span(9))
    assert remote((TRACE, 9), ids) == Remote(TRACE, ids.span(9))
    assert remote((Entry(away), None), ids) == away
    assert remote((Entry(), None), ids) is None
    for nowhere in (LOST, SKIPPED):
        place = remote(nowhere, ids)
        assert place is not None
        assert parse(str(place)) == place
        assert not place.is_sampled


def test_threads_begin_where_they_were_started(spliced: Spliced) -> None:
    """And those that could not be started leave nothing behind."""
    seen: list[Any] = []
    spliced.current.set((1, 2))
    for _ in range(2):
        thread = threading.Thread(target=lambda: seen.append(spliced.current.get()))
        thread.start()
        thread.join()
        spliced.current.set(None)
    spliced.current.set((3, 4))
    with pytest.raises(RuntimeError):
        thread.start()

    assert seen == [(1, 2), None]
    assert spliced.carriers._threads == {}


def test_workers_are_below_each_task_in_turn(spliced: Spliced) -> None:
    """Whatever the worker was doing when its thread was started."""
    with ThreadPoolExecutor(1) as pool:
        seen = []
        for current in ((1, 2), None, (3, 4), LOST, None):
            spliced.current.set(current)
            seen.append(pool.submit(spliced.current.get).result())

    assert seen == [(1, 2), None, (3, 4), LOST, None]


def test_calls_that_are_never_sent_are_forgotten(spliced: Spliced, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million cancelled calls take no more room than a few."""
    monkeypatch.setattr(carriers_module, "_MAX_CALLS", 10)
    spliced.current.set((1, 2))
    for _ in range(100):
        spliced.carriers._note_call({"kwargs": {}})

    assert len(spliced.carriers._calls) <= 10


def test_jobs_are_forgotten_with_their_results(spliced: Spliced) -> None:
    """Nothing keeps the results of a pool alive."""
    from multiprocessing.pool import ThreadPool

    spliced.current.set((1, 2))
    with ThreadPool(1) as pool:
        assert pool.apply(spliced.current.get) == (1, 2)
        assert pool.map(lambda _: spliced.current.get(), range(3)) == [(1, 2)] * 3
        result = pool.apply_async(set)
        value = weakref.ref(result.get())
        pool.close()
        pool.join()
    del result
    gc.collect()

    assert value() is None


class Item:
    """What an executor sends to its processes, of which it is the number that counts."""

    def __init__(self) -> None:
        self.work_id, self.kwargs = 7, dict[str, Any]()


def sent(spliced: Spliced) -> bytes:
    """The number of an item that was submitted just now and is sent off."""
    item = Item()
    spliced.carriers._note_call({"kwargs": item.kwargs})
    spliced.carriers._send_call(item, None)
    assert item.work_id == 7
    assert {7: "pending"}[item.work_id] == "pending"
    return pickle.dumps(item.work_id)


def test_what_arrives_is_what_was_sent(spliced: Spliced) -> None:
    """In the other process the number is itself, and the span with it; without an agent there, only the number."""
    spliced.current.set((1, 2))
    text = sent(spliced)

    spliced.current.set(None)
    assert pickle.loads(text) == 7
    assert type(pickle.loads(text)) is int
    (entry, _) = spliced.current.get() or (None, None)
    assert isinstance(entry, Entry)
    assert entry.remote == Remote(spliced.ids.trace(1), spliced.ids.span(2))

    constants.arrive = None
    spliced.current.set(None)
    assert pickle.loads(text) == 7
    assert spliced.current.get() is None


def test_what_was_submitted_below_no_call_says_so(spliced: Spliced) -> None:
    """Else it would be below the call whose task came before."""
    text = sent(spliced)
    spliced.current.set((1, 2))
    pickle.loads(text)

    assert spliced.current.get() is None


def test_nothing_is_sent_in_disguise_to_processes_that_are_not_traced(
    spliced: Spliced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may not have what it takes to read it."""
    monkeypatch.delenv("FLOWTRACE_RESOLVED")
    spliced.current.set((1, 2))

    assert sent(spliced) == pickle.dumps(7)


@pytest.mark.parametrize("given", ["ours", "the program's"])
def test_programs_are_told_unless_the_program_does(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process was told itself gives way to the span; what the program has set does not."""
    monkeypatch.setenv("TRACEPARENT", "ours")
    some = Spliced()
    some.current.set((1, 2))
    arguments = (["true"], [b"true"], True, (), None, [b"A=1", f"TRACEPARENT={given}".encode()], None, True)
    environment = some.carriers._told(arguments)[5]

    text = f"TRACEPARENT={remote((1, 2), some.ids)}".encode()
    assert environment == [b"A=1", text if given == "ours" else b"TRACEPARENT=the program's"]


def test_standard_library_gets_its_own_code_back() -> None:
    """The very code objects that it had."""
    functions = [threading.Thread.start, threading.Thread._bootstrap_inner, ProcessPoolExecutor.submit]  # type: ignore[attr-defined]
    before = [function.__code__ for function in functions]
    some = Spliced()
    some.splices.imported()
    changed = [function.__code__ is not code for function, code in zip(functions, before, strict=True)]
    some.splices.switch(on=False)

    assert changed == [True, True, False]
    assert all(function.__code__ is code for function, code in zip(functions, before, strict=True))
