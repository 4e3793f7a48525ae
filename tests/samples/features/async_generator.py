"""Async generators that are iterated, sent to and closed."""

from collections.abc import AsyncIterator

from samples.driving import Pause, run


async def ticks(see, value: object) -> "AsyncIterator[object]":
    """Ticks."""
    kept = see(value)
    await Pause()
    got = yield value
    try:
        yield got
    finally:
        await Pause()
        see(value)


async def iterates(see, value):
    return [each async for each in ticks(see, value)]


async def drives(see, value):
    agen = ticks(see, value)
    seen = [await anext(agen), agen.ag_frame.f_lineno, agen.ag_running, agen.ag_code is ticks.__code__]
    seen += [await agen.asend("sent"), await agen.aclose(), agen.ag_frame]
    return seen


async def leaves_early(see, value):
    agen = ticks(see, value)
    try:
        async for each in agen:
            return each
    finally:
        await agen.aclose()


def use(see, value):
    return run(iterates(see, value)), run(drives(see, value)), run(leaves_early(see, value))
