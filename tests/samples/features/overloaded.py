"""Overloads, final and deprecated-looking decorators of typing, and named tuples and typed dicts with annotations."""

import typing


@typing.overload
def convert(see, value: int) -> str: ...


@typing.overload
def convert(see, value: str) -> int: ...


@typing.final
def convert(see, value: typing.Annotated[object, "converted"]) -> "str | int":
    """Converts."""
    kept = see(value)
    return "converted"


@typing.no_type_check
def unchecked(see, value: "nonsense nonsense"):
    kept = see(value)
    return "unchecked"


class Pair(typing.NamedTuple):
    left: int
    right: "int" = 2

    def show(self, see, value: "Pair") -> "Pair":
        kept = see(value)
        return self


class Options(typing.TypedDict, total=False):
    name: "str"


class Generic(typing.Generic[typing.TypeVar("T")]):
    def show(self, see, value: typing.Self) -> typing.Self:
        kept = see(value)
        return "generic"


def use(see, value):
    overloads = [each.__annotations__ for each in typing.get_overloads(convert)], convert.__final__
    return overloads, convert(see, value), unchecked(see, value), Pair(1).show(see, value), Generic[int]().show(see, value)
