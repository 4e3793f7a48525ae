"""Configuration in the launcher: which file counts, what may stand in it, --set, and a clear line for each mistake."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtrace.cli import configuration
from flowtrace.cli.configuration import resolve, understood
from flowtrace.cli.source import MAX_BYTES, find
from flowtrace.config import Capture, Config, Resolved, Rule, from_json, to_json
from flowtrace.errors import ConfigError, FlowtraceError, PluginError

Resolve = Callable[..., Resolved]


@pytest.fixture
def resolved(tmp_path: Path) -> Resolve:
    """Resolve the config file ``text`` in a directory of its own."""

    def resolved(
        text: str | bytes | None = None,
        *sets: str,
        environ: Mapping[str, str] | None = None,
        config: str | None = None,
        warnings: list[str] | None = None,
    ) -> Resolved:
        if text is not None:
            path = tmp_path / "flowtrace.yaml"
            path.write_bytes(text.encode() if isinstance(text, str) else text)
            path.chmod(0o644)
        said: list[str] = [] if warnings is None else warnings
        source = find(config, environ or {}, str(tmp_path), warn=said.append)
        return understood(source, sets, environ or {})

    return resolved


def failure(resolved: Resolve, *arguments: Any, **keywords: Any) -> str:
    """The one line that resolving ends with."""
    with pytest.raises(FlowtraceError) as caught:
        resolved(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- which file ------------------------------------------------------------------------------------------------------


def test_defaults_without_a_file(resolved: Resolve, tmp_path: Path) -> None:
    """Without a config the project is traced to stderr, under the name of the working directory."""
    result = resolved()

    assert result.config == Config(service=tmp_path.name)
    assert result.config.targets[0].modules == ("@project",)
    assert result.config.sinks == ({"type": "stdout", "format": "pretty", "stream": "stderr"},)
    assert (result.directory, result.project) == (str(tmp_path), str(tmp_path))
    assert result.plugins == ()
    assert from_json(to_json(result), Resolved) == result


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}", "---\n", "null", "\ufeff"])
def test_empty_file_means_the_defaults(resolved: Resolve, tmp_path: Path, text: str) -> None:
    """A file without keys is a config."""  # fault F1
    assert resolved(text).config == Config(service=tmp_path.name)


def test_order_of_files(resolved: Resolve, tmp_path: Path) -> None:
    """--config goes before FLOWTRACE_CONFIG, and that before ./flowtrace.yaml."""
    environ = {"FLOWTRACE_CONFIG": "variable.yaml"}
    (tmp_path / "option.yaml").write_text("service: option")
    (tmp_path / "variable.yaml").write_text("service: variable")

    assert resolved("service: found", config="option.yaml", environ=environ).config.service == "option"
    assert resolved("service: found", environ=environ).config.service == "variable"
    assert resolved("service: found", environ={"FLOWTRACE_CONFIG": ""}).config.service == "found"


def test_relative_paths_start_at_the_file(resolved: Resolve, tmp_path: Path) -> None:
    """Relative paths in a config are relative to its directory; @project is the working directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "trace.yaml").write_text("")

    result = resolved(config="etc/trace.yaml")

    assert (result.directory, result.project) == (str(tmp_path / "etc"), str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_config_from_a_pipe(resolved: Resolve, tmp_path: Path) -> None:
    """--config <(generate) works; paths are then relative to the working directory."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("service: piped"))
    writer.start()

    result = resolved(config="pipe")

    writer.join()
    assert (result.config.service, result.directory) == ("piped", str(tmp_path))


@pytest.mark.parametrize(("config", "environ"), [("no.yaml", {}), (None, {"FLOWTRACE_CONFIG": "no.yaml"})])
def test_missing_file(resolved: Resolve, config: str | None, environ: dict[str, str]) -> None:
    """A file that was named must be there."""  # fault F1
    error = failure(resolved, config=config, environ=environ)

    assert error.startswith("no.yaml: cannot be read: No such file or directory; name another file with --config")


def test_directory_as_file(resolved: Resolve) -> None:
    """A directory is no config."""  # fault F1
    assert failure(resolved, config=".").startswith(".: cannot be read: Is a directory; name another file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(resolved: Resolve, tmp_path: Path) -> None:  # pragma: no cover - not as root
    """A file that may not be read is an error, not a missing file."""  # fault F1
    (tmp_path / "secret.yaml").write_text("")
    (tmp_path / "secret.yaml").chmod(0)

    assert failure(resolved, config="secret.yaml").startswith("secret.yaml: cannot be read: Permission denied")


@pytest.mark.parametrize("mode", ["world-writable file", "world-writable directory", "foreign", "fifo", "dangling"])
def test_found_file_that_others_control(
    resolved: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A file that nobody named and that others may have written is passed over with one warning."""  # fault F5
    path, warnings = tmp_path / "flowtrace.yaml", list[str]()
    if mode == "fifo":
        os.mkfifo(path)
    elif mode == "dangling":
        path.symlink_to("nowhere")
    else:
        path.write_text("service: evil")
        path.chmod(0o646 if mode == "world-writable file" else 0o644)
        tmp_path.chmod(0o707 if mode == "world-writable directory" else 0o700)
    if mode == "foreign":
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        if path.stat().st_uid == 0:
            os.chown(path, 12345, -1)

    result = resolved(warnings=warnings)

    assert result.config.service == tmp_path.name
    [warning] = warnings
    assert warning.startswith("flowtrace.yaml is ignored: ")
    assert warning.endswith("; name it with --config to use it all the same")


def test_warning_goes_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A person at the terminal sees why a file is not used, and stdout stays the program's."""  # fault F5
    (tmp_path / "flowtrace.yaml").symlink_to("nowhere")

    resolve(None, [], {}, str(tmp_path))

    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("flowtrace: flowtrace.yaml is ignored: no such file or directory; ")


def test_named_file_that_others_control(resolved: Resolve, tmp_path: Path) -> None:
    """Whoever names a file trusts it."""  # fault F5
    (tmp_path / "flowtrace.yaml").write_text("service: named")
    (tmp_path / "flowtrace.yaml").chmod(0o666)

    assert resolved(config="flowtrace.yaml").config.service == "named"


def test_sticky_directory_is_trusted(resolved: Resolve, tmp_path: Path) -> None:
    """In a directory such as /tmp others cannot replace one's own file."""  # fault F5
    tmp_path.chmod(0o1777)

    assert resolved("service: mine").config.service == "mine"


# -- what may stand in it --------------------------------------------------------------------------------------------


def bomb(levels: int) -> str:
    """Aliases of aliases: ten to the power of ``levels`` values in a few lines."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            b"\x00\x01\x02",
            "flowtrace.yaml: is not UTF-8 text: it holds a NUL byte; name a YAML file or save it as UTF-8",
        ),
        (b"service: \xff", "flowtrace.yaml: is not UTF-8 text: it holds the byte 0xff at offset 9; name a YAML file"),
        ("service: \x07", "flowtrace.yaml: not YAML: "),
        ("#" * (MAX_BYTES + 1), "flowtrace.yaml: is larger than 1 MiB; name a file that holds a config"),
        ("- a", "flowtrace.yaml: expected keys such as 'targets:', got a list"),
        ("just text", "flowtrace.yaml: expected keys such as 'targets:', got 'just text'"),
        ("service: [a\n", "flowtrace.yaml:2:1: not valid YAML: "),
        ("a:\n\tb: c", "flowtrace.yaml:2:1: not valid YAML: "),
        ("targets: [{modules: [@project]}]", "flowtrace.yaml:1:22: not valid YAML: "),
        ("a: b\n---\nc: d", "flowtrace.yaml:2:1: a second document begins here; keep one"),
        (
            "capture:\n  args: true\n  result: true\n  args: false",
            "flowtrace.yaml:4:3: capture.args: written twice; remove one of the two",
        ),
        ("? [a]\n: b", "flowtrace.yaml:1:3: a key must be plain text"),
        ("a: !!python/object/apply:os.system [ls]", "flowtrace.yaml:1:4: a: the tag 'tag:yaml.org,2002:python/object/"),
        ("a: !secret x", "flowtrace.yaml:1:4: a: the tag '!secret' is not allowed; write plain YAML"),
        ("!!str x: y", "flowtrace.yaml:1:1: a key must be plain text"),
        (bomb(9), "flowtrace.yaml:5:"),
        ("a: &a [*a]", "flowtrace.yaml:1:8: a[0]: the alias *a stands for nothing above it; add the anchor"),
        ("a: *b", "flowtrace.yaml:1:4: a: the alias *b stands for nothing above it; add the anchor"),
        ("[" * 34 + "]" * 34, "flowtrace.yaml:1:34: nested deeper than 32 levels; no key of a config is"),
        ("a: " + "{a: " * 100_000, "flowtrace.yaml:1:"),
        ("a: [" + "0," * 30_000 + "]", "flowtrace.yaml:1:"),
        (f"queue: {{max_events: {'9' * 5000}}}", "flowtrace.yaml:1:21: queue.max_events: the number '999"),
        (
            "queue: {max_events: 9223372036854775808}",
            "flowtrace.yaml:1:21: queue.max_events: the number '9223372036854",
        ),
        ("sampling: {rate: 1e999}", "flowtrace.yaml:1:18: sampling.rate: the number '1e999' is too large; put it in q"),
        ("capture: {max_itms: 3}", "flowtrace.yaml: capture.max_itms: unknown key; did you mean 'max_items'?"),
        ("capture: {max_items: ten}", "flowtrace.yaml: capture.max_items: expected a whole number, got 'ten'"),
        ("capture: {args: off}", "flowtrace.yaml: capture.args: expected true or false, got 'off'"),
        ("capture:", "flowtrace.yaml: capture: expected a mapping, got nothing"),
        ('"a\\nb\\e[31m": 1', "flowtrace.yaml: a\\nb\\x1b[31m: unknown key; known: "),
        ('"a\\nb": 1\n"a\\nb": 2', "flowtrace.yaml:2:1: a\\nb: written twice; remove one of the two"),
        ("service: 2024", "flowtrace.yaml: service: expected text, got 2024; put it in quotes"),
        ("queue: {max_bytes: 32 parsecs}", "flowtrace.yaml: queue.max_bytes: '32 parsecs' is not a size; write a num"),
        ("queue: {max_bytes: -1}", "flowtrace.yaml: queue.max_bytes: -1 has no unit; write a size such as 32MiB"),
        ("sinks: [{type: fil}]", "flowtrace.yaml: sinks[0].type: no plugin registers a sink type 'fil'; did you mea"),
        ("sinks: [{format: json}]", "flowtrace.yaml: sinks[0].type: missing; known: file, http, stdout"),
        ("sinks: [{type: file}]", "flowtrace.yaml: sinks[0].path: missing; this key has no default"),
        (
            "sinks: [{type: stdout}, {type: file, path: a, rotate: {max_sze: 1}}]",
            "flowtrace.yaml: sinks[1].rotate.max_sze: unknown key; did you mean 'max_size'?",
        ),
        ("redact: {patterns: [ok, '(']}", "flowtrace.yaml: redact.patterns[1]: '(' is not a regular expression"),
        ("redact: {patterns: ['(a+)+$']}", "flowtrace.yaml: redact.patterns[0]: '(a+)+$' "),
        ("service: ${NO_SUCH}", "flowtrace.yaml: service: the environment variable NO_SUCH is not set; set it or wri"),
        ("service: ${1}", "flowtrace.yaml: service: '${' begins no ${NAME}; write $${ for the text itself"),
    ],
)
def test_mistakes_in_the_file(resolved: Resolve, text: str | bytes, error: str) -> None:
    """Each mistake is one line that names the file, the place in it and the remedy."""  # fault F1, F2, F3, F4
    assert failure(resolved, text).startswith(error)


def test_reading_is_bounded(resolved: Resolve) -> None:
    """A file without an end is not read to its end."""  # fault F1
    assert failure(resolved, config="/dev/zero") == "/dev/zero: is larger than 1 MiB; name a file that holds a config"


def test_depth_is_bounded(resolved: Resolve) -> None:
    """However deep a file is, the depth is the mistake; where that is said depends on how far libyaml reads."""
    assert failure(resolved, "[" * 100_000).endswith("nested deeper than 32 levels; no key of a config is")


def test_tags_run_nothing(resolved: Resolve, tmp_path: Path) -> None:
    """A tag that would make PyYAML call something calls nothing."""  # fault F2
    failure(resolved, f"service: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]")

    assert not (tmp_path / "made").exists()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(deadline=None)  # a loaded machine takes its time
def test_any_bytes_are_data_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever the file holds, there is a config or one line, never a traceback."""  # fault F1
    directory = tmp_path_factory.getbasetemp()
    (directory / "any.yaml").write_bytes(data)

    try:
        ended = to_json(resolve("any.yaml", [], {}, str(directory)))
    except FlowtraceError as error:
        ended = str(error).encode()

    assert len(ended.splitlines()) == 1


# -- ${NAME} ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "one"),
        ("x-${A}-${B:-two}", "x-one-two"),
        ("${EMPTY:-default}", "default"),
        ("x${EMPTY}", "x"),
        ("${NONE:-}x", "x"),
        ("$A $$ $${A}", "$A $ ${A}"),
        ("${NESTED}", "${A}"),
    ],
)
def test_references(resolved: Resolve, text: str, value: str) -> None:
    """A reference in a text is replaced once; $$ is a dollar sign."""
    environ = {"A": "one", "EMPTY": "", "NESTED": "${A}"}

    assert resolved(f"service: '{text}'", environ=environ).config.service == value


