"""Collector `modbus`: tags of Modbus devices over TCP, a serial line (RTU), or RTU through a TCP converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_agent.collectors.modbus.core.codec import Order
from edge_agent.collectors.modbus.tags import ModbusTag
from edge_agent.collectors.plant.collector import PlantCollector
from edge_agent.collectors.plant.options import DEFAULT_GROUP, Group, PlantOptions, needs_library, read_tags
from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError
from shared.transport.mqtt import parse_address

PRODUCER = "edge_agent.collectors.modbus.client:produce"


class Options(PlantOptions, frozen=True, forbid_unknown_fields=True):
    """`address` is HOST:PORT, or the serial port for `rtu`. `unit_id`, `word_order` and `byte_order` hold for tags that
    do not set their own. An answer is awaited for `timeout_s`; `pause_s` passes between two requests. Tags at most
    `max_gap` registers or bits apart are read together, up to `max_registers` and `max_bits`. After a write the value
    is read back until it is the wanted one, for at most `verify_s`.
    """

    address: str = ""
    transport: Literal["tcp", "rtu", "rtu_over_tcp"] = "tcp"
    baudrate: int = 19_200
    parity: Literal["none", "even", "odd"] = "even"
    stopbits: int = 1
    unit_id: int = 1
    word_order: Order = "big"
    byte_order: Order = "big"
    timeout_s: float = 3.0
    pause_s: float = 0.0
    max_registers: int = 125
    max_bits: int = 2000
    max_gap: int = 8
    verify_s: float = 1.0
    groups: dict[str, Group] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.address:
            raise ValueError("address must be set: HOST:PORT, or the serial port of transport rtu")
        if not 0 <= self.unit_id <= 255:
            raise ValueError("unit_id must be within 0..255")
        if not 0.02 <= self.timeout_s <= 10 or not 0 <= self.pause_s <= 1 or not 0 <= self.verify_s <= 5:
            raise ValueError("timeout_s must be within 0.02..10, pause_s within 0..1, verify_s within 0..5")
        if not 1 <= self.max_registers <= 125 or not 1 <= self.max_bits <= 2000 or not 0 <= self.max_gap <= 124:
            raise ValueError("max_registers must be within 1..125, max_bits within 1..2000, max_gap within 0..124")
        if not 300 <= self.baudrate <= 4_000_000 or self.stopbits not in {1, 2}:
            raise ValueError("baudrate must be within 300..4000000, and stopbits 1 or 2")

    @property
    def all_groups(self) -> dict[str, Group]:
        """All groups, the default one among them."""
        return {DEFAULT_GROUP: Group()} | self.groups


class ModbusCollector(PlantCollector):
    """Tags of the devices behind one address."""

    def __init__(self, table: CollectorTable, chosen: Options, tags: list[ModbusTag]) -> None:
        task = {"options": msgspec.to_builtins(chosen), "tags": msgspec.to_builtins(tags)}
        super().__init__(table, chosen, tags, chosen.all_groups, PRODUCER, task)
        self._chosen, self._modbus_tags = chosen, tags

    def warnings(self) -> list[str]:
        """Warnings for `check`."""
        found = []
        if self._chosen.transport == "rtu" and not Path(self._chosen.address).exists():
            found.append(f"{self._chosen.address} is not there. Connect the adapter, or correct `address`")
        found += [_too_long(tag, self._chosen) for tag in self._modbus_tags if tag.count > self._chosen.max_registers]
        return found


def _too_long(tag: ModbusTag, chosen: Options) -> str:
    return f"tag '{tag.name}' fills {tag.count} registers, and max_registers is {chosen.max_registers}"


def open_collector(table: CollectorTable) -> ModbusCollector:
    """Entry point `modbus`."""
    chosen: Options = options(Options, table)
    place = f"collector '{table.name}'"
    if chosen.transport != "rtu":
        parse_address(chosen.address, f"{place}.address")
    elif not chosen.address.startswith("/"):
        cure = 'Write for example: address = "/dev/serial/by-id/usb-FTDI_..."'
        raise ConfigError(f"{place}.address", f"'{chosen.address}' is no serial port", cure)
    needs_library(table, "pymodbus", "modbus")
    if chosen.transport == "rtu":
        needs_library(table, "serial", "modbus")
    tags = read_tags(chosen, ModbusTag, place, chosen.all_groups)
    task_options: dict[str, Any] = {"tags": ["in the task"], "tags_file": ""}
    return ModbusCollector(table, msgspec.structs.replace(chosen, **task_options), tags)
