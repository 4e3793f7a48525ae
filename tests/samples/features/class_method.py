"""Class methods."""


class Account:
    rate = 2

    @classmethod
    def open(cls, see, value: object) -> "Account":
        """Opens."""
        kept = see(value)
        return cls.rate

    @classmethod
    def default(cls):
        return cls


class Savings(Account):
    rate = 3

    @classmethod
    def open(cls, see, value):
        return super().open(see, value), cls.default() is cls


def use(see, value):
    return Account.open(see, value), Savings.open(see, value), Savings().open(see, value)
