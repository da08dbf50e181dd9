"""Requests to Modbus devices. The only module that imports pymodbus; it runs in the client process alone.

Retries are the caller's: the next reading is the retry of a reading, and a write is never repeated.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pymodbus import FramerType
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU

from edge_agent.collectors.modbus import Options
from edge_agent.collectors.modbus.core.addresses import BIT_TABLES, Table
from shared.errors import NotReady
from shared.transport.mqtt import parse_address

REASONS = {
    1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure", 5: "acknowledged",
    6: "device busy", 7: "negative acknowledge", 8: "memory parity error", 10: "gateway path unavailable",
    11: "the device behind the gateway does not answer",
}  # fmt: skip
"""Exception codes (MODBUS Application Protocol V1.1b3, 7)."""
ILLEGAL_FUNCTION = 1
GATEWAY = frozenset({10, 11})
_GARBAGE = (ModbusException, struct.error, IndexError, ValueError, TypeError)


class RequestRefused(Exception):
    """The device answered with exception `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{REASONS.get(code, 'unknown exception')} (exception {code})")
        self.code = code


class NoAnswer(Exception):
    """The device did not answer in time, or with something unusable."""


class ModbusConnection:
    """A connection to one address. Its methods raise RequestRefused, NoAnswer, and NotReady when it is lost."""

    def __init__(self, chosen: Options) -> None:
        self._chosen = chosen
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # what goes wrong is reported as events
        self._client: ModbusTcpClient | ModbusSerialClient = self._open()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()  # type: ignore[no-untyped-call]

    def read(self, unit_id: int, table: Table, address: int, count: int) -> bytes | list[bool]:
        """`count` registers as bytes as they travel, or bits."""
        ask = {
            "coil": self._client.read_coils, "discrete": self._client.read_discrete_inputs,
            "holding": self._client.read_holding_registers, "input": self._client.read_input_registers,
        }[table]  # fmt: skip
        answer = self._ask(lambda: ask(address, count=count, device_id=unit_id))
        if table in BIT_TABLES:
            if len(answer.bits) < count:
                raise NoAnswer(f"{count} bits were asked for, {len(answer.bits)} came")
            return list(map(bool, answer.bits[:count]))
        if len(answer.registers) != count:  # such as a late answer on a line without transaction numbers
            self._resynchronize()
            raise NoAnswer(f"{count} registers were asked for, {len(answer.registers)} came")
        return struct.pack(f">{count}H", *answer.registers)

    def write_coil(self, unit_id: int, address: int, value: bool) -> None:
        """Set one coil."""
        self._ask(lambda: self._client.write_coil(address, value, device_id=unit_id))

    def write_registers(self, unit_id: int, address: int, registers: Sequence[int]) -> None:
        """Set registers, one with function 6 and several with function 16."""
        if len(registers) == 1:
            self._ask(lambda: self._client.write_register(address, registers[0], device_id=unit_id))
        else:
            self._ask(lambda: self._client.write_registers(address, list(registers), device_id=unit_id))

    def write_bit(self, unit_id: int, address: int, bit: int, value: bool) -> None:
        """Set one bit of a register with function 22, which leaves the others as they are."""
        keep, put = 0xFFFF & ~(1 << bit), int(value) << bit
        try:
            self._ask(
                lambda: self._client.mask_write_register(address=address, and_mask=keep, or_mask=put, device_id=unit_id)
            )
        except RequestRefused as error:
            if error.code != ILLEGAL_FUNCTION:
                raise
            # Reading, changing and writing the register would undo what the device changes in between.
            raise NoAnswer("the device cannot set single bits (function 22). Make the whole register a tag") from error

    def _ask(self, request: Callable[[], ModbusPDU]) -> Any:
        try:
            answer = request()
        except ConnectionException as error:
            raise NotReady(f"{self._chosen.address}: the connection was closed") from error
        except OSError as error:
            raise NotReady(f"{self._chosen.address}: {error}") from error
        except _GARBAGE as error:
            self._resynchronize()
            raise NoAnswer(_reason(error, self._chosen.timeout_s)) from error
        if isinstance(answer, ExceptionResponse):
            if answer.exception_code in GATEWAY:
                raise NoAnswer(REASONS[answer.exception_code])
            raise RequestRefused(answer.exception_code)
        return answer

    def _resynchronize(self) -> None:
        """Without transaction numbers a late answer would be taken for the next one: begin a new connection."""
        if self._chosen.transport == "rtu_over_tcp":
            self.close()
            self._client = self._open()

    def _open(self) -> ModbusTcpClient | ModbusSerialClient:
        return _serial(self._chosen) if self._chosen.transport == "rtu" else _tcp(self._chosen)


def _reason(error: Exception, timeout_s: float) -> str:
    if "No response" in str(error):
        return f"no answer within {timeout_s:g} s"
    return f"the answer cannot be used ({error})"[:200]


def _tcp(chosen: Options) -> ModbusTcpClient:
    host, port = parse_address(chosen.address, "address")
    framer = FramerType.SOCKET if chosen.transport == "tcp" else FramerType.RTU
    client = ModbusTcpClient(host, port=port, framer=framer, timeout=chosen.timeout_s, retries=0)
    try:
        opened = socket.create_connection((host, port), timeout=chosen.timeout_s)
    except OSError as error:  # the client's own `connect` does not say why
        raise NotReady(f"{chosen.address} cannot be reached ({error})") from error
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.socket = opened
    return client


def _serial(chosen: Options) -> ModbusSerialClient:
    client = ModbusSerialClient(
        chosen.address, framer=FramerType.RTU, baudrate=chosen.baudrate, parity=chosen.parity[0].upper(),
        stopbits=chosen.stopbits, timeout=chosen.timeout_s, retries=0,
    )  # fmt: skip
    if not client.connect():
        there = Path(chosen.address).exists()
        why = "in use by another program, or not for the agent's user" if there else "it is not there"
        raise NotReady(f"{chosen.address} cannot be opened ({why})")
    return client
