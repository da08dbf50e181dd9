"""A bad network between MQTT clients and their broker: a TCP relay that delays, stalls, cuts, narrows and swallows.

TCP never loses a byte of a connection that lives, so loss shows as stalls and cuts. `mute` is the half-dead link:
packets of MQTT that carry messages vanish one way, while pings and acknowledgements go on and both ends see a
connection in best health.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from simulators.brokers import free_port

Way = Literal["up", "down"]
WAYS: tuple[Way, ...] = ("up", "down")
PUBLISH = 3


class Relay:
    """Listens on `port` of loopback and carries to `target`. Its properties may be changed at any time."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.delay_s = 0.0
        self.bytes_per_s = 0.0  # 0: no bound
        self.mute: set[Way] = set()
        self.refusing = False
        self.connections = self.swallowed = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> Relay:
        """Listen."""
        self._flowing.set()
        self._thread.start()
        self._do(self._listen())
        return self

    def stop(self) -> None:
        """End every connection and close the port."""
        self.resume()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # -- what goes wrong ---------------------------------------------------------------------------

    def stall(self) -> None:
        """No byte moves any more, and no connection ends: a partition as TCP sees it."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """What was held back goes on."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def cut(self) -> None:
        """Every connection is reset."""
        self._do(self._cut())

    def well(self) -> None:
        """Nothing goes wrong any more; connections that swallowed something live on as they are."""
        self.delay_s, self.bytes_per_s, self.mute, self.refusing = 0.0, 0.0, set(), False
        self.resume()

    # -- the loop's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        await self._cut()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        pair = {writer}
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            pair.add(far_writer)
            self.connections += 1
            self._open |= pair
            ways = [self._carry("up", reader, far_writer), self._carry("down", far_reader, writer)]
            await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            return  # the broker is away
        finally:
            self._open -= pair
            for one in pair:
                one.transport.abort()

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                packet = await _packet(reader)
                if packet[0] >> 4 == PUBLISH and way in self.mute:
                    self.swallowed += 1
                    continue
                await self._flowing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_s:
                    await asyncio.sleep(len(packet) / self.bytes_per_s)
                writer.write(packet)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One whole packet of MQTT: a byte of type, the length in groups of seven bits, and so many bytes."""
    head, length, shift = await reader.readexactly(1), 0, 0
    while True:
        byte = await reader.readexactly(1)
        head, length, shift = head + byte, length | (byte[0] & 127) << shift, shift + 7
        if byte[0] < 128:
            return head + await reader.readexactly(length)


Fault = Callable[[Relay], object]
FAULTS: dict[str, Fault] = {
    "cut": Relay.cut,
    "stall": Relay.stall,
    "refuse": lambda relay: (setattr(relay, "refusing", True), relay.cut()),
    "delay": lambda relay: setattr(relay, "delay_s", 0.15),
    "narrow": lambda relay: setattr(relay, "bytes_per_s", 20_000.0),
    "mute-up": lambda relay: relay.mute.add("up"),
    "mute-down": lambda relay: relay.mute.add("down"),
}


def storm(relay: Relay, rng: random.Random, faults: int, wait: Callable[[float], Awaitable[None] | None]) -> list[str]:
    """A plan out of one seed: so many faults one after another, each for a while; every kind has its turn."""
    done: list[str] = []
    deck: list[str] = []
    for _ in range(faults):
        deck = deck or rng.sample(sorted(FAULTS), len(FAULTS))
        done.append(deck.pop())
        FAULTS[done[-1]](relay)
        wait(rng.uniform(0.2, 3.0))
        relay.well()
        wait(rng.uniform(0.1, 1.5))
    return done
