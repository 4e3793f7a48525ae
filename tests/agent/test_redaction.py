"""Redaction: secrets are found by name and by shape, and what merely looks like one is left alone."""

from __future__ import annotations

import random
import re
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtrace import redaction, secretforms, secretnames
from flowtrace.errors import ConfigError
from flowtrace.patterns import Pattern
from flowtrace.redaction import MARKER, MAX_TEXT, OWN_RULE, InformedRedactor, Redactor, secrets_of
from flowtrace.secretforms import DETECTORS
from flowtrace.secretnames import NAME_RULES
from flowtrace.values import Encoder, Limits
from tests.agent.default_names import DDTRACE, ELASTIC, LOGFIRE, NOT_HIDDEN, SENTRY, NameList
from tests.agent.redaction_corpus import Maker


def listed(names: str) -> list[str]:
    """The words of a text."""
    return names.split()


SECRET_NAMES = listed("""
    password Password userPassword passwd pwd db_pass mysql_pwd password2 password_hash passphrase passcode secret
    passWord PassWord pass_word PASS_WORD pass-word userPassWord user_pass_word2 Pass-Wort PassWd pass_wd db_pass_wd
    pass_words passWordHash pass-phrase passPhrase pass_code
    client_secret clientSecret SECRET_KEY secretkey aws_secret_access_key AWS_ACCESS_KEY_ID api_key apikey apiKey APIKey
    X-Api-Key private_key privatekey encryption_key signing_key ssh_key token token1 access_token accessToken
    refreshToken id_token auth_token oauth_token csrftoken csrf _csrf _csrf_token csrfmiddlewaretoken XSRF-TOKEN _xsrf
    x_csrftoken jwt auth http_auth Authorization proxy-authorization credentials credential creds session sessionid
    session_id user_session aiohttp_session _session PHPSESSID JSESSIONID ASP.NET_SessionId connect.sid cookie cookies
    Set-Cookie ssn social_security_number creditCard credit_card card_number cardNumber cc_number cvv cvc2 otp
    verification_code pw db_pw pin user_pin salt password_salt passwort kennwort contraseña
    x_forwarded_for X-Real-IP remote_addr ip_address symfony
""")

INNOCENT_NAMES = listed("""
    author authors authority authored authenticated is_authenticated authorize_page token_count max_tokens num_tokens
    total_tokens prompt_tokens token_type token_ids tokenizer tokenize next_page_token pad_token secretary secret_name
    passenger passport bypass compass bypass_word by_pass_word compass_word compassWord passWorker pass_wording
    pass_wdt pass_word_count passWordLength no_pass_word sub_pass_world pass_count first_pass
    session_count session_timeout session_factory obsession
    keyboard keyword key keys monkey primary_key sort_key cache_key partition_key assign_key design_key cookie_domain
    cookie_path cookiecutter password_length password_policy password_min_length card_id accredited credits
    discard_no wildcard_number access accessory ward user_id username room_id message content url status_code curses
""")


@pytest.mark.parametrize("tool", [SENTRY, DDTRACE, ELASTIC, LOGFIRE], ids=lambda tool: tool.source.split()[0])
def test_hides_the_names_that_other_tools_hide(tool: NameList) -> None:
    """Each name that Sentry, ddtrace, Elastic APM and Logfire hide by default is secret, but for two with reasons."""
    # fault X1
    redactor = Redactor()

    open_names = {name for name in tool.names + tool.parts if not redactor.is_secret_name(name)}

    assert open_names == {name for name in tool.names if name in NOT_HIDDEN}


def test_hides_secret_names_in_every_spelling() -> None:
    """Words count, however they are joined, and whatever stands before them."""
    redactor = Redactor()

    missed = [name for name in SECRET_NAMES if not redactor.is_secret_name(name)]

    assert missed == []


