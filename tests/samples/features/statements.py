"""A call in every kind of statement and expression, so that an exception may come from each."""

import contextlib


class Closing:
    def __init__(self, see, value, swallow=False):
        self.see, self.value, self.swallow = see, value, swallow

    def __enter__(self):
        return self.see(self.value)

    def __exit__(self, kind, error, traceback):
        kept = self.see(self.value)
        return self.swallow


def cleanup(see, value):
    """Cleans up."""
    seen = []
    try:
        first = see(value)
        try:
            kept = see(value)
        except ValueError:
            seen.append("never")
        except (TypeError, LookupError) as error:
            seen.append(type(error).__name__)
            again = see(value)
            raise ArithmeticError from None
        else:
            seen.append(see(value) is None)
        finally:
            last = see(value)
            seen.append("finally")
    except ArithmeticError:
        seen.append("arithmetic")
    finally:
        seen.append(see(value) is None)
    return seen


def returns_through_finally(see, value):
    for turn in range(3):
        try:
            if turn == 1:
                continue
            if see(value) is None and turn == 2:
                return "returned", turn
        except KeyError:
            break
        finally:
            kept = see(value)
    else:
        return "else"
    return "broke"


def overrides(see, value):
    try:
        return see(value)
    finally:
        return "overridden"


def groups(see, value):
    seen = []
    try:
        try:
            kept = see(value)
            raise ExceptionGroup("group", [ValueError(1), KeyError(2), OSError(3)])
        except* ValueError as group:
            seen.append(repr(group.exceptions))
            again = see(value)
        except* KeyError:
            seen.append(see(value) is None)
    except ExceptionGroup as rest:
        seen.append(repr(rest.exceptions))
    return seen


def withs(see, value):
    with Closing(see, value), Closing(see, value, swallow=True) as second, contextlib.nullcontext(see(value)):
        kept = see(value)
        raise LookupError
    with (
        Closing(see, value) as first,
    ):
        return first is second is None


def matches(see, value, subject):
    match subject:
        case [first, *rest] if see(value) is None:
            return first, rest
        case {"key": found, **others}:
            return found, others, see(value) is None
        case str() | bytes() as text:
            return see(
                text
            ) is None
        case _:
            return "other"


def loops(see, value):
    seen = []
    while (n := len(seen)) < 2:
        seen.append(see(value) is None)
    else:
        seen.append("else")
    for seen[0], (a, *b) in [(see(value) is None, "abc")]:
        seen += [a, b]
    return seen, n


def expressions(see, value):
    listed = [see(value) is None for _ in range(2) if see(value) is None or True]
    mapped = {see(value) is None: each for each in "ab"}
    lazy = list(see(value) is None for _ in range(1))
    nested = [[see(value) is None for _ in range(x)] for x in range(2)]
    text = f"{see(value) is None!r:>6} {see(value) is None}"
    chosen = see(value) if not see(value) else see(value)
    compared = 1 < (see(value) is None) + 1 < 3
    logical = see(value) and see(value) or see(value)
    starred = dict(**{"a": see(value) is None}), [*[see(value) is None]], print(*[], end="" if see(value) is None else "")
    indexed = [1, 2, 3][(see(value) is None) - 1 : 2]
    return listed, mapped, lazy, nested, text, chosen is None, compared, logical is None, starred, indexed


def simple(see, value, removed=None):
    assert see(value) is None or True, "message"
    del removed
    x: "int" = see(value) is None
    x += see(value) is None
    import os.path as path
    from os import sep
    global made

    def made(default=see(value)): return default

    class Local:
        attribute = see(value)

        def show(self, default=see(value)):
            return see(value) is None, __class__.__name__

    return x, path.basename(sep), made() is None, Local().show()


def raises(see, value):
    raise ValueError(see(value) is None) from (see(value) and None)


def nothing(): pass


def forever(see, value):
    while True:
        if see(value) is None or True:
            return "out"


async def asynchronous(see, value):
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(leaf, see, value)
        found = [await leaf(see, each) async for each in ticks(see, value) if await leaf(see, value)]
    async for each in ticks(see, value):
        if see(value) is None:
            continue
        break
    else:
        found.append("else")
    return found


async def leaf(see, value): return see(value) is None


async def ticks(see, value):
    try:
        yield value
        yield see(value)
    finally:
        await leaf(see, value)


def use(see, value):
    from samples.driving import run

    try:
        raises(see, value)
    except ValueError as error:
        raised = repr(error), repr(error.__cause__)
    subjects = [1, 2], {"key": 1, "other": 2}, "text", None
    return (
        cleanup(see, value), returns_through_finally(see, value), overrides(see, value), groups(see, value),
        withs(see, value), [matches(see, value, each) for each in subjects], loops(see, value),
        expressions(see, value), simple(see, value), raised, nothing(), forever(see, value), run(asynchronous(see, value)),
    )
