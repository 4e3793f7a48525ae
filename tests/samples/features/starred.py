"""What `star` imports, named in __all__."""

__all__ = ["_named", "named_only_in_all", "public"]


def public(see, value: object) -> str:
    """Public."""
    kept = see(value)
    return _private(see, value)


def _private(see, value):
    kept = see(value)
    return "private"


def __getattr__(name):
    if name == "named_only_in_all":
        return public
    if name == "_named":
        return _private
    raise AttributeError(name)


def __dir__():
    return [*__all__, "use"]


def use(see, value):
    return public(see, value)
