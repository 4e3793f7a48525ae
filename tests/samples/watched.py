"""Code in which the way from line to line, or a branch, is delicate: for tracing functions, profilers and coverage."""

import asyncio
import contextlib
import threading


def one_liners(n):
    if n: n += 1; n -= 1
    for i in range(n): n += i
    while n > 3: n -= 1
    with contextlib.nullcontext(n) as n: pass
    try: n / 0
    except ZeroDivisionError: n = -n
    finally: n *= 2
    return n if n else None


def case_one_liners():
    return one_liners(4), one_liners(0)


def condition(a, b, c):
    if (
        a
        and b
        or not c
    ):
        return "yes"
    return (
        "a" if a
        else "b" if b
        else "none"
    )


def case_condition_over_lines():
    return [condition(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def nested_loops(n):
    found = []
    for i in range(n):
        for j in range(n):
            if j > i:
                break
            if j == i:
                continue
            while True:
                found.append((i, j))
                break
        else:
            found.append(i)
            continue
        found.append("broken")
    return found


def case_nested_loops():
    return nested_loops(3)


def leaves_everything(how):
    for i in range(3):
        with contextlib.nullcontext():
            try:
                with contextlib.suppress(KeyError):
                    if how == "return":
                        return i
                    if how == "break":
                        break
                    if how == "continue":
                        continue
                    if how == "raise":
                        raise LookupError(how)
                    raise KeyError(how)
            except LookupError:
                return "caught"
            else:
                how = "return"
            finally:
                i = 7
    return "end"


def case_leaves_everything():
    return [leaves_everything(how) for how in ("return", "break", "continue", "raise", "suppressed")]


def except_order(error):
    try:
        try:
            raise error
        except (KeyError, IndexError) as e:
            return e
        except ArithmeticError:
            pass
        else:
            return "never"
        finally:
            error = None
    except Exception as outer:
        return outer
    return "after"


def case_except_order():
    return [except_order(error) for error in (KeyError(1), ZeroDivisionError(), OSError("o"))]


def loops_in_finally(n):
    while n:
        try:
            n -= 1
            if n == 2:
                raise ValueError(n)
        except ValueError:
            continue
        finally:
            for _ in range(n):
                pass
    return n


def case_loops_in_finally():
    return loops_in_finally(4)


def constant_conditions():
    if 0:
        return "never"
    while 1:
        if __debug__:
            break
    if not ...:
        return "never"
    return None


def case_constant_conditions():
    return constant_conditions()


def strange_layout(a, b): x = [
    a,
    b]; y = {
    "k": a}; return (x,
    y)


def case_strange_layout():
    return strange_layout(1, 2)


def docstring_and_pass():
    """Nothing."""
    pass


class Empty: pass


def default_in_body(a, b=lambda: 0, *, c: int = 3): return lambda: (
    a
    + b() + c
)


def case_small():
    return docstring_and_pass(), Empty(), default_in_body(1)()


def guarded(subject):
    match subject:
        case [int(a), int(b)] if a > b:
            return "down"
        case [int(a), int(b)]:
            return "up"
        case {"kind": "a" | "b" as kind}:
            return kind
        case _ if subject:
            return "true"
    return "none"


def case_guards():
    return [guarded(s) for s in ([2, 1], [1, 2], {"kind": "b"}, {"kind": "c"}, 0)]


def yields_in_try(n):
    try:
        while n:
            try:
                n -= (yield n) or 1
            except ValueError:
                n = 0
                yield "caught"
            else:
                continue
            finally:
                n = max(n, 0)
    except GeneratorExit:
        return
    finally:
        n = None


def case_yields_in_try():
    first, second, third = yields_in_try(5), yields_in_try(5), yields_in_try(1)
    seen = [next(first), first.send(2), next(second), second.throw(ValueError), list(second), list(third)]
    first.close()
    return seen


def delegates(n):
    try:
        got = yield from yields_in_try(n)
    finally:
        yield "finally"
    return got


def case_delegates():
    it = delegates(2)
    return [next(it), it.throw(ValueError), *it]


def never_started():
    yield 1


def case_never_started():
    never_started().close()
    with contextlib.suppress(KeyError):
        never_started().throw(KeyError)


async def opens(n):
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.sleep, 0)
        for i in range(n):
            try:
                async with asyncio.timeout(None):
                    if i == 1:
                        continue
                    await asyncio.sleep(0)
                    if i == 2:
                        return i
            finally:
                await asyncio.sleep(0)


def case_async_exits():
    return asyncio.run(opens(2)), asyncio.run(opens(4))


async def produces(n):
    for i in range(n):
        try:
            yield i
        finally:
            await asyncio.sleep(0)


async def consumes():
    total = 0
    async for i in produces(4):
        if i == 1:
            continue
        total += i
        if i == 2:
            break
    else:
        return "else"
    async with contextlib.aclosing(produces(2)) as it:
        return total, [i async for i in it if i], await anext(it, None)


def case_async_loops():
    return asyncio.run(consumes())


def in_a_thread(log):
    for i in range(2):
        log.append(i)


def case_thread():
    log = []
    thread = threading.Thread(target=in_a_thread, args=(log,))
    thread.start()
    thread.join()
    return log


def recursion(n):
    if n == 0:
        raise RecursionError("bottom")
    try:
        recursion(n - 1)
    except RecursionError:
        if n < 3:
            raise
        return n


def case_recursion():
    return recursion(4)


def unpacks(*args):
    (a, *b), c = args
    for (d, [e]), f in [((1, [2]), 3)]:
        a, c = c, a
    del b[0], c
    return a, b, d, e, f


def case_unpacks():
    return unpacks([1, 2, 3], 4)


def strings(n):
    return (
        f"{n!r} {n:>{n}} "
        f"""{
            n
            + 1
        }"""
        "end"
    )


def case_strings():
    return strings(3)


def lambdas_and_comprehensions(n):
    double = lambda x: x * 2
    return [
        double(
            x
        )
        for x in range(n)
        if x
    ], {
        x: y
        for x in range(n)
        for y in range(x)
    }, sum(
        x
        for x in range(n)
    ), sorted(range(n), key=lambda x: -x)


def case_lambdas_and_comprehensions():
    return lambdas_and_comprehensions(3)


def uses_locals():
    a = 1
    b = sorted(locals())
    exec("c = 2")
    return b, dir(), vars().keys()


def case_uses_locals():
    return uses_locals()


def decorator(argument):
    def decorate(function):
        return function

    return decorate


def case_decorated_inside():
    @decorator(
        "a"
    )
    @decorator("b")
    def inside():
        return 1

    @decorator("c")
    class Inside(Empty):
        x = 1

        @property
        def y(self):
            return self.x

    return inside(), Inside().y
