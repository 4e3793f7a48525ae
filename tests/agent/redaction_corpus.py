"""Made secrets, what carries them, and innocent texts that resemble them: all made up, by format, from a seed."""

from __future__ import annotations

import base64
import collections
import dataclasses
import json
import random
import shlex
import string
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

UPPER_DIGITS = string.ascii_uppercase + string.digits
WORD = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
URL_SAFE = WORD + "-_"
BASE64 = WORD + "+/"


def listed(names: str) -> list[str]:
    """The words of a text."""
    return names.split()


NAMES = listed(
    "password db_password userPassword passwd pw pin passwort client_secret SECRET_KEY api_key X-Api-Key apiKey"
    " access_token refreshToken auth_token session_id csrf_token private_key aws_secret_access_key credentials"
)


class Secret(NamedTuple):
    """A made secret.

    Attributes:
        kind: What it is.
        text: As a program would have it.
        core: The part of it that must not be seen.
        has_form: Whether it is known by its form, so that it needs no name.
    """

    kind: str
    text: str
    core: str
    has_form: bool


class Carrier(NamedTuple):
    """A way in which programs carry secrets.

    Attributes:
        name: What it is.
        make: Gives the value from a secret name and a secret.
        takes: Which secrets it is for.
    """

    name: str
    make: Callable[[str, str], Any]
    takes: Callable[[Secret], bool] = lambda secret: True


