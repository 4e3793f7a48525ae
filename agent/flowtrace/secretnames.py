"""Secret names: which names of arguments, fields, keys and headers stand for a value that is to be hidden.

Pure. Matched on whole words of the name in one form, whatever its case and separators.
"""

from __future__ import annotations

import re

from flowtrace.patterns import late

# What Sentry, ddtrace, Elastic APM and Logfire hide by default, matched on whole words of "_the_name_in_this_form_"
# where they match substrings ("author", "token_count" and "secretary" stay). By the name of the rule.
NAME_RULES = {
    "passwords": r"""
          passwor[dt] | passwd | (?<!_by)_pass_(?:wor[dt]|wd)s?\d*+_ | pass_?phrase | pass_?code
        | pwd\d*+_ | _pw\d*+_$ | _pw_?hash_ | ^_pass_$
        | _(?:my|db|database|user|usr|login|admin|root|smtp|mail|email|imap|ftp|ssh|http|proxy|redis|mysql|pg)_?pass_
        | kennwort | wachtwoord | contrase[_n]a | _senha_ | mot_?de_?passe | _salt_$
    """,
    "secrets and credentials": r"""
          secrets?\d*+_ | secret_?(?:key|token|value|access) | credential | _creds?_ | _principals?_$
    """,
    "tokens": r"""
          (?:_|access|auth|refresh|csrf|xsrf|id|api|bearer|session|user|bot|client|device|jwt|reset|security|ware
            |twilio|logfire) tokens?\d*+_
        | _x?_?[cx]srf | _jwts?_ | _bearer_ | _(?:api|webhook|request|hmac|hub|stripe)_?signature_
    """,
    "keys": r"""
          api_?keys?\d*+_ | (?:access|private|secret|encryption)_?keys?_
        | _(?:sign|signing|signature|decryption|auth|master|shared|account|consumer|subscription|license|deploy|ssh|hmac
            |aes|rsa|gpg|pgp|app|application|recaptcha|webhook|service|storage|openai|anthropic|stripe|google|azure)
          _?keys?_
    """,
    "authorization": r"""
          authorization | _authentication_$ | _o?auth\d?_$ | _auth_(?:header|data|info|code|string|value)_
    """,
    "sessions and cookies": r"""
          _session_$ | session_?(?:id|key|data|cookie|hash)\d*+_ | sess_?id | _sid_ | _symfony_ | cookies?_
    """,
    "one-time and security codes": r"""
          _t?otp_ | (?:security|verification|one_?time|recovery|backup|pin|mfa)_?codes?_
        | security_?(?:question|answer)s?_
        | (?:^|_(?:user|card|login|access|account|bank|atm|sim|device|customer|certificate|new|old|current|my))_?pin_$
    """,
    "payment cards and identity": r"""
          _ssn_ | social_?security | _(?:cvv|cvc)2?_ | (?:credit|debit|payment|bank)_?cards?_ | _cards?_$ | _credit_$
        | _card_?(?:number|num|no|cvv|cvc|code)_ | _cc_?(?:number|num|no)_
    """,
    "addresses of clients": r"_x_forwarded_for_ | _x_real_ip_ | _remote_addr_ | _ip_address_",
}
# Names that ddtrace hides and that are secret only as a whole, without case, "-" and "_"; and that of the variable in
# which the launcher hands our configuration on.
WHOLE_NAMES = frozenset({
    "2fa", "aiohttpsession", "certificatepin", "cipher", "connectionstring", "connectsid", "databaseurl", "dburl",
    "encryptionkeyid", "flowtraceresolved", "geolocation", "ipaddress", "jti", "nonce", "passhash",
    "pemfile", "pkcs8", "publickey", "routingnumber", "signature", "usersession", "voterid", "xforwardedfor", "xrealip",
})  # fmt: skip
_SECRET_NAME = late("|".join(NAME_RULES.values()), re.VERBOSE)  # groups would make it slow
WHOLE_NAMES_RULE = "other names"

