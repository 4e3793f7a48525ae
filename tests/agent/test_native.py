"""The code in C, handed what no part of the agent would hand it: it counts a failure, or raises, and stays whole."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest

from flowtrace import constants, suspension
from flowtrace.native import native
from flowtrace.recorder import Functions, Recorder, Target
from flowtrace.suspension import Suspended, suspendable
from tests.agent.engine import Shown

pytestmark = pytest.mark.skipif(native is None, reason="there is no C code here")


def made(recorder: Recorder) -> Functions:
    return recorder.functions(Target("m", "f", 1, Shown()))


@pytest.mark.parametrize("name", ["Core", "Enter", "Leave", "SuspendableEnter", "SuspendableLeave", "Lines"])
def test_objects_are_made_whole_or_not_at_all(name: str) -> None:
    """Without what they need there are none, neither by the class nor past it."""
    kind = getattr(native, name)

    for make in (kind, lambda: kind.__new__(kind)):
        with pytest.raises(TypeError):
            make()


@pytest.mark.parametrize("name", ["Flow", "Suspended", "Step"])
def test_what_only_c_makes_cannot_be_made(name: str) -> None:
    """Flows come from `enter`."""
    kind = type(native.native_suspend) if name == "Step" else getattr(native, name)

    with pytest.raises(TypeError):
        kind()


@pytest.mark.parametrize("value", [5, "", ("a",), [1, 2], (1, 2, 3)])
def test_somebody_elses_value_in_the_context_is_a_failure(value: Any) -> None:
    """A program that sets the variable, which `copy_context` shows it, has its call left out and counted."""
    recorder = Recorder()
    enter, _ = made(recorder)
    recorder.current.set(value)

    assert enter[(), ()] is None
    assert (recorder.state.failures, recorder.thread().busy) == (1, False)


def test_what_is_deleted_or_broken_is_a_failure() -> None:
    """A function of the state that is gone, a clock that gives no number: the program goes on."""
    recorder = Recorder(clock=lambda: None)  # type: ignore[arg-type, return-value]
    enter, _ = made(recorder)
    assert enter[(), ()] is None
    assert recorder.state.failures == 1

    recorder = Recorder()
    enter, _ = made(recorder)
    recorder.state.wake_at = 0
    del recorder.state.wake
    assert enter[(), ()] is None
    assert recorder.state.failures == 1


@pytest.mark.parametrize("arguments", [(), ((),), (1, 2), ((), (1,)), ((), (), ())])
def test_arguments_of_another_form_raise(arguments: tuple[Any, ...]) -> None:
    """Both ways of calling take a tuple of names and one of values, of one length."""
    enter, leave = made(Recorder())

    with pytest.raises(TypeError):
        enter(*arguments)
    with pytest.raises(TypeError):
        enter[arguments]  # type: ignore[index]
    with pytest.raises(TypeError):
        leave(5, None)


def test_functions_are_copied_and_pickled_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As functions in Python are, and what has no name yet cannot be pickled."""
    recorder = Recorder()
    plain = made(recorder)
    parts = {each.__qualname__: each for each in (*plain, *suspendable(recorder, plain)[:2])}
    monkeypatch.setattr(constants, "resolve", parts.__getitem__)

    for part in (*parts.values(), suspension.native_suspend, suspension.native_resumed):
        assert copy.copy(part) is copy.deepcopy(part) is pickle.loads(pickle.dumps(part)) is part
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(native.Leave(native.Core(**core(recorder)), 0, True))


def core(recorder: Recorder) -> dict[str, Any]:
    """What a core is made of."""
    names = "recorder queue current seq clock arguments result described is_clean room_for lost skipped raised"
    numbers = "max_string max_result unchecked unchecked_word plain_int call_bytes scalar_bytes"
    flags = "is_system_clock takes_scalar_arguments takes_scalar_results"
    texts = "lost_exception lost_recursion_error lost_memory_error no_result not_captured"
    return (
        dict.fromkeys(names.split(), print)
        | dict.fromkeys(numbers.split(), 1)
        | dict.fromkeys(flags.split(), False)
        | dict.fromkeys(texts.split(), b"")
        | {"state": recorder.state, "here": bytearray(1), "current": recorder.current, "seq": recorder.seq}
        | {"queue": recorder.queue}
    )


def test_code_of_the_one_kind_gets_along_with_flows_of_the_other() -> None:
    """Pickled with functions in Python, loaded where they are in C, and the reverse: suspended, and on again."""
    recorder = Recorder()
    enter, leave, *_ = suspendable(recorder, made(recorder))
    flow = enter[(), ()]  # type: ignore[index]
    here = recorder.current.get()
    suspension.suspend(flow)
    assert recorder.current.get() is None
    suspension.resumed(flow)
    assert recorder.current.get() is here
    leave(flow, None)

    other = Recorder(is_native=False)
    first, last = made(other)
    begun = Suspended(other, first((), ()))
    suspension.native_suspend(begun)
    assert other.current.get() is None
    suspension.native_resumed(begun)
    last(begun.flow, None)
    assert other.current.get() is None
    for step in (suspension.native_suspend, suspension.native_resumed):
        with pytest.raises(AttributeError):
            step(5)


@pytest.mark.parametrize("is_native", [True, False])
def test_recorders_go_with_their_functions(is_native: bool) -> None:
    """What is gone is collected, circles and all."""
    recorder = Recorder(is_native=is_native)
    plain = made(recorder)
    enter, leave, *_ = suspendable(recorder, plain)
    leave(enter((), ()), None)
    gone = weakref.ref(recorder)
    del recorder, plain, enter, leave
    gc.collect()

    assert gone() is None
