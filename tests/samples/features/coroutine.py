"""Coroutines that await each other, and one that is a generator."""

import types

from samples.driving import Pause, run


async def inner(see, value: object) -> object:
    await Pause()
    kept = see(value)
    answer = await Pause()
    return answer


async def outer(see, value: "object") -> tuple[object, str]:
    """Awaits."""
    try:
        return await inner(see, value), value
    finally:
        await Pause()
        kept = see(value)


@types.coroutine
def old_style(see, value):
    kept = see(value)
    return (yield value)


async def awaits_old_style(see, value):
    return await old_style(see, value)


async def comprehends(see, value):
    return [await inner(see, each) for each in (value, value)]


def suspended(see, value):
    coroutine = outer(see, value)
    seen = [coroutine.send(None), coroutine.cr_frame.f_lineno, coroutine.cr_running, coroutine.cr_suspended]
    seen += [type(coroutine.cr_await).__name__, coroutine.cr_code is outer.__code__, coroutine.__qualname__]
    try:
        coroutine.throw(KeyError("thrown"))
    except KeyError as error:
        seen.append(repr(error))
    coroutine.close()
    return seen


def use(see, value):
    return run(outer(see, value)), run(awaits_old_style(see, value)), run(comprehends(see, value)), suspended(see, value)
