"""Modbus devices: pymodbus' own server on loopback, with holes, slow answers, refusals, silence and deaths."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import threading
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pymodbus import FramerType
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from simulators.brokers import free_port

REGISTERS = 20_000


@dataclass
class Plc:
    """What the devices do now; tests change it while the server runs. Coil 16 * n + k is bit k of register n."""

    units: Sequence[int]
    port: int = 0
    requests: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(unit, function, address, count) of each request, as it arrived."""
    refusals: dict[int, int] = field(default_factory=dict)
    """Exception codes by function code."""
    missing: set[int] = field(default_factory=set)
    """Addresses that do not exist."""
    mute: set[int] = field(default_factory=set)
    """Units that do not answer."""
    slow_s: float = 0.0
    ignores_writes: bool = False
    frozen: Any = None
    server: Any = None
    loop: Any = None

    def well(self) -> None:
        """Back to a device without faults."""
        self.requests, self.refusals, self.missing, self.mute = [], {}, set(), set()
        self.slow_s, self.ignores_writes = 0.0, False

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def registers(self, unit: int = 1) -> list[int]:
        """The registers themselves."""
        found: list[int] = self.server.context.devices[unit].block["x"][2]
        return found

    def put(self, address: int, *values: int, unit: int = 1) -> None:
        self.registers(unit)[address : address + len(values)] = values

    def get(self, address: int, count: int = 1, unit: int = 1) -> list[int]:
        return self.registers(unit)[address : address + count]

    def cut(self) -> None:
        """Close all connections; the server goes on."""

        async def close() -> None:
            for handler in list(self.server.active_connections.values()):
                handler.close()

        self.call(close())

    async def act(
        self, unit: int, function: int, address: int, count: int, current: list[int], values: Any
    ) -> ExcCodes | None:
        self.requests.append((unit, function, address, count))
        if unit in self.mute:
            await asyncio.sleep(3600)
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if function in self.refusals:
            return ExcCodes(self.refusals[function])
        if self.missing & set(range(address, address + count)):
            return ExcCodes.ILLEGAL_ADDRESS
        if values is not None and self.ignores_writes:
            values[:] = current[address : address + len(values)]
        return None


def _devices(plc: Plc) -> list[SimDevice]:
    def device(unit: int) -> SimDevice:
        async def action(
            function: int, _start: int, address: int, count: int, current: list[int], values: Any
        ) -> ExcCodes | None:
            return await plc.act(unit, function, address, count, current, values)

        data = [SimData(0, count=REGISTERS, values=0, datatype=DataType.REGISTERS)]
        return SimDevice(unit, simdata=data, use_bit_addressing=True, action=action)

    return [device(unit) for unit in plc.units]


@contextmanager
def _served(plc: Plc, make: Any) -> Iterator[Plc]:
    """Run a server in a thread with a loop of its own."""
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    plc.loop = asyncio.new_event_loop()
    thread = threading.Thread(target=plc.loop.run_forever, daemon=True)
    thread.start()

    async def start() -> None:
        plc.server = make()
        await plc.server.serve_forever(background=True)

    async def stop() -> None:
        await plc.server.shutdown()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        plc.call(start())
        yield plc
    finally:
        plc.call(stop())
        plc.loop.call_soon_threadsafe(plc.loop.stop)
        thread.join(5)
        plc.loop.close()


@contextmanager
def tcp_plc(units: Sequence[int] = (1,), port: int = 0, *, rtu: bool = False) -> Iterator[Plc]:
    """Devices behind one TCP address; with `rtu` as behind a converter from a serial line."""
    plc = Plc(units, port or free_port())
    framer = FramerType.RTU if rtu else FramerType.SOCKET

    def make() -> ModbusTcpServer:
        return ModbusTcpServer(
            _devices(plc), framer=framer, address=("127.0.0.1", plc.port), ignore_missing_devices=True
        )

    with _served(plc, make):
        yield plc


@contextmanager
def serial_plc(units: Sequence[int] = (1,)) -> Iterator[tuple[Plc, str]]:
    """Devices on a serial line made of two pseudo terminals; the second value is the client's serial port."""
    ours, server_port = os.openpty()
    theirs, client_port = os.openpty()
    for descriptor in (ours, theirs, server_port, client_port):
        tty.setraw(descriptor)
    ended, end = os.pipe()
    line = threading.Thread(target=_line, args=(ours, theirs, ended), daemon=True)
    line.start()
    plc = Plc(units)

    def make() -> ModbusSerialServer:
        return ModbusSerialServer(_devices(plc), framer=FramerType.RTU, port=os.ttyname(server_port), baudrate=19200)

    try:
        with _served(plc, make):
            yield plc, os.ttyname(client_port)
    finally:
        os.write(end, b"x")
        line.join(5)
        for descriptor in (ours, theirs, server_port, client_port, ended, end):
            os.close(descriptor)


def _line(one: int, other: int, ended: int) -> None:
    """Carry bytes both ways."""
    while True:
        ready, _, _ = select.select([one, other, ended], [], [])
        if ended in ready:
            return
        for descriptor in ready:
            with contextlib.suppress(OSError):
                os.write(other if descriptor == one else one, os.read(descriptor, 4096))
