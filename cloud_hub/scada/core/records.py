"""What the sessions report, as it is stored: births, data, deaths, and notes about nodes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shared.sparkplug.payload import Metric

Key = tuple[str, str, str]
"""(group, node, device); device '' is the node itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """A birth of a node or device. `sent_ms` is the time of the message, `bd_seq` of a node's.

    `gap`: messages of its node were lost before it.
    """

    key: Key
    metrics: Sequence[Metric]
    sent_ms: int | None = None
    bd_seq: int | None = None
    server: str = ""
    gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Values of a node or device that is born; each metric has its name and datatype. `gap`: some before were lost."""

    key: Key
    metrics: Sequence[Metric]
    sent_ms: int | None = None
    gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The end of a device, or of a node with all its devices."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A rebirth that was requested (`refused` False), or a message that was refused, with the reason."""

    key: Key
    reason: str
    refused: bool


Record: TypeAlias = Birth | Data | Death | Note


def cost(record: Record) -> int:
    """Rows that a record makes, about."""
    return 1 + (len(record.metrics) if isinstance(record, Birth | Data) else 0)
