"""W3C trace context: how the place of a call in its trace is written in headers and environment variables.

`traceparent <https://www.w3.org/TR/trace-context/#traceparent-header>`_: version, trace id (32 hex digits), span id
(16), flags, joined by ``-``. Of the flags, the last bit says whether the trace is recorded.
"""

from __future__ import annotations

import re

from flowtrace.patterns import late
from flowtrace.typed import NamedTuple

HEADER = "traceparent"
STATE_HEADER = "tracestate"  # what other tracers send along with it (section 3.3), handed on as it came
VARIABLE = "TRACEPARENT"  # as OpenTelemetry names it for child processes

_FORMAT = late(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.S)


class Remote(NamedTuple):
    """A call somewhere else, below which a trace goes on here.

    Attributes:
        trace: Its trace, 32 hex digits.
        span: The call, 16 hex digits.
        is_sampled: Whether it is recorded there.
    """

    trace: str
    span: str
    is_sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace}-{self.span}-{self.is_sampled:02x}"


def parse(text: str) -> Remote | None:
    """What a ``traceparent`` says, or None where it is malformed.

    Versions to come may append fields; the known ones have exactly four (section 4 of the recommendation).
    """
    found = _FORMAT.fullmatch(text.strip(" \t")) if len(text) <= 512 else None
    if found is None or (found[1] == "00" and found.end(4) != found.end()):
        return None
    return Remote(found[2], found[3], bool(int(found[4], 16) & 1))