def test_each_rule_for_names_is_needed() -> None:
    """Every rule is the one that makes some name of these tests a secret."""
    names = [*SECRET_NAMES, *SENTRY.names, *DDTRACE.names]

    assert {Redactor().name_rule(name) for name in names} >= {*NAME_RULES, secretnames.WHOLE_NAMES_RULE}


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


@pytest.mark.parametrize("kind", Maker(7).shaped())
def test_finds_each_kind_of_secret_and_says_which(kind: str) -> None:
    """A secret that is known by its form is hidden wherever in a text it stands, and one rule says what it is."""
    # fault X2
    redactor, secret = Redactor(), Maker(7).shaped()[kind]()

    for carrier in ("{}", "got {} from the client", "('{}', 3)", "failed:{}\nretry", '{{"note": "{}"}}'):
        text = carrier.format(secret)
        assert redactor.scrub(text).count(MARKER) == 1, text
        [rule] = redactor.explain(text)
        assert rule in {detector.name for detector in DETECTORS}


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
        ("Set-Cookie: a=b; Path=/", f"Set-Cookie: {MARKER}"),
        ("basic abcdefghij and basic dXNlcjpwYXNz", f"basic abcdefghij and basic {MARKER}"),
        ("Authorization: Digest username=x, response=y\nHost: x", f"Authorization: {MARKER}\nHost: x"),
        ("auth=Bearer abc next", f"auth={MARKER} next"),
        ("sessionid=abc; theme=dark", f"sessionid={MARKER}; theme=dark"),
        ("paid with 4111 1111 1111 1111.", f"paid with {MARKER}."),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut he", MARKER),
        ("A=1\nexport PASSWORD=a b&c;'d\nB=2", f"A=1\nexport PASSWORD={MARKER}\nB=2"),
        ("PASSWORD=a&b,c user=bob", f"PASSWORD={MARKER} user=bob"),
        ("a: 1\npassword: |\n  b\n  c\nd: 2", f"a: 1\npassword: {MARKER}\nd: 2"),
        ("login(token=Token('x', n=[1]), id=3)", f"login(token={MARKER}, id=3)"),
        ('{"credentials": {"a": ["]", 1], "b": "x"}, "c": 3}', f'{{"credentials": {MARKER}, "c": 3}}'),
        ("password := x, y", f"password := {MARKER}, y"),
        ("{'password' => 'x'}", f"{{'password' => '{MARKER}'}}"),
        ("run --token x -v", f"run --token {MARKER} -v"),
        ("run --token --verbose", "run --token --verbose"),
        ("<a><password>x</password></a>", f"<a><password>{MARKER}</password></a>"),
        ("[('token', 'x'), ('a', 'b')]", f"[('token', '{MARKER}'), ('a', 'b')]"),
        ("['password', 'email', 'name']", "['password', 'email', 'name']"),
        ('{"name": "token", "value": "x"}', f'{{"name": "token", "value": "{MARKER}"}}'),
        ("/in?next=%2Fcb%3Ftoken%3Dx%26n%3D1", f"/in?next=%2Fcb%3Ftoken%3D{MARKER}%26n%3D1"),
        ("IDENTIFIED BY 'it''s'", f"IDENTIFIED BY '{MARKER}'"),
        ("curl -u bob:x https://x.org", f"curl -u bob:{MARKER} https://x.org"),
        ("docker login -u bob -p hunter2 x.org", f"docker login -u bob -p {MARKER} x.org"),
        ("postgres://bob:p@ss@db/x", f"postgres://{MARKER}@db/x"),
    ],
)
def test_hides_the_value_after_a_secret_name(text: str, scrubbed: str) -> None:
    """Queries, cookies, headers, JSON, reprs and DSNs lose the secret value and keep everything else."""
    # fault X1, X2
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
        "0.4111111111111111", "4111111111111112", "DE34 4060 2095 4877 3338 64",
        "f(password: str, token: int) -> bool",
        "run --password PASSWORD --token TOKEN", "unexpected token 'x' here", "password [redacted]",
        "std::secret_count", "task-queue-name-long-enough", "risk-averse",
    ]  # fmt: skip


