"""What classes and annotations here need of `typing`, without importing it: that takes 4 ms at the start of a process.

Type checkers read `typing` itself. Annotations are not evaluated (PEP 563), so what stands in these only may be
anything. Tuples with named fields are made by `collections.namedtuple`: `typing.NamedTuple` compiles each annotation of
each field before, which takes twice as long.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import Literal as Literal
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import TypeAlias as TypeAlias
    from typing import TypeVar as TypeVar
    from typing import final as final
else:
    Any = NoReturn = TypeAlias = object

    class Literal:
        """Values, as an annotation."""

        def __class_getitem__(cls, values):
            return values

    class Protocol:
        """What others have to look like; only looked at by type checkers."""

        def __class_getitem__(cls, parameters):
            return cls

    def TypeVar(name, *constraints, **options):
        """What a type checker is to find out; `Any` for everybody else."""
        return Any

    def final(of):
        """Nothing is to be derived of it."""
        return of

    class _Fields(type):
        """Makes a named tuple of the body of a class that says so."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body["__annotations__"]
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for attribute, value in body.items():
                setattr(made, attribute, value)
            return made

    class NamedTuple(metaclass=_Fields):
        """The same as `typing.NamedTuple`."""
