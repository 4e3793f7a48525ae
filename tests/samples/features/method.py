"""Methods: called by instance and by class, bound and kept, and of a nested class."""


class Account:
    """An account."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def show(self, see, value: object, *, mark: "str" = "!") -> str:
        """Shows."""
        kept = see(value)
        return self.owner + mark

    also = show

    class Inner:
        def show(this, see, value):
            kept = see(value)
            return this.__class__.__qualname__


bound = Account("bound").show


def use(see, value):
    account = Account("a")
    equal = account.show == account.show, account.show is account.show, account.show.__func__ is Account.show
    return (
        account.show(see, value), Account.show(account, see, value), bound(see, value), account.also(see, value),
        Account.Inner().show(see, value), equal,
    )
