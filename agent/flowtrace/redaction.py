"""Redaction: which names stand for a secret, and which parts of a text are one.

Pure and thread-safe. A name decides for whole values (``password``, ``Set-Cookie``, ``cardNumber``); for text
that carries secrets inside (``Bearer …``, ``?token=…``, a private key) there are detectors that need no name.
Text costs time in the caller of every traced function, so substring tests, which are many times cheaper than a
regular expression, decide first whether a closer look is worth it. The expressions run in linear time: their
repeats are possessive or bounded. Each rule has the name under which ``flowtrace redact --explain`` speaks of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from flowtrace.errors import ConfigError
from flowtrace.patterns import late
from flowtrace.secretforms import (
    BASIC,
    BEARER,
    CARD,
    COMMAND_OPTIONS,
    COMMAND_PASSWORD,
    COMMANDS,
    HEAD,
    PRIVATE_KEY,
    QUOTED_PASSWORD,
    SHORTEST_FORM,
    URL_CREDENTIALS,
    Find,
    Finding,
    by_form,
    by_pattern,
    by_text,
    is_basic,
    is_bearer,
    is_card,
    tokens_in,
)
from flowtrace.secretnames import is_secret, rule_of, squash
from flowtrace.typed import Any

MARKER = "[redacted]"
MAX_TEXT = 8192  # characters; of a longer text only the start is kept, so that no pattern meets unbounded input

_FEW, _MANY = 8, 64  # times that a part of a configured pattern may be repeated: 2**8 ways are fast, 2**64 are not
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_NOT_DIGIT": lambda letter: not letter.isdecimal(),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": lambda letter: not letter.isspace(),
    "CATEGORY_WORD": lambda letter: letter.isalnum() or letter == "_",
    "CATEGORY_NOT_WORD": lambda letter: not (letter.isalnum() or letter == "_"),
}
OWN_RULE = "header or URL of the configuration"
_SHORTEST_OWN = 8  # characters
_USER_INFO = late(r"://([^\s/?#@]++)@")
_SCHEMES = frozenset({"apikey", "basic", "bearer", "digest", "token"})
_PUBLIC_HEADERS = frozenset({
    "accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "connection", "content-encoding",
    "content-type", "host", "origin", "referer", "user-agent",
})  # fmt: skip
_MAX_KNOWN = 4096  # names whose answer is remembered

# -- values that have a name in the text -----------------------------------------------------------------------------

_IN_QUERY = frozenset({"sig", "signature", "x-amz-signature", "x-amz-security-token", "x-goog-signature"})
# Names are looked for from the separators backwards, in the reversed text: it has few of those and many words. Each
# expression begins with one character, which the engine finds fastest. Not 10:30, http://, == or ::, but := is one.
_NAME_BACKWARDS = r"""["'\\\]\s]{0,6}+([\w.\-]{2,64}+[?&]?)"""
_BEFORE_EQUALS = late(r"=(?<![=:]=):?+" + _NAME_BACKWARDS)
_BEFORE_COLON = late(r":(?<![=/:]:)(?<![0-9]:(?=[0-9]))" + _NAME_BACKWARDS)
_VALUE = late(
    r""">?(?:[ \t]{0,4}|\s{0,8}(?=\\?["']))
    (?:[bBrRuU]?(?P<quote>\\?["'])|(?P<open>[\[{(<])|(?P<scheme>(?:bearer|basic|digest|token|apikey)\s{1,4})?)""",
    re.IGNORECASE | re.VERBOSE,
)
_REST = {
    '"': late(r'(?:[^"\\]|\\.)*+', re.DOTALL),
    "'": late(r"(?:[^'\\]|\\.)*+", re.DOTALL),
    '\\"': late(r'(?:[^"\\]|\\{3}"|\\(?!"))*+'),
    "\\'": late(r"(?:[^'\\]|\\{3}'|\\(?!'))*+"),
    "header": late(r"""[^\r\n"']++"""),
    # to the end of the line, or the block of a YAML scalar
    "line": late(r"[|>][+\-]?[ \t]*+(?:\n[ \t]++[^\n]*+)++|[^\r\n]++"),
    # a character that ends most values is part of one that no other name follows: PASSWORD=a&b,c
    "word": late(
        r"""[^\s&;,"'<>\[\](){}=]
        (?:[^\s&;,"'<>\[\](){}]++|[&;,<>\[\](){}](?=[^\s=:"'&;,<>\[\](){}.][^\s=:"']{0,64}+(?:\s|\Z)))*+""",
        re.VERBOSE,
    ),
}
_NOTHING = frozenset({
    "true", "false", "null", "none", MARKER, MARKER[:-1],
    "str", "int", "float", "bool", "bytes", "string", "any", "object", "optional",  # of a signature
})  # fmt: skip
_BRACKETS = late(r""""(?:[^"\\]|\\.)*+"?|'(?:[^'\\]|\\.){0,512}+'|[\[\](){}<>]""", re.DOTALL)
_LINE_STARTS = frozenset({"", "-", "export", "set", "ENV", "ARG"})
_OPTION = late(
    r"""(?<![\w\-])--(?P<name>[A-Za-z][\w.\-]{1,63}+)[ \t]{1,4}+"""
    r"""(?:"([^"\r\n]++)|'([^'\r\n]++)|([^\s"'\-][^\s"'\])}]*+))"""
)
_ARGUMENT = late(r"-{0,2}([\w.\-:\[\]]{2,128}+)(=)?")
_QUOTED = r"""(?:"((?:[^"\\]|\\.)++)"|'((?:[^'\\]|\\.)++)')"""
_ELEMENT = late(r"<(?P<name>[\w.\-:]{2,64}+)(?:\s[^<>]{0,256}+)?>([^<>]++)</")
_FORM_FIELD = late(r"""form-data; name="(?P<name>[^"\r\n]{1,64}+)"[^\r\n]{0,256}+\r?\n\r?\n([^\r\n]++)""")
_TUPLE = late(  # of two, as a header has them
    r"""[(\[][bu]?(?P<mark>["'])(?P<name>[\w.\-]{2,64}+)(?P=mark), ?[bu]?""" + _QUOTED + r"[)\]]", re.DOTALL
)
_NAME_AND_VALUE = late(
    r"""\b(?i:name|key|header)["']?[:=] ?["'](?P<name>[\w.\-]{2,64}+)["'],?\s{0,8}+["']?(?i:value)["']?[:=] ?"""
    + _QUOTED,
    re.DOTALL,
)
_ENCODED = late(  # name=value inside a query of another URL
    r"(?:%[0-9A-Fa-f]{2}|\b)(?P<name>[A-Za-z_][\w.\-]{1,63}+)(?:%22)?%3[ADad](?:%20|%22|\+){0,4}+"
    r"""((?:[^%&\s"']|%(?!2[26Cc]|7[Dd]))++)"""
)

# -- which texts need no closer look ---------------------------------------------------------------------------------


# what `is_clean` looks for: of each token something that is found fast
_AFTER_DASH = late(
    r"-(?:(?<=sk-)|(?<=xo..-)|(?<=xo.\.xo..-)|(?<=xapp-)|(?<=gl..-)|(?<=gl...-)|(?<=gl....-)|(?<=gl.....-)"
    r"|(?<=pypi-)|(?<=GOCSPX-)|(?<=-----BEGIN )|(?<=AGE-)SECRET|(?<=form-)data|----BEGIN|-[A-Za-z]|(?<= -)[puUa])"
)
_DIGIT_RUN = late(r"[0-9][0-9 -]{11}[0-9]")
_UNDERSCORE_RUN = late(r"_[A-Za-z0-9]{10}")
_PASSWORD_QUOTED = late(r""" ["'](?<=[dD] .|[eE] .|[yY] .|[sS] .)""")
_NO_DIGITS = bytes(byte for byte in range(256) if not 48 <= byte <= 57)


class Redactor:
    """Decides what is a secret.

    Args:
        names: Further names whose values are hidden; compared without regard to case, ``-``, ``_`` and camel
            case, as a whole (``id`` does not hide ``user_id``); ``*`` stands for any characters.
        patterns: Regular expressions; what they match in a text is hidden.
        defaults: False switches off the built-in names and detectors.

    Raises:
        ConfigError: a pattern does not compile, matches the empty text or can take exponential time.
    """

    __slots__ = (
        "_defaults",
        "_examined",
        "_finders",
        "_globs",
        "_known",
        "_known_backwards",
        "_names",
        "_pairs",
        "_patterns",
    )

    def __init__(self, *, names: Iterable[str] = (), patterns: Iterable[str] = (), defaults: bool = True) -> None:
        squashed = {squash(name, keep="*"): name for name in names}
        self._names = {short: name for short, name in squashed.items() if "*" not in short}
        self._globs = [(re.compile(short.replace("*", ".*")), name) for short, name in squashed.items() if "*" in short]
        self._patterns = [_checked(pattern, index) for index, pattern in enumerate(patterns)]
        self._defaults = defaults
        self._pairs = defaults or bool(squashed)
        self._finders = tuple(self._all_finders())
        self._known: dict[int, bool] = {}  # by hash of the name: no text of the program is kept alive
        self._known_backwards: dict[int, bool] = {}
        self._examined: dict[int, bool] = {}  # the same of texts

    @property
    def unchecked(self) -> int:
        """Characters of a text that is clean, whatever it is."""
        return 0 if self._patterns else 4

    @property
    def unchecked_word(self) -> int:
        """The same of a text that consists of letters and digits."""
        return 0 if self._patterns else SHORTEST_FORM - 1

    def is_secret_name(self, name: str) -> bool:
        """Whether a value of this name is to be hidden. Measured: 90 ns for a name met before, 6 µs for a new one."""
        number = hash(name)
        known = self._known.get(number)
        if known is None:
            known = _remember(self._known, number, self._decide(name))
        return known

    def name_rule(self, name: str) -> str | None:
        """The rule that makes a value of this name a secret: a key of ``NAME_RULES``, or the config's; else None."""
        if not self._decide(name):
            return None
        squashed = squash(_ends(name))
        configured = self._names.get(squashed) or next(
            (text for glob, text in self._globs if glob.fullmatch(squashed)), ""
        )
        if configured:
            return f"redact.names: {configured!r}"
        return rule_of(_ends(name))

    def scrub(self, text: str) -> str:
        """The text with every secret in it replaced by ``[redacted]``; cut where it exceeds ``MAX_TEXT`` characters."""
        if self.is_clean(text):
            return text
        text = _bounded(text)
        for cue, find in self._finders:
            if cue in text:
                text = _without(text, find(text))
        return text

    def explain(self, text: str) -> list[str]:
        """The names of the rules by which `scrub` changes a text, in the order in which they do, each once."""
        rules: dict[str, None] = {}
        text = _bounded(text)
        for cue, find in self._finders:
            found = list(find(text)) if cue in text else []
            rules |= dict.fromkeys(finding.rule() for finding in found)
            text = _without(text, found)
        return list(rules)

    def scrub_arguments(self, arguments: Iterable[str]) -> list[str]:
        """A command line, one text for each argument, without its secrets.

        Beside what `scrub` finds: all of an argument ``--password=…`` or ``DB_PASSWORD=…`` after the sign, the
        argument after ``--password``, unless that is an option too, and what `COMMAND_OPTIONS` knows of the commands
        in the list, wherever they stand in it: ``sudo /usr/bin/mysql -p…``.
        """
        shown: list[str] = []
        options: list[re.Pattern[str]] = []
        command = ""
        is_value = is_named = False
        for argument in arguments:
            if self._defaults:
                command = _command(argument, command)
                options += [COMMAND_OPTIONS[command]] if command in COMMAND_OPTIONS else []
            option = _ARGUMENT.match(argument)
            names = option is not None and (argument[:1] == "-" or option[2] is not None)
            is_secret = option is not None and names and self.is_secret_name(option[1])
            is_whole = option is not None and option.end() == len(argument)
            short = next(filter(None, (known.match(argument) for known in options)), None)
            was_value = is_value or (is_named and argument[:1] != "-" and argument.lower() not in _NOTHING)
            is_value = not was_value and short is not None and short.end() == len(argument)
            is_named = option is not None and is_secret and is_whole and not option[2] and argument[:1] == "-"
            if was_value:
                argument = MARKER
            elif short is not None:
                argument = argument[: short.end()] + MARKER * (not is_value)
            elif option is not None and is_secret and option[2] and not is_whole:
                argument = argument[: option.end()] + MARKER
            else:
                argument = self.scrub(argument)
            shown.append(argument)
        return shown

    def is_clean(self, text: str) -> bool:
        """True where ``scrub`` is sure to return the text as it is: the quick test that spares most texts the rest.

        Measured: 100 ns for a word, 200 ns for words, 150 ns for a text that was met before, else 700 ns for a sentence
        of 56 with signs in it, 500 ns for each ``=`` or ``:`` behind a word.
        """
        if self._patterns or len(text) > MAX_TEXT:
            return False
        words = text.replace(" ", "")
        if words.isalnum():  # what else is looked for has signs in it
            return not (
                self._defaults
                and len(text) >= SHORTEST_FORM
                and (
                    "earer " in text
                    or "asic " in text
                    or ("A" in text and _has_cloud_key(text))
                    or ("K" in text and "SK" in text)
                    or (not words.isalpha() and _has_digit_run(text))
                )
            )
        number = hash(text)
        known = self._examined.get(number)
        if known is None:
            known = _remember(self._examined, number, self._examine(text))
        return known

    def _examine(self, text: str) -> bool:
        if self._pairs:
            if "=" in text and any(map(self._is_secret_backwards, _BEFORE_EQUALS.findall(text[::-1]))):
                return False
            if ":" in text and any(map(self._is_secret_backwards, _BEFORE_COLON.findall(text[::-1]))):
                return False
            if "--" in text and _OPTION.search(text):
                return False
        if len(text) < SHORTEST_FORM:
            return True
        if self._pairs and (
            ("<" in text and "</" in text)
            or ("%" in text and "%3" in text)
            or (("'" in text or '"' in text) and _has_quoted(text))
        ):
            return False
        if not self._defaults:
            return True
        return not (
            ("_" in text and (_UNDERSCORE_RUN.search(text) or "whsec_" in text or "_pat_" in text or "_eyJ" in text))
            or ("-" in text and _AFTER_DASH.search(text))
            or ("A" in text and _has_cloud_key(text))
            or ("." in text and ("eyJ" in text or "ya29." in text or "SG." in text or "hv" in text or "slack" in text))
            or (":" in text and (":A" in text or ("@" in text and "://" in text)))
            or "earer " in text
            or "asic " in text
            or ("K" in text and "SK" in text)
            or ("~" in text and "Q~" in text)
            or _has_digit_run(text)
        )

    def _is_secret_backwards(self, backwards: str) -> bool:
        """As `is_secret_name`, of a name in reversed text, with the ``?`` or ``&`` of a query behind it, if any."""
        number = hash(backwards)
        known = self._known_backwards.get(number)
        if known is None:
            known = _remember(self._known_backwards, number, self._decide_pair(backwards[::-1]))
        return known

    def _decide(self, name: str) -> bool:
        name = _ends(name)
        squashed = squash(name)
        if squashed in self._names or any(glob.fullmatch(squashed) for glob, _ in self._globs):
            return True
        if not self._defaults:
            return False
        return is_secret(name, squashed)

    def _decide_pair(self, name: str) -> bool:
        return self._decide(name.lstrip("?&")) or (self._defaults and name[0] in "?&" and name[1:].lower() in _IN_QUERY)

    def _rule_of_pair(self, name: str) -> str:
        return f"name {name!r} ({self.name_rule(name) or 'signatures in queries'})"

    def _all_finders(self) -> Iterator[tuple[str, Find]]:
        """What `scrub` does, step by step: what a text must contain, and what then gives its findings in order."""
        if self._defaults:
            yield "-----BEGIN", by_form(PRIVATE_KEY)
            yield "://", by_form(URL_CREDENTIALS)
        if self._pairs:
            yield ":", partial(self._pairs_in, _BEFORE_COLON)
            yield "=", partial(self._pairs_in, _BEFORE_EQUALS)
            yield "--", partial(self._fields_in, _OPTION)
            yield "</", partial(self._fields_in, _ELEMENT)
            yield "form-data; name=", partial(self._fields_in, _FORM_FIELD)
            yield ",", partial(self._fields_in, _TUPLE)
            yield "alue", partial(self._fields_in, _NAME_AND_VALUE)
            yield "%3", partial(self._fields_in, _ENCODED)
        if self._defaults:
            yield " -", by_form(COMMAND_PASSWORD)
            yield " ", by_form(QUOTED_PASSWORD)
            yield "", tokens_in
            yield "earer ", by_form(BEARER, accept=is_bearer)
            yield "asic ", by_form(BASIC, accept=is_basic)
            yield "", by_form(CARD, accept=is_card)
        for index, pattern in enumerate(self._patterns):
            yield "", by_pattern(pattern, f"redact.patterns[{index}]")

    def _pairs_in(self, separator: re.Pattern[str], text: str) -> Iterator[Finding]:
        """The values in ``name=value``, ``"name": "value"`` and ``Name: value``, separated by what a pattern says."""
        size, done = len(text), 0
        for match in [*separator.finditer(text[::-1])][::-1]:
            place, backwards = size - match.start(), match[1]
            if place < done or not self._is_secret_backwards(backwards):
                continue
            name = backwards[::-1].lstrip("?&")
            start, end = _span_of_value(text, place, size - match.end(1), name)
            if start < end and text[start:end].strip().lower() not in _NOTHING:
                yield Finding(start, end, partial(self._rule_of_pair, name))
                done = end

    def _fields_in(self, pattern: re.Pattern[str], text: str) -> Iterator[Finding]:
        """The values of a pattern whose group ``name`` may be that of a secret, and whose last group is the value."""
        if len(text) < SHORTEST_FORM and pattern is not _OPTION:
            return
        for match in pattern.finditer(text):
            name, value = match["name"], match[match.lastindex or 0]
            if self.is_secret_name(name) and not _is_placeholder(value.strip(), name):
                yield Finding(*match.span(match.lastindex or 0), partial(self._rule_of_pair, name))


class InformedRedactor(Redactor):
    """A redactor that knows some secrets themselves, such as those of `secrets_of`; each has a character at least."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str], **settings: Any) -> None:
        self._secrets = tuple(secrets)
        super().__init__(**settings)

    @property
    def unchecked_word(self) -> int:
        """The same of a text that consists of letters and digits."""
        return min([super().unchecked_word, *(len(secret) - 1 for secret in self._secrets if secret.isalnum())])

    def is_clean(self, text: str) -> bool:
        """As of any redactor. Measured: 40 ns more for each secret."""
        for secret in self._secrets:
            if secret[:HEAD] in text:
                return False
        return super().is_clean(text)

    def _all_finders(self) -> Iterator[tuple[str, Find]]:
        yield from ((secret[:HEAD], by_text(secret, OWN_RULE)) for secret in self._secrets)
        yield from super()._all_finders()


def secrets_of(sinks: Any) -> list[str]:
    """What the options of sinks hold of secrets of our own: the values of headers, and the passwords in URLs.

    Those of fewer than 8 characters are left out, for they are found in texts that have nothing to do with them.

    Args:
        sinks: Plain data, or objects of it; headers are a mapping or pairs.
    """
    found = dict.fromkeys(text for text in _own(sinks) if len(text) >= _SHORTEST_OWN and text not in MARKER)
    escaped = [text.replace("\\", r"\\").replace('"', r"\"") for text in found]  # as it is in FLOWTRACE_RESOLVED
    return list(found | dict.fromkeys(escaped))


def _own(options: Any) -> Iterator[str]:
    if isinstance(options, str):
        for match in _USER_INFO.finditer(options):
            user, _, password = match[1].partition(":")
            yield password or user
            if "%" in match[1]:
                from urllib.parse import unquote

                yield unquote(password or user)
    elif isinstance(options, list | tuple):
        for each in options:
            yield from _own(each)
    elif isinstance(options, dict) or hasattr(options, "__dict__"):
        for name, value in (options if isinstance(options, dict) else vars(options)).items():
            yield from _own_headers(value) if name == "headers" else _own(value)


def _own_headers(headers: Any) -> Iterator[str]:
    for header, value in headers.items() if isinstance(headers, dict) else headers or ():
        name = _ends(str(header))
        if isinstance(value, str) and name.lower() not in _PUBLIC_HEADERS:
            scheme, _, credentials = value.partition(" ")
            if scheme.lower() in _SCHEMES:
                yield credentials
            elif not value.isalpha() or is_secret(name, squash(name)):
                yield value  # a mere word, such as the name of an environment, stands in texts for other reasons


def _command(argument: str, before: str) -> str:
    """The command that an argument names, of which only one follows another: ``docker`` and ``docker login``."""
    if argument == "login":
        return f"{before} {argument}"
    name = argument.replace("\\", "/").rpartition("/")[2].removesuffix(".exe")
    return name if name in COMMANDS else before


def _has_quoted(text: str) -> bool:
    """Whether a text with quotes may have ``('name', 'value')``, ``name="…" value="…"`` or ``PASSWORD '…'`` in it."""
    return bool(
        ("," in text and ("('" in text or '("' in text or "['" in text or '["' in text or "(b" in text))
        or ("alue" in text and _NAME_AND_VALUE.search(text))
        or _PASSWORD_QUOTED.search(text)
    )


def _remember(known: dict[int, bool], number: int, answer: bool) -> bool:
    if len(known) >= _MAX_KNOWN:
        known.clear()
    known[number] = answer
    return answer


def _ends(name: str) -> str:
    """A key may be of any length; what makes it a secret stands at one of its ends."""
    return name if len(name) <= 128 else f"{name[:64]}_{name[-64:]}"


def _is_placeholder(value: str, name: str) -> bool:
    """Whether nothing is hidden here: no value, ``[redacted]``, or ``--password PASSWORD`` in a usage message."""
    return value.lower() in _NOTHING or not value or squash(value) in squash(name)


def _has_cloud_key(text: str) -> bool:
    return "AKIA" in text or "ASIA" in text or "AIza" in text or "ABIA" in text or "ACCA" in text


def _has_digit_run(text: str) -> bool:
    if len(text) >= 40 and len(text.encode("ascii", "ignore").translate(None, _NO_DIGITS)) < SHORTEST_FORM:
        return False
    return _DIGIT_RUN.search(text) is not None


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… [+{len(text) - MAX_TEXT} chars]"


def _without(text: str, findings: Iterable[Finding]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end, _ in findings:
        pieces += text[done:start], MARKER
        done = end
    return "".join(pieces) + text[done:] if pieces else text


def _span_of_value(text: str, place: int, name_at: int, name: str) -> tuple[int, int]:
    """Where the value begins and ends, without its quotes.

    Args:
        place: Of the first character behind the separator.
        name_at: Of the name's first character.
    """
    opening = _VALUE.match(text, place)
    assert opening is not None  # every part of the expression is optional
    if opening["quote"]:
        return _rest(text, opening.end(), opening["quote"])
    if opening["open"]:
        return opening.start("open"), _end_of_brackets(text, opening.start("open"))
    scheme = len(opening["scheme"] or "")
    if "\n" in text and text[text.rfind("\n", 0, name_at) + 1 : name_at].strip() in _LINE_STARTS:
        return _rest(text, opening.end() - scheme, "line")
    lower = name.lower()
    if text[place - 1] == ":" and ("cookie" in lower or "authorization" in lower):
        return _rest(text, opening.end() - scheme, "header")
    start, end = _rest(text, opening.end(), "word")
    if start < end < len(text) and text[end] in "([{<":  # Credentials(user='bob', …)
        end = _end_of_brackets(text, end)
    return (start - scheme, end) if start < end else (0, 0)


def _rest(text: str, start: int, kind: str) -> tuple[int, int]:
    rest = _REST[kind].match(text, start)
    return (start, rest.end()) if rest else (0, 0)


def _end_of_brackets(text: str, start: int) -> int:
    """Behind the bracket that closes the one at ``start``; the end of the text where none does."""
    depth = 0
    for match in _BRACKETS.finditer(text, start):
        if match[0] in "([{<":
            depth += 1
        elif match[0] in ")]}>":
            depth -= 1
            if depth <= 0:
                return match.end()
    return len(text)


def _checked(pattern: str, index: int) -> re.Pattern[str]:
    """Compile a pattern of the config, or say what is wrong with it."""
    import warnings

    key = f"redact.patterns[{index}]"
    try:
        with warnings.catch_warnings(action="error", category=FutureWarning):
            compiled = re.compile(pattern)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise ConfigError(f"{pattern!r} is not a regular expression: {error}", key=key) from None
    if compiled.search(""):
        raise ConfigError(f"{pattern!r} matches the empty text and so every place; make a part of it required", key=key)
    is_folded = compiled.flags & re.IGNORECASE or re.search(r"\(\?[a-zA-Z]*+i", pattern)
    letters = {chr(number) for number in range(128)} | {*pattern}
    spellings = {letter: {letter, *(letter.swapcase() if is_folded else "")} for letter in letters}
    problem = _slow_part(_parse(pattern, compiled.flags), spellings, times=1)
    if problem:
        raise ConfigError(f"{pattern!r} {problem}", key=key)
    return compiled


def _parse(pattern: str, flags: int = 0) -> Any:
    from re import _parser  # type: ignore[attr-defined]  # private, and the one place that knows the syntax

    return _parser.parse(pattern, flags)


def _slow_part(node: Any, letters: dict[str, set[str]], *, times: int) -> str:
    """What may take exponential time, and the remedy; empty where nothing does.

    Args:
        node: A part of a parsed expression.
        letters: Those by which the beginnings of alternatives are compared, with what they stand for.
        times: How often the part can be repeated by what it stands in.
    """
    kind = _kind(node)
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, body = node[1]
        if times > _MANY and most != least:
            return "repeats a repeat, which may take for ever; make the inner one possessive: ++ or *+"
        if most > _FEW and body.getwidth()[0] == 0:
            return "repeats what can be empty, which may take for ever; make a part of it required"
        return _slow_part(body, letters, times=max(times, most))
    if kind in ("POSSESSIVE_REPEAT", "ATOMIC_GROUP"):
        return ""
    if kind == "BRANCH" and times > _FEW:
        beginnings = [_beginnings(branch, letters) for branch in node[1][1]]
        if sum(map(len, beginnings)) > len(set().union(*beginnings)) or not all(beginnings):
            return "repeats alternatives that begin alike, which may take for ever; make the group atomic: (?>…)"
    children = node if isinstance(node, list | tuple) or hasattr(node, "data") else ()
    return next(filter(None, (_slow_part(child, letters, times=times) for child in children)), "")


def _beginnings(parts: Any, letters: dict[str, set[str]]) -> set[str]:
    """With which of some letters a match of the parts can begin; with none where it can be empty."""
    for part in parts:
        kind, what = _kind(part), part[1]
        if kind in ("LITERAL", "NOT_LITERAL", "IN"):
            items = what if kind == "IN" else [part]
            return {letter for letter, same in letters.items() if any(_is_in(each, items) for each in same)}
        if (kind == "SUBPATTERN" or (kind == "MAX_REPEAT" and what[0])) and what[-1].getwidth()[0]:
            return _beginnings(what[-1], letters)
        if kind not in ("AT", "ASSERT", "ASSERT_NOT"):
            return {*letters}  # not decided: with any
    return set()


def _is_in(letter: str, items: Any) -> bool:
    negated = _kind(items[0]) == "NEGATE"
    return negated != any(
        letter == chr(what) if kind == "LITERAL"
        else letter != chr(what) if kind == "NOT_LITERAL"
        else what[0] <= ord(letter) <= what[1] if kind == "RANGE"
        else _CATEGORIES[str(what)](letter)
        for kind, what in ((_kind(item), item[1]) for item in items[negated:])
    )  # fmt: skip


def _kind(node: Any) -> str:
    return str(node[0]) if isinstance(node, tuple) and len(node) == 2 else ""
