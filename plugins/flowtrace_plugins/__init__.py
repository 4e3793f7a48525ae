"""The built-in sinks, registered through the same hook as a stranger's.

A process pays only for the sinks it uses: their modules, and urllib3, ssl and gzip with them, are imported by the
factories. Their options it has as `flowtrace.settings`, which msgspec's structs in ``options`` describe.
"""

from __future__ import annotations

from flowtrace.hooks import RegisterSink, Sink, SinkContext, hookimpl
from flowtrace.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from flowtrace_plugins.options import FileOptions, HttpOptions, StdoutOptions


@hookimpl
def flowtrace_register_sinks(register: RegisterSink) -> None:
    """Make the types stdout, file and http usable under ``sinks``."""
    from flowtrace_plugins.options import FileOptions, HttpOptions, StdoutOptions

    register("stdout", build_stdout, StdoutOptions)
    register("file", build_file, FileOptions)
    register("http", build_http, HttpOptions)


def build_stdout(options: StdoutOptions, context: SinkContext) -> Sink:
    """Build the sink that writes to a standard stream."""
    from flowtrace_plugins.stdout import StdoutSink

    return StdoutSink(options, context)


def build_file(options: FileOptions, context: SinkContext) -> Sink:
    """Build the sink that appends to a file."""
    from flowtrace_plugins.file import FileSink

    return FileSink(options, context)


def build_http(options: HttpOptions, context: SinkContext) -> Sink:
    """Build the sink that posts to a server."""
    from flowtrace_plugins.http import HttpSink

    return HttpSink(options, context)
