"""Classes with __slots__."""


class Slotted:
    __slots__ = ("see", "__weakref__", "__hidden")

    def __init__(self, see, hidden):
        self.see, self.__hidden = see, hidden

    def show(self, value: object) -> object:
        """Shows."""
        kept = self.see(value)
        return self.__hidden

    @property
    def doubled(self):
        return self.__hidden * 2


class More(Slotted):
    __slots__ = ("more",)

    def show(self, value):
        self.more = super().show(value)
        return self.more


def use(see, value):
    return Slotted(see, 1).show(value), More(see, 2).show(value), hasattr(More(see, 3), "__dict__"), More(see, 4).doubled
