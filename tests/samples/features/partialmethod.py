"""functools.partialmethod and functools.partial."""

import functools


class Account:
    def move(self, see, value: object, amount: int = 0) -> int:
        """Moves."""
        kept = see(value)
        return amount

    pay = functools.partialmethod(move, amount=-1)

    @classmethod
    def made(cls, see, value, kind):
        return see(value) is None, kind

    gold = functools.partialmethod(made, kind="gold")


def add(see, value, a, b=0):
    kept = see(value)
    return a + b


add_one = functools.partial(add, b=1)


def use(see, value):
    account = Account()
    return account.pay(see, value), account.gold(see, value), add_one(see, value, 2), add_one.func is add