def test_references_reach_sinks(resolved: Resolve) -> None:
    """Headers and paths of sinks may refer to the environment."""
    text = "sinks: [{type: http, url: 'https://h/', headers: {Authorization: 'Bearer ${TOKEN}'}}]"

    [sink] = resolved(text, environ={"TOKEN": "t0ken"}).config.sinks

    assert sink["headers"] == {"Authorization": "Bearer t0ken"}


SECRET = "hunter2-" + "0123456789abcdef" * 8


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("queue: {max_bytes: '${S}'}", SECRET),
        ("queue: {max_bytes: 'x ${S}'}", SECRET),
        ("queue: {overflow: '${S}'}", "hunter'2\n\\"),
        ("capture: {max_items: '${S}'}", "pin"),
        ("service: 'some/${S}'", SECRET),
        ("sinks: [{type: '${S}'}]", SECRET),
        ("sinks: [{type: http, url: 'http://h/', headers: {'a': '${S}ü'}}]", SECRET),
        ("sinks: [{type: file, path: '{${S}}'}]", SECRET),
        ("redact: {patterns: ['(${S}']}", SECRET),
        ("targets: [{modules: ['/${S}']}]", SECRET),
    ],
)
def test_errors_do_not_show_secrets(resolved: Resolve, text: str, secret: str) -> None:
    """What a variable holds is not repeated in an error, whole or cut short."""  # fault X3
    error = failure(resolved, text, environ={"S": secret})

    assert secret not in error
    assert "hunter2" not in error
    assert repr(secret)[1:-1] not in error


