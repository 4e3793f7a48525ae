"""functools.singledispatch and singledispatchmethod."""

import functools


@functools.singledispatch
def show(value: object, see) -> str:
    """Shows anything."""
    kept = see(value)
    return "object"


@show.register
def show_int(value: int, see) -> str:
    kept = see(value)
    return "int"


@show.register(list)
@show.register(tuple)
def _(value, see):
    kept = see(value)
    return "sequence", show(value[0], see)


class Shower:
    @functools.singledispatchmethod
    def show(self, value, see):
        kept = see(value)
        return "object"

    @show.register
    def _(self, value: int, see):
        kept = see(value)
        return "int"

    @show.register
    @classmethod
    def _(cls, value: str, see):
        kept = see(value)
        return cls.__name__


def use(see, value):
    shower = Shower()
    chosen = show.dispatch(bool) is show_int, sorted(kind.__name__ for kind in show.registry)
    return show(value, see), show(1, see), show([2], see), [shower.show(each, see) for each in (value, 1, "s")], chosen
