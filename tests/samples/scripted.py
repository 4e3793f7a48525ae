"""Generators and async generators to be driven by any sequence of next, send, throw and close.

Each gets a function to call at every step of its body. What begins with ``body_`` is driven.
"""


class Context:
    def __init__(self, note, swallow=False):
        self.note, self.swallow = note, swallow

    def __enter__(self):
        return self.note("enter")

    def __exit__(self, kind, error, traceback):
        self.note(f"exit {kind and kind.__name__}")
        return self.swallow and kind is not GeneratorExit


class Full:
    """An iterator that has everything a generator has."""

    def __init__(self, note, n=2):
        self.note, self.n = note, n

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        self.n -= 1
        if self.n < 0:
            raise StopIteration("full")
        return "full", value

    def throw(self, *error):
        self.note(f"full throw {len(error)}")
        if self.n == 0:
            raise StopIteration("thrown")
        if isinstance(error[0], ValueError):
            return "caught"
        raise error[0]

    def close(self):
        self.note("full close")


class Bare:
    """An iterator that has nothing but next."""

    def __init__(self, n=2):
        self.n = n

    def __iter__(self):
        return self

    def __next__(self):
        self.n -= 1
        if self.n < 0:
            raise StopIteration("bare")
        return "bare"


class FailsToClose(Bare):
    def close(self):
        raise OSError("close")


def untraced(note):
    try:
        while (yield "untraced") != "stop":
            pass
    except ValueError as error:
        return error
    finally:
        note("untraced ends", "untraced")


def body_plain(note):
    try:
        x = yield 1
        note(x)
        y = yield x
        note(y)
    finally:
        note("finally")
    return x, y


def body_with(note):
    with Context(note), Context(note, swallow=True):
        got = yield 1
        yield got
        raise KeyError("own")
    return (yield "after")


def body_list(note):
    result = yield from [1, 2]
    note(result)
    result = yield from (x for x in (3, 4))
    return result


def body_full(note):
    result = yield from Full(note)
    note(result)
    return [result, (yield from Full(note, 1))]


def body_bare(note):
    try:
        note((yield from Bare()))
        note((yield from FailsToClose()))
    except ValueError as error:
        note(error.args)
        yield "handled"


def body_untraced(note):
    note((yield from untraced(note)))
    return (yield from untraced(note))


def inner(note):
    note("inner", "inner")
    try:
        got = yield "inner"
        note(got, "inner")
        yield got
    except KeyError as error:
        note("inner caught", "inner")
        return error.args
    finally:
        note("inner ends", "inner")
    return "inner's"


def middle(note):
    with Context(lambda text: note(text, "middle")):
        result = yield from inner(note)
        note("middle", "middle")
    yield from [result]
    return [result]


def body_nested(note):
    try:
        first = yield from middle(note)
        note(first)
    except ValueError:
        note("outer caught")
        yield "outer"
    result = yield from middle(note)
    return (yield from body_plain(lambda text, where=None: note(text, "body_plain"))), result


def body_started(note):
    begun = inner(note)
    next(begun)
    note("begun")
    yield "own"
    return (yield from begun)


def body_shared(note):
    one, two = inner(note), inner(note)
    for _ in range(2):
        note(next(one, "over"))
        yield from (next(two, "over") for _ in range(1))
    note("end")


def body_stubborn(note):
    tries = 0
    while tries < 3:
        try:
            yield tries
        except BaseException as error:
            tries += 1
            note(type(error).__name__)
    return "gave up"


def body_raises_at_exit(note):
    try:
        yield 1
    except GeneratorExit:
        raise OSError("at exit")
    except ValueError:
        raise TypeError("other") from None


def body_in_handler(note):
    try:
        raise KeyError("first")
    except KeyError:
        got = yield "in except"
        note(got)
        try:
            yield "again"
            raise ValueError("second")
        finally:
            yield "in finally"
            note("finally")


def body_returns_in_finally(note):
    while True:
        try:
            yield 1
            return "value"
        finally:
            note("finally")
            break
    return "other"


def body_expressions(note):
    values = [(yield 1), (yield 2), *(yield from [3])] if (yield 0) else {(yield 4): (yield 5)}
    assert (yield 6) is None, (yield 7)
    note(values)
    del values[(yield 8)]
    return note((yield 9))


def body_calls(note):
    for value in inner(note):
        note(value)
        yield value
        list(inner(note))
        note("called")


def body_never(note):
    return "at once"
    yield


def body_decorated(note):
    @(yield 1) or (lambda f: f)
    def local(x=(yield 2)):
        return x

    class Local((yield 3) or object):
        y = 1

    note(local())
    return (lambda x=(yield 4): x)()
