"""Where a tag is in a Modbus device: its table and the address as it is sent (MODBUS Application Protocol V1.1b3, 4.4).

Manuals number in two ways. With a `table` the number is the address as it is sent, from 0. Without one it is a number
of five or six digits: the first is the table, the others count from 1. So 40001 is the first holding register.
"""

from __future__ import annotations

import re
from typing import Literal

Table = Literal["coil", "discrete", "input", "holding"]
TABLES: tuple[Table, ...] = ("coil", "discrete", "input", "holding")
BIT_TABLES = frozenset({"coil", "discrete"})
WRITABLE_TABLES = frozenset({"coil", "holding"})
ADDRESSES = 65_536
_LEADING: dict[str, Table] = {"0": "coil", "1": "discrete", "3": "input", "4": "holding"}


def parse_address(given: int | str, table: Table | Literal[""]) -> tuple[Table, int]:
    """Table and address as it is sent; raises ValueError."""
    text = str(given).strip()
    if table:
        return table, _number(text, table)
    found = re.fullmatch(r"([0134])(\d{4}|\d{5})", text)
    if found is None:
        raise ValueError(
            f"address '{text[:20]}' needs a table: set table to one of {', '.join(TABLES)} (then it counts from 0), or "
            "write five or six digits such as 40001 (the first holding register)"
        )
    number = int(found[2])
    if not 1 <= number <= ADDRESSES:
        raise ValueError(f"address '{text}' counts from 1 to {ADDRESSES} after its first digit")
    return _LEADING[found[1]], number - 1


def _number(text: str, table: str) -> int:
    base = 16 if re.fullmatch(r"0[xX][0-9a-fA-F]{1,4}", text) else 10
    if base == 10 and not re.fullmatch(r"\d{1,5}", text):
        raise ValueError(
            f"address '{text[:20]}' is no number: with table '{table}' write 0..65535, or hexadecimal 0x1F40"
        )
    number = int(text, base)
    if number >= ADDRESSES:
        raise ValueError(
            f"address {number} is above 65535: with table '{table}' it is the number as it is sent, from 0"
        )
    return number
