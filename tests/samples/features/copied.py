"""Functions, methods and instances that are copied, shallow and deep."""

import copy
import functools


def function(see, value: object, *, options: dict = {}) -> str:
    """Function."""
    kept = see(value)
    return "function"


class Account:
    def __init__(self):
        self.history, self.callback = [], function

    def show(self, see, value):
        kept = see(value)
        return "account", self.history

    def __deepcopy__(self, memo):
        other = type(self)()
        other.history = [*self.history, "copied"]
        return other


functions = [copy.copy(function), copy.deepcopy(function)]
account = copy.deepcopy(Account())
bound = copy.deepcopy(Account().show)
partial = copy.deepcopy(functools.partial(function, options={"k": 1}))


def use(see, value):
    same = [each is function for each in functions], account.callback is function
    calls = [each(see, value) for each in (*functions, account.show, bound, partial)]
    return same, calls, copy.deepcopy({"f": function})["f"] is function
