"""Functions that are used in a process that multiprocessing has spawned."""


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
