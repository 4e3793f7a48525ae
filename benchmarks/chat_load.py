"""Clients of the chat that put it under load: in one process of its own, cheap enough not to be what is measured.

The clients speak real WebSockets: ``websockets`` makes and reads what comes seldom, upon asyncio's transports, and the
texts that come by the thousand are only told apart by their heads. No frame is parsed as JSON. A message carries its
number, so that whoever hears it knows how long it took.

In order: all connect, until everybody has heard everybody come; then *as fast as it goes*, with a fixed number of
deliveries in flight (a closed loop, which saturates the server and says what it can do); then *at a fixed rate*, where
messages are sent when they are due, whatever became of those before (an open loop: delivery times count from the moment
at which a message was due, so that a server that stalls cannot hide it by keeping the clients from sending); then
everybody is gone at once.

A client that is alone hears nothing of what it says. So it sends binary frames, each of which the chat answers with an
error, and the way there and back is what is measured.

Usage: ``python benchmarks/chat_load.py '{"url": ..., "pid": ..., ...}'``, see `Plan`. Prints a `Outcome` as JSON.
"""

from __future__ import annotations

import array
import asyncio
import collections
import dataclasses
import itertools
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import psutil
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

HANDSHAKES = 50  # at the same time
WARM_UP_S = 0.5
PATIENCE_S = 60  # without anything heard
DIGITS = 7  # of the number: not a run that might be a card's
FILLING = b" Has anybody seen my keys? I had them yesterday."  # people write some 50 characters
TEXT = 0x81  # how a text frame that is whole begins
BEFORE_NUMBER = b'"Content":"#'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        url: Of the server, ``http://127.0.0.1:5001``.
        pid: Its process.
        connections: How many clients.
        rooms: In how many rooms, evenly.
        seconds: Of each kind of load.
        deliveries_per_s: The fixed rate: how many frames all clients together hear in a second.
        in_flight: How many deliveries may be under way as fast as it goes; at least four messages are.
    """

    url: str
    pid: int
    connections: int
    rooms: int
    seconds: float
    deliveries_per_s: float
    in_flight: int = 400

    @property
    def listeners(self) -> int:
        """How many hear a message; somebody alone hears the answer."""
        return max(1, self.connections // self.rooms - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it; times in seconds unless the name says otherwise, CPU time that of the server.

    Attributes:
        connect_s: From the first handshake until everybody has heard everybody come.
        connect_deliveries: How many frames that were.
        window: When the load as fast as it goes began and ended, in milliseconds since the epoch.
        messages: Sent as fast as it goes.
        deliveries: Of these messages, frames heard.
        wall_s: How long that took.
        server_cpu_s: CPU time of the server meanwhile.
        clients_cpu_s: CPU time of the clients meanwhile; close to `wall_s`, the clients are what is measured.
        paced_messages: Sent at the fixed rate.
        paced_cpu_s: CPU time of the server meanwhile.
        delivery_ms: Delivery times at the fixed rate: p50, p99 and max.
        peak_rss: Greatest memory of the server from the first handshake, in bytes, looked at every 50 ms.
        left_rss: Its memory when everybody has left.
        said: Messages of all kinds of load, the first half second included, which is not measured.
        heard: Frames of all kinds.
    """

    connect_s: float
    connect_deliveries: int
    window: tuple[float, float]
    messages: int
    deliveries: int
    wall_s: float
    server_cpu_s: float
    clients_cpu_s: float
    paced_messages: int
    paced_deliveries: int
    paced_cpu_s: float
    delivery_ms: dict[str, float]
    peak_rss: int
    left_rss: int
    said: int
    heard: int


