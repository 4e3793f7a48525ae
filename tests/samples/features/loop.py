"""Functions created in loops."""

late, early, methods = [], [], {}

for n in range(3):

    def of_loop(see, value):
        kept = see(value)
        return n

    def with_default(see, value, n: int = n) -> int:
        """Made."""
        kept = see(value)
        return n

    late.append(of_loop)
    early.append(with_default)


def make(n):
    def made(see, value):
        kept = see(value)
        return n

    made.__name__ = f"made_{n}"
    made.__qualname__ = f"renamed_{n}"
    return made


comprehended = [make(n) for n in range(2)]


class Account: ...


for name in ("credit", "debit"):

    def move(self, see, value, name=name):
        return see(value) is None, name

    move.__name__ = name
    setattr(Account, name, move)


def use(see, value):
    functions = [*late, *early, *comprehended, Account().credit, Account().debit]
    return [function(see, value) for function in functions], late[0].__code__ is late[1].__code__
