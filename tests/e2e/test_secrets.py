"""No way out of a traced process carries a secret: trace, spool, dead letters, requests, its own messages."""

from __future__ import annotations

import collections
import gzip
import json
import sys
from pathlib import Path

import harness

from tests.agent.redaction_corpus import Maker
from tests.faults.chaos_server import answer, running

PROGRAM = """
import sys, json, dataclasses

@dataclasses.dataclass
class Account:
    user: str
    password: str

def login(user, password): return {"token": password, "user": user}
def call(headers, url, body): return headers
def note(text): return text
def fail(text): raise ValueError(text)

secrets = json.load(sys.stdin)
for secret in secrets["named"]:
    login("bob", secret)
    login(user=Account("bob", secret), password=None)
    call([("Cookie", "sid=" + secret)], f"https://bob:{secret}@x.org/?token={secret}", f"password={secret}&a=1")
    call({b"authorization": secret.encode()}, "", json.dumps({"nested": [{"api_key": secret}]}))
for secret in [*secrets["formed"], *(f"password={secret!r}" for secret in secrets["named"])]:
    note(secret)
    note([{"a": secret}])
    try:
        fail("cannot use " + secret)
    except ValueError:
        pass
"""


def written(folder: Path) -> dict[str, bytes]:
    """What all files below a folder hold, unpacked, by their names; those of the test itself excepted."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("config.yaml", "program.py")]
    data = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: gzip.decompress(text) if name.endswith(".gz") else text for name, text in data.items()}


def test_no_way_out_carries_a_secret(tracer: harness.Tracer, tmp_path: Path) -> None:
    """What hundreds of calls were given, returned and raised is redacted before it reaches any sink, file or server."""
    # fault X1, X2, X3
    make = Maker(11)
    formed = [kind() for kind in make.shaped().values() for _ in range(2)]
    named = [make.some("abcdefghijkmnpqrstuvwxyz23456789", 16) for _ in range(20)]
    argument = make.some("abcdefghijkmnpqrstuvwxyz", 20)
    (tmp_path / "program.py").write_text(PROGRAM)

    with running() as refusing:
        refusing.always = answer(400)
        sinks = [
            {"type": "file", "path": "traces/{service}-{pid}.jsonl"},
            {"type": "http", "url": refusing.url, "spool": {"dir": "one/spool"}},
            {
                "type": "http",
                "url": f"http://bob:{argument}@127.0.0.1:{harness.free_port()}/",
                "spool": {"dir": "two/spool"},
            },
            {"type": "stdout", "format": "pretty", "stream": "stderr"},
        ]
        ended = tracer.run(
            [
                sys.executable,
                "program.py",
                f"--db-password={argument}",
                "--api-key",
                argument,
                make.jwt(),
                f"postgres://bob:{argument}@db/x",
            ],
            config={"sinks": sinks},
            stdin=json.dumps({"formed": formed, "named": named}).encode(),
        )
        sent = [line for request in refusing.requests for line in request.lines]

    out = written(tmp_path) | {"requests": b"\n".join(sent), "stderr": ended.stderr.encode()}
    cores = [secret.split("\n")[1] if "\n" in secret else secret[-16:] for secret in formed]
    leaks = {(name, core) for name, text in out.items() for core in [*cores, *named, argument] if core.encode() in text}
    assert ended.returncode == 0, ended.stderr
    places = collections.defaultdict(bytes)
    for name, text in out.items():
        places[f"{name.partition('/')[0]}{'/dead-letter' * ('dead-letter' in name)}"] += text
    reached = {place for place, text in places.items() if text.count(b"[redacted]") >= 100}
    assert reached == {"traces", "one/dead-letter", "two", "requests", "stderr"}
    assert leaks == set()


RESULTS = """
class Settings:
    def __init__(self): self._v = "hunter2"
    @property
    def db_password(self): return self._v
    def get_token(self): return {"t": "hunter2"}
    async def fetch_api_key(self): return "hunter2"
    def check_password(self): return ["shown"]
    def refresh_secret(self): return None

import asyncio
settings = Settings()
settings.db_password, settings.get_token(), settings.check_password(), settings.refresh_secret()
asyncio.run(settings.fetch_api_key())
"""


def test_results_are_hidden_where_the_function_names_them(tracer: harness.Tracer, tmp_path: Path) -> None:
    """What a getter or a property of a secret's name returns; that nothing was returned is no secret."""  # fault X1
    (tmp_path / "program.py").write_text(RESULTS)
    ended = tracer.run([sys.executable, "program.py"])

    results = {event["function"]: event["result"] for event in ended.events if event["event"] == "EXIT"}
    hidden = json.dumps("[redacted]")
    assert results == {
        "__init__": "void", "db_password": hidden, "get_token": hidden, "fetch_api_key": hidden,
        "check_password": '["shown"]', "refresh_secret": "void",
    }  # fmt: skip


OWN = """
import os

def note(value): return value
def fail(text): raise ValueError(text)

note(os.environ["FLOWTRACE_RESOLVED"])
note(dict(os.environ))
note(os.environ["FLOWTRACE_RESOLVED"].encode())
for secret in ("LITXSECRET8", "sesame-open-42"):
    note(secret)
    try:
        fail(f"sent {secret}, got 403")
    except ValueError:
        pass
"""


def test_headers_and_urls_of_the_configuration_are_in_no_trace(tracer: harness.Tracer, tmp_path: Path) -> None:
    """They are handed on in the environment, from where the program has them; whatever it does with them, they hide."""
    (tmp_path / "program.py").write_text(OWN)
    with running() as server:
        url = server.url.replace("://", "://bob:sesame-open-42@")
        sinks = [
            {"type": "file", "path": "traces/{service}-{pid}.jsonl"},
            {"type": "http", "url": url, "headers": {"X-Custom": "LITXSECRET8"}},
        ]
        config = {"sinks": sinks, "capture": {"max_string": 7936, "max_bytes": "64KiB"}}
        ended = tracer.run([sys.executable, "program.py"], config=config)
        sent = b"\n".join(line for request in server.requests for line in request.lines)

    assert ended.returncode == 0, ended.stderr
    out = written(tmp_path) | {"requests": sent}
    assert sent.count(b"[redacted]") >= 10
    assert b"max_string" in sent  # so the variable was shown, but for its secrets
    assert [name for name, text in out.items() if b"LITXSECRET8" in text or b"sesame-open-42" in text] == []