def test_setting_below_a_secret_does_not_show_it(resolved: Resolve) -> None:
    """Neither do errors of --set."""  # fault X3
    error = failure(resolved, "service: ${S}", "service.x=1", environ={"S": SECRET})

    assert error == "--set: service: is no mapping; set it as a whole"


def test_variable_that_is_not_text(resolved: Resolve) -> None:
    """Bytes of the environment that are not UTF-8 are refused before JSON chokes on them."""  # fault F3
    error = failure(resolved, "service: ${RAW}", environ={"RAW": "\udcff"})

    assert error == "flowtrace.yaml: service: the value of RAW is not UTF-8; use other characters"


# -- --set -----------------------------------------------------------------------------------------------------------


def test_set_goes_before_the_file(resolved: Resolve) -> None:
    """--set changes single keys of the file, and later ones win."""
    result = resolved(
        "capture: {max_items: 1, max_depth: 1}", "capture.max_items=5", "capture.max_items=6", "queue.max_bytes=1MiB"
    )

    assert result.config.capture == Capture(max_items=6, max_depth=1)
    assert result.config.queue.max_bytes == 2**20


def test_set_changes_lists(resolved: Resolve) -> None:
    """Entries of lists are changed by index and added with [+] or the next index."""
    result = resolved(
        "sinks: [{type: stdout}]",
        "sinks[0].format=pretty",
        "sinks[+]={type: file, path: a}",
        "sinks[1].rotate.keep=2",
        "sinks[2].type=stdout",
        'targets[0].modules=["a", "b.*"]',
    )

    assert result.config.sinks == (
        {"type": "stdout", "format": "pretty"},
        {"type": "file", "path": "a", "rotate": {"keep": 2}},
        {"type": "stdout"},
    )
    assert result.config.targets == (Rule(modules=("a", "b.*")),)


