"""Generators that are iterated, sent to, closed and delegated to."""

import inspect
from collections.abc import Iterator


def counts(see, value: object) -> "Iterator[object]":
    """Counts."""
    kept = see(value)
    got = yield value
    try:
        yield got
    finally:
        see(value)
    return "done"


def delegates(see, value):
    kept = see(value)
    result = yield from counts(see, value)
    yield result


def catches(see, value):
    try:
        yield 1
    except KeyError as error:
        kept = see(value)
        yield repr(error)


def suspended(see, value):
    generator = delegates(see, value)
    seen = [next(generator), generator.gi_frame.f_lineno, generator.gi_running, inspect.getgeneratorstate(generator)]
    seen += [type(generator.gi_yieldfrom).__name__, generator.gi_code is delegates.__code__, generator.__name__]
    seen += [generator.send("sent"), generator.close(), generator.gi_frame]
    return seen


def thrown(see, value):
    generator = catches(see, value)
    return [next(generator), generator.throw(KeyError("thrown")), next(generator, "exhausted")]


def abandoned(see, value):
    for each in delegates(see, value):
        return each


def use(see, value):
    return list(delegates(see, value)), suspended(see, value), thrown(see, value), abandoned(see, value)
