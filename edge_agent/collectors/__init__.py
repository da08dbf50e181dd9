"""The Collector's contract: one of the agent's two doors. A new collector is one file and one line in pyproject.

An entry point in group `tidegate.collectors` names a function `open_collector(table)` that reads its options
with `edge_agent.config.options` and returns a Collector. It may raise ConfigError; `collect` may raise
NotReady, and the agent will ask again later. A collector never retries, sleeps or starts threads. Where it opens and
may still give nothing (a file that is not there yet), a method `warnings() -> list[str]` says so to `check`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shared.messages import Event, Metric, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One image for a model: `data` is uint8 grey values in row order, `shape` (height, width).

    `number` counts frames of this source; `t_us` is when it was taken.
    """

    source: str
    number: int
    t_us: int
    shape: tuple[int, int]
    data: bytes

    def __post_init__(self) -> None:
        if self.shape[0] * self.shape[1] != len(self.data):
            raise ValueError(f"frame of {self.source} holds {len(self.data)} bytes, its shape says {self.shape}")


Reading = Sample | Event | Frame


class Collector(Protocol):
    """Something on the device that can be read again and again."""

    name: str
    period_s: float | None
    """Seconds between readings; None follows the agent's setting `period_s`."""
    metrics: list[Metric]
    """What its samples mean; told once, in the birth."""

    def collect(self, now_us: int) -> Iterable[Reading]:
        """What there is to say now. Must return within a fraction of its period."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A Collector that remembers where it stands across restarts, if it has these methods as well."""

    def checkpoint(self) -> bytes:
        """Where it stands, asked after each `collect`. Stored in the same commit as what was read."""
        ...

    def resume(self, value: bytes) -> None:
        """The newest stored checkpoint of the collector of this name, before the first `collect` of a run."""
        ...
