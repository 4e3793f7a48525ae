"""Objects that are awaited, iterated asynchronously and entered asynchronously by plain functions."""

from samples.driving import Pause, run


class Answer:
    def __init__(self, see, value):
        self.see, self.value = see, value

    def __await__(self):
        """Awaits."""
        kept = self.see(self.value)
        yield from Pause().__await__()
        return "answer"


class Ticks:
    def __init__(self, see, value):
        self.see, self.value, self.left = see, value, 2

    def __aiter__(self):
        kept = self.see(self.value)
        return self

    async def __anext__(self) -> int:
        await Pause()
        kept = self.see(self.value)
        self.left -= 1
        if self.left < 0:
            raise StopAsyncIteration
        return self.left


class Opened:
    def __init__(self, see, value):
        self.see, self.value = see, value

    def __aenter__(self):
        kept = self.see(self.value)
        return Answer(self.see, self.value)

    def __aexit__(self, *error):
        kept = self.see(self.value)
        return Answer(self.see, self.value)


async def awaits(see, value):
    return await Answer(see, value), [each async for each in Ticks(see, value)]


async def iterates(see, value):
    seen = []
    async for each in Ticks(see, value):
        seen.append((each, see(value) is None))
    else:
        seen.append("else")
    return seen


async def enters(see, value):
    async with Opened(see, value) as opened:
        kept = see(value)
        return opened


def use(see, value):
    return run(awaits(see, value)), run(iterates(see, value)), run(enters(see, value))
