"""Generators, coroutines and async generators."""

import types

import asyncio
import contextlib

LOG = []


def counting(n):
    """Counts."""
    for i in range(n):
        yield i
    return "done"


def case_generator():
    return list(counting(3))


def delegating():
    result = yield from counting(2)
    yield result
    yield from [7, 8]
    yield from iter("ab")
    return (yield from counting(0))


def case_yield_from():
    return list(delegating())


def cleaning():
    try:
        yield 1
        yield 2
    finally:
        LOG.append("cleaned")


def case_early_break():
    LOG.clear()
    for _ in cleaning():
        break
    return list(LOG)


def case_close():
    LOG.clear()
    it = cleaning()
    next(it)
    it.close()
    return list(LOG)


def case_throw():
    it = cleaning()
    next(it)
    it.throw(KeyError("thrown"))


def failing():
    yield 1
    raise ValueError("inside")


def case_generator_raises():
    return list(failing())


def stops():
    yield 1
    raise StopIteration("never")


def case_stop_iteration_inside():
    return list(stops())


def ignoring():
    while True:
        try:
            yield 1
        except GeneratorExit:
            yield 2


def case_ignores_close():
    it = ignoring()
    next(it)
    try:
        it.close()
    finally:
        it.throw(KeyError) if False else None


def echo():
    got = None
    while got != "stop":
        got = yield got
    return got


def case_send():
    it = echo()
    out = [next(it), it.send(1), it.send(2)]
    try:
        it.send("stop")
    except StopIteration as stop:
        out.append(stop.value)
    return out


def expression():
    x = [(yield 1), (yield 2)]
    y = {"a": (yield 3)}
    return x, y, (yield), f"{(yield 4)}"


def case_yield_in_expressions():
    return list(expression())


def conditional(x):
    if (yield x):
        while (yield "loop"):
            pass
    with contextlib.nullcontext((yield "with")) as y:
        yield y
    return (lambda: (yield))


def case_yield_in_conditions():
    return list(conditional(1))


def generator_expression(n):
    return (x * 2 for x in counting(n))


def case_generator_expression():
    return list(generator_expression(3))


def bare_return():
    if True:
        return
    yield


def case_empty_generator():
    return list(bare_return())


async def leaf(x):
    await asyncio.sleep(0)
    return x


async def middle(x):
    return await leaf(x) + await leaf(1)


def case_coroutine():
    return asyncio.run(middle(1))


async def fails():
    await leaf(1)
    raise ValueError("async")


async def awaits_failure():
    try:
        await fails()
    finally:
        await leaf(2)


def case_coroutine_raises():
    return asyncio.run(awaits_failure())


async def ticks(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


async def collects():
    out = [x async for x in ticks(3)]
    out += [y async for x in ticks(2) async for y in ticks(x + 1) if y or await leaf(True)]
    async for x in ticks(2):
        out.append(x)
    else:
        out.append("else")
    async for x in ticks(3):
        break
    return out, {x: 1 async for x in ticks(2)}, [await leaf(x) for x in range(2)]


def case_async_iteration():
    return asyncio.run(collects())


class Manager:
    async def __aenter__(self):
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, kind, error, traceback):
        await asyncio.sleep(0)
        LOG.append(kind)
        return kind is KeyError


async def manages(error):
    async with Manager() as manager, contextlib.AsyncExitStack():
        if error:
            raise error
        return manager.__class__.__name__
    return "suppressed"


def case_async_with():
    return asyncio.run(manages(None)), asyncio.run(manages(KeyError("k")))


def case_async_with_raises():
    return asyncio.run(manages(ValueError("v")))


@contextlib.asynccontextmanager
async def transaction():
    LOG.append("begin")
    try:
        yield "t"
    except KeyError:
        LOG.append("rollback")
        raise
    else:
        LOG.append("commit")


async def uses_transaction(error=None):
    async with transaction() as t:
        if error:
            raise error
    return t


def case_asynccontextmanager():
    LOG.clear()
    return asyncio.run(uses_transaction()), list(LOG)


def case_asynccontextmanager_raises():
    return asyncio.run(uses_transaction(KeyError("k")))


async def cancelled():
    task = asyncio.current_task()
    asyncio.get_running_loop().call_soon(task.cancel, "message")
    await asyncio.sleep(10)


async def cancels():
    try:
        await asyncio.create_task(cancelled())
    except asyncio.CancelledError as error:
        return type(error)


def case_cancellation():
    return asyncio.run(cancels())


async def times_out():
    async with asyncio.timeout(0):
        await asyncio.sleep(10)


def case_timeout():
    return asyncio.run(times_out())


async def in_group(n):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leaf(i)) for i in range(n)]
    return [task.result() for task in tasks]


def case_task_group():
    return asyncio.run(in_group(3))


async def group_fails():
    async with asyncio.TaskGroup() as group:
        group.create_task(fails())
        group.create_task(leaf(1))