def test_leaves_innocent_texts_as_they_are() -> None:
    """Four hundred texts with ids, times, hashes, URLs and prose come back unchanged."""
    redactor = Redactor()

    changed = {text: found for text in innocent_texts() if (found := redactor.scrub(text)) != text}

    assert len(innocent_texts()) >= 400
    assert changed == {}


PIECES = listed("""
    password token = : , ' " ( ) [ ] { } < > </ % %3D -- - _ sk- :// @ / ? & \\ name value curl -u Bearer AKIA SK x 12
    4111111111111111 eyJhbGciOi . PASSWORD form-data hunter2
""")


@given(
    st.text(max_size=300)
    | st.text(alphabet="=:\"'\\?&@/ -_.password1239", max_size=300)
    | st.lists(st.sampled_from([*PIECES, " ", "\n"]), max_size=20).map("".join)
)
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
        ("(a|a)+$", "begin alike"),
        ("(aa|a)+$", "begin alike"),
        (r"(?:\d\d|\w-){20}", "begin alike"),
        (r"(?:(?<=x)b|[^a]c|d)+", "begin alike"),
        ("(?i)(?:ab|A[cd]){3,}", "begin alike"),
        ("(?:a.|.b)+", "begin alike"),
        ("(?:a?){30}a{30}", "can be empty"),
        ("(?:a|(b|))+c", "can be empty"),
    ],
)
def test_refuses_a_pattern_that_cannot_be_used(pattern: str, words: str) -> None:
    """A broken, all-matching or exponential pattern is refused in one line that names it and its place."""
    # fault F4, X10
    with pytest.raises(ConfigError, match=words) as caught:
        Redactor(patterns=["fine", pattern])

    assert caught.value.key == "redact.patterns[1]"
    assert repr(pattern) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:[a-z]++-)+x", r"\b(?:\d[ -]?){13,19}\b", r"(?>a+)+b", "AB[0-9]{2,}", r"(?:\d\d|-)+x", "(?:Ab|(aB))+x",
        "(?:[^a]b|ac)+", r"(?:\s\d|\S\D)+x", "(?>(?:a|ab)+)x", "(?:a|ab){3}x", "(?:customer|client)-[0-9]+",
    ],
)  # fmt: skip
def test_takes_patterns_that_are_bounded(pattern: str) -> None:
    """Possessive and bounded repeats are not mistaken for exponential ones."""
    assert Redactor(patterns=[pattern]).scrub("nothing here") == "nothing here"


def own_patterns() -> dict[str, re.Pattern[str]]:
    """Each expression that may meet a text of the program, by its name."""
    modules = (redaction, secretnames, secretforms)
    patterns = {name: value for module in modules for name, value in vars(module).items() if isinstance(value, Pattern)}
    patterns |= {f"_REST {kind}": pattern for kind, pattern in redaction._REST.items()}
    return patterns | {detector.name: re.compile(detector.pattern) for detector in DETECTORS}


