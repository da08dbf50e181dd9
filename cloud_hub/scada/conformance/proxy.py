"""Watches as a transparent TCP proxy in front of a broker: it sees all packets of the clients that connect through it.

Bytes are forwarded as they came, also those that the reader cannot read. The proxy speaks plain MQTT to clients, which
is why it listens on loopback only unless it is told otherwise, and TLS to the broker where files for it are given.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Coroutine
from typing import Any

from cloud_hub.scada.conformance.brokers import Broker
from cloud_hub.scada.conformance.core.events import Closed
from cloud_hub.scada.conformance.core.mqtt import BadPacket, PacketReader
from cloud_hub.scada.conformance.watch import Watch, now_ms
from shared.errors import ConfigError

CHUNK = 65_536
MAX_CONNECTIONS = 2000


class Proxy:
    """Listens for clients of one broker; runs in a thread of its own."""

    def __init__(self, watch: Watch, server: int, broker: Broker, host: str, port: int) -> None:
        self._watch, self._server, self._broker = watch, server, broker
        self._context = broker.context()
        self._numbers = itertools.count(1)
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{port}", daemon=True)
        self._thread.start()
        try:
            self._listener = self._call(asyncio.start_server(self._connection, host, port))
        except OSError as error:
            self._end()
            text = f"cannot listen on {host}:{port}: {error.strerror or error}"
            raise ConfigError("--listen", text, "Choose a port that is free") from None
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._call(self._shut())
        self._end()

    async def _shut(self) -> None:
        self._listener.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = f"{self._server}:{next(self._numbers)}"
        if self._open >= MAX_CONNECTIONS:
            writer.close()
            self._watch.problem(f"more than {MAX_CONNECTIONS} connections: one was refused")
            return
        self._open += 1
        try:
            await self._relay(key, reader, writer)
        except OSError as error:
            self._watch.problem(f"broker {self._broker} cannot be reached: {error}")
        except asyncio.CancelledError:
            pass  # the proxy is closed; asyncio prints a traceback of a handler that ends as cancelled
        finally:
            self._open -= 1
            self._watch.observe(Closed(at_ms=now_ms(), server=self._server, client=key))
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _relay(self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(
            self._broker.host, self._broker.port, ssl=self._context
        )  # fmt: skip
        up = PacketReader(self._server, key, from_client=True)
        down = PacketReader(self._server, key, from_client=False)
        directions = [
            asyncio.ensure_future(self._pump(reader, other_writer, up, down)),
            asyncio.ensure_future(self._pump(other_reader, writer, down, down)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in directions:
                one.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            with contextlib.suppress(OSError, RuntimeError):
                other_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, packets: PacketReader, answers: PacketReader
    ) -> None:
        """Forward one direction until it ends. The protocol's version, known from CONNECT, is told to `answers`."""
        readable = True
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                readable = readable and self._read(packets, data)
                answers.protocol = packets.protocol
                writer.write(data)
                await writer.drain()

    def _read(self, packets: PacketReader, data: bytes) -> bool:
        try:
            for event in packets.feed(data, now_ms()):
                self._watch.observe(event)
        except BadPacket as error:
            self._watch.problem(f"a connection is forwarded, but not judged any more: {error}")
            return False
        return True
