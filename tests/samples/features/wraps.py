"""Decorators on decorators: with functools.wraps, without, as a class, with arguments, of methods and coroutines."""

import functools

from samples.driving import Pause, run


def traced(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return "traced", function(*args, **kwargs)

    return wrapper


def times(n):
    def decorate(function):
        @functools.wraps(function, updated=())
        def repeat(*args, **kwargs):
            return [function(*args, **kwargs) for _ in range(n)]

        return repeat

    return decorate


def bare(function):
    def unnamed(*args):
        return function(*args)

    return unnamed


class Counted:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.count = 0

    def __call__(self, *args):
        self.count += 1
        return self.__wrapped__(*args)


def awaited(function):
    @functools.wraps(function)
    async def wrapper(*args):
        await Pause()
        return await function(*args)

    return wrapper


@traced
@times(2)
@traced
def stacked(see, value: object, *, key: int = 1) -> list:
    """Stacked."""
    kept = see(value)
    return key


@bare
@Counted
def counted(see, value):
    kept = see(value)
    return value


class Account:
    @traced
    def method(self, see, value):
        return see(value) is None

    @staticmethod
    @times(1)
    def static(see, value):
        return see(value) is None

    @property
    @traced
    def three(self):
        return 3


@awaited
@awaited
async def coroutine(see, value):
    kept = see(value)
    return value


def use(see, value):
    account = Account()
    return (
        stacked(see, value, key=5), counted(see, value), account.method(see, value), account.static(see, value),
        account.three, run(coroutine(see, value)),
    )
