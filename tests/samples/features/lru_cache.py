"""functools.lru_cache and functools.cache, of functions and methods."""

import functools


@functools.lru_cache(maxsize=4)
def cached(see, value: object) -> str:
    """Cached."""
    kept = see(value)
    return "cached"


class Account:
    @functools.cache
    def method(self, see, value):
        kept = see(value)
        return "method"

    @staticmethod
    @functools.cache
    def static(see, value):
        return see(value) is None


def use(see, value):
    try:
        account = Account()
        seen = [cached(see, value), cached(see, value), account.method(see, value), Account.static(see, value)]
        return seen, cached.cache_parameters(), cached.__wrapped__(see, value)
    finally:
        cached.cache_clear(), Account.method.cache_clear(), Account.static.cache_clear()