class Maker:
    """Makes secrets and look-alikes from one source of chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def some(self, letters: str, size: int) -> str:
        """A text of ``size`` letters."""
        return "".join(self.chance.choice(letters) for _ in range(size))

    def luhn(self, start: str, size: int) -> str:
        """Digits with a right check digit (ISO/IEC 7812)."""
        digits = start + self.some(string.digits, size - len(start) - 1)
        return next(digits + str(check) for check in range(10) if luhn_sum(digits + str(check)) % 10 == 0)

    def jwt(self) -> str:
        """A JSON Web Token (RFC 7519)."""
        payload = json.dumps({"sub": self.chance.randrange(10**9), "name": self.some(WORD, 8)}).encode()
        parts = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"HS256"}', payload)]
        return ".".join([*parts, self.some(URL_SAFE, 43)])

    def pem(self, label: str) -> str:
        """A private key in textual encoding (RFC 7468), without a key in it."""
        body = "\n".join(self.some(BASE64, 64) for _ in range(3))
        return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"

    def grouped(self, number: str, separator: str) -> str:
        """A card number as it is printed."""
        return separator.join(number[place : place + 4] for place in range(0, 16, 4))

    def shaped(self) -> dict[str, Callable[[], str]]:
        """By kind, what makes a secret that is known by its form."""
        some, chance = self.some, self.chance
        return {
            "JSON Web Token": self.jwt,
            "AWS access key id": lambda: chance.choice(("AKIA", "ASIA")) + some(UPPER_DIGITS, 16),
            "Google API key": lambda: "AIza" + some(URL_SAFE, 35),
            "Google OAuth token": lambda: "ya29." + some(URL_SAFE, 60),
            "Google client secret": lambda: "GOCSPX-" + some(URL_SAFE, 28),
            "Azure client secret": lambda: some(WORD, 3) + "8Q~" + some(WORD + "~.-_", 34),
            "GitHub token": lambda: f"gh{chance.choice('pousr')}_" + some(WORD, 36),
            "GitHub fine-grained token": lambda: f"github_pat_{some(WORD, 22)}_{some(WORD, 59)}",
            "GitLab token": lambda: f"gl{chance.choice(('pat', 'dt', 'rt', 'ptt', 'agent'))}-" + some(URL_SAFE, 20),
            "Slack token": lambda: f"xox{chance.choice('abpr')}-{some(string.digits, 12)}-{some(WORD, 24)}",
            "Slack webhook": lambda: f"https://hooks.slack.com/services/T{some(UPPER_DIGITS, 8)}/B{some(WORD, 32)}",
            "Stripe key": lambda: f"{chance.choice('sr')}k_{chance.choice(('live', 'test'))}_" + some(WORD, 24),
            "Stripe webhook secret": lambda: "whsec_" + some(BASE64, 32),
            "OpenAI key": lambda: "sk-proj-" + some(URL_SAFE, 48),
            "OpenAI key of old": lambda: "sk-" + some(WORD, 48),
            "Anthropic key": lambda: f"sk-ant-api03-{some(URL_SAFE, 93)}AA",
            "Hugging Face token": lambda: "hf_" + some(string.ascii_letters, 34),
            "npm token": lambda: "npm_" + some(WORD, 36),
            "PyPI token": lambda: "pypi-AgEIcHlwaS5vcmc" + some(URL_SAFE, 120),
            "SendGrid key": lambda: f"SG.{some(URL_SAFE, 22)}.{some(URL_SAFE, 43)}",
            "Twilio key": lambda: "SK" + some(HEX, 32),
            "DigitalOcean token": lambda: "dop_v1_" + some(HEX, 64),
            "Telegram bot token": lambda: f"{chance.randrange(10**9, 10**10)}:AA{some(URL_SAFE, 33)}",
            "Docker Hub token": lambda: "dckr_pat_" + some(URL_SAFE, 27),
            "Shopify token": lambda: "shpat_" + some(HEX, 32),
            "Vault token": lambda: "hvs." + some(URL_SAFE, 90),
            "Grafana token": lambda: f"glsa_{some(WORD, 32)}_{some(HEX, 8)}",
            "Sentry token": lambda: "sntrys_eyJ" + some(BASE64, 90),
            "Logfire token": lambda: f"pylf_v1_us_{some(WORD, 43)}",
            "RSA key": lambda: self.pem("RSA PRIVATE KEY"),
            "PKCS #8 key": lambda: self.pem("PRIVATE KEY"),
            "OpenSSH key": lambda: self.pem("OPENSSH PRIVATE KEY"),
            "PGP key": lambda: self.pem("PGP PRIVATE KEY BLOCK"),
            "Visa card": lambda: self.luhn("4", 16),
            "Mastercard": lambda: self.grouped(self.luhn("53", 16), " "),
            "Visa card with dashes": lambda: self.grouped(self.luhn("4", 16), "-"),
            "American Express card": lambda: self.luhn("37", 15),
        }  # fmt: skip

    def named(self) -> dict[str, Callable[[], str]]:
        """By kind, what makes a secret that only its name tells."""
        some, chance = self.some, self.chance
        return {
            "password": lambda: some(WORD, chance.randrange(8, 24)),
            "password with signs": lambda: some(WORD, 6) + some("!#$%*+-./^_~@", 2) + some(WORD, 6),
            "AWS secret access key": lambda: some(BASE64, 40),
            "Azure account key": lambda: some(BASE64, 86) + "==",
            "number": lambda: some("123456789", 9),
            "hexadecimal key": lambda: some(HEX, 64),
            "UUID": lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        }

    def secrets(self, count: int) -> Iterator[Secret]:
        """As many secrets, of every kind in turn."""
        kinds = [(kind, make, True) for kind, make in self.shaped().items()]
        kinds += [(kind, make, False) for kind, make in self.named().items()] * 3
        for index in range(count):
            kind, make, has_form = kinds[index % len(kinds)]
            text = make()
            core = text
            if "PRIVATE KEY" in text:
                core = text.split("\n")[1]
            if "hooks.slack" in text:
                core = text.rpartition("/B")[2]
            yield Secret(kind, text, core, has_form)


def luhn_sum(digits: str) -> int:
    """The sum that is a multiple of ten where the check digit is right."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return sum(doubled) + sum(map(int, digits[-1::-2]))


def quoted(text: str) -> str:
    """As in a query."""
    return urllib.parse.quote(text, safe="")


def form_only(secret: Secret) -> bool:
    """For carriers without a name."""
    return secret.has_form


def in_a_line(secret: Secret) -> bool:
    """For carriers that a line break would end."""
    return "\n" not in secret.text


def one_word(secret: Secret) -> bool:
    """For carriers that a space would end."""
    return not set(" \n") & set(secret.text)


def in_a_header(secret: Secret) -> bool:
    """For credentials as headers and cookies have them."""
    return not secret.has_form and set(secret.text) <= set(BASE64 + "-_.~=")


def no_dots_of_urls(secret: Secret) -> bool:
    """For carriers where the secret is a password, not an address."""
    return one_word(secret) and "://" not in secret.text


Account = dataclasses.make_dataclass("Account", [("user", str), ("password", object)])
Login = collections.namedtuple("Login", ["user", "api_key"])


class Session:
    """An object that stores what it was given."""

    def __init__(self, secret: str) -> None:
        self.user, self.access_token = "bob", secret


