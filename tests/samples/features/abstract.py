"""Abstract base classes."""

import abc


class Shape(abc.ABC):
    @property
    @abc.abstractmethod
    def area(self) -> int: ...

    @abc.abstractmethod
    def scale(self, see, value: object) -> object:
        """Scales."""
        kept = see(value)
        return "abstract"

    @classmethod
    @abc.abstractmethod
    def unit(cls): ...

    @classmethod
    def __subclasshook__(cls, other):
        return True if "scale" in other.__dict__ else NotImplemented


class Square(Shape):
    area = 4

    def scale(self, see, value):
        kept = see(value)
        return super().scale(see, value)

    @classmethod
    def unit(cls):
        return super().unit()


class Duck:
    def scale(self): ...


def use(see, value):
    try:
        Shape()
    except TypeError as error:
        refused = str(error)
    return refused, sorted(Shape.__abstractmethods__), issubclass(Duck, Shape), Square().scale(see, value), Square.unit()
