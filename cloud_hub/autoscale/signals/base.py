"""What sources read with, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cloud_hub.database.sessions import Database
from shared.errors import TidegateError


class SignalUnknown(TidegateError):
    """A source has no value now; the text says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value at `t_us`. `unit` is '' where the source does not know it."""

    value: float
    t_us: int
    unit: str = ""


class PoolLoad(Protocol):
    """A pool of the inference gateway."""

    @property
    def waiting(self) -> Mapping[Any, int]: ...

    @property
    def running(self) -> int: ...


@dataclass(frozen=True, slots=True)
class SignalContext:
    """The database, and the pools of this hub's inference gateway."""

    db: Database
    pools: Mapping[str, PoolLoad] = field(default_factory=dict)


REDUCE: Mapping[str, Callable[[Any], Any]] = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}


def aggregate(kind: str, values: Sequence[float]) -> float:
    """`values` as one number; SignalUnknown without any, but the count of none is 0."""
    if kind == "count":
        return float(len(values))
    if not values:
        raise SignalUnknown("no values")
    numbers = np.asarray(values, np.float64)
    if kind == "p95":
        return float(np.quantile(numbers, 0.95))
    return float(REDUCE[kind](numbers))


def covered(fresh: int, asked: int, coverage: float, what: str) -> None:
    """Raise SignalUnknown if fewer than the share `coverage` have a value."""
    if asked == 0:
        raise SignalUnknown(f"there are no {what}")
    if fresh < coverage * asked:
        raise SignalUnknown(f"{fresh} of {asked} {what} have a fresh value, less than {coverage:.0%}")
