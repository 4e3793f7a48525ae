"""Enumerations with methods, properties, generated and missing values."""

import enum


class Colour(enum.Enum):
    RED = 1
    BLUE = 2

    def show(self, see, value: object) -> str:
        """Shows."""
        kept = see(value)
        return self.pretty

    @property
    def pretty(self) -> str:
        return self.name.title()

    @classmethod
    def _missing_(cls, value):
        return cls.RED

    @enum.nonmember
    def helper(self):
        return "no member"


class Size(enum.StrEnum):
    def _generate_next_value_(name, start, count, last_values):
        return f"{name}{count}"

    SMALL = enum.auto()
    LARGE = enum.auto()


class Option(enum.Flag):
    A = 1
    B = 2

    def __call__(self, see, value):
        kept = see(value)
        return self.name


class Operation(enum.Enum):
    @enum.member
    def ADD(see, value):
        return see(value) is None

    def __call__(self, *args):
        return self.value(*args)


def use(see, value):
    shown = [str(each) for each in (*Colour, *Size, Option.A | Option.B, Colour(7))], Colour.helper(None)
    return shown, Colour.BLUE.show(see, value), (Option.A | Option.B)(see, value), Operation.ADD(see, value)
