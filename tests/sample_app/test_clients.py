"""How fast a client may send."""

from sample_app.clients import MessageRate


def test_no_second_has_more_messages_than_allowed() -> None:
    """The limit holds for any one second, not for seconds of the clock."""
    now = 0.0
    rate = MessageRate(2, clock=lambda: now)
    allowed = []

    for now in (0.0, 0.5, 0.75, 1.0, 1.25, 1.5):
        allowed.append(rate.allows_one_more())

    assert allowed == [True, True, False, True, False, True]


def test_refused_messages_do_not_count() -> None:
    """Somebody who tries too often may still send once the second is over."""
    now = 0.0
    rate = MessageRate(1, clock=lambda: now)
    rate.allows_one_more()

    for now in (0.5, 0.9):
        assert not rate.allows_one_more()
    now = 1.0

    assert rate.allows_one_more()
