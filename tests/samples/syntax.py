"""Statements in every position where leaving a function is delicate."""

import contextlib

LOG = []


def log(value):
    LOG.append(value)
    return value


def finally_after_return():
    try:
        return log("value")
    finally:
        log("finally")


def case_finally_after_return():
    LOG.clear()
    return finally_after_return(), list(LOG)


def return_overridden():
    try:
        return 1
    finally:
        return 2


def case_return_overridden():
    return return_overridden()


def exception_swallowed_by_finally():
    try:
        raise ValueError(1)
    finally:
        return "quiet"


def case_exception_swallowed():
    return exception_swallowed_by_finally()


def exception_replaced():
    try:
        raise ValueError(1)
    finally:
        raise KeyError(2)


def case_exception_replaced():
    return exception_replaced()


def return_then_raise():
    try:
        return 1
    finally:
        raise KeyError("instead")


def case_return_then_raise():
    return return_then_raise()


def loops(n):
    out = []
    for i in range(n):
        try:
            if i == 1:
                continue
            if i == 3:
                break
            out.append(i)
        finally:
            out.append("f")
    else:
        out.append("else")
    while True:
        try:
            return out
        finally:
            break
    return "broken"


def case_loops():
    return loops(2), loops(5)


def matches(subject):
    match subject:
        case 0 | 1:
            return "small"
        case [x, *rest] if rest:
            return x, rest
        case {"k": value, **others}:
            return value, others
        case str() as text:
            return text
        case object(real=real):
            return real
        case _:
            return None


def case_match():
    return [matches(s) for s in (0, [1, 2], [1], {"k": 1, "l": 2}, "s", 2.5, None)]


def walrus(n):
    while (n := n - 1) > 0:
        if (half := n // 2) == 1:
            return n, half
    return n


def case_walrus():
    return walrus(9), walrus(1)


def groups():
    try:
        raise ExceptionGroup("g", [ValueError(1), TypeError(2), KeyError(3)])
    except* ValueError as group:
        log(group.exceptions)
    except* TypeError:
        log("type")


def case_except_star():
    LOG.clear()
    return groups()


def chained():
    try:
        {}["x"]
    except KeyError as error:
        raise ValueError("from") from error


def case_chained():
    return chained()


def hidden():
    try:
        {}["x"]
    except KeyError:
        raise ValueError("from") from None


def case_hidden():
    return hidden()


def reraised():
    try:
        int("x")
    except ValueError:
        log("seen")
        raise


def case_reraised():
    return reraised()


def with_and_return():
    with contextlib.suppress(KeyError), contextlib.ExitStack() as stack:
        stack.callback(log, "closed")
        return log("value")


def case_with_and_return():
    LOG.clear()
    return with_and_return(), list(LOG)


def suppressed_falls_through():
    with contextlib.suppress(KeyError):
        raise KeyError
    log("after")


def case_suppressed():
    LOG.clear()
    return suppressed_falls_through(), list(LOG)


def nested_finally():
    try:
        try:
            try:
                return log(1)
            finally:
                log(2)
        finally:
            log(3)
            int("no")
    except ValueError:
        return log(4)
    finally:
        log(5)


def case_nested_finally():
    LOG.clear()
    return nested_finally(), list(LOG)


def multi_line(
    a,
    b=(
        1
    ),
):
    y = a
    x = (
        a
        + b
        + undefined
    )
    return x


def case_columns_over_lines():
    return multi_line(1)


def in_with_exit():
    with contextlib.closing(
        Closes()
    ):
        pass


class Closes:
    def close(self):
        raise OSError("close")


def case_exit_raises():
    return in_with_exit()


def annotates():
    x: int
    y: str = "s"
    return y


def case_annotated_locals():
    return annotates()


def deletes():
    x = 1
    del x
    return x


def case_deleted_local():
    return deletes()


def exception_name_is_unbound():
    try:
        raise ValueError
    except ValueError as error:
        pass
    return error


def case_exception_name():
    return exception_name_is_unbound()


def asserts(x):
    assert x, f"{x!r} is false"
    return x


def case_assert():
    return asserts(0)


def imports():
    from os import path as p, sep
    import os.path
    return p is os.path, sep


def case_imports():
    return imports()


def star(*args, **kwargs):
    first, *middle, last = args
    return [*middle, last], {**kwargs, "f": first}, print(*(), end="", **{})


def case_stars():
    return star(1, 2, 3, k=1)


def conditional(x):
    if x:
        return
    elif x is None:
        return None
    return (yield_nothing())


def yield_nothing():
    pass


def case_bare_returns():
    return conditional(1), conditional(None), conditional(0)


def long(x):
    y = x
    return [
        f"{x!r:>5}",
        f"{x + 1}"
        f"{x}",
        "constant" if x else not x,
        x if x > 1 else -x,
        1 < x < 3,
        x and x or x,
    ]


def case_expressions():
    return long(2)


def while_else(n):
    while n:
        n -= 1
        if n == 5:
            break
    else:
        return "else"
    return "break"


def case_while_else():
    return while_else(3), while_else(9)


def group_that_passes():
    try:
        raise ExceptionGroup("g", [ValueError(1), OSError(2)])
    except* ValueError:
        pass


def case_group_rest():
    return group_that_passes()
