"""The names that other tools hide by default, as they list them, to be compared with ours."""

from __future__ import annotations

from typing import NamedTuple


class NameList(NamedTuple):
    """What one tool hides.

    Attributes:
        source: The file and the name of the list in it.
        names: As listed there: names as a whole, without regard to case.
        parts: Of lists that match parts of names: names that stand for each entry, those that stay open excepted.
    """

    source: str
    names: tuple[str, ...]
    parts: tuple[str, ...] = ()


SENTRY = NameList(
    "sentry-sdk 2.75.0, sentry_sdk/scrubber.py, DEFAULT_DENYLIST and DEFAULT_PII_DENYLIST",
    (
        "password", "passwd", "secret", "api_key", "apikey", "auth", "credentials", "mysql_pwd", "privatekey",
        "private_key", "token", "session", "csrftoken", "sessionid", "x_csrftoken", "x_forwarded_for", "set_cookie",
        "cookie", "authorization", "proxy-authorization", "x_api_key", "aiohttp_session", "connect.sid", "csrf_token",
        "csrf", "_csrf", "_csrf_token", "PHPSESSID", "_session", "symfony", "user_session", "_xsrf", "XSRF-TOKEN",
        "x_real_ip", "ip_address", "remote_addr",
    ),
)  # fmt: skip
DDTRACE = NameList(
    "ddtrace 4.16.0, ddtrace/debugging/_redaction.py, REDACTED_IDENTIFIERS (without - _ @ $ . and case)",
    (
        "2fa", "accesstoken", "aiohttpsession", "apikey", "apisecret", "apisignature", "appkey", "applicationkey",
        "auth", "authorization", "authtoken", "ccnumber", "certificatepin", "cipher", "clientid", "clientsecret",
        "connectionstring", "connectsid", "cookie", "credentials", "creditcard", "csrf", "csrftoken", "cvv",
        "databaseurl", "dburl", "encryptionkey", "encryptionkeyid", "geolocation", "gpgkey", "ipaddress", "jti", "jwt",
        "licensekey", "masterkey", "mysqlpwd", "nonce", "oauth", "oauthtoken", "otp", "passhash", "passwd", "password",
        "passwordb", "pemfile", "pgpkey", "phpsessid", "pin", "pincode", "pkcs8", "privatekey", "publickey", "pwd",
        "recaptchakey", "refreshtoken", "routingnumber", "salt", "secret", "secretkey", "secrettoken",
        "securityanswer", "securitycode", "securityquestion", "serviceaccountcredentials", "session", "sessionid",
        "sessionkey", "setcookie", "signature", "signaturekey", "sshkey", "ssn", "symfony", "token", "transactionid",
        "twiliotoken", "usersession", "voterid", "xapikey", "xauthtoken", "xcsrftoken", "xforwardedfor", "xrealip",
        "xsrf", "xsrftoken",
    ),
)  # fmt: skip
ELASTIC = NameList(
    "elastic-apm 6.26.2, elasticapm/conf/constants.py, BASE_SANITIZE_FIELD_NAMES_UNPROCESSED (* is anything)",
    ("password", "passwd", "pwd", "secret", "set-cookie"),
    (  # *key, *token*, *session*, *credit*, *card*, *auth*, *principal*
        "api_key", "private_key", "secret_key", "token", "access_token", "session", "session_id", "user_session",
        "credit", "credit_card", "card", "card_number", "auth", "http_auth", "oauth", "authorization", "principal",
        "user_principal",
    ),
)  # fmt: skip
LOGFIRE = NameList(
    "logfire, logfire/_internal/scrubbing.py, DEFAULT_PATTERNS (regular expressions, searched for anywhere)",
    (),
    (  # password passwd mysql_pwd secret auth(?!ors?\b) credential private[._ -]?key api[._ -]?key session cookie ...
        "password", "my_password_2", "passwd", "mysql_pwd", "secret", "the_secret", "auth", "user_auth", "oauth",
        "credential", "aws_credentials", "privatekey", "private.key", "private_key", "private key", "private-key",
        "apikey", "api.key", "api_key", "api key", "api-key", "session", "db_session", "cookie", "cookies",
        "socialsecurity", "social_security", "social security number", "creditcard", "credit_card", "credit-card",
        "logfire_token", "LOGFIRE-TOKEN", "csrf", "x_csrf", "xsrf", "jwt", "user_jwt", "ssn", "user_ssn",
    ),
)  # fmt: skip

NOT_HIDDEN = {
    "clientid": "an OAuth client id is no secret (RFC 6749, section 2.2); most others name a connection",
    "transactionid": "names an order or a database transaction, which is what a trace is searched for",
}
# Beside these, parts of names where the word says something about a secret (token_count, session_timeout), is part of
# another one (author, authored, cardinal, keyboard), or is a plain "key" (primary_key, sort_key, key).
