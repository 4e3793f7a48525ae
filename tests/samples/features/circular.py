"""Modules that import each other, and call each other before either is complete."""


def early(see, value: object) -> str:
    """Called by the other while this module is half imported."""
    kept = see(value)
    return "early"


from samples.features import circular_other


def late(see, value):
    kept = see(value)
    return "late"


def use(see, value):
    return early(see, value), circular_other.through(see, value), circular_other.SEEN, circular_other.early is early
