"""Plain functions of every shape."""

import functools

LOG = []


def add(a, /, b=2, *rest, c=3, **more):
    """Adds."""
    return a + b + c + sum(rest) + sum(more.values())


def case_all_kinds_of_arguments():
    return add(1), add(1, 2), add(1, 2, 3, 4, c=5, d=6)


def case_wrong_arguments():
    return add()


def annotated(a: int, *, key: "str" = "k") -> "tuple":
    return a, key


def case_annotations():
    return annotated.__annotations__, annotated.__kwdefaults__, annotated(1)


def outer(start):
    count = start

    def inner(step):
        nonlocal count
        count += step
        return count

    return inner


def case_closure():
    step = outer(10)
    return step(1), step(2), step.__closure__[0].cell_contents


TOTAL = 0


def accumulate(n):
    global TOTAL
    TOTAL += n
    return TOTAL


def case_global():
    return accumulate(2), accumulate(3), TOTAL


def makes_a_global():
    global made

    def made(x):
        return x * 2


def case_function_made_global():
    makes_a_global()
    return made(4), made.__qualname__


def cached(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) + 1

    return wrapper


@cached
@functools.lru_cache(maxsize=4)
def decorated(n):
    return n


def case_decorated():
    return decorated(1), decorated(1), decorated.__wrapped__.cache_info().hits


alias = add


def case_alias():
    return alias(1), alias is add, alias.__name__


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def case_recursive():
    return fib(6)


def sees_locals(a, b):
    c = a + b
    return sorted(locals())


def case_locals():
    return sees_locals(1, 2)


def evaluates(a):
    return eval("a + 1")


def case_eval():
    return evaluates(1)


def made_in_a_loop():
    return [lambda x, n=n: x + n for n in range(3)] + [inner for n in range(2) for inner in [make(n)]]


def make(n):
    def made_here():
        return n

    return made_here


def case_functions_made_in_a_loop():
    return [f(1) for f in made_in_a_loop()[:3]], [f() for f in made_in_a_loop()[3:]]


def argument_deleted(a, b):
    del a
    return b


def case_deleted_argument():
    return argument_deleted(1, 2)


def argument_rebound(a):
    a = a + 1
    return a


def case_rebound_argument():
    return argument_rebound(1)


def argument_in_cell(a):
    def get():
        return a

    a += 1
    return get()


def case_argument_in_a_cell():
    return argument_in_cell(1)


def unbound():
    if LOG is None:
        x = 1
    return x


def case_unbound_local():
    return unbound()


def empty():
    """Only a docstring."""


def ellipsis(): ...


def one_line(): return 1


def string_only():
    "doc"; return __name__


def case_smallest_bodies():
    return empty(), ellipsis(), one_line(), string_only(), empty.__doc__, one_line.__doc__, string_only.__doc__


def defaults_are_evaluated_outside(a=add(1), *, b=add(2)):
    return a, b


def case_defaults():
    return defaults_are_evaluated_outside(), defaults_are_evaluated_outside.__defaults__


class _Mangled:
    pass


def case_lambda():
    return (lambda x: add(x))(1)


def comprehends(n):
    return [y for x in range(n) if (y := x * 2)], {x: add(x) for x in range(n)}, list(x for x in range(n)), y


def case_comprehensions():
    return comprehends(3)


def calls_itself_wrongly():
    return add("a", None)


def case_raises_below():
    return calls_itself_wrongly()
