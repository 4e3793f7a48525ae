"""Functions of a module that keeps all there is out of the garbage collector's sight, as servers do before they fork."""

import gc


def function(see, value: object) -> str:
    """Function."""
    kept = see(value)
    return "function"


class Account:
    def show(self, see, value):
        kept = see(value)
        return "account"


def use(see, value):
    return function(see, value), Account().show(see, value)


gc.freeze()
