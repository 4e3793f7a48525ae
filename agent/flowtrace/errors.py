"""The exceptions that flowtrace raises, all meant to be read by a person.

FlowtraceError
 ├── ConfigError      a value in the YAML file, the environment or --set cannot be used
 ├── PluginError      a plugin or a sink type cannot be found, loaded or built
 ├── SinkError        a sink could not take a batch; ``retry`` says whether trying again may help
 └── InstrumentError  a function's source cannot be instrumented; the function is left as it was
"""

from __future__ import annotations


class FlowtraceError(Exception):
    """What every error of flowtrace derives from; ``str(error)`` is one line for a person."""


class ConfigError(FlowtraceError):
    """A value of the configuration cannot be used.

    Attributes:
        place: The file (or ``--set`` or the environment variable) that holds the value.
        key: The dotted path of the key, such as ``sinks[0].rotate.max_size``; empty for the whole file.
        problem: What is wrong and what to write instead.
    """

    def __init__(self, problem: str, *, place: str = "", key: str = "") -> None:
        self.place, self.key, self.problem = place, key, problem
        super().__init__(": ".join(part for part in (place, key, problem) if part))


class PluginError(FlowtraceError):
    """A plugin cannot be loaded, or a sink type is not registered by any."""


class SinkError(FlowtraceError):
    """A sink could not take a batch.

    Attributes:
        retry: True where the same batch may succeed later; False where it never will.
        retry_after_s: How long the receiver asks to wait before the next try, in seconds, or None.
    """

    def __init__(self, problem: str, *, retry: bool = True, retry_after_s: float | None = None) -> None:
        self.retry, self.retry_after_s = retry, retry_after_s
        super().__init__(problem)


class InstrumentError(FlowtraceError):
    """The source of a module or function cannot be instrumented."""
