"""Functions that cloudpickle has taken apart and put together again: closures, lambdas, classes, by value."""

import sys

import cloudpickle

from samples.driving import run


def function(see, value: object) -> str:
    """Function."""
    kept = see(value)
    return "function"


def outer(n):
    def inner(see, value):
        kept = see(value)
        return n, function(see, value)

    return inner


def counts(see, value):
    kept = see(value)
    yield from [1, 2]


async def coroutine(see, value):
    return see(value) is None


class Account:
    def show(self, see, value):
        kept = see(value)
        return __class__.__name__


THINGS = [function, outer(1), counts, coroutine, Account, lambda see, value: see(value) is None]


def clones():
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.loads(cloudpickle.dumps(THINGS))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


CLONES = clones()
by_reference = cloudpickle.loads(cloudpickle.dumps(function))


def use(see, value):
    first, inner, generates, awaits, Clone, anonymous = CLONES
    calls = first(see, value), inner(see, value), list(generates(see, value)), run(awaits(see, value))
    return calls, Clone().show(see, value), anonymous(see, value), by_reference is function, first is function
