"""What `reloaded` reloads."""

times = globals().get("times", 0) + 1


def function(see, value: object, at: int = times) -> int:
    """Function."""
    kept = see(value)
    return at, times


class Account:
    def show(self, see, value):
        kept = see(value)
        return times


def use(see, value):
    return function(see, value)[1] > 0, Account().show(see, value) > 0
