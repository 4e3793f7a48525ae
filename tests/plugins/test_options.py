"""The options of the built-in sinks: what is refused, and where it says so."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pluggy
import pytest

from flowtrace.config import decode
from flowtrace.errors import ConfigError
from flowtrace.hooks import PROJECT, Specifications
from flowtrace_plugins.options import FileOptions, HttpOptions, Spool, StdoutOptions

REMOTE = "http://example.com/v1/events"


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (StdoutOptions, {"format": "xml"}, "format: "),
        (FileOptions, {"path": "{servce}.jsonl"}, "path: '{servce}' is no placeholder; did you mean 'service'?"),
        (FileOptions, {"path": "a{}b"}, "path: '{}' is no placeholder; known: service, pid, run"),
        (FileOptions, {"path": "a}b"}, "path: '}' is no placeholder"),
        (FileOptions, {"path": "a\0b"}, "path: a path cannot hold a NUL"),
        (FileOptions, {"path": "x", "fsync": "soon"}, "fsync: 'soon' is none of off, always or a duration"),
        (FileOptions, {"path": "x", "rotate": {"max_size": "1B"}}, "rotate.max_size: 1B is out of range"),
        (FileOptions, {"path": "x", "rotate": {"keep": 0}}, "rotate.keep: "),
        (FileOptions, {"path": "x", "rotate": {"every": "1ms"}}, "rotate.every: 1ms is out of range"),
        (FileOptions, {"path": "x", "rotate": {"max_age": "0"}}, "rotate.max_age: 0s is out of range"),
        (FileOptions, {"path": "x", "rotate": {"compress": "zip"}}, "rotate.compress: "),
        (HttpOptions, {"url": "example.com"}, "url: 'example.com' is no URL to post to"),
        (HttpOptions, {"url": "http://h:port/"}, "url: 'http://h:port/' is no URL to post to"),
        (HttpOptions, {"url": "http://h/\n"}, "url: "),
        (HttpOptions, {"url": REMOTE, "headers": {"a b": "c"}}, "headers: 'a b' is no header name"),
        (HttpOptions, {"url": REMOTE, "headers": {"X": "a\r\nY: b"}}, "headers.X: holds a character"),
        (HttpOptions, {"url": REMOTE, "timeout": "0s"}, "timeout: 0s is out of range"),
        (HttpOptions, {"url": REMOTE, "spool": {"max_size": "1B"}}, "spool.max_size: 1B is out of range"),
    ],
)
def test_bad_options(kind: type[Any], data: dict[str, Any], message: str) -> None:
    """What cannot work is refused before the program starts, with the key and the remedy."""  # fault F3
    with pytest.raises(ConfigError) as caught:
        decode(data, kind, key="sinks[0]")

    assert str(caught.value).startswith(f"sinks[0].{message}")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"url": "http://me:secret@example.com/"}, "url"),
        *(
            ({"url": REMOTE, "headers": {name: "secret"}}, f"headers.{name}")
            for name in ("Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization", "X-Auth-Token")
        ),
    ],
)
def test_secrets_never_go_unencrypted(options: dict[str, Any], key: str) -> None:
    """A credential for another host over plain http is refused, without being repeated in the message."""  # fault X6
    with pytest.raises(ConfigError, match=r"unencrypted to example\.com; use https://") as caught:
        decode(options, HttpOptions)

    assert caught.value.key == key
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "[::1]", "app.localhost"])
def test_secrets_may_go_to_this_machine(host: str) -> None:
    """A collector on the same machine needs no certificate."""  # fault X6
    assert decode({"url": f"http://{host}:5080/", "headers": {"Authorization": "Bearer x"}}, HttpOptions)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1]", "[fe80::1%25eth0]", "[::ffff:169.254.169.254]"],
)
def test_link_local_addresses(host: str) -> None:
    """The address that clouds serve credentials on is refused in every spelling, unless asked for."""  # fault X7
    with pytest.raises(ConfigError, match="is link-local; set allow_link_local: true"):
        decode({"url": f"http://{host}/"}, HttpOptions)

    assert decode({"url": f"http://{host}/", "allow_link_local": True}, HttpOptions)


def test_defaults() -> None:
    """The smallest config of each sink works."""
    assert decode({}, StdoutOptions).format == "json"
    assert decode({"path": "x"}, FileOptions).rotate.keep == 5
    assert decode({"url": REMOTE, "spool": {}}, HttpOptions).spool == Spool(dir=".flowtrace/spool")


def test_registers_as_any_plugin_does() -> None:
    """The built-in sinks pass through the public hook, under their documented names."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specifications)
    manager.register(__import__("flowtrace_plugins"))
    manager.check_pending()
    registered: dict[str, Any] = {}

    manager.hook.flowtrace_register_sinks(register=lambda name, factory, options: registered.update({name: options}))

    assert registered == {"stdout": StdoutOptions, "file": FileOptions, "http": HttpOptions}


def test_unused_sinks_cost_no_import() -> None:
    """Loading the plugin and its options imports nothing that only one sink needs."""
    heavy = {"urllib3", "ssl", "gzip", "sqlite3", "urllib.request", "ipaddress", "logging", "unicodedata"}
    code = f"import sys, flowtrace_plugins; print(sorted({heavy!r} & set(sys.modules)))"

    # -S: site-packages may hold .pth files that import things by themselves
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert result.stdout.strip() == "[]"