def unbounded_repeats(node: Any, *, is_atomic: bool = False) -> Iterator[str]:
    """What can be tried in many ways at one place: repeats that are neither possessive nor bounded."""
    if isinstance(node, tuple) and len(node) == 2 and str(node[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, body = node[1]
        if most > 512 and not is_atomic:
            yield f"{{{least},{most}}} of {body}"
        if most > 1 and any(True for _ in varying(body)) and not is_atomic:
            yield f"a repeat inside of {{{least},{most}}} of {body}"
    is_atomic = is_atomic or (isinstance(node, tuple) and str(node[:1]) == "(ATOMIC_GROUP,)")
    for child in children(node):
        yield from unbounded_repeats(child, is_atomic=is_atomic)


def varying(node: Any) -> Iterator[Any]:
    """The repeats of varying length in a part of an expression, but for possessive ones."""
    if isinstance(node, tuple) and len(node) == 2 and str(node[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, _ = node[1]
        if most != least and most > 1:
            yield node
    if not (isinstance(node, tuple) and str(node[:1]) in ("(POSSESSIVE_REPEAT,)", "(ATOMIC_GROUP,)")):
        for child in children(node):
            yield from varying(child)


def children(node: Any) -> Iterable[Any]:
    """The parts of a part of a parsed expression."""
    return node if isinstance(node, list | tuple) or hasattr(node, "data") else ()


@pytest.mark.parametrize("name", own_patterns())
def test_no_pattern_of_ours_can_take_long(name: str) -> None:
    """Every repeat is possessive or bounded, and no bounded one holds another: the work grows with the text only."""
    # fault X10
    pattern = own_patterns()[name]

    assert list(unbounded_repeats(redaction._parse(pattern.pattern, pattern.flags))) == []


@pytest.mark.parametrize("pattern", ["a+b", "(?:ab{0,3}){2,9}", "(?:a|b+)*+", "a.*?b", "(?:a{0,3}b){0,600}"])
def test_test_of_patterns_finds_slow_ones(pattern: str) -> None:
    """The check above sees what it is for, also inside of a possessive repeat."""
    assert list(unbounded_repeats(redaction._parse(pattern))) != []


@pytest.mark.parametrize(
    "piece",
    ["curl -u cccc c c", "mysql mmmm m", "redis-cli rrrr r",
     "--eyJ", "-eyJaaaaaaaa", "eyJ-", "curl -u ", "mysql -p ", "redis-cli -a ", "docker login -p ", "token=a[]",
     "a", "a=", "password=", "password:'", '"token": "\\', "eyJ", "eyJaaaaaaaa.", "://a:", "://a@", "password=(",
     "-----BEGIN PRIVATE KEY-----", "password=a,", "password=a&", "--token ", "<token>", "('token', '", "%3Dtoken%3D",
     "1", "1 ", "4111-", "bearer ", "basic aaaaaaaa", "xoxb-", "[", "_", "\\\"", " ", "sk-", "?sig=", "é=",
     "password '", "curl a", "mysql ", "name=\"token\" value=", 'form-data; name="token"',
     "\npassword: |\n a", "SK", "gh", 'token=["', 'token=["\\'],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """The longest text of each repetition is scrubbed to the end, and the quick test agrees that it had to be."""
    # fault X10: were any of this quadratic or worse, the time limit of the tests would end it
    redactor, text = Redactor(), (piece * MAX_TEXT)[:MAX_TEXT]

    assert (redactor.scrub(text) == text) >= redactor.is_clean(text)


def test_longer_texts_are_cut_before_they_are_searched() -> None:
    """Beyond MAX_TEXT characters a text is cut and says how much is missing."""
    scrubbed = Redactor().scrub("password=x " + "y " * MAX_TEXT)

    assert scrubbed.startswith(f"password={MARKER} y")
    assert scrubbed.endswith(f"… [+{11 + MAX_TEXT} chars]")


# -- command lines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("app.py --password hunter2 -v", f"app.py --password {MARKER} -v"),
        ("app.py --api-key=a,b;c&d=e", f"app.py --api-key={MARKER}"),
        ("env DB_PASSWORD=a&b app.py", f"env DB_PASSWORD={MARKER} app.py"),
        ("app.py --token --verbose", "app.py --token --verbose"),
        ("app.py -p 8080 --port 80 x", "app.py -p 8080 --port 80 x"),
        ("app.py --password", "app.py --password"),
        ("app.py --password-file a --max-tokens 5 --no-auth b", "app.py --password-file a --max-tokens 5 --no-auth b"),
        ("app.py --auth true x", "app.py --auth true x"),
        ("app.py password hunter2", "app.py password hunter2"),
        ("app.py --db postgres://bob:x@db/x", f"app.py --db postgres://{MARKER}@db/x"),
        ("app.py -Ddb.password=x", f"app.py -Ddb.password={MARKER}"),
        ("app.py --secret - a", "app.py --secret - a"),
        ("curl -u bob:hunter2 https://x.org", f"curl -u {MARKER} https://x.org"),
        ("/usr/bin/curl -sSLubob:hunter2 x", f"/usr/bin/curl -sSLu{MARKER} x"),
        ("curl --user bob:a --proxy-user=c:d -U e", f"curl --user {MARKER} --proxy-user={MARKER} -U {MARKER}"),
        ("curl --user-agent me -d user=u -X PUT x", "curl --user-agent me -d user=u -X PUT x"),
        ("curl -o mysql -u bob:x", f"curl -o mysql -u {MARKER}"),
        ("mysqldump.exe -ubob -phunter2 shop", f"mysqldump.exe -ubob -p{MARKER} shop"),
        ("mariadb -p shop", "mariadb -p shop"),
        ("docker run -p 80:80 db mysql -phunter2", f"docker run -p 80:80 db mysql -p{MARKER}"),
        ("sshpass -p -x ssh bob@x", f"sshpass -p {MARKER} ssh bob@x"),
        ("sshpass -pa ssh bob@x", f"sshpass -p{MARKER} ssh bob@x"),
        ("redis-cli -h x -a hunter2 get y", f"redis-cli -h x -a {MARKER} get y"),
        ("docker --debug login -u bob -p a x.org", f"docker --debug login -u bob -p {MARKER} x.org"),
        ("podman login -p=a", f"podman login -p={MARKER}"),
        ("app.py login -p 80", "app.py login -p 80"),
    ],
)
def test_command_lines_lose_their_secrets(arguments: str, shown: str) -> None:
    """What a secret-named option is given is hidden, as one argument or as two; everything else stays."""
    # fault X1, X3
    assert Redactor().scrub_arguments(arguments.split()) == shown.split()


def test_commands_are_not_known_without_the_defaults() -> None:
    """Who switches the defaults off hides by his own names only."""
    redactor = Redactor(names=["pet"], defaults=False)

    assert redactor.scrub_arguments(["mysql", "-px", "--pet", "rex"]) == ["mysql", "-px", "--pet", MARKER]


def test_spaces_in_an_argument_end_no_secret() -> None:
    """Arguments are texts of their own: one that follows an option is hidden whole."""
    arguments = ["app.py", "--passphrase", "correct horse", "--token=a b", "-c", "connect(password='a b')"]

    assert Redactor().scrub_arguments(arguments) == [
        "app.py", "--passphrase", MARKER, f"--token={MARKER}", "-c", f"connect(password='{MARKER}')",
    ]  # fmt: skip


# -- what did it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("userPassword", "passwords"), ("publicKey", "other names"), ("homeIban", "redact.names: '*_iban'"),
        ("Pet", "redact.names: 'pet'"), ("author", None), ("token_count", None),
    ],
)  # fmt: skip
def test_names_have_their_rule(name: str, rule: str | None) -> None:
    """A name is secret by a default rule or by an entry of the config, which is named as it is written there."""
    assert Redactor(names=["pet", "*_iban"]).name_rule(name) == rule


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("nothing here", []),
        ("db_password=x", ["name 'db_password' (passwords)"]),
        ("https://x.org/?sig=abc", ["name 'sig' (signatures in queries)"]),
        ("K-1234 and K-9", ["redact.patterns[0]"]),
        ("postgres://bob:x@db?token=y", ["credentials in a URL (RFC 3986)", "name 'token' (tokens)"]),
        ("password=x " + "y " * MAX_TEXT, ["name 'password' (passwords)"]),
    ],
)
def test_texts_have_their_rules(text: str, rules: list[str]) -> None:
    """Each rule that hides a part of a text is named once; the secret is not."""
    assert Redactor(patterns=[r"K-\d+"]).explain(text) == rules


