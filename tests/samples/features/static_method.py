"""Static methods."""


class Account:
    @staticmethod
    def check(see, value: int) -> bool:
        """Checks."""
        kept = see(value)
        return value is not None

    @staticmethod
    async def never_called(value): ...


check = Account.check


class Savings(Account):
    @staticmethod
    def check(see, value: int) -> bool:
        return Account.check(see, value)


def use(see, value):
    return Account.check(see, value), Savings().check(see, value), check is Account.check, check(see, value)
