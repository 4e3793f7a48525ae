"""__del__, weak references and weakref.finalize that call functions at the end of things."""

import weakref

ENDS = []


class Resource:
    def __init__(self, name, see, value):
        self.name, self.see, self.value = name, see, value

    def __del__(self) -> None:
        """Ends."""
        ENDS.append(self.name)
        try:
            kept = self.see(self.value)
        except Exception as error:
            ENDS.append(type(error).__name__)


def finalize(name):
    ENDS.append(f"finalize {name}")


def callback(reference):
    ENDS.append(f"callback {reference() is None}")


def holds(see, value):
    first, second = Resource("first", see, value), Resource("second", see, value)
    weakref.finalize(first, finalize, "first")
    watch = weakref.ref(second, callback)
    kept = see(value)
    return watch


def generates(see, value):
    resource = Resource("of a generator", see, value)
    yield 1


def use(see, value):
    ENDS.clear()
    watch = holds(see, value)
    generator = generates(see, value)
    next(generator)
    del generator
    Resource("dropped", see, value)
    return watch(), list(ENDS)