def basic(secret: str) -> str:
    """User and password (RFC 7617)."""
    return base64.b64encode(f"bob:{secret}".encode()).decode()


def escaped(text: str) -> str:
    """Inside double quotes of a program."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


CARRIERS = (
    # values
    Carrier("argument by name", lambda name, secret: {name: secret}),
    Carrier("nested dict", lambda name, secret: {"config": {"database": {name: secret}}}),
    Carrier("list of pairs", lambda name, secret: [("Accept", "*/*"), (name, secret)]),
    Carrier("headers as bytes", lambda name, secret: [(b"host", b"x.org"), (b"authorization", secret.encode())]),
    Carrier("dataclass field", lambda name, secret: Account("bob", secret)),
    Carrier("named tuple", lambda name, secret: Login("bob", secret)),
    Carrier("attribute", lambda name, secret: Session(secret)),
    Carrier("list under a name", lambda name, secret: {name: ["first", secret]}),
    Carrier("bytes under a name", lambda name, secret: {name: secret.encode()}),
    Carrier("dict key", lambda name, secret: {secret: 1}, form_only),
    Carrier("item of a list", lambda name, secret: ["a", secret], form_only),
    Carrier("bytes", lambda name, secret: f"got {secret}.".encode(), form_only),
    # texts
    Carrier("the secret alone", lambda name, secret: secret, form_only),
    Carrier("sentence", lambda name, secret: f"the client sent {secret} and left", form_only),
    Carrier("quoted in a message", lambda name, secret: f"cannot use '{secret}'", form_only),
    Carrier("log line", lambda name, secret: f"2024-05-01 10:30:12 INFO bob logs in {name}={secret}", one_word),
    Carrier("message with a colon", lambda name, secret: f"login of bob failed, {name}: {secret}", one_word),
    Carrier("f-string", lambda name, secret: f"bob {name}={secret!r} retries=3"),
    Carrier("repr", lambda name, secret: repr({"user": "bob", name: secret})),
    Carrier("repr of an object", lambda name, secret: f"Account(user='bob', {name}={secret!r}, age=7)"),
    Carrier("repr of bytes", lambda name, secret: f"{{'{name}': {secret.encode()!r}}}"),
    Carrier("JSON", lambda name, secret: json.dumps({"user": "bob", name: secret, "n": 1})),
    Carrier("JSON as bytes", lambda name, secret: json.dumps({"user": "bob", name: secret}).encode()),
    Carrier("JSON in JSON", lambda name, secret: json.dumps({"body": json.dumps({name: secret})})),
    Carrier("indented JSON", lambda name, secret: json.dumps({"user": "bob", name: [secret]}, indent=2)),
    Carrier("query", lambda name, secret: f"https://x.org/cb?page=2&{name}={quoted(secret)}&sort=up"),
    Carrier("form body", lambda name, secret: f"user=bob&{name}={quoted(secret)}&ok=1"),
    Carrier(
        "multipart form",
        lambda name, secret: (
            f'--b1\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{secret}\r\n--b1--\r\n'
        ),
        in_a_line,
    ),
    Carrier("URL with user and password", lambda name, secret: f"mysql://bob:{quoted(secret)}@db:42/shop", in_a_line),
    Carrier("URL with a password", lambda name, secret: f"redis://:{quoted(secret)}@cache/0", in_a_line),
    Carrier("bearer header", lambda name, secret: f"Authorization: Bearer {secret}\r\nHost: x", in_a_header),
    Carrier("basic header", lambda name, secret: f"GET / HTTP/1.1\r\nAuthorization: Basic {basic(secret)}\r\n"),
    Carrier("cookie header", lambda name, secret: f"Cookie: theme=dark; sid={secret}; n=1\r\nHost: x", in_a_header),
    Carrier("set-cookie header", lambda name, secret: f"Set-Cookie: sid={secret}; Path=/; HttpOnly", in_a_header),
    Carrier("header of its own", lambda name, secret: f"Host: x\r\nX-Api-Key: {secret}\r\nAccept: */*", in_a_line),
    Carrier("environment", lambda name, secret: f"HOME=/srv\nDB_PASSWORD={secret}\nLANG=C", in_a_line),
    Carrier("shell", lambda name, secret: f"export {name.replace('-', '_')}={shlex.quote(secret)}; run"),
    Carrier("connection string", lambda name, secret: f"Server=db;User Id=bob;Password={secret};Pooling=1", one_word),
    Carrier(
        "storage connection string",
        lambda name, secret: f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={secret};EndpointSuffix=x",
        in_a_header,
    ),
    Carrier("DSN", lambda name, secret: f"host=db user=bob password={secret} dbname=shop", one_word),
    Carrier("YAML", lambda name, secret: f"database:\n  user: bob\n  {name}: {secret}\n  port: 1", in_a_line),
    Carrier(
        "YAML block",
        lambda name, secret: f"a: 1\n{name}: |\n" + "".join(f"  {line}\n" for line in secret.split("\n")) + "b: 2",
    ),
    Carrier("INI", lambda name, secret: f"[db]\nuser = bob\n{name} = {secret}\n", in_a_line),
    Carrier("TOML", lambda name, secret: f'[db]\nuser = "bob"\n{name} = "{escaped(secret)}"\n'),
    Carrier("XML", lambda name, secret: f"<db><user>bob</user><{name}>{secret}</{name}></db>"),
    Carrier("attribute of XML", lambda name, secret: f'<db user="bob" {name}="{escaped(secret)}"/>'),
    Carrier("SQL", lambda name, secret: f"CREATE USER bob IDENTIFIED BY '{secret}'"),
    Carrier("SQL of PostgreSQL", lambda name, secret: f"ALTER ROLE bob WITH PASSWORD '{secret}' LOGIN"),
    Carrier("SQL condition", lambda name, secret: f"SELECT id FROM users WHERE password = '{secret}' AND n = 1"),
    Carrier("GraphQL", lambda name, secret: f'mutation {{ login(id: 7, password: "{escaped(secret)}") {{ id }} }}'),
    Carrier("command line", lambda name, secret: f"deploy --user bob --{name} {shlex.quote(secret)} --dry-run"),
    Carrier("command line with =", lambda name, secret: f"deploy --{name}={shlex.quote(secret)} --dry-run"),
    Carrier("curl header", lambda name, secret: f'curl -H "Authorization: Bearer {secret}" https://x.org', in_a_header),
    Carrier("curl user", lambda name, secret: f"curl -s -u bob:{secret} https://x.org", no_dots_of_urls),
    Carrier("mysql", lambda name, secret: f"mysql -h db -ubob -p{secret} shop", one_word),
    Carrier("repr of pairs", lambda name, secret: repr([("user", "bob"), (name, secret)])),
    Carrier("name and value", lambda name, secret: json.dumps([{"name": name, "value": secret}])),
    Carrier("field of a page", lambda name, secret: f'<input name="{name}" value="{escaped(secret)}">'),
    Carrier(
        "query in a query", lambda name, secret: f"https://x.org/in?next={quoted(f'/cb?n=1&{name}={secret}')}", one_word
    ),
    Carrier("quoted in a sentence", lambda name, secret: f"password {secret!r} does not fit bob", in_a_line),
    Carrier("Ruby hash", lambda name, secret: f"{{'user' => 'bob', '{name}' => '{escaped(secret)}'}}"),
)  # fmt: skip


def innocents(count: int, seed: int = 5) -> list[str]:
    """Texts of ordinary programs that share length, letters, digits, punctuation or words with secrets."""
    make = Maker(seed)
    kinds = list(_innocent_kinds(make))
    return [kinds[index % len(kinds)]() for index in range(count)]


def _innocent_kinds(make: Maker) -> Iterator[Callable[[], str]]:
    some, chance = make.some, make.chance
    number = lambda size: some("123456789", 1) + some(string.digits, size - 1)  # noqa: E731
    words = listed(
        "the basic idea of a bearer bond is that its author keeps no token record and passes notes on about session"
        " fees while secretaries authorize cookie cutters and monkeys bypass keyboards"
    )

    def wrong(size: int, start: str = "4") -> str:
        digits = make.luhn(start, size)
        return digits[:-1] + str((int(digits[-1]) + chance.randrange(1, 10)) % 10)

    def ean() -> str:
        digits = "978" + some(string.digits, 9)
        total = sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(digits))
        return digits + str(-total % 10)

    yield lambda: some(HEX, 40)
    yield lambda: some(HEX, 7)
    yield lambda: some(HEX, 64)
    yield lambda: f"commit {some(HEX, 40)} (HEAD -> main, origin/main)"
    yield lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4))
    yield lambda: f"request_id={uuid.UUID(int=chance.getrandbits(128), version=4)}"
    yield lambda: f"isbn {ean()}"
    yield ean
    yield lambda: f"order {wrong(16)} shipped"
    yield lambda: make.grouped(wrong(16, "5"), " ")
    yield lambda: number(17)
    yield lambda: number(12)
    yield lambda: number(20)
    yield lambda: f"data:image/png;base64,iVBORw0KGgo{some(BASE64, 120)}=="
    yield lambda: some(WORD, 200)
    yield lambda: f"btn btn-primary mt-{number(1)} sk-spinner text-{some(string.ascii_lowercase, 6)} task-card"
    yield lambda: f"flowtrace.plugins.{some(string.ascii_lowercase, 9)}.Reader.read_{some(string.ascii_lowercase, 7)}"
    yield lambda: f"token_count={number(2)} max_tokens={number(4)} tokenizer=bpe"
    yield lambda: f"author={some(string.ascii_lowercase, 6)}&page={number(1)}&sort=-created_at"
    yield lambda: " ".join(chance.sample(words, 12))
    yield lambda: f"Basic {some(string.ascii_lowercase, 9)} and bearer {some(string.ascii_lowercase, 7)} bonds"
    yield lambda: f"v{number(1)}.{number(2)}.{number(1)}-rc.{number(1)}+build.{number(4)}"
    yield lambda: f"2024-0{number(1)}-1{number(1)}T10:3{number(1)}:00.{number(6)}+00:00"
    yield lambda: f"17{number(11)}"
    yield lambda: f"17{number(14)}"
    yield lambda: f"+49 {number(3)} {number(4)} {number(4)}"
    yield lambda: f"+1-555-{number(3)}-{number(4)}"
    yield lambda: f"s3://bucket-{number(3)}/backups/2024/{some(HEX, 12)}.tar.gz"
    yield lambda: f"https://bucket.s3.amazonaws.com/a/{some(WORD, 20)}?versionId={some(WORD, 32)}"
    yield lambda: f'{{"etag": "{some(HEX, 32)}", "size": {number(5)}, "sha256": "{some(HEX, 64)}"}}'
    yield lambda: f'W/"{some(HEX, 16)}"'
    yield lambda: f"user_id={number(6)} room_id=general message_id={some(HEX, 24)}"
    yield (lambda: f"!function(e,t){{var n=e.{some('abcdef', 1)}||{{}};return n.key=t,n}}(this,{number(3)});")
    yield lambda: f"const a=[{number(3)},{number(4)}],b=a.map(c=>c*2);export{{a as default}};"
    yield lambda: f"SELECT id, name FROM token_counts WHERE room = {number(2)} AND max_tokens > {number(3)}"
    yield lambda: f"http://localhost:{number(4)}/rooms/{number(2)}?page={number(1)}"
    yield lambda: f"git@github.com:{some(string.ascii_lowercase, 7)}/{some(string.ascii_lowercase, 7)}.git"
    yield lambda: f"/srv/app/releases/{number(8)}/module_{number(2)}/handle_websocket_connection.py:{number(3)}"
    yield lambda: f'File "/srv/app/chat.py", line {number(3)}, in handle_{some(string.ascii_lowercase, 8)}'
    yield lambda: f"unexpected token '{some(string.ascii_lowercase, 5)}' in line {number(2)}"
    yield lambda: f"primary_key: {number(5)}, sort_key: {some(string.ascii_lowercase, 6)}, cache_key: rooms"
    yield lambda: f"password_length={number(1)} password_policy=strict session_timeout={number(4)}"
    yield lambda: f"def login(user: str, password: str, token: str = None) -> bool: ...  # line {number(3)}"
    yield lambda: f"usage: deploy [--user USER] --password PASSWORD --token TOKEN [-v{number(1)}]"
    yield lambda: f'<div class="{some(string.ascii_lowercase, 8)}"><b>{number(4)}</b></div>'
    yield lambda: f"10.{number(2)}.{number(1)}.{number(2)}:{number(4)} -> 192.168.{number(1)}.{number(1)}:80"
    yield lambda: f"52.{number(13)},13.{number(13)}"
    yield lambda: f"4.{number(15)}"
    yield lambda: f"arn:aws:s3:::bucket-{some(string.ascii_lowercase, 8)}/*"
    yield lambda: f"DE{number(2)} {number(4)} {number(4)} {number(4)} {number(4)} {number(2)}"