def case_task_group_fails():
    return asyncio.run(group_fails())


async def gathers():
    return await asyncio.gather(leaf(1), middle(2), asyncio.wait_for(leaf(3), 1))


def case_gather():
    return asyncio.run(gathers())


class Awaitable:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return "awaited"


async def awaits_object():
    return await Awaitable()


def case_awaitable_object():
    return asyncio.run(awaits_object())


async def wrong_await():
    return await 3


def case_not_awaitable():
    return asyncio.run(wrong_await())


async def wrong_async_for():
    async for x in [1]:
        pass


def case_not_async_iterable():
    return asyncio.run(wrong_async_for())


async def wrong_async_with():
    async with object():
        pass


def case_not_async_context():
    return asyncio.run(wrong_async_with())


def wrong_yield_from():
    yield from 3


def case_not_iterable():
    return list(wrong_yield_from())


async def agen_echo():
    got = None
    try:
        while True:
            got = yield got
    except KeyError:
        yield "key"
    finally:
        await asyncio.sleep(0)
        LOG.append("finally")


async def drives_agen():
    LOG.clear()
    agen = agen_echo()
    out = [await anext(agen), await agen.asend(1), await agen.athrow(KeyError)]
    await agen.aclose()
    return out, list(LOG), await anext(agen, "default")


def case_async_generator_methods():
    return asyncio.run(drives_agen())


async def abandons_agen():
    LOG.clear()
    agen = agen_echo()
    await anext(agen)
    del agen
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return list(LOG)


def case_async_generator_abandoned():
    return asyncio.run(abandons_agen())


async def twice():
    coroutine = leaf(1)
    await coroutine
    await coroutine


def case_awaited_twice():
    return asyncio.run(twice())


async def agen_in_finally():
    try:
        yield 1
    finally:
        async with Manager():
            LOG.append("cleanup")


async def consumes_then_fails():
    async with contextlib.aclosing(agen_in_finally()) as agen:
        async for x in agen:
            raise ValueError(x)


def case_aclosing():
    LOG.clear()
    return asyncio.run(consumes_then_fails())


class Refuses:
    def __iter__(self):
        raise OSError("iter")

    def __await__(self):
        raise OSError("await")

    def __aiter__(self):
        raise OSError("aiter")

    def __aenter__(self):
        raise OSError("aenter")

    async def __aexit__(self, *error):
        raise OSError("aexit")


def iterates_refusal():
    yield 1; yield from Refuses()


def case_iter_raises():
    return list(iterates_refusal())


async def awaits_refusal():
    return [1, await Refuses()]


def case_await_raises():
    return asyncio.run(awaits_refusal())


async def async_iterates_refusal():
    async for x in Refuses():
        pass


def case_aiter_raises():
    return asyncio.run(async_iterates_refusal())


async def enters_refusal():
    async with Manager(), Refuses():
        pass


def case_aenter_raises():
    return asyncio.run(enters_refusal())


class Exits(Manager):
    async def __aexit__(self, *error):
        raise OSError("aexit")


async def exits_refusal():
    async with Exits():
        raise ValueError("inside")


def case_aexit_raises():
    return asyncio.run(exits_refusal())


def raises(value):
    raise ValueError(value)


def given_to_a_call():
    call = raises
    try:
        call((yield 1))
    except ValueError as error:
        yield error.args
    return Subject()[(yield 2)]


class Subject:
    def __getitem__(self, key):
        raise KeyError(key)


def case_yield_given_to_a_call():
    generator = given_to_a_call()
    seen = [next(generator), generator.send("a"), next(generator)]
    try:
        generator.send("b")
    except KeyError as error:
        seen.append(error.args)
    return seen


async def awaited_given_to_a_call():
    async def value():
        return await pause_once("v")

    try:
        raises(await value())
    except ValueError as error:
        return error.args


def case_await_given_to_a_call():
    coroutine = awaited_given_to_a_call()
    seen = [coroutine.send(None)]
    try:
        coroutine.send("got")
    except StopIteration as stop:
        seen.append(stop.value)
    return seen


def unreachable():
    yield 1
    return 2
    yield from [3]


async def unreachable_await():
    await pause_once("one")
    raise KeyError("two")
    await pause_once("three")


def case_unreachable():
    coroutine = unreachable_await()
    seen = [list(unreachable()), coroutine.send(None)]
    try:
        coroutine.send(None)
    except KeyError as error:
        seen.append(error.args)
    return seen


@types.coroutine
def pause_once(value):
    return (yield value)


def chooses(x):
    value = x or (yield 1)
    other = (yield 2) if x else (yield 3)
    return value, other


def case_yield_in_a_choice():
    seen = []
    for x in (0, 5):
        generator = chooses(x)
        seen.append(next(generator))
        try:
            while True:
                seen.append(generator.send("sent"))
        except StopIteration as stop:
            seen.append(stop.value)
    return seen