def test_set_changes_the_defaults(resolved: Resolve) -> None:
    """Without a file, --set changes the built-in config."""
    result = resolved(None, "sinks[0].format=json", "targets[0].exclude=[secret]", "sinks[0].headers=", "sinks=[]")

    assert result.config.sinks == ()
    assert result.config.targets == (Rule(modules=("@project",), exclude=("secret",)),)
    assert result.plugins == ()


def test_set_does_not_reach_through_aliases(resolved: Resolve) -> None:
    """What an alias repeated is changed in one place only."""
    text = "targets:\n- &t {modules: [a]}\n- *t"

    result = resolved(text, "targets[1].modules[0]=b")

    assert [rule.modules for rule in result.config.targets] == [("a",), ("b",)]


def test_set_refers_to_the_environment(resolved: Resolve) -> None:
    """${NAME} works in --set as in the file."""
    assert resolved(None, "service=${A}", environ={"A": "one"}).config.service == "one"


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("capture", "--set: 'capture' is not key=value; write one such as sinks[0].format=json"),
        ("=x", "--set: '=x' is not key=value; write one such as"),
        ("a..b=x", "--set: 'a..b=x' is not key=value; write one such as"),
        ("sinks[x].format=json", "--set: 'sinks[x].format=json' is not key=value; write one such as"),
        ("sinks[9].format=json", "--set: sinks: the number of entries is 1; write [+] to add one"),
        ("sinks.format=json", "--set: sinks: is no mapping; set it as a whole"),
        ("sinks[0]=[", "--set: not valid YAML: "),
        ("service=!!int 3", "--set: service: the tag 'tag:yaml.org,2002:int' is not allowed; write plain YAML"),
        ("service=", "--set: service: expected text, got nothing"),
        ("capture.max_itms=3", "--set: capture.max_itms: unknown key; did you mean 'max_items'?"),
        ("capture[0]=3", "--set: capture: is no list; set it as a whole"),
        ("queue[0]=3", "--set: queue: expected a mapping, got a list"),
        ("sinks[+]={type: file}", "--set: sinks[1].path: missing; this key has no default"),
        ("queue.max_bytes=5", "--set: queue.max_bytes: 5 has no unit; write a size such as 32MiB"),
        ("service=${NO_SUCH}", "--set: service: the environment variable NO_SUCH is not set"),
        ("service=\udcff", "--set: the text is not UTF-8; use other characters"),
    ],
)
def test_mistakes_in_set(resolved: Resolve, setting: str, error: str) -> None:
    """A mistake in --set says so, and not that the file is wrong."""  # fault F3
    assert failure(resolved, "capture: {max_items: 3}", setting).startswith(error)


