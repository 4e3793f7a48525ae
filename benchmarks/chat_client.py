"""A client of the chat that costs little, so that thousands of frames a second are no work beside the server's.

It speaks real WebSockets: ``websockets`` makes and reads what comes seldom, upon asyncio's transports, and the texts
that come by the thousand are only told apart by their heads. No frame is parsed as JSON. A message carries its number,
so that whoever hears it knows how long it took.
"""

from __future__ import annotations

import array
import asyncio
import collections
import time
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.uri import parse_uri

PATIENCE_S = 60  # without anything heard
DIGITS = 7  # of the number: not a run that might be a card's
FILLING = b" Has anybody seen my keys? I had them yesterday."  # people write some 50 characters
TEXT = 0x81  # how a text frame that is whole begins
BEFORE_NUMBER = b'"Content":"#'


class Heard:
    """What all clients together have heard.

    Attributes:
        buffer: What is being read.
        frames: How many so far.
        due_ns: When each message was due, by its number.
        times_ns: How long each message that was heard has taken, while an array is there.
        on_heard: Called after each read that brought frames.
    """

    def __init__(self) -> None:
        self.buffer = bytearray(1 << 16)
        self.frames = 0
        self.due_ns: list[int] = []
        self.times_ns: array.array[int] | None = None
        self.on_heard: Callable[[], None] = lambda: None
        self.failure: str | None = None

    async def wait_until_heard(self, count: int) -> None:
        """Wait until so many frames have been heard in all.

        Raises:
            SystemExit: Nothing was heard for a long time, or a connection was lost.
        """
        last, since = self.frames, time.monotonic()
        while self.frames < count:
            await asyncio.sleep(0.001)
            if self.failure:
                raise SystemExit(self.failure)
            if self.frames != last:
                last, since = self.frames, time.monotonic()
            elif time.monotonic() - since > PATIENCE_S:
                raise SystemExit(f"{count - self.frames:,} of {count:,} frames have not come for {PATIENCE_S} s")
        if self.frames > count:
            raise SystemExit(f"{self.frames:,} frames were heard where {count:,} were due")


class Client(asyncio.BufferedProtocol):
    """One connection. All read into one buffer: memory of their own for each read would take most of the time.

    Args:
        together: Where what is heard is counted.
        url: ``ws://...`` with room and name.
    """

    def __init__(self, together: Heard, url: str) -> None:
        self._together = together
        self._protocol = ClientProtocol(parse_uri(url))
        self._asked: collections.deque[int] = collections.deque()
        self._transport: asyncio.Transport
        self._rest = b""
        self._is_open = False
        self.opened = asyncio.get_running_loop().create_future()
        self.leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._protocol.send_request(self._protocol.connect())
        self._write()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where to read to; what was read is taken from there at once."""
        return self._together.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count what is heard, and how long it took."""
        now = time.monotonic_ns()
        data = self._rest + self._together.buffer[:nbytes]
        frames, self._rest = split(data if self._is_open else self._open(data))
        for frame in frames:
            if frame[0] == TEXT:
                self._hear(frame, now)
            else:
                self._protocol.receive_data(frame)
                self._write()  # a pong
        self._together.on_heard()

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody leaves before the end."""
        if not self.leaving:
            self._together.failure = (
                f"a connection was lost: {error or self._protocol.close_reason or 'no reason given'}"
            )

    def say(self, number: int) -> None:
        """Send a text with the number of the message."""
        self._protocol.send_text(b"#%0*d%b" % (DIGITS, number, FILLING))
        self._write()

    def ask(self, number: int) -> None:
        """Send what the chat answers to the sender."""
        self._asked.append(number)
        self._protocol.send_binary(b"\0")
        self._write()

    def leave(self) -> None:
        """Be gone."""
        self.leaving = True
        self._transport.abort()

    def _open(self, data: bytes) -> bytes:
        """Take the answer to the handshake from what has come, and return the rest."""
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return data
        self._is_open = True
        self._protocol.receive_data(head + end)
        if self._protocol.handshake_exc is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(self._protocol.handshake_exc)
        return rest

    def _hear(self, frame: bytes, now_ns: int) -> None:
        together = self._together
        together.frames += 1
        asked = self._asked.popleft() if self._asked else None  # answers come in the order of the questions
        if together.times_ns is not None:
            number = number_in(frame) if asked is None else asked
            together.times_ns.append(now_ns - together.due_ns[number])

    def _write(self) -> None:
        self._transport.writelines(self._protocol.data_to_send())


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete frames of a server (RFC 6455, section 5.2: unmasked; here of up to 64 KiB), and what is left."""
    frames, begin, size = [], 0, len(data)
    while size - begin >= 4:
        length, head = data[begin + 1], 2
        if length == 126:
            length, head = int.from_bytes(data[begin + 2 : begin + 4]), 4
        end = begin + head + length
        if end > size:
            break
        frames.append(data[begin:end])
        begin = end
    return frames, data[begin:]


def number_in(frame: bytes) -> int:
    """The number of the message in a frame of the chat."""
    begin = frame.index(BEFORE_NUMBER) + len(BEFORE_NUMBER)
    return int(frame[begin : begin + DIGITS])
