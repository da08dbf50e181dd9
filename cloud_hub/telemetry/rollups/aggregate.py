"""Aggregates the samples of one hour of a device to minutes and a sketch per metric. Read-only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import text
from sqlmodel import Session

from cloud_hub.telemetry.rollups.core.buckets import Buckets, Floats, Ints, concat, of_samples
from cloud_hub.telemetry.rollups.core.sketches import Sketch
from cloud_hub.telemetry.samples import pages
from shared.durations import HOUR_US, MINUTE_US

_METRICS = text(
    "WITH RECURSIVE names (metric) AS (SELECT min(metric) FROM telemetry WHERE device = :device UNION ALL "
    "SELECT (SELECT min(metric) FROM telemetry WHERE device = :device AND metric > names.metric) "
    "FROM names WHERE names.metric IS NOT NULL) SELECT metric FROM names WHERE metric IS NOT NULL LIMIT :most"
)


@dataclass(frozen=True, slots=True)
class Hour:
    """Samples of one metric in one hour: its minutes (slots 0 to 59) and the distribution of the values."""

    minutes: Buckets
    sketch: Sketch

    @property
    def total(self) -> Buckets:
        """The hour as one bucket, in slot 0."""
        return self.minutes.coarsen(60)


def metrics(session: Session, device: str, most: int = 1 << 31) -> list[str]:
    """The metrics of which a device has samples, in order, at most `most`; one index lookup each."""
    return list(session.connection().execute(_METRICS, {"device": device, "most": most}).scalars())


def hour(session: Session, device: str, hour_us: int, only: Sequence[str] | None = None) -> tuple[dict[str, Hour], int]:
    """(the hour of each metric, the number of samples). Texts and samples of bad quality are ignored."""
    found: dict[str, Hour] = {}
    size = 0
    for metric in metrics(session, device) if only is None else only:
        parts, sketch = [], Sketch()
        for t_us, values in samples(session, device, metric, hour_us, hour_us + HOUR_US):
            parts.append(of_samples((t_us - hour_us) // MINUTE_US, values))
            sketch.add(values)
            size += len(values)
        if parts:
            found[metric] = Hour(concat(parts) if len(parts) > 1 else parts[0], sketch)
    return found, size


def samples(session: Session, device: str, metric: str, start_us: int, end_us: int) -> Iterator[tuple[Ints, Floats]]:
    """Numeric samples of start_us..end_us in order of time, page by page: (t_us, value)."""
    for rows in pages(session, device, metric, start_us, end_us, numbers=True):
        t_us, value = zip(*rows, strict=True)
        yield np.array(t_us, np.int64), np.array(value, np.float64)
