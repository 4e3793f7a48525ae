"""Clients of the chat that put it under load: in one process of its own, cheap enough not to be what is measured.

In order: all connect, until everybody has heard everybody come; then *as fast as it goes*, with a fixed number of
deliveries in flight (a closed loop, which saturates the server and says what it can do); then *at a fixed rate*, where
messages are sent when they are due, whatever became of those before (an open loop: delivery times count from the moment
at which a message was due, so that a server that stalls cannot hide it by keeping the clients from sending); then
everybody is gone at once.

A client that is alone hears nothing of what it says. So it sends binary frames, each of which the chat answers with an
error, and the way there and back is what is measured.

Usage: ``python benchmarks/chat_load.py '{"url": ..., "pid": ..., ...}'``, see `Plan`. Prints an `Outcome` as JSON.
"""

from __future__ import annotations

import array
import asyncio
import dataclasses
import itertools
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import psutil
from chat_client import PATIENCE_S, Client, Heard

HANDSHAKES = 50  # at the same time
WARM_UP_S = 0.5


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


class Load:
    """The clients at work.

    Args:
        plan: What is to be done.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._together = Heard()
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
            said=len(self._together.due_ns),
            heard=self._together.frames,
        )

    async def _connect(self) -> dict[str, Any]:
        plan, together = self._plan, self._together
        room_ids = await asyncio.to_thread(self._make_rooms)
        loop, handshakes = asyncio.get_running_loop(), asyncio.Semaphore(HANDSHAKES)
        host, port = plan.url.removeprefix("http://").split(":")

        async def join(number: int) -> Client:
            url = f"ws://{host}:{port}/ws/{room_ids[number % plan.rooms]}/user{number}"
            async with handshakes:
                _, client = await loop.create_connection(lambda: Client(together, url), host, int(port))
                await client.opened
            return client

        began = time.monotonic()
        self._clients = await asyncio.gather(*map(join, range(plan.connections)))
        size = plan.connections // plan.rooms
        await together.wait_until_heard(plan.connections + plan.rooms * size * (size - 1) // 2)  # welcomes, who joins
        say = [client.ask if size == 1 else client.say for client in self._clients]
        self._turns = itertools.cycle(say)
        return {"connect_s": time.monotonic() - began, "connect_deliveries": together.frames}

    async def _saturate(self, seconds: float) -> dict[str, Any]:
        """As fast as it goes: with each message that all have heard, the next one is sent."""
        together, listeners = self._together, self._plan.listeners
        before, messages = together.frames, 0
        in_flight = max(4, self._plan.in_flight // listeners)

        def send_what_has_room() -> None:
            nonlocal messages
            while messages * listeners < together.frames - before + in_flight * listeners and time.monotonic() < end:
                messages += 1
                self._send(time.monotonic_ns())

        began, began_ms, cpu = time.monotonic(), time.time() * 1e3, self._cpu()
        end = began + seconds
        together.on_heard = send_what_has_room
        send_what_has_room()
        await asyncio.sleep(seconds)
        together.on_heard = lambda: None
        await together.wait_until_heard(before + messages * listeners)
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
        plan, together = self._plan, self._together
        messages = max(1, round(plan.seconds * plan.deliveries_per_s / plan.listeners))
        interval_ns = round(plan.listeners / plan.deliveries_per_s * 1e9)
        before, cpu = together.frames, self._cpu()
        together.times_ns = times = array.array("q")
        began = time.monotonic_ns()
        for number in range(messages):
            due = began + number * interval_ns
            await _sleep_until(due)
            self._send(due)
        await together.wait_until_heard(before + messages * plan.listeners)
        together.times_ns = None
        return {
            "paced_messages": messages,
            "paced_deliveries": len(times),
            "paced_cpu_s": self._cpu()[0] - cpu[0],
            "delivery_ms": _spread_ms(times),
        }

    def _send(self, due_ns: int) -> None:
        """The next message, by the next client."""
        self._together.due_ns.append(due_ns)
        next(self._turns)(len(self._together.due_ns) - 1)

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
