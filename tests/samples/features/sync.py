"""Plain functions, with parameters of all kinds."""

from collections.abc import Callable


def add(value: object, /, see: "Callable[[object], object]", *rest: int, key: str = "k", **more: float) -> "list":
    """Adds."""
    kept = see(value)
    return [value, rest, key, more]


def undocumented(see, value): kept = see(value); return value


def raises_itself(see, value):
    try:
        kept = see(
            value
        )
    except LookupError as error:
        raise ValueError(
            "its own"
        ) from error
    finally:
        see(value)
    return kept is None


alias = add


def use(see, value):
    return add(value, see, 1, 2, extra=3.0), undocumented(see, value), raises_itself(see, value), alias(value, see)