# -- docs/redaction.md -----------------------------------------------------------------------------------------------


def table(heading: str) -> dict[str, str]:
    """The two columns of the table below a heading of docs/redaction.md."""
    text = (Path(__file__).parents[2] / "docs" / "redaction.md").read_text(encoding="utf-8")
    section = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)[1:])


def test_document_has_each_rule_for_names() -> None:
    """Rules and examples are those of the code."""
    documented = table("## By name")

    assert list(documented) == [*NAME_RULES, secretnames.WHOLE_NAMES_RULE]
    for rule, examples in documented.items():
        names = re.findall(r"`(.+?)`", examples)
        assert {name: Redactor().name_rule(name) for name in names} == dict.fromkeys(names, rule)


def test_document_has_each_detector() -> None:
    """Each kind of secret is there under the name that is given as the reason, in the order of the search."""
    assert list(table("## By form")) == [detector.name for detector in DETECTORS]


def test_secrets_of_sinks_are_headers_and_passwords_of_urls() -> None:
    """Wherever they stand among the options; not what is short, nor headers that say how, and not who, one is."""
    sinks = [
        {"type": "file", "path": "a/long/path", "headers": {}},
        {
            "type": "mine",
            "to": {"url": "amqp://bob:p%40ssw0rd-1@mq/x"},
            "headers": {"X-A": 'say "hello"', "X-B": "short", "X-Env": "production", "X-Api-Key": "correcthorse"},
        },
        types.SimpleNamespace(
            url="https://lonely-token@x.org/y", headers=(("Authorization", "Bearer abc-1234"), ("Accept", "text/plain"))
        ),
    ]

    assert secrets_of(sinks) == [
        "p%40ssw0rd-1", "p@ssw0rd-1", 'say "hello"', "correcthorse", "lonely-token", "abc-1234", r"say \"hello\"",
    ]  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"defaults": False}, {"patterns": ["zzz"]}])
