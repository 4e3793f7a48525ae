"""Takes whatever is posted, keeps it and says yes: where traces go by HTTP when nothing behind it should be measured.

It is a collector for flowtrace, for the OTLP exporter of OpenTelemetry and an agent for ddtrace. Each body is kept as
it came, in a file of its own, named by number and path: what is in it is counted when nobody measures.

Usage: ``python benchmarks/chat_receiver.py FOLDER``. Prints its port; ends with its standard input.
"""

from __future__ import annotations

import itertools
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NUMBERS = itertools.count()


class Receiver(BaseHTTPRequestHandler):
    """Keeps bodies in the folder that the command line names."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Keep the body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = f"{next(NUMBERS):06d}{self.path.replace('/', '_')}"
        (Path(sys.argv[1]) / name).write_bytes(body)
        self._answer()

    def do_PUT(self) -> None:
        """The same: ddtrace puts."""
        self.do_POST()

    def do_GET(self) -> None:
        """Whoever asks what there is, is told nothing."""
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until nobody is there any more."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
