"""Drives coroutines without an event loop, so that one may run inside another."""


class Pause:
    """Suspends whoever awaits it, once."""

    def __await__(self):
        return (yield "paused")


def run(coroutine):
    """Run a coroutine to its end, answering each pause; returns its result."""
    answer = None
    while True:
        try:
            coroutine.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = "resumed"
