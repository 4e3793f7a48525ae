"""super() without arguments, and __class__."""


class Base:
    def __init__(self, see, value):
        self.see, self.value = see, value

    def show(self) -> list:
        """Shows."""
        kept = self.see(self.value)
        return ["Base"]

    @classmethod
    def make(cls, *args):
        return cls(*args)

    @property
    def label(self):
        return "base"

    def each(self):
        yield "each of base"


class Left(Base):
    def show(self):
        return ["Left", *super().show()]


class Right(Base):
    def show(self):
        return ["Right", *super().show()]

    def __getattribute__(self, name):
        return super().__getattribute__(name)


class Both(Left, Right):
    def __init__(self, *args):
        super().__init__(*args)

    def show(self):
        def nested():
            return super(__class__, self).show()

        return ["Both", *super().show(), *nested(), *[each for each in super().show()]]

    @classmethod
    def make(cls, *args):
        return super().make(*args)

    @property
    def label(self):
        return super().label + "!"

    def each(self):
        yield from super().each()
        yield __class__.__name__

    def rebinds(self):
        self = None
        return super


def use(see, value):
    both = Both.make(see, value)
    return both.show(), both.label, list(both.each()), both.rebinds() is super
