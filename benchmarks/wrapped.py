"""A wrapper as one writes it by hand, with wrapt: the same record, without bounds, redaction or a word of losses."""

from __future__ import annotations

import collections
import contextvars
import inspect
import itertools
import threading
import time
from collections.abc import Iterable
from typing import Any

import orjson
import wrapt
from ways import FLUSH_SECONDS, Function, Recorded, Way, count_lines, fields, for_its_kind


class Wrapt(Way):
    """Parent, ids, times, the JSON of all values without bounds or redaction; a thread writes to a file."""

    arguments, result, background = True, '"result":', True

    def prepare(self) -> None:
        """Begin the thread that writes every 100 ms."""
        self.enabled = True
        self.path = self.folder / "wrapt.jsonl"
        self.queue: collections.deque[tuple[Any, ...]] = collections.deque()
        self.current: contextvars.ContextVar[int | None] = contextvars.ContextVar("current", default=None)
        self.numbers = itertools.count()
        threading.Thread(target=self._write, daemon=True).start()

    def attach(self, owner: type, names: Iterable[str]) -> None:
        """Set wrappers in place of the methods."""
        for name in names:
            setattr(owner, name, self._wrapped(getattr(owner, name)))

    def off(self) -> None:
        """As wrapt has it: a wrapper that is not enabled calls the method."""
        self.enabled = False

    def count(self) -> Recorded:
        """What is in the file now."""
        return count_lines(self.path)

    def _wrapped(self, function: Function) -> Function:
        queue, current, numbers = self.queue, self.current, self.numbers
        clock, thread, encode = time.monotonic_ns, threading.get_native_id, orjson.dumps
        name, parameters = function.__name__, list(inspect.signature(function).parameters)[1:]

        def enter(args: Any, kwargs: Any) -> tuple[int, int | None, int]:
            values = encode(dict(zip(parameters, args, strict=False), **kwargs), default=fields)
            span, parent, began = next(numbers), current.get(), clock()
            current.set(span)
            queue.append(("ENTER", name, span, parent, began, thread(), values))
            return span, parent, began

        def leave(flow: tuple[int, int | None, int], event: str, value: bytes) -> None:
            span, parent, began = flow
            current.set(parent)
            ended = clock()
            queue.append((event, name, span, parent, ended, thread(), value, ended - began))

        def call(wrapped: Function, _instance: object, args: Any, kwargs: Any) -> Any:
            flow = enter(args, kwargs)
            try:
                result = wrapped(*args, **kwargs)
            except BaseException as error:
                leave(flow, "EXCEPTION", encode(str(error)))
                raise
            leave(flow, "EXIT", encode(result, default=fields))
            return result

        async def coroutine(wrapped: Function, _instance: object, args: Any, kwargs: Any) -> Any:
            flow = enter(args, kwargs)
            try:
                result = await wrapped(*args, **kwargs)
            except BaseException as error:
                leave(flow, "EXCEPTION", encode(str(error)))
                raise
            leave(flow, "EXIT", encode(result, default=fields))
            return result

        def generator(wrapped: Function, _instance: object, args: Any, kwargs: Any) -> Any:
            flow = enter(args, kwargs)
            try:
                result = yield from wrapped(*args, **kwargs)
            except BaseException as error:
                leave(flow, "EXCEPTION", encode(str(error)))
                raise
            leave(flow, "EXIT", encode(result, default=fields))
            return result

        wrapper = for_its_kind(function, call, coroutine, generator)
        decorate: Any = wrapt.decorator(enabled=lambda: self.enabled)(wrapper)
        wrapped: Function = decorate(function)
        return wrapped

    def _write(self) -> None:
        with self.path.open("wb", buffering=1 << 16) as file:
            while True:
                time.sleep(FLUSH_SECONDS)
                while self.queue:
                    event, name, span, parent, at, thread, value, *duration = self.queue.popleft()
                    line = {
                        "timestamp": at, "event": event, "thread": thread, "function": name,
                        "args" if event == "ENTER" else "result": orjson.Fragment(value),
                        "spanId": span, "parentId": parent,
                    }  # fmt: skip
                    if duration:
                        line["durationNanos"] = duration[0]
                    file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
                file.flush()
