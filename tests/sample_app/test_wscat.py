"""The documented session with wscat, the command-line client from npm, in three terminals."""

import contextlib
import os
import pty
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

pytestmark = pytest.mark.e2e

WSCAT = "wscat@6.1.0"
MOMENT = "2024-01-15T10:30:00Z"  # stands for every time

# What the three terminals show when Alice, Bob and Charlie come in turn and the first two greet each other.
ALICE = """\
Connected (press CTRL+C to quit)
< {"Type":"system","RoomId":"general","Username":"System","Content":"Welcome to General Chat, Alice!","Timestamp":"2024-01-15T10:30:00Z"}
< {"Type":"join","RoomId":"general","Username":"Bob","Content":"Bob joined the room","Timestamp":"2024-01-15T10:30:00Z"}
> Hello everyone!
< {"Type":"message","RoomId":"general","Username":"Bob","Content":"Hi Alice!","Timestamp":"2024-01-15T10:30:00Z"}
< {"Type":"join","RoomId":"general","Username":"Charlie","Content":"Charlie joined the room","Timestamp":"2024-01-15T10:30:00Z"}
> """  # noqa: E501
BOB = """\
Connected (press CTRL+C to quit)
< {"Type":"system","RoomId":"general","Username":"System","Content":"Welcome to General Chat, Bob!","Timestamp":"2024-01-15T10:30:00Z"}
< {"Type":"message","RoomId":"general","Username":"Alice","Content":"Hello everyone!","Timestamp":"2024-01-15T10:30:00Z"}
> Hi Alice!
< {"Type":"join","RoomId":"general","Username":"Charlie","Content":"Charlie joined the room","Timestamp":"2024-01-15T10:30:00Z"}
> """  # noqa: E501
CHARLIE = """\
Connected (press CTRL+C to quit)
< {"Type":"system","RoomId":"general","Username":"System","Content":"Welcome to General Chat, Charlie!","Timestamp":"2024-01-15T10:30:00Z"}
> """  # noqa: E501


class Terminal:
    """A terminal in which a command runs, and what stands on its screen."""

    def __init__(self, *command: str) -> None:
        self._master, end = pty.openpty()
        self.process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=os.environ | {"TERM": "dumb"})
        os.close(end)
        self._output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # how Linux tells that the last process has closed its end
            while data := os.read(self._master, 65536):
                self._output += data

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        os.write(self._master, f"{line}\r".encode())

    def screen(self) -> str:
        """Return the text that stands there, every time of day replaced by one."""
        text = re.sub(r"\x1b\[\d*[mD]", "", self._output.decode())
        text = re.sub(r"\r+\n", "\n", text)
        text = re.sub(r"[^\n]*\r\x1b\[2K", "", text)  # a line that is erased and written anew
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", MOMENT, text)

    def close(self) -> None:
        """End the command."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._master)


@pytest.fixture(scope="session")
def wscat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The wscat on PATH, or one that npm installs once into pytest's cache."""
    cache = getattr(request.config, "cache", None)  # absent under -p no:cacheprovider
    folder = cache.mkdir("wscat") if cache else tmp_path_factory.mktemp("wscat")
    command = shutil.which("wscat") or shutil.which("wscat", path=str(folder / "node_modules" / ".bin"))
    if command is None:
        npm = shutil.which("npm") or pytest.fail(
            "neither wscat nor npm is on PATH: install one, or deselect test_wscat"
        )
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), WSCAT], check=True)
        command = str(folder / "node_modules" / ".bin" / "wscat")
    return command


@pytest.fixture
def open_terminal(
    wscat: str, start_process: Callable[..., object], free_port: int
) -> Iterator[Callable[[str], Terminal]]:
    """A way to connect to a running chat from a terminal of one's own."""
    start_process("sample_app", CHAT_PORT=str(free_port))
    with contextlib.ExitStack() as stack:

        def connect(username: str) -> Terminal:
            terminal = Terminal(wscat, "-c", f"ws://localhost:{free_port}/ws/general/{username}")
            stack.callback(terminal.close)
            return terminal

        yield connect


def test_three_terminals_show_the_documented_session(open_terminal, wait_until) -> None:
    """Alice, Bob and Charlie see, character by character, what the documentation shows."""

    def settled(terminal: Terminal, lines: int) -> None:
        wait_until(lambda: terminal.screen().count("\n") == lines, f"{lines} lines in a terminal")

    alice = open_terminal("Alice")
    settled(alice, 2)
    bob = open_terminal("Bob")
    settled(bob, 2)
    settled(alice, 3)
    alice.type("Hello everyone!")
    settled(bob, 3)
    bob.type("Hi Alice!")
    settled(alice, 5)
    charlie = open_terminal("Charlie")
    for terminal, lines in ((charlie, 2), (alice, 6), (bob, 5)):
        settled(terminal, lines)

    wait_until(lambda: all(each.screen().endswith("\n> ") for each in (alice, bob, charlie)), "three prompts")
    assert [alice.screen(), bob.screen(), charlie.screen()] == [ALICE, BOB, CHARLIE]
