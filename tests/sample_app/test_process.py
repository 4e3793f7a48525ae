"""The server as a process: the two ways to start it, and that it ends at once with people connected."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import sample_app

pytestmark = pytest.mark.e2e
ROOT = Path(sample_app.__file__).parent.parent


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", ["uvicorn", "sample_app"])
def test_server_ends_promptly_with_clients_connected(start_process, free_port, way, stop) -> None:
    """A signal closes every connection with 1012, service restart, and the process is gone within seconds."""
    if way == "uvicorn":
        process = start_process("uvicorn", "sample_app:app", "--port", str(free_port))
    else:
        process = start_process("sample_app", CHAT_PORT=str(free_port))

    with (
        connect(f"ws://localhost:{free_port}/ws/general/Alice") as alice,
        connect(f"ws://localhost:{free_port}/ws/general/Bob"),
    ):
        alice.recv(timeout=5)
        process.send_signal(stop)
        began = time.monotonic()
        process.wait(timeout=10)
        seconds = time.monotonic() - began
        with contextlib.suppress(ConnectionClosed):
            while True:
                alice.recv(timeout=5)

    assert seconds < 5
    assert alice.protocol.close_code == 1012


def test_client_that_stopped_reading_does_not_hold_up_the_end(start_process, free_port) -> None:
    """Bytes that can never be delivered are given up after the grace period."""
    process = start_process(
        "sample_app", CHAT_PORT=str(free_port), CHAT_CLOSE_TIMEOUT_S="1", CHAT_MAX_MESSAGES_PER_SECOND="1000000"
    )
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", free_port))
    with (
        connect(
            f"ws://localhost:{free_port}/ws/general/Slow", sock=narrow, compression=None, max_queue=1, close_timeout=0
        ),
        connect(f"ws://localhost:{free_port}/ws/general/Alice") as alice,
    ):
        for _ in range(3000):
            alice.send("x" * 4096)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def test_wrong_setting_is_one_line() -> None:
    """A setting that makes no sense ends the start with a line that names it, not with a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "sample_app"],
        cwd=ROOT,
        env=os.environ | {"CHAT_PORT": "many"},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 1
    assert done.stderr == "CHAT_PORT='many' is not a whole number of at least 1: correct it or unset it\n"
