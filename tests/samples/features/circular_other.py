"""The other of the two."""

from samples.features import circular
from samples.features.circular import early

SEEN = [early(lambda value: None, "early"), hasattr(circular, "late")]


def through(see, value):
    kept = see(value)
    return circular.late(see, value)


def use(see, value):
    return through(see, value)
