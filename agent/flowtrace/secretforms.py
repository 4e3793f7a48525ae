"""Secret forms: which parts of a text are secrets by their form, whatever their name.

Pure. The expressions run in linear time: their repeats are possessive or bounded.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile

from flowtrace.patterns import late
from flowtrace.typed import NamedTuple, TypeAlias

HEAD = 64  # characters of a known secret by which it is found, also where the rest of it is cut off
SHORTEST_FORM = 13  # characters; in anything shorter only name=value, name: value and --name value are looked for


class Finding(NamedTuple):
    """A part of a text that is to be hidden: where it starts and ends, and what tells the rule that says so."""

    start: int
    end: int
    rule: Callable[[], str]


Find: TypeAlias = Callable[[str], Iterable[Finding]]


class Detector(NamedTuple):
    """A kind of secret that is known by its form.

    Attributes:
        name: What it is called, with the source of its form where there is a public one.
        pattern: Matches it, or has a group ``secret`` that does.
    """

    name: str
    pattern: str


PRIVATE_KEY = Detector(
    "private key (PEM, RFC 7468)",
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[^\-]|-(?!----END ))*+"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
)
URL_CREDENTIALS = Detector(
    "credentials in a URL (RFC 3986)",
    r"""(?<=://)(?:[^\s/?#@:"'<>]{0,256}+:[^\s/?#"'<>]{1,512}|[^\s/?#@:"'<>]{20,256}+)(?=@)""",
)
TOKENS = (  # all of them in one expression, after a word boundary
    # a header behind a dash is bounded: many of them in a row would each be read to the end for the dot
    Detector("JSON Web Token (RFC 7519)", r"eyJ(?:(?<!-eyJ)[\w\-]{8,}+|[\w\-]{8,512}+)\.[\w\-]*+(?:\.[\w\-]*+){0,3}+"),
    Detector("AWS access key id", r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}\b"),
    Detector("Google key or token", r"AIza[\w\-]{30,}+|ya29\.[\w\-]{16,}+|GOCSPX-[\w\-]{20,}+"),
    Detector("Azure client secret", r"[\w~.]{3}[0-9]Q~[\w~.\-]{31,34}"),
    Detector("GitHub token", r"gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_\w{20,}+"),
    Detector("GitLab token", r"gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[\w\-.]{16,}+"),
    Detector(
        "Slack token or webhook",
        r"xox[abeoprs](?:\.xox[bp])?-[\w\-]{10,}+|xapp-\d-[\w\-]{10,}+|hooks\.slack\.com/services/[\w/]{20,}+",
    ),
    Detector("Stripe key", r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,}+|whsec_[A-Za-z0-9+/=]{16,}+"),
    Detector("Anthropic key", r"sk-ant-[\w\-]{16,}+"),
    Detector("OpenAI key", r"sk-(?:proj|or|svcacct|admin)-[\w\-]{16,}+|sk-[A-Za-z0-9]{32,}+"),
    Detector("Hugging Face token", r"(?:hf|api_org)_[A-Za-z0-9]{30,}+"),
    Detector("npm token", r"npm_[A-Za-z0-9]{30,}+"),
    Detector("PyPI token", r"pypi-AgE[\w\-]{40,}+"),
    Detector("SendGrid key", r"SG\.[\w\-]{16,}+\.[\w\-]{16,}+"),
    Detector("Twilio key", r"SK[0-9a-f]{32}\b"),
    Detector("DigitalOcean token", r"do[opr]_v1_[a-f0-9]{32,}+"),
    Detector("Telegram bot token", r"(?:bot)?[0-9]{8,10}:A[\w\-]{34}(?![\w\-])"),
    Detector("Docker Hub token", r"dckr_pat_[\w\-]{20,}+"),
    Detector("Shopify token", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    Detector("HashiCorp Vault token", r"hv[sbr]\.[\w\-]{24,}+"),
    Detector("Grafana token", r"glc_eyJ[\w+/=]{32,}+|glsa_[A-Za-z0-9]{32}\w*+"),
    Detector("Sentry token", r"sntrys_eyJ[\w+/=]{32,}+|sntryu_[a-f0-9]{64}"),
    Detector("Logfire token", r"pylf_v\d_[\w]{20,}+"),
    Detector("age secret key", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
)
BEARER = Detector("bearer credentials (RFC 6750)", r"\b[Bb]earer {1,4}(?P<secret>[\w\-.~+/]{8,}+=*+)")
BASIC = Detector("basic credentials (RFC 7617)", r"\b[Bb]asic {1,4}(?P<secret>[\w\-.~+/]{8,}+=*+)")
CARD = Detector(
    "payment card number (ISO/IEC 7812)",
    r"(?<![\w.])(?<![A-Z]{2}[0-9]{2} )"  # the second group of an IBAN
    r"(?:[0-9]{13,16}|[0-9]{4}([\ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[0-9]{3}([\ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?!\w)(?!\.[0-9])",
)
QUOTED_PASSWORD = Detector(
    "quoted password, as in SQL",
    r"""\b(?i:password|passphrase|identified by) (?:is )?"""
    r"""(?:'(?P<single>(?:[^'\\]|''|\\.)++)'|"(?P<double>[^"\\]++)")""",
)
COMMAND_PASSWORD = Detector(
    "password in a command line (curl, mysql, redis-cli, sshpass, docker login)",
    # not beyond the next command of the same name, from where the search goes on
    r"""\bcurl\b(?:[^\r\nc]|\Bc|\bc(?!url\b)){0,512}? (?:-u|--user|-U|--proxy-user)"""
    r"""[ =]?["']?[^\s:"']{0,64}+:(?P<curl>[^\s"']{1,256}+)"""
    r"""|\b(?:mysql\w{0,16}+|mariadb)\b(?:[^\r\nm]|\Bm|\bm(?!ysql\w{0,16}+\b|ariadb\b)){0,512}?"""
    r""" -p(?P<mysql>[^\s"']{2,256}+)"""
    r"""|\b(?:sshpass -p|redis-cli\b(?:[^\r\nr]|\Br|\br(?!edis-cli\b)){0,512}? -a"""
    r"""|(?:docker|podman) login\b[^\r\n]{0,512}? -p)"""
    r"""[ =]?["']?(?P<others>[^\s"']{2,256}+)""",
)
# The same for commands that are lists of arguments. What stands behind the match is the password; where that is
# nothing, it is the next argument.
_MYSQL = late(r"-p(?=.)", re.DOTALL)
_LOGIN = late(r"-p=?")
COMMAND_OPTIONS = {
    "curl": late(r"(?:-[#012346BGIJLMNORSVZafgijklnpqsv]*+[uU]|--(?:proxy-)?user(?:=|\Z))"),
    "docker login": _LOGIN,
    "podman login": _LOGIN,
    "redis-cli": late(r"-a\Z"),
    "sshpass": late(r"-p"),
    **dict.fromkeys(("mysql", "mysqladmin", "mysqldump", "mysqlimport", "mysqlsh"), _MYSQL),
    **dict.fromkeys(("mariadb", "mariadb-admin", "mariadb-dump", "mariadb-import"), _MYSQL),
}
COMMANDS = frozenset(command.partition(" ")[0] for command in COMMAND_OPTIONS)

DETECTORS = (PRIVATE_KEY, URL_CREDENTIALS, COMMAND_PASSWORD, QUOTED_PASSWORD, *TOKENS, BEARER, BASIC, CARD)

_TOKEN = late(r"\b(?:" + "|".join(detector.pattern for detector in TOKENS) + ")")  # groups would make it slow
_CARD_BRAND = late(
    r"4(?:\d{12}|\d{15})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14}"
)


def by_form(detector: Detector, *, accept: Callable[[str], bool] = lambda secret: True) -> Find:
    """Finds what a detector matches and ``accept`` takes for a secret."""
    pattern = late(detector.pattern)

    def find(text: str) -> Iterator[Finding]:
        for match in pattern.finditer(text) if len(text) >= SHORTEST_FORM else ():
            start, end = match.span(match.lastgroup or 0)
            if accept(text[start:end]):
                yield Finding(start, end, lambda: detector.name)

    return find


def by_pattern(pattern: re.Pattern[str], rule: str) -> Find:
    """Finds what a pattern of the configuration matches; ``rule`` says which."""
    return lambda text: (Finding(*match.span(), lambda: rule) for match in pattern.finditer(text) if match[0])


def by_text(secret: str, rule: str) -> Find:
    """Finds a secret that is known itself, or as much of it as is left beyond its `HEAD`."""

    def find(text: str) -> Iterator[Finding]:
        start = text.find(secret[:HEAD])
        while start >= 0:
            pairs = zip(text[start : start + len(secret)], secret, strict=False)
            end = start + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            yield Finding(start, end, lambda: rule)
            start = text.find(secret[:HEAD], end)

    return find


def tokens_in(text: str) -> Iterator[Finding]:
    """Finds what any of `TOKENS` matches."""
    for match in _TOKEN.finditer(text):
        yield Finding(*match.span(), partial(_kind_of_token, match[0]))


def _kind_of_token(token: str) -> str:
    return next(detector.name for detector in TOKENS if re.fullmatch(detector.pattern, token))


def is_bearer(secret: str) -> bool:
    """``Bearer`` and ``Basic`` are English words too: what follows must look like credentials."""
    return len(secret) >= 20 or any(letter.isdigit() for letter in secret)


def is_basic(secret: str) -> bool:
    """Whether this is a user and a password, joined by a colon, in Base64."""
    try:
        return b":" in binascii.a2b_base64(secret[: len(secret) // 4 * 4], strict_mode=True)
    except binascii.Error:
        return False


def is_card(number: str) -> bool:
    """A number of a card brand's length and prefix whose check digit is right (Luhn)."""
    digits = number.replace(" ", "").replace("-", "")
    if _CARD_BRAND.fullmatch(digits) is None:
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(doubled) + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0
