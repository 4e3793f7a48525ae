"""Instances that are called."""


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, see, value: object) -> int:
        """Adds."""
        kept = see(value)
        return self.n


class Key:
    def __init__(self, see, value):
        self.see, self.value = see, value

    def __call__(self, item):
        kept = self.see(self.value)
        return -item


add_one = Adder(1)


def use(see, value):
    key = Key(see, value)
    return add_one(see, value), add_one.__call__(see, value), sorted([1, 2], key=key), list(map(key, [3])), callable(key)
