"""Redaction: secrets are found by name and by shape, and what merely looks like one is left alone."""

from __future__ import annotations

import base64
import random
import string
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace.errors import ConfigError
from flowtrace.redaction import MARKER, MAX_TEXT, Redactor


def listed(names: str) -> list[str]:
    """The words of a text."""
    return names.split()


SECRET_NAMES = listed("""
    password Password userPassword passwd pwd db_pass mysql_pwd password2 password_hash passphrase passcode secret
    client_secret clientSecret SECRET_KEY secretkey aws_secret_access_key AWS_ACCESS_KEY_ID api_key apikey apiKey APIKey
    X-Api-Key private_key privatekey encryption_key signing_key ssh_key token token1 access_token accessToken
    refreshToken id_token auth_token oauth_token csrftoken csrf _csrf _csrf_token csrfmiddlewaretoken XSRF-TOKEN _xsrf
    x_csrftoken jwt auth http_auth Authorization proxy-authorization credentials credential creds session sessionid
    session_id user_session aiohttp_session _session PHPSESSID JSESSIONID ASP.NET_SessionId connect.sid cookie cookies
    Set-Cookie ssn social_security_number creditCard credit_card card_number cardNumber cc_number cvv cvc2 otp
    verification_code x_forwarded_for X-Real-IP remote_addr ip_address symfony
""")

INNOCENT_NAMES = listed("""
    author authors authority authored authenticated is_authenticated authorize_page token_count max_tokens num_tokens
    total_tokens prompt_tokens token_type token_ids tokenizer tokenize next_page_token pad_token secretary secret_name
    passenger passport bypass compass pass_count first_pass session_count session_timeout session_factory obsession
    keyboard keyword key keys monkey primary_key sort_key cache_key partition_key assign_key design_key cookie_domain
    cookie_path cookiecutter password_length password_policy password_min_length card_id accredited credits
    discard_no wildcard_number access accessory ward user_id username room_id message content url status_code curses
""")


def test_hides_the_names_that_other_tools_hide() -> None:
    """Names on the default lists of Sentry, ddtrace, Elastic APM and Logfire are secret in every spelling."""
    # fault X1
    redactor = Redactor()

    missed = [name for name in SECRET_NAMES if not redactor.is_secret_name(name)]

    assert missed == []


def test_leaves_names_that_only_look_secret() -> None:
    """A word inside another word, or a name that tells something about a secret, hides nothing."""
    redactor = Redactor()

    hidden = [name for name in INNOCENT_NAMES if redactor.is_secret_name(name)]

    assert hidden == []


def test_configured_names_match_as_a_whole_in_any_spelling() -> None:
    """A name from the config hides its spellings and not the names that contain it."""
    redactor = Redactor(names=["passport_no", "*_iban"], defaults=False)

    answers = {
        name: redactor.is_secret_name(name) for name in ("passportNo", "PASSPORT-NO", "my_passport_no", "homeIban")
    }

    assert answers == {"passportNo": True, "PASSPORT-NO": True, "my_passport_no": False, "homeIban": True}


def test_defaults_can_be_switched_off() -> None:
    """Without the defaults only what the config names is hidden, by name and in texts."""
    redactor = Redactor(names=["pet"], defaults=False)

    assert not redactor.is_secret_name("password")
    assert redactor.scrub("password=x pet=rex AKIAIOSFODNN7EXAMPLE") == f"password=x pet={MARKER} AKIAIOSFODNN7EXAMPLE"


def test_names_are_forgotten_when_too_many() -> None:
    """Ten thousand different names leave a bounded memory behind and are still answered rightly."""
    redactor = Redactor()

    assert not any(redactor.is_secret_name(f"user_{number}") for number in range(10_000))
    assert redactor.is_secret_name("a" * 10_000 + "_password")
    assert len(redactor._known) <= 4096


