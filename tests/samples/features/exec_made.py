"""Functions made by exec and eval, by types.FunctionType and by type()."""

import types

SOURCE = '''
def executed(see, value):
    """Executed."""
    kept = see(value)
    return value
'''


def original(see, value: object, n=1) -> object:
    """Original."""
    kept = see(value)
    return n


namespace = {}
exec(compile(SOURCE, "<made>", "exec"), namespace)
executed = namespace["executed"]
evaluated = eval("lambda see, value: see(value) is None")
twin = types.FunctionType(original.__code__, globals(), "twin", (2,))
replaced = types.FunctionType(original.__code__.replace(co_name="replaced"), globals(), "replaced", (3,))
Made = type("Made", (), {"method": lambda self, see, value: original(see, value), "original": original})
bound = types.MethodType(original, lambda value: None)


def use(see, value):
    made = executed(see, value), evaluated(see, value), twin(see, value), replaced(see, value), bound(value)
    return made, Made().method(see, value), Made.original(see, value)
