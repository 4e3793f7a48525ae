"""Nested functions and closures that rebind what is outside."""


def counter(start: int):
    count = start

    def step(see, value: object, by: int = 1) -> int:
        """Steps."""
        nonlocal count
        kept = see(value)
        count += by
        return count

    def read():
        return count

    return step, read


def three_levels(see, value):
    outside = "outside"

    def middle():
        def inner():
            nonlocal outside
            kept = see(value)
            outside += "!"
            return outside

        return inner(), inner.__qualname__

    return middle(), outside


def argument_in_cell(see, value):
    def get():
        return value

    kept = see(value)
    value = "rebound"
    return get()


def unbound_cell():
    def get():
        return later

    try:
        get()
    except NameError as error:
        seen = str(error)
    later = 1
    return seen, get()


def deletes(see, value):
    def get():
        return kept

    kept = see(value)
    del kept
    try:
        return get()
    except NameError as error:
        return repr(error)


MADE = counter(10)


def use(see, value):
    step, read = counter(1)
    cells = [cell.cell_contents for cell in read.__closure__]
    return (
        step(see, value), step(see, value, by=5), read(), cells, step.__code__.co_freevars, three_levels(see, value),
        argument_in_cell(see, value), unbound_cell(), deletes(see, value),
    )