def made_secrets() -> list[str]:
    """Secrets of every kind that is known by its shape, made anew with a fixed seed."""
    chance = random.Random(7)

    def some(letters: str, size: int) -> str:
        return "".join(chance.choice(letters) for _ in range(size))

    word, upper, hexa = string.ascii_letters + string.digits, string.ascii_uppercase + string.digits, "0123456789abcdef"

    def jwt() -> str:
        head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
        body = base64.urlsafe_b64encode(b'{"sub":"%d"}' % chance.randrange(10**9)).decode().rstrip("=")
        return f"{head}.{body}.{some(word, 43)}"

    kinds = [
        jwt,
        lambda: f"AKIA{some(upper, 16)}",
        lambda: f"ASIA{some(upper, 16)}",
        lambda: f"AIza{some(word, 35)}",
        lambda: f"ya29.{some(word, 40)}",
        lambda: f"ghp_{some(word, 36)}",
        lambda: f"github_pat_{some(word, 40)}",
        lambda: f"glpat-{some(word, 20)}",
        lambda: f"xoxb-{some(string.digits, 12)}-{some(word, 24)}",
        lambda: f"sk_live_{some(word, 24)}",
        lambda: f"rk_test_{some(word, 24)}",
        lambda: f"whsec_{some(word, 32)}",
        lambda: f"sk-proj-{some(word, 40)}",
        lambda: f"SG.{some(word, 22)}.{some(word, 43)}",
        lambda: f"npm_{some(word, 36)}",
        lambda: f"hf_{some(word, 34)}",
        lambda: f"-----BEGIN RSA PRIVATE KEY-----\n{some(word, 64)}\n-----END RSA PRIVATE KEY-----",
        lambda: f"Bearer {some(hexa, 32)}",
        lambda: "Basic " + base64.b64encode(f"user:{some(word, 12)}".encode()).decode(),
        lambda: luhn(chance, "4", 16),
        lambda: luhn(chance, "37", 15),
        lambda: luhn(chance, "5412", 16),
    ]
    return [kind() for kind in kinds for _ in range(10)]


def luhn(chance: random.Random, start: str, size: int) -> str:
    """A number with a right check digit."""
    digits = start + "".join(str(chance.randrange(10)) for _ in range(size - len(start) - 1))
    total = sum(
        sum(divmod(int(digit) * 2, 10)) if place % 2 == 0 else int(digit) for place, digit in enumerate(digits[::-1])
    )
    return digits + str(-total % 10)


@pytest.mark.parametrize(
    "carrier", ["{}", "got {} from the client", "('{}', 3)", "failed:{}\nretry", '{{"note": "{}"}}']
)
def test_finds_made_secrets_in_any_text(carrier: str) -> None:
    """Every known kind of token, key and card number is found wherever in a text it stands."""
    # fault X2
    redactor = Redactor()

    missed = [secret for secret in made_secrets() if secret.split()[-1] in redactor.scrub(carrier.format(secret))]

    assert missed == []


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("password=hunter2 user=bob", f"password={MARKER} user=bob"),
        ('{"password": "a \\" b", "n": 1}', f'{{"password": "{MARKER}", "n": 1}}'),
        ("{'token': 'abc', 'n': 1}", f"{{'token': '{MARKER}', 'n': 1}}"),
        (r"{\"password\": \"x\", \"n\": 1}", rf"{{\"password\": \"{MARKER}\", \"n\": 1}}"),
        ("'password': b'hunter2'", f"'password': b'{MARKER}'"),
        ('{"cvv": 123}', f'{{"cvv": {MARKER}}}'),
        ('"tokens": ["a", "b"], "n": 1', f'"tokens": {MARKER}, "n": 1'),
        ("https://x.org/cb?token=abc&page=2&sig=Zz", f"https://x.org/cb?token={MARKER}&page=2&sig={MARKER}"),
        ("user[password]=abc&x=1", f"user[password]={MARKER}&x=1"),
        ("postgres://app:s3cr3t@db:5432/x", f"postgres://{MARKER}@db:5432/x"),
        ("Cookie: a=b; c=d\r\nHost: x", f"Cookie: {MARKER}\r\nHost: x"),
        ("Authorization: Digest username=x, response=y\nHost: x", f"Authorization: {MARKER}\nHost: x"),
        ("auth=Bearer abc next", f"auth={MARKER} next"),
        ("sessionid=abc; theme=dark", f"sessionid={MARKER}; theme=dark"),
        ("paid with 4111 1111 1111 1111.", f"paid with {MARKER}."),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut he", MARKER),
    ],
)
def test_hides_the_value_after_a_secret_name(text: str, scrubbed: str) -> None:
    """Queries, cookies, headers, JSON, reprs and DSNs lose the secret value and keep everything else."""
    # faults X1, X2
    redactor = Redactor()

    assert redactor.scrub(text) == scrubbed
    assert redactor.scrub(scrubbed) == scrubbed


