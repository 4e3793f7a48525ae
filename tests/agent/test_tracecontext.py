"""W3C trace context: what is read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.tracecontext import Remote, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEX = st.text("0123456789abcdef", min_size=1)


@given(
    st.integers(1, 2**128 - 1).map("{:032x}".format), st.integers(1, 2**64 - 1).map("{:016x}".format), st.booleans()
)  # fmt: skip
def test_what_is_written_is_read(trace: str, span: str, is_sampled: bool) -> None:
    """Each place of a trace is known again."""
    remote = Remote(trace, span, is_sampled)
    assert parse(str(remote)) == remote


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)]
)
def test_last_bit_of_the_flags_says_whether_it_is_recorded(flags: str, is_sampled: bool) -> None:
    """The others are for versions to come."""
    assert parse(f"00-{TRACE}-{SPAN}-{flags}") == Remote(TRACE, SPAN, is_sampled)


def test_later_versions_may_say_more() -> None:
    """What is appended there is passed over; white space around it does not count."""
    assert parse(f" cc-{TRACE}-{SPAN}-01-what-else\t") == Remote(TRACE, SPAN)
    assert parse(f"cc-{TRACE}-{SPAN}-01") == Remote(TRACE, SPAN)


@pytest.mark.parametrize(
    "text",
    [
        "", "00", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-01-",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[1:]}-{SPAN}-01", f"00-{TRACE}0-{SPAN}-01", f"00_{TRACE}_{SPAN}_01", f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE}-{SPAN}-01\n00", f"00-{TRACE[:-1]}٣-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-{'x' * 600}",
    ],
)  # fmt: skip
def test_malformed_text_says_nothing(text: str) -> None:
    """Whatever is not exactly of the form gives no place."""
    assert parse(text) is None


@given(st.text() | st.lists(HEX, max_size=6).map("-".join))
def test_no_text_raises(text: str) -> None:
    """Headers come from anywhere."""
    remote = parse(text)
    assert remote is None or parse(str(remote)) == remote