class Crowd:
    """All clients together: what they have heard.

    Attributes:
        buffer: What is being read.
        heard: Frames so far.
        due_ns: When each message was due, by its number.
        times_ns: How long each message that was heard has taken, while an array is there.
        on_heard: Called after each read that brought frames.
    """

    def __init__(self) -> None:
        self.buffer = bytearray(1 << 16)
        self.heard = 0
        self.due_ns: list[int] = []
        self.times_ns: array.array[int] | None = None
        self.on_heard: Callable[[], None] = lambda: None
        self.failure: str | None = None

    async def wait_until_heard(self, count: int) -> None:
        """Wait until so many frames have been heard in all.

        Raises:
            SystemExit: Nothing was heard for a long time, or a connection was lost.
        """
        last, since = self.heard, time.monotonic()
        while self.heard < count:
            await asyncio.sleep(0.001)
            if self.failure:
                raise SystemExit(self.failure)
            if self.heard != last:
                last, since = self.heard, time.monotonic()
            elif time.monotonic() - since > PATIENCE_S:
                raise SystemExit(f"{count - self.heard:,} of {count:,} frames have not come for {PATIENCE_S} s")
        if self.heard > count:
            raise SystemExit(f"{self.heard:,} frames were heard where {count:,} were due")


class Client(asyncio.BufferedProtocol):
    """One connection. All read into one buffer: memory of their own for each read would take most of the time.

    Args:
        crowd: Where what is heard is counted.
        url: ``ws://...`` with room and name.
    """

    def __init__(self, crowd: Crowd, url: str) -> None:
        self._crowd = crowd
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
        return self._crowd.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count what is heard, and how long it took."""
        now = time.monotonic_ns()
        data = self._rest + self._crowd.buffer[:nbytes]
        frames, self._rest = _split(data if self._is_open else self._open(data))
        for frame in frames:
            if frame[0] == TEXT:
                self._hear(frame, now)
            else:
                self._protocol.receive_data(frame)
                self._write()  # a pong
        self._crowd.on_heard()

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody leaves before the end."""
        if not self.leaving:
            self._crowd.failure = f"a connection was lost: {error or self._protocol.close_reason or 'no reason given'}"

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
        crowd = self._crowd
        crowd.heard += 1
        asked = self._asked.popleft() if self._asked else None  # answers come in the order of the questions
        if crowd.times_ns is not None:
            number = _number_in(frame) if asked is None else asked
            crowd.times_ns.append(now_ns - crowd.due_ns[number])

    def _write(self) -> None:
        self._transport.writelines(self._protocol.data_to_send())