def innocent_texts() -> list[str]:
    """Texts of ordinary programs that share something with secrets: length, digits, punctuation or words."""
    chance = random.Random(11)
    words = listed("the basic idea of a bearer bond is that its author keeps no token record and passes notes on")
    return [
        *(str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(80)),
        *(f"2024-0{chance.randrange(1, 9)}-15T10:30:{number:02}.123456+00:00" for number in range(60)),
        *(f"{chance.getrandbits(160):040x}" for _ in range(60)),
        *(str(1_705_318_200_000_000 + chance.randrange(10**9)) for _ in range(40)),
        *(" ".join(chance.sample(words, 9)) for _ in range(80)),
        *(f"/srv/app/releases/2024/module_{number}/handle_websocket_connection.py:{number}" for number in range(30)),
        *(f"http://localhost:5001/rooms/{number}?page={number}&sort=-created_at&author=bob" for number in range(30)),
        *(f"SELECT id, name FROM token_counts WHERE room = {number} AND max_tokens > 12" for number in range(20)),
        "git@github.com:org/repo.git", "ssh://git@github.com/org/repo", "Basic training", "Bearer certificates",
        "12:30",
        "token == other", "password=None", '{"password": null, "token": ""}', "call +1 555 0100 4242 now", "a=b",
        "x::y",
        "0.4111111111111111", "4111111111111112", "std::secret_count", "task-queue-name-long-enough", "risk-averse",
    ]  # fmt: skip


def test_leaves_innocent_texts_as_they_are() -> None:
    """Four hundred texts with ids, times, hashes, URLs and prose come back unchanged."""
    redactor = Redactor()

    changed = {text: found for text in innocent_texts() if (found := redactor.scrub(text)) != text}

    assert len(innocent_texts()) >= 400
    assert changed == {}


@given(st.text(max_size=300) | st.text(alphabet="=:\"'\\?&@/ -_.password1239", max_size=300))
def test_the_quick_test_agrees_with_the_slow_one(text: str) -> None:
    """A text that the quick test calls clean has nothing that the detectors would replace, and scrubbing is stable."""
    redactor = Redactor()
    thorough = Redactor(patterns=[r"\x00never\x00"])  # a pattern of one's own switches the quick test off

    assert redactor.scrub(text) == thorough.scrub(text)


def test_user_patterns_hide_what_they_match() -> None:
    """A pattern of the config is applied to every text, in short ones too."""
    redactor = Redactor(patterns=[r"K-\d{4}"])

    assert redactor.scrub("K-1234") == MARKER
    assert redactor.scrub("customer K-1234 called") == f"customer {MARKER} called"


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "not a regular expression"),
        ("x*", "matches the empty text"),
        ("(a+)+$", "repeats a repeat"),
        (r"(?:\w+\s?)*end", "repeats a repeat"),
        (r"(?:a|b{1,9}){5,}", "repeats a repeat"),
    ],
)
def test_refuses_a_pattern_that_cannot_be_used(pattern: str, words: str) -> None:
    """A broken, all-matching or exponential pattern is refused in one line that names it and its place."""
    # faults F4, X10
    with pytest.raises(ConfigError, match=words) as caught:
        Redactor(patterns=["fine", pattern])

    assert caught.value.key == "redact.patterns[1]"
    assert repr(pattern) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", [r"(?:[a-z]++-)+x", r"\b(?:\d[ -]?){13,19}\b", r"(?>a+)+b", "AB[0-9]{2,}"])
def test_takes_patterns_that_are_bounded(pattern: str) -> None:
    """Possessive and bounded repeats are not mistaken for exponential ones."""
    assert Redactor(patterns=[pattern]).scrub("nothing here") == "nothing here"


@pytest.mark.parametrize(
    "piece",
    ["a", "a=", "password=", "password:'", '"token": "\\', "eyJ", "eyJaaaaaaaa.", "://a:",
     "-----BEGIN PRIVATE KEY-----",
     "1", "1 ", "4111-", "bearer ", "basic aaaaaaaa", "xoxb-", "[", "_", "\\\"", " ", "sk-", "?sig=", "é="],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """The longest text of the worst repetition is scrubbed in a fraction of a second."""
    # fault X10
    redactor, text = Redactor(), (piece * MAX_TEXT)[:MAX_TEXT]
    started = time.perf_counter()

    redactor.scrub(text)

    assert time.perf_counter() - started < 1  # it takes some milliseconds; quadratic growth would take many seconds


def test_longer_texts_are_cut_before_they_are_searched() -> None:
    """Beyond MAX_TEXT characters a text is cut and says how much is missing."""
    scrubbed = Redactor().scrub("password=x " + "y " * MAX_TEXT)

    assert scrubbed.startswith(f"password={MARKER} y")
    assert scrubbed.endswith(f"… [+{11 + MAX_TEXT} chars]")
