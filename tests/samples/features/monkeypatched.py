"""Functions that are put in the place of others, and functions that get other code."""

from unittest import mock


class Account:
    def show(self, see, value: object) -> str:
        """Shows."""
        kept = see(value)
        return "original"

    def other(self, see, value):
        return "other"


def function(see, value):
    kept = see(value)
    return "original function"


def gets_other_code(see, value):
    return "its own code"


def replacement(see, value):
    kept = see(value)
    return "code of another"


original_show, original_function = Account.show, function


def patched_show(self, see, value):
    return "patched", original_show(self, see, value)


def patched_function(see, value):
    return "patched", original_function(see, value)


Account.show = patched_show
function = patched_function
gets_other_code.__code__ = replacement.__code__
gets_other_code.__doc__ = "Changed."
gets_other_code.attribute = 1


def use(see, value):
    account = Account()
    account.show = account.show  # on the instance
    with mock.patch.object(Account, "other", lambda self, see, value: see(value) is None):
        mocked = account.other(see, value)
    restored = account.other(see, value)
    return account.show(see, value), function(see, value), gets_other_code(see, value), mocked, restored
