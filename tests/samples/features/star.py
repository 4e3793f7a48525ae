"""What a star import brings, with and without __all__."""

from samples.features import starred
from samples.features.starred import *
from samples.features.sync import *

use_of_sync = use


def use(see, value):
    return (
        public(see, value), named_only_in_all(see, value), public is starred.public, "_private" in globals(),
        add(value, see), use_of_sync(see, value),
    )
