"""The interface of collector plug-ins. A new collector is one module and one line in pyproject.toml.

An entry point in group `tidegate.collectors` names a function `open_collector(table)` that reads its options
with `edge_agent.config.options` and returns a Collector. It may raise ConfigError. `collect` may raise
NotReady; the agent calls it again later. A collector never retries, sleeps or starts threads. An optional method
`warnings() -> list[str]` returns warnings for `check`, such as a file that does not exist yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shared.protocol.messages import Event, Metric, Sample


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
    """A source of readings on the device that is read periodically."""

    name: str
    period_s: float | None
    """Seconds between readings; None follows the agent's setting `period_s`."""
    metrics: list[Metric]
    """Metadata of its metrics, sent in the birth certificate."""

    def collect(self, now_us: int) -> Iterable[Reading]:
        """Return the current readings. Must return within a fraction of the period."""
        ...

    def close(self) -> None:
        """Release its resources."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """Additional methods of a Collector that resumes at its last position after a restart."""

    def checkpoint(self) -> bytes:
        """The current position; called after each `collect` and stored in the same commit as the readings."""
        ...

    def resume(self, value: bytes) -> None:
        """Continue at the latest stored checkpoint of this collector; called before the first `collect`."""
        ...
