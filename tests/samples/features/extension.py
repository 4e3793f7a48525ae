"""A function of an extension module: written in C, calling back."""

import _statistics

in_c = _statistics._normal_dist_inv_cdf


class Probability:
    def __init__(self, see, value):
        self.see, self.value = see, value

    def __float__(self) -> float:
        """A half."""
        kept = self.see(self.value)
        return 0.5


def use(see, value):
    return in_c(Probability(see, value), 2.0, 1.0), _statistics._normal_dist_inv_cdf is in_c, in_c(0.5, 1.0, 1.0)
