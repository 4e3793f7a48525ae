"""functools.cached_property."""

import functools


class Account:
    def __init__(self, see, value):
        self.see, self.value = see, value

    @functools.cached_property
    def label(self) -> str:
        """The label."""
        kept = self.see(self.value)
        return "label"


def use(see, value):
    account = Account(see, value)
    return account.label, account.label, sorted(account.__dict__)
