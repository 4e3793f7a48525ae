"""Properties with getter, setter and deleter."""


class Account:
    def __init__(self, see, value):
        self.see, self.value = see, value

    @property
    def balance(self) -> object:
        """The balance."""
        kept = self.see(self.value)
        return self.value

    @balance.setter
    def balance(self, value: object) -> None:
        kept = self.see(value)
        self.value = value

    @balance.deleter
    def balance(self):
        kept = self.see(self.value)
        del self.value

    def _get(self):
        return self.see(self.value) is None

    plain = property(_get, doc="Made without a decorator.")


class Savings(Account):
    @Account.balance.getter
    def balance(self):
        return super().balance


def use(see, value):
    account, savings = Account(see, value), Savings(see, value)
    seen = [account.balance, savings.balance, account.plain]
    account.balance = "other"
    seen.append(account.balance)
    del account.balance
    return seen, hasattr(account, "value")
