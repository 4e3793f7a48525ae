"""Coroutines (``body_``) and async generators (``agen_``) to be driven by hand, one suspension at a time.

Each gets a function to call at every step of its body. Nothing here needs an event loop.
"""

import contextlib
import types


class Pause:
    """Suspends once, and gives what is sent."""

    def __init__(self, name):
        self.name = name

    def __await__(self):
        return (yield self.name)


@types.coroutine
def pause(name):
    return (yield name)


async def untraced(note):
    try:
        return await pause("untraced")
    finally:
        note("untraced ends", "untraced")


async def untraced_agen(note):
    try:
        yield await Pause("untraced agen")
        yield "second"
    finally:
        await pause("untraced agen ends")
        note("untraced agen ends", "untraced")


class Resource:
    def __init__(self, note, swallow=False, waits=True):
        self.note, self.swallow, self.waits = note, swallow, waits

    async def __aenter__(self):
        if self.waits:
            await Pause("aenter")
        return self

    async def __aexit__(self, kind, error, traceback):
        self.note(f"aexit {kind and kind.__name__}", "Resource.__aexit__")
        if self.waits:
            await pause("aexit")
        return self.swallow and kind is ValueError


class Steps:
    """An async iterator of objects that are awaitable."""

    def __init__(self, n=2):
        self.n = n

    def __aiter__(self):
        return self

    def __anext__(self):
        self.n -= 1
        return Pause(f"step {self.n}") if self.n >= 0 else self._end()

    async def _end(self):
        raise StopAsyncIteration


async def leaf(note):
    note("leaf", "leaf")
    try:
        got = await Pause("leaf")
        return got or await pause("leaf again")
    except KeyError as error:
        note("leaf caught", "leaf")
        return error.args
    finally:
        note("leaf ends", "leaf")


async def body_leaf(note):
    return await leaf(note)


async def body_untraced(note):
    first = await untraced(note)
    note(first)
    try:
        return [first, await untraced(note), await leaf(note)]
    except ValueError:
        note("caught")
        return await pause("handler")


async def body_with(note):
    async with Resource(note) as one, Resource(note, swallow=True, waits=False):
        note(type(one).__name__)
        await pause("inside")
    note("after")
    with contextlib.suppress(KeyError):
        await Pause("suppressing")
    return "done"


async def body_for(note):
    async for x in Steps():
        note(x)
        if x == "stop":
            break
        await pause("loop")
    else:
        note("else")
    async with contextlib.aclosing(untraced_agen(note)) as agen:
        async for x in agen:
            note(x)
    async with contextlib.aclosing(agen_quiet(note)) as agen:
        return [x async for x in agen]


async def body_comprehensions(note):
    values = [x async for x in Steps() if await Pause("filter") is None]
    note(len(values))
    return {await pause("key"): await leaf(note) for _ in range(1)}, [y for y in [await Pause("outermost")]]


async def body_in_handler(note):
    try:
        raise KeyError("first")
    except KeyError:
        note(await Pause("in except"))
        raise ValueError("second") from await_nothing(note)
    finally:
        note(await pause("in finally"))


def await_nothing(note):
    note("sync", "await_nothing")
    return None


async def body_stubborn(note):
    for tries in range(3):
        try:
            await Pause(tries)
        except BaseException as error:
            note(type(error).__name__)
    return "gave up"


async def body_begun(note):
    begun = leaf(note)
    begun.send(None)
    note("begun")
    return await begun


async def body_concurrent(note):
    one, two = leaf(note), leaf(note)
    for each in (one, two):
        try:
            note(each.send(None))
        finally:
            note("stepped")
    await pause("between")
    one.close()
    note("closed")
    return await two


async def body_expressions(note):
    return f"{await Pause(1)}", (await Pause(2) if await Pause(3) else lambda: 1) and [await leaf(note)], not await Pause(4)


async def agen_simple(note):
    try:
        note((yield "one"), "agen_simple")
        note(await Pause("agen"), "agen_simple")
        yield "two"
    finally:
        note(await pause("agen ends"), "agen_simple")


async def agen_quiet(note):
    try:
        yield await Pause("quiet")
        yield await leaf(note)
    finally:
        note("quiet ends", "agen_quiet")  # awaiting nothing, it may be collected at any point


async def agen_nested(note):
    async with contextlib.aclosing(agen_simple(note)) as inner:
        async for value in inner:
            try:
                note((yield value))
            except ValueError as error:
                note(repr(error))
                yield "handled"


async def agen_with(note):
    async with Resource(note, swallow=True):
        got = yield await leaf(note)
        note(got)
        yield await untraced(note)
    note("after")
    yield "last"


async def agen_stubborn(note):
    for tries in range(3):
        try:
            note((yield tries))
        except BaseException as error:
            note(type(error).__name__)
            note(await pause("handler"))
            break


async def agen_in_handler(note):
    try:
        raise KeyError("first")
    except KeyError:
        yield "in except"
        raise
    finally:
        await pause("in finally")


async def agen_empty(note):
    return
    yield


async def agen_comprehends(note):
    yield [x async for x in Steps()]
    for x in [await leaf(note) for _ in range(1)]:
        yield x
