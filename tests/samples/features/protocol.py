"""Protocols, with methods that have bodies and some that have none."""

import typing


@typing.runtime_checkable
class Shows(typing.Protocol):
    label: str

    def show(self, see, value: object) -> str: ...

    def twice(self, see, value: object) -> "list[str]":
        """Twice."""
        kept = see(value)
        return [self.show(see, value), self.show(see, value)]


class Explicit(Shows):
    label = "explicit"

    def show(self, see, value):
        return super().show(see, value)


class Structural:
    label = "structural"

    def show(self, see, value):
        kept = see(value)
        return self.label

    twice = Shows.twice


def use(see, value):
    shows = isinstance(Structural(), Shows), isinstance(1, Shows), Shows in Explicit.__mro__
    return shows, Explicit().twice(see, value), Structural().twice(see, value)
