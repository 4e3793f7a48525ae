"""Functions that call themselves, or each other."""

from samples.driving import run


def countdown(see, value, n: int = 3) -> int:
    """Counts down."""
    kept = see(value) if n == 0 else None
    return 0 if n == 0 else 1 + countdown(see, value, n - 1)


def is_even(see, value, n):
    return see(value) is None if n == 0 else is_odd(see, value, n - 1)


def is_odd(see, value, n):
    return see(value) is not None if n == 0 else is_even(see, value, n - 1)


def tree(see, value, depth):
    if depth:
        yield from tree(see, value, depth - 1)
        yield depth
    else:
        yield see(value) is None


def leaves(n):
    """Nothing is called from the innermost of these, so it needs no more of the stack than its own frame."""
    if n:
        yield from leaves(n - 1)
    yield n


async def awaited(n):
    return 0 if n == 0 else 1 + await awaited(n - 1)


async def ticks(n):
    if n:
        async for each in ticks(n - 1):
            yield each
    yield n


async def iterates(n):
    return [each async for each in ticks(n)]


class Deep:
    def __init__(self, n):
        self.n = n

    @property
    def below(self):
        return 0 if self.n == 0 else 1 + Deep(self.n - 1).below

    def __call__(self):
        return 0 if self.n == 0 else 1 + Deep(self.n - 1)()

    def __enter__(self):
        return self if self.n == 0 else Deep(self.n - 1).__enter__()

    def __exit__(self, *error):
        return None if self.n == 0 else Deep(self.n - 1).__exit__(*error)


def enters():
    with Deep(9):
        return None


def throws():
    generator = leaves(9)
    try:
        return next(generator), generator.throw(KeyError)
    except KeyError:
        return generator.close()


ALONE = [  # what each of these needs of the stack is measured by itself
    lambda: list(leaves(9)), lambda: run(awaited(9)), lambda: run(iterates(9)), lambda: Deep(9).below,
    lambda: Deep(9)(), enters, throws,
]


def use(see, value):
    def local(n):
        return see(value) is None if n == 0 else local(n - 1)

    return countdown(see, value), is_even(see, value, 3), list(tree(see, value, 2)), local(2), [each() for each in ALONE]
