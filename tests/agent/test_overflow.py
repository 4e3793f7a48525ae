"""What a call does that finds the queue full: it is left out at once, or it waits, as `queue.overflow` says."""

from __future__ import annotations

import pytest

from flowtrace import recorder as recorder_module
from flowtrace.agent import _block_s
from flowtrace.config import Queue
from tests.agent.engine import Engine


@pytest.mark.parametrize(("overflow", "naps"), [("drop", 0), ("block", 3)])
@pytest.mark.parametrize("full", [{"max_events": 2}, {"max_bytes": 1}], ids=["events", "bytes"])
def test_only_block_makes_a_call_wait(full: dict[str, int], overflow: str, naps: int) -> None:
    """With ``drop`` a call never sleeps, whichever bound is reached: it is left out, and all below it."""
    engine = Engine()
    state = engine.recorder.state
    state.block_ns, state.moved_ns = round(_block_s(Queue(overflow=overflow)) * 1e9), engine.recorder.clock()
    for bound, value in full.items():
        setattr(state, bound, value)
    module = engine.load("def inner(): return 1\ndef f(): return inner()\n")
    module.inner()
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            state.block_ns = 0  # or it would go on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder_module, "_sleep", sleep)
        assert [module.f() for _ in range(5)] == [1] * 5

    assert (len(slept), state.lost_calls) == (naps, 10)
