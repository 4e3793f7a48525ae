"""Decorators that register functions: some give them back, some discard them, some give something else."""

HANDLERS = {}


def register(function):
    HANDLERS[function.__qualname__] = function
    return function


def discard(function):
    HANDLERS[function.__qualname__] = function


def replace_by(result):
    def decorate(function):
        HANDLERS[function.__qualname__] = function
        return result

    return decorate


@register
def kept_handler(see, value: object) -> str:
    """Kept."""
    kept = see(value)
    return "kept"


@discard
def discarded(see, value: object) -> str:
    """Discarded."""
    kept = see(value)
    return "discarded"


@replace_by(42)
def replaced(see, value):
    kept = see(value)
    return "replaced"


@discard
async def never_called(value): ...


class Commands:
    @register
    def run(self, see, value):
        kept = see(value)
        return "run"

    @discard
    def hidden(self, see, value):
        kept = see(value)
        return "hidden"


called_while_imported = kept_handler(lambda value: None, "early")


def use(see, value):
    names = "kept_handler", "discarded", "replaced"
    results = [HANDLERS[name](see, value) for name in names], HANDLERS["Commands.run"](None, see, value)
    return results, HANDLERS["Commands.hidden"](None, see, value), discarded, replaced, called_while_imported
