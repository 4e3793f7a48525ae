"""Operators, containers and conversions by special methods."""

import functools


@functools.total_ordering
class Number:
    def __init__(self, n, see, value):
        self.n, self.see, self.value = n, see, value

    def __add__(self, other: object) -> "Number":
        """Adds."""
        kept = self.see(self.value)
        return self.n + int(other)

    def __radd__(self, other):
        kept = self.see(self.value)
        return other + self.n

    def __iadd__(self, other):
        kept = self.see(self.value)
        self.n += other
        return self

    def __mul__(self, other):
        return NotImplemented

    def __rmul__(self, other):
        return "reflected"

    def __matmul__(self, other):
        return "matrix"

    def __neg__(self):
        return -self.n

    def __pow__(self, exponent, modulus=None):
        return pow(self.n, exponent, modulus)

    def __divmod__(self, other):
        return divmod(self.n, other)

    def __eq__(self, other):
        kept = self.see(self.value)
        return isinstance(other, Number) and self.n == other.n

    def __lt__(self, other):
        kept = self.see(self.value)
        return self.n < other.n

    def __hash__(self):
        return hash(self.n)

    def __int__(self):
        return self.n

    __index__ = __int__

    def __bool__(self):
        return self.n > 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index >= self.n:
            raise IndexError(index)
        return index

    def __setitem__(self, index, item):
        self.n = item

    def __contains__(self, item):
        kept = self.see(self.value)
        return item == self.n

    def __repr__(self):
        return f"Number({self.n})"

    def __format__(self, form):
        return f"{self.n:{form}}"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Reversed(Number):
    def __iter__(self):
        for each in range(self.n):
            kept = self.see(self.value)
            yield each

    def __reversed__(self):
        yield from sorted(self, reverse=True)


def use(see, value):
    one, two = Number(1, see, value), Number(2, see, value)
    seen = [one + two, 3 + two, 4 * one, one @ two, -two, two**3, pow(two, 3, 5), divmod(two, 2), sum([one, two])]
    seen += [one == two, one != two, one < two, one >= two, max(one, two).n, {one: "key"}[one], int(two), [0, 1][one]]
    seen += [bool(one), len(two), list(two), 2 in two, repr(one), f"{two:>3}", one.missing, range(5)[two]]
    two += 5
    two[0] = 3
    three = Reversed(3, see, value)
    first, *rest = three
    return seen, two.n, first, rest, list(reversed(three))