# Names that hold such a word and say something about the secret instead of holding it.
_ABOUT_A_SECRET = late(
    r"""
      _(?:counts?|counter|types?|kind|length|len|size|limits?|total|used|usage|budget|names?|methods?|timeout|ttl
        |policy|path|file|filename|dir|url|uri|endpoint|fields?|columns?|valid|validity|invalid|enabled|disabled
        |required|optional|expiry|expires|expired|expiration|expires_(?:in|at)|exp|at|age|lifetime|created|updated
        |status|versions?|format|algorithms?|alg|index|idx|position|offset|rate|cost|price|ratio|strength|score|rules
        |min|max|domain|secure|samesite|httponly|consent|manager|service|factory|provider|handler|store|storage
        |backend|class|cls|errors?|exception|validators?|generator|middleware|view|form|prompt|label|help|scheme
        |scopes?|schema|mode|level|realm|changed|jar|stdin)_$
    | _(?:max|min|num|n|total|prompt|completion|input|output|cached|reasoning|stop|new|used|remaining|avg)
      _(?:[a-z]++_)?tokens_
    | _(?:next|page|continuation|cancel|cancellation|eos|bos|pad|unk|sep|mask|cls|special|sync|syntax)
      _(?:page_)?tokens?_
    | _token_ids_
    | ^_(?:no|disable|enable|skip|without|use|require|allow|has|is|needs)_
    """,
    re.VERBOSE,
)

_CAMEL_HUMP = late(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_A_LETTER = late(r"[^a-z0-9]++")


def is_secret(name: str, squashed: str) -> bool:
    """Whether the rules say so.

    Args:
        name: As it is in the program.
        squashed: What `squash` makes of it.
    """
    if len(squashed) < 2:  # the shortest is "pw"; so the start of `python -c` compiles none of the expressions
        return False
    words = _words(name)
    return squashed in WHOLE_NAMES or (_SECRET_NAME.search(words) is not None and _ABOUT_A_SECRET.search(words) is None)


def gives_secret(function: str) -> bool:
    """Whether a function of this name may return what its name says: `get_token`, not `check_token`.

    To be asked of names that are secret.
    """
    return _words(function).split("_")[1] not in _ACTIONS


_ACTIONS = frozenset(
    [
        "accepts",
        "add",
        "allow",
        "apply",
        "assert",
        "authenticate",
        "can",
        "change",
        "check",
        "clear",
        "compare",
        "confirm",
        "consume",
        "deactivate",
        "delete",
        "deny",
        "disable",
        "do",
        "drop",
        "enable",
        "enforce",
        "ensure",
        "expire",
        "forget",
        "handle",
        "has",
        "invalidate",
        "is",
        "lock",
        "log",
        "login",
        "logout",
        "mark",
        "match",
        "matches",
        "needs",
        "notify",
        "on",
        "post",
        "process",
        "prompt",
        "protect",
        "put",
        "record",
        "redact",
        "refuse",
        "register",
        "reject",
        "remove",
        "render",
        "require",
        "reset",
        "revoke",
        "save",
        "scrub",
        "send",
        "set",
        "show",
        "store",
        "submit",
        "supports",
        "test",
        "update",
        "upgrade",
        "use",
        "uses",
        "validate",
        "verify",
        "view",
        "wait",
        "warn",
        "with",
    ]
)


def rule_of(name: str) -> str:
    """The rule that makes a name secret which `is_secret`: a key of `NAME_RULES`, or `WHOLE_NAMES_RULE`."""
    words = _words(name)
    rules = (rule for rule, pattern in NAME_RULES.items() if re.search(pattern, words, re.VERBOSE))
    return next(rules, WHOLE_NAMES_RULE)


def squash(name: str, *, keep: str = "") -> str:
    """A name without case and separators; the characters of ``keep`` stay."""
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter in keep)


def _words(name: str) -> str:
    return "_" + _NOT_A_LETTER.sub("_", _CAMEL_HUMP.sub("_", name).lower()).strip("_") + "_"
