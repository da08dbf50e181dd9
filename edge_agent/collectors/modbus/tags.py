"""Tags of a Modbus device, and how they lie in its registers."""

from __future__ import annotations

from typing import Literal

from edge_agent.collectors.modbus.core.addresses import (
    ADDRESSES,
    BIT_TABLES,
    WRITABLE_TABLES,
    Table,
    parse_address,
)
from edge_agent.collectors.modbus.core.codec import Layout, Order, Type, registers_of
from edge_agent.collectors.modbus.core.planning import Item
from edge_agent.collectors.plant.tags import Tag

MAX_TEXT_REGISTERS = 125


class ModbusTag(Tag, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A value in a Modbus device. `type` is by default `bool` of coils and discrete inputs, `uint16` of registers.

    `bit` of a register makes it a `bool`. `length` is that of a text, in registers. `unit_id`, `word_order` and
    `byte_order` are the collector's unless set.
    """

    address: int | str
    table: Literal["", "coil", "discrete", "input", "holding"] = ""
    type: Type = "auto"
    bit: int | None = None
    length: int = 0
    unit_id: int | None = None
    word_order: Literal["", "big", "little"] = ""
    byte_order: Literal["", "big", "little"] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        table, address = self.place
        if self.unit_id is not None and not 0 <= self.unit_id <= 255:
            raise ValueError("unit_id must be within 0..255")
        self._check_type(table)
        if address + self.count > ADDRESSES:
            raise ValueError(f"its {self.count} registers end beyond address 65535")
        if self.writable and table not in WRITABLE_TABLES:
            raise ValueError(f"writable is for coils and holding registers, and the table is '{table}'")

    def _check_type(self, table: Table) -> None:
        if table in BIT_TABLES and (self.value_type != "bool" or self.bit is not None):
            raise ValueError(f"table '{table}' holds single bits: leave out `bit`, and use type bool")
        if table not in BIT_TABLES and (self.bit is not None) != (self.value_type == "bool"):
            raise ValueError("a bool in a register needs `bit`, and `bit` needs type bool")
        if self.bit is not None and not 0 <= self.bit <= 15:
            raise ValueError("bit must be within 0..15, 0 is the least significant one")
        if (self.value_type == "string") != (self.length != 0) or not 0 <= self.length <= MAX_TEXT_REGISTERS:
            raise ValueError(f"length is for type string: its registers, within 1..{MAX_TEXT_REGISTERS}")
        if self.value_type in {"bool", "string"} and (self.scale, self.offset) != (1.0, 0.0):
            raise ValueError("scale and offset are for numbers")

    @property
    def place(self) -> tuple[Table, int]:
        """Table and address as it is sent."""
        return parse_address(self.address, self.table)

    @property
    def value_type(self) -> Type:
        """Its type, also where it was left out."""
        if self.type != "auto":
            return self.type
        return "bool" if self.place[0] in BIT_TABLES or self.bit is not None else "uint16"

    @property
    def count(self) -> int:
        """Registers or bits that it fills."""
        return registers_of(self.value_type, self.length)

    def item(self, index: int, unit_id: int) -> Item:
        """What has to be read for it; `unit_id` is the collector's."""
        table, address = self.place
        return Item(unit_id if self.unit_id is None else self.unit_id, table, address, self.count, index)

    def layout(self, word_order: Order, byte_order: Order) -> Layout:
        """How its value lies in the registers; the orders are the collector's."""
        return Layout(
            type=self.value_type, count=self.count, bit=self.bit, word_order=self.word_order or word_order,
            byte_order=self.byte_order or byte_order, scale=self.scale, offset=self.offset,
        )  # fmt: skip