def test_a_secret_that_is_known_is_hidden_wherever_it_stands(settings: Any) -> None:
    """Alone, in a word, more than once, and where its end is cut off; what resembles it stays."""
    long = "k" + "0123456789" * 20
    redactor = InformedRedactor(["LITX8SECRET", long], **settings)
    texts = ("LITX8SECRET", "aLITX8SECRETb, LITX8SECRET", f"{long}!", f"see {long[:100]}", "LITX8SECRE", long[:63])

    assert [redactor.scrub(text) for text in texts] == [
        MARKER, f"a{MARKER}b, {MARKER}", f"{MARKER}!", f"see {MARKER}", "LITX8SECRE", long[:63],
    ]  # fmt: skip
    assert [redactor.is_clean(text) for text in texts[:4]] == [False] * 4
    assert redactor.unchecked_word < len("LITX8SECRET")
    assert redactor.explain("a LITX8SECRET") == [OWN_RULE]


@pytest.mark.parametrize(
    "form", [lambda text: text, str.encode, lambda text: {text: [text]}, lambda text: "x" * 80 + text]
)
def test_a_secret_that_is_known_is_in_no_value(form: Callable[[str], Any]) -> None:
    """Whatever holds it, also where a text is cut."""
    secret = "LITX8" + "-SECRET" * 50
    capture = Encoder(limits=Limits(max_string=100), redactor=InformedRedactor([secret]))
    value = form(secret)

    for text in (capture.result(value), capture.arguments({"x": value}), capture.exception(ValueError(value))):
        assert b"LITX8" not in text
        assert MARKER[:4].encode() in text


def test_the_variable_that_hands_the_configuration_on_is_hidden() -> None:
    """By its name, as an entry of the environment and in texts."""
    redactor = Redactor()

    assert redactor.is_secret_name("FLOWTRACE_RESOLVED")
    assert redactor.scrub('FLOWTRACE_RESOLVED={"headers":[["X-A","b c"]]} A=b') == f"FLOWTRACE_RESOLVED={MARKER} A=b"
