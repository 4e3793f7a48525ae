"""Dataclasses: with __post_init__, ordered, frozen, made anew for slots, inherited."""

import dataclasses


def default() -> list:
    return [0]


@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: "int" = 0
    more: list = dataclasses.field(default_factory=default, compare=False)

    def __post_init__(self) -> None:
        self.y += 1

    def show(self, see, value: object) -> int:
        """Shows."""
        kept = see(value)
        return self.x + self.y

    @property
    def norm(self) -> int:
        return self.x**2


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int

    def show(self, see, value):
        kept = see(value)
        return __class__ is not None and self.x


@dataclasses.dataclass
class Point3(Point):
    z: dataclasses.InitVar[int] = 3

    def __post_init__(self, z: int) -> None:
        super().__post_init__()
        self.y += z


def use(see, value):
    points = Point(1), Point(2), Point3(1, z=4)
    replaced = dataclasses.replace(points[0], x=9), dataclasses.asdict(points[1])
    seen = [repr(each) for each in points], points[0] < points[1], points[0].norm, repr(replaced)
    return seen, points[0].show(see, value), Slotted(1).show(see, value)