class Load:
    """The clients at work.

    Args:
        plan: What is to be done.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._crowd = Crowd()
        self._clients: list[Client] = []
        self._server, self._self = psutil.Process(plan.pid), psutil.Process()
        self._peak = 0
        self._turns: Iterator[Callable[[int], None]]

    async def run(self) -> Outcome:
        """Do all that is planned, in order."""
        watching = asyncio.create_task(self._watch_memory())
        connecting = await self._connect()
        await self._saturate(WARM_UP_S)
        saturated = await self._saturate(self._plan.seconds)
        paced = await self._pace()
        for client in self._clients:
            client.leave()
        await asyncio.to_thread(self._wait_until_all_have_left)
        watching.cancel()
        return Outcome(
            **connecting,
            **saturated,
            **paced,
            peak_rss=self._peak,
            left_rss=self._server.memory_info().rss,
            said=len(self._crowd.due_ns),
            heard=self._crowd.heard,
        )

    async def _connect(self) -> dict[str, Any]:
        plan, crowd = self._plan, self._crowd
        room_ids = await asyncio.to_thread(self._make_rooms)
        loop, handshakes = asyncio.get_running_loop(), asyncio.Semaphore(HANDSHAKES)
        host, port = plan.url.removeprefix("http://").split(":")

        async def join(number: int) -> Client:
            url = f"ws://{host}:{port}/ws/{room_ids[number % plan.rooms]}/user{number}"
            async with handshakes:
                _, client = await loop.create_connection(lambda: Client(crowd, url), host, int(port))
                await client.opened
            return client

        began = time.monotonic()
        self._clients = await asyncio.gather(*map(join, range(plan.connections)))
        size = plan.connections // plan.rooms
        await crowd.wait_until_heard(plan.connections + plan.rooms * size * (size - 1) // 2)  # welcomes, who joins
        say = [client.ask if size == 1 else client.say for client in self._clients]
        self._turns = itertools.cycle(say)
        return {"connect_s": time.monotonic() - began, "connect_deliveries": crowd.heard}

    async def _saturate(self, seconds: float) -> dict[str, Any]:
        """As fast as it goes: with each message that all have heard, the next one is sent."""
        crowd, listeners = self._crowd, self._plan.listeners
        before, messages = crowd.heard, 0
        in_flight = max(4, self._plan.in_flight // listeners)

        def send_what_has_room() -> None:
            nonlocal messages
            while messages * listeners < crowd.heard - before + in_flight * listeners and time.monotonic() < end:
                messages += 1
                self._send(time.monotonic_ns())

        began, began_ms, cpu = time.monotonic(), time.time() * 1e3, self._cpu()
        end = began + seconds
        crowd.on_heard = send_what_has_room
        send_what_has_room()
        await asyncio.sleep(seconds)
        crowd.on_heard = lambda: None
        await crowd.wait_until_heard(before + messages * listeners)
        server_cpu, clients_cpu = (after - at for after, at in zip(self._cpu(), cpu, strict=True))
        return {
            "window": (began_ms, time.time() * 1e3),
            "messages": messages,
            "deliveries": messages * listeners,
            "wall_s": time.monotonic() - began,
            "server_cpu_s": server_cpu,
            "clients_cpu_s": clients_cpu,
        }

    async def _pace(self) -> dict[str, Any]:
        """At the fixed rate: each message when it is due."""
        plan, crowd = self._plan, self._crowd
        messages = max(1, round(plan.seconds * plan.deliveries_per_s / plan.listeners))
        interval_ns = round(plan.listeners / plan.deliveries_per_s * 1e9)
        before, cpu = crowd.heard, self._cpu()
        crowd.times_ns = times = array.array("q")
        began = time.monotonic_ns()
        for number in range(messages):
            due = began + number * interval_ns
            await _sleep_until(due)
            self._send(due)
        await crowd.wait_until_heard(before + messages * plan.listeners)
        crowd.times_ns = None
        return {
            "paced_messages": messages,
            "paced_deliveries": len(times),
            "paced_cpu_s": self._cpu()[0] - cpu[0],
            "delivery_ms": _spread_ms(times),
        }

    def _send(self, due_ns: int) -> None:
        """The next message, by the next client."""
        self._crowd.due_ns.append(due_ns)
        next(self._turns)(len(self._crowd.due_ns) - 1)

    def _cpu(self) -> tuple[float, float]:
        """CPU seconds of server and clients."""
        server, own = self._server.cpu_times(), self._self.cpu_times()
        return server.user + server.system, own.user + own.system

    async def _watch_memory(self) -> None:
        while True:
            self._peak = max(self._peak, self._server.memory_info().rss)
            await asyncio.sleep(0.05)

    def _make_rooms(self) -> list[str]:
        names = [f"Room {number}" for number in range(1, self._plan.rooms)]
        return ["general", *(self._ask("/rooms", {"name": name})["id"] for name in names)]

    def _wait_until_all_have_left(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while count := sum(room["activeUsers"] for room in self._ask("/rooms")):
            if time.monotonic() > deadline:
                raise SystemExit(f"{count:,} clients have not left after {PATIENCE_S} s")
            time.sleep(0.05)

    def _ask(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._plan.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return json.load(response)


def _split(data: bytes) -> tuple[list[bytes], bytes]:
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


def _number_in(frame: bytes) -> int:
    begin = frame.index(BEFORE_NUMBER) + len(BEFORE_NUMBER)
    return int(frame[begin : begin + DIGITS])


async def _sleep_until(due_ns: int) -> None:
    """Sleep, but look at the connections again and again in the last 2 ms: the event loop's timers are 1 ms late."""
    if (left_ns := due_ns - time.monotonic_ns()) > 2_000_000:
        await asyncio.sleep((left_ns - 2_000_000) / 1e9)
    while time.monotonic_ns() < due_ns:
        await asyncio.sleep(0)


def _spread_ms(times_ns: array.array[int]) -> dict[str, float]:
    ordered = sorted(times_ns)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6 for name, share in at.items()}


def main() -> None:
    """Do what the first argument says, and print what came of it."""
    outcome = asyncio.run(Load(Plan(**json.loads(sys.argv[1]))).run())
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main()