def test_mistake_in_the_file_is_not_blamed_on_set(resolved: Resolve) -> None:
    """With both, an error names the one that holds the value."""
    error = failure(resolved, "capture: {max_itms: 3}", "capture.max_items=5")

    assert error.startswith("flowtrace.yaml: capture.max_itms: unknown key")


# -- plugins and cost ------------------------------------------------------------------------------------------------


def test_broken_plugin_stops_the_launcher(resolved: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that cannot be loaded is said before the program starts."""  # fault X8
    monkeypatch.setattr(configuration, "discover", lambda: ["no_such_plugin"])

    with pytest.raises(PluginError, match="plugin no_such_plugin fails: ModuleNotFoundError"):
        resolved()


def test_plugin_that_fails_at_its_options(resolved: Resolve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of a plugin that raises over its options costs one line too, without what variables hold."""  # fault S18
    (tmp_path / "rude_plugin.py").write_text(
        "from flowtrace.config import Options\n"
        "from flowtrace.hooks import hookimpl\n"
        "class Rude(Options, frozen=True, kw_only=True):\n"
        "    token: str\n"
        "    def __post_init__(self): raise KeyError(self.token)\n"
        "@hookimpl\n"
        "def flowtrace_register_sinks(register): register('rude', print, Rude)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(configuration, "discover", lambda: ["rude_plugin"])

    error = failure(resolved, "sinks: [{type: rude, token: '${S}'}]", environ={"S": SECRET})

    assert error == "plugin rude_plugin cannot read sinks[0]: KeyError: '${S}'"


@pytest.mark.parametrize("directory", ["/", "/a\\b"])
def test_working_directory_without_a_usable_name(directory: str) -> None:
    """The service has a name wherever the program starts."""
    assert resolve(None, [], {}, directory).config.service == "python"


def test_working_directory_that_is_not_text() -> None:
    """A directory whose name cannot be handed on is an error of one line."""  # fault F3
    with pytest.raises(ConfigError, match=r"^/a\\udcff/: this path is not UTF-8; use other characters$"):
        resolve(None, [], {}, "/a\udcff")


def test_run_without_a_file_does_not_import_yaml(tmp_path: Path) -> None:
    """Nor importlib.metadata: starting is quick."""
    code = (
        "import sys\nfrom flowtrace.cli.configuration import resolve\n"
        f"resolve(None, [], {{}}, {str(tmp_path)!r})\n"
        "print({'yaml', 'importlib.metadata', 'difflib', 'flowtrace.redaction'} & {*sys.modules})"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
