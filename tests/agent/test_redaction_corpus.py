"""How much redaction finds and spares: a thousand made secrets in all carriers, two thousand innocent look-alikes."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from flowtrace.redaction import MARKER, Redactor
from flowtrace.values import Encoder, Limits
from tests.agent.redaction_corpus import CARRIERS, NAMES, Maker, Secret, innocents

SECRETS, LOOK_ALIKES = 1_000, 2_000
RECALL, PRECISION = 0.995, 0.98
PART = 8  # characters of a secret that must not be seen in a row

Channel = Callable[[Any], str]


def channels() -> dict[str, Channel]:
    """The ways in which values leave a call, by name; each gives what would be recorded, as text."""
    redactor = Redactor()
    encoder = Encoder(limits=Limits(), redactor=redactor)

    def argument(value: Any) -> str:
        arguments = value if type(value) is dict and value.keys() <= set(NAMES) else {"value": value}
        return decoded(encoder.arguments(arguments))

    def exception(value: Any) -> str:
        return decoded(encoder.exception(ValueError(value))) if type(value) is str else ""

    return {
        "argument": argument,
        "result": lambda value: decoded(encoder.result(value)),
        "exception": exception,
        "text": lambda value: redactor.scrub(value) if type(value) is str else "",
    }


def decoded(line: bytes) -> str:
    """The texts of a JSON value, so that no escape hides a secret from the test."""
    return "\n".join(texts(orjson.loads(line)))


def texts(value: Any) -> Iterator[str]:
    """All texts in plain data."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    else:
        yield str(value)


def leaks(secret: Secret, text: str) -> bool:
    """Whether any part of a secret can be read."""
    size = min(PART, len(secret.core))
    return any(secret.core[place : place + size] in text for place in range(0, len(secret.core) - size + 1, 3))


@pytest.fixture(scope="module")
def secrets() -> list[Secret]:
    """The same thousand in each run."""
    return list(Maker(7).secrets(SECRETS))


@pytest.fixture(scope="module")
def seen() -> list[str]:
    """The look-alikes of which some channel hides a part."""
    ways = channels()
    return [text for text in innocents(LOOK_ALIKES) if any(MARKER in way(text) for way in ways.values())]


def test_corpus_is_as_large_as_it_claims(secrets: list[Secret]) -> None:
    """A thousand secrets without doubles, forty carriers and more, two thousand look-alikes."""
    assert len({secret.text for secret in secrets}) == SECRETS
    assert len({carrier.name for carrier in CARRIERS}) == len(CARRIERS) >= 40
    assert len(innocents(LOOK_ALIKES)) == LOOK_ALIKES
    assert len(set(innocents(LOOK_ALIKES))) > LOOK_ALIKES * 0.9


@pytest.mark.parametrize("channel", channels())
def test_secrets_are_hidden_in_every_carrier(secrets: list[Secret], channel: str) -> None:
    """No part of at least 99.5 % of all secrets can be read, whatever carries them."""
    # fault X1, X2, X3
    way, tried, missed = channels()[channel], 0, collections.Counter[str]()
    examples: dict[str, str] = {}
    for number, secret in enumerate(secrets):
        for carrier in (carrier for carrier in CARRIERS if carrier.takes(secret)):
            value = carrier.make(NAMES[number % len(NAMES)], secret.text)
            shown = way(value)
            tried += bool(shown)
            if leaks(secret, shown):
                case = f"{secret.kind} in {carrier.name}"
                missed[case] += 1
                examples.setdefault(case, f"{value!r:.300}\n    -> {shown:.300}")

    report = "\n".join(f"{case}, {count} times: {examples[case]}" for case, count in missed.most_common(40))
    assert tried > SECRETS * 20
    assert 1 - missed.total() / tried >= RECALL, f"{missed.total()} of {tried} missed:\n{report}"


def test_look_alikes_are_left_alone(seen: list[str]) -> None:
    """Of all that is hidden, secrets and look-alikes counted once each, at least 98 % are secrets."""
    assert SECRETS / (SECRETS + len(seen)) >= PRECISION, "\n".join(seen)


def test_quick_test_misses_no_secret(secrets: list[Secret]) -> None:
    """Whatever the detectors would hide in the corpus, the quick test that comes first lets through to them."""
    quick, thorough = Redactor(), Redactor(patterns=[r"\x00never\x00"])  # a pattern switches the quick test off
    made = (
        carrier.make(NAMES[number % len(NAMES)], secret.text)
        for number, secret in enumerate(secrets)
        for carrier in CARRIERS
        if carrier.takes(secret)
    )
    differing = [text for text in made if type(text) is str and quick.scrub(text) != thorough.scrub(text)]

    assert differing == []


def test_hiding_twice_hides_no_more(secrets: list[Secret]) -> None:
    """What was scrubbed is scrubbed: a second pass finds nothing and harms nothing."""
    redactor = Redactor()
    texts = (carrier.make("password", secret.text) for secret in secrets[:100] for carrier in CARRIERS)
    once = [redactor.scrub(text) for text in texts if type(text) is str]

    assert [text for text in once if redactor.scrub(text) != text] == []
