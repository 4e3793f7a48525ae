"""Context managers: classes, contextlib.contextmanager, its async twin, as decorators and on stacks."""

import contextlib

from samples.driving import Pause, run


@contextlib.contextmanager
def managed(see, value: object):
    """Manages."""
    kept = see(value)
    try:
        yield value
    except LookupError as error:
        raise ValueError("its own") from error
    finally:
        see(value)


class Managed:
    def __init__(self, see, value):
        self.see, self.value = see, value

    def __enter__(self):
        kept = self.see(self.value)
        return self

    def __exit__(self, kind, error, traceback):
        kept = self.see(self.value)
        return kind is ArithmeticError


class AsyncManaged(Managed):
    async def __aenter__(self):
        await Pause()
        return self.__enter__()

    async def __aexit__(self, *error):
        await Pause()
        return self.__exit__(*error)


@contextlib.asynccontextmanager
async def async_managed(see, value):
    await Pause()
    try:
        yield see(value) is None
    finally:
        await Pause()


async def enters(see, value):
    async with AsyncManaged(see, value) as managed, async_managed(see, value) as second:
        return managed.see(value) is None, second


def nests(see, value):
    with managed(see, value) as first, Managed(see, value), contextlib.ExitStack() as stack:
        stack.enter_context(managed(see, value))
        kept = see(value)
        return first


def suppresses(see, value):
    with Managed(see, value):
        raise ArithmeticError
    return "after"


def decorated(see, value):
    @managed(see, value)
    def body():
        return see(value) is None

    return body()


def use(see, value):
    return nests(see, value), suppresses(see, value), decorated(see, value), run(enters(see, value))
