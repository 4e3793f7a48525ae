"""Context variables: set and reset, in a context of their own, in generators and coroutines."""

import contextvars

from samples.driving import Pause, run

current = contextvars.ContextVar("current", default="default")


def sets(see, value: object) -> "tuple[str, ...]":
    """Sets."""
    token = current.set("set")
    try:
        kept = see(value)
        return current.get(), token.old_value is token.MISSING
    finally:
        current.reset(token)


def changes(see, value):
    kept = see(value)
    current.set("changed")
    return current.get()


def generates(see, value):
    current.set("by a generator")
    yield current.get()
    kept = see(value)
    yield current.get()


async def awaits(see, value):
    before = current.get()
    await Pause()
    current.set("by a coroutine")
    kept = see(value)
    return before, current.get()


def use(see, value):
    context, other = contextvars.copy_context(), contextvars.Context()
    inside = context.run(changes, see, value), context[current], current.get(), other.run(sets, see, value)
    generator = other.run(generates, see, value)
    steps = other.run(next, generator), context.run(next, generator), context.run(generator.close)
    return sets(see, value), inside, steps, other.run(run, awaits(see, value)), other[current], current.get()
