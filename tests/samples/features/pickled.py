"""Functions, methods, classes and instances that went through pickle, with each protocol."""

import functools
import pickle


def function(see, value: object) -> str:
    """Function."""
    kept = see(value)
    return "function"


class Account:
    def __init__(self, owner):
        self.owner = owner

    def show(self, see, value):
        kept = see(value)
        return self.owner

    @classmethod
    def open(cls, see, value):
        kept = see(value)
        return cls.__name__

    class Inner:
        def show(self, see, value):
            return see(value) is None

    def __getstate__(self):
        return {"owner": self.owner + "!"}

    def __reduce__(self):
        return type(self), (self.owner + "?",)


THINGS = [function, Account, Account.open, Account("a").show, Account.Inner.show, functools.partial(function)]
loaded = [pickle.loads(pickle.dumps(THINGS, protocol)) for protocol in range(4, pickle.HIGHEST_PROTOCOL + 1)]


def use(see, value):
    same = [things[0] is function and things[1] is Account for things in loaded]
    calls = [call(see, value) for things in loaded for call in (things[0], things[2], things[3], things[5])]
    return same, calls, len(pickle.dumps(THINGS)), loaded[0][4](None, see, value)
