"""Functions that read their own locals, and that run text inside themselves."""

from samples.driving import Pause, run


def reads(see, value: object, *rest, key="k") -> list:
    """Reads."""
    kept = see(value)
    return sorted(locals()), sorted(vars()), dir()


def writes(see, value):
    locals()["planted"] = 1
    kept = see(value)
    return "planted" in locals()


def generates(see, value):
    kept = see(value)
    yield sorted(locals())
    later = 1
    yield sorted(locals())


async def awaits(see, value):
    await Pause()
    kept = see(value)
    return sorted(locals())


async def ticks(see, value):
    kept = see(value)
    yield sorted(locals())


async def iterates(see, value):
    return [each async for each in ticks(see, value)], sorted(locals())


def evaluates(see, value):
    return eval("see(value) is None"), eval("sorted(locals())")


def executes(see, value):
    exec("kept = see(value)")
    return sorted(locals())


def formats(see, value):
    name = "formatted"
    kept = see(value)
    return "{name}".format(**locals()), [sorted(locals()) for _ in [0]]


def outer(see, value):
    free = "free"

    def inner():
        kept = see(value), free
        return sorted(locals())

    return inner(), sorted(locals())


class Account:
    names = sorted(locals())

    def show(self, see, value):
        kept = see(value)
        return sorted(locals()), super().__init__()

    def nested(self, see, value):
        class Local:
            kept = see(value)
            names = sorted(locals())

        return Local.names


def use(see, value):
    return (
        reads(see, value, 1), writes(see, value), list(generates(see, value)), run(awaits(see, value)),
        run(iterates(see, value)), evaluates(see, value), executes(see, value), formats(see, value),
        outer(see, value), Account().show(see, value), Account().nested(see, value), Account.names,
    )
