"""Lambdas, and functions that make and take them."""

identity = lambda see, value: see(value) is None
generates = lambda see, value: (yield see(value) is None)


def apply(function, *args):
    """Applies."""
    return function(*args)


class Account:
    key = lambda self, see, value: see(value) is None

    def makes(self, see, value):
        return lambda n=1: (see(value) is None, n)


def use(see, value):
    return (
        identity(see, value), list(generates(see, value)), apply(identity, see, value), Account().key(see, value),
        Account().makes(see, value)(), sorted([2, 1], key=lambda each: (see(value) is None, each)),
    )
