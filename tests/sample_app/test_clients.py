"""How fast a client may send."""

from sample_app.clients import MessageRate


def test_no_second_has_more_messages_than_allowed() -> None:
    """The limit holds for any one second, not for seconds of the clock."""
    times = iter([0.0, 0.5, 0.75, 1.0, 1.25, 1.5])
    rate = MessageRate(2, clock=lambda: next(times))

    allowed = [rate.allows_one_more() for _ in range(6)]

    assert allowed == [True, True, False, True, False, True]


def test_refused_messages_do_not_count() -> None:
    """Somebody who tries too often may still send once the second is over."""
    times = iter([0.0, 0.5, 0.9, 1.0])
    rate = MessageRate(1, clock=lambda: next(times))

    allowed = [rate.allows_one_more() for _ in range(4)]

    assert allowed == [True, False, False, True]
