"""Finds the devices of a fleet with the highest quantile of one metric over a time range."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sqlmodel import Session

from cloud_hub.database.tables import SketchRow
from cloud_hub.errors import HubError
from cloud_hub.telemetry.rollups.aggregate import samples
from cloud_hub.telemetry.rollups.core.sketches import merge_sketches
from cloud_hub.telemetry.rollups.store import DAY, HOUR, of_series
from shared.durations import DAY_US, HOUR_US

SHORT_US = 2 * HOUR_US
"""Up to this span the samples themselves are read."""
SAMPLES = 2_000_000
"""Samples of one answer at most."""
TOGETHER = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDevice:
    """A device's quantile and its number of samples."""

    device: str
    value: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopResult:
    """The highest first. `start_us` and `end_us` are the range that was read; `exact` if it was read from samples."""

    start_us: int
    end_us: int
    exact: bool
    ranks: list[RankedDevice]


def top_devices(
    session: Session, devices: Sequence[str], metric: str, start_us: int, end_us: int, *, share: float, k: int
) -> TopResult:
    """The `k` highest by the quantile `share` (0 to 1) of a metric. A span of more than two hours is rounded outwards
    to whole hours, and consists of those that are rolled up. Raises HubError 422."""
    if end_us <= start_us:
        raise HubError(422, "Invalid request", "query.end_us: must be after start_us")
    if exact := end_us - start_us <= SHORT_US:
        ranks = _of_samples(session, devices, metric, start_us, end_us, share)
    else:
        start_us, end_us = start_us // HOUR_US * HOUR_US, -(-end_us // HOUR_US) * HOUR_US
        ranks = _of_sketches(session, devices, metric, start_us, end_us, share)
    best = sorted(ranks, key=lambda rank: (-rank.value, rank.device))[:k]
    return TopResult(start_us=start_us, end_us=end_us, exact=exact, ranks=best)


def _of_samples(
    session: Session, devices: Iterable[str], metric: str, start_us: int, end_us: int, share: float
) -> Iterator[RankedDevice]:
    left = SAMPLES
    for device in devices:
        pages = [values for _, values in samples(session, device, metric, start_us, end_us)]
        left -= sum(map(len, pages))
        if left < 0:
            cure = "ask for more than two hours, which are rolled up, or for fewer devices with where"
            raise HubError(422, "Invalid request", f"query: of more than {SAMPLES} samples; {cure}")
        if pages:
            values = np.concatenate(pages)
            yield RankedDevice(device=device, value=float(np.quantile(values, share)), count=len(values))


def _of_sketches(
    session: Session, devices: Sequence[str], metric: str, start_us: int, end_us: int, share: float
) -> Iterator[RankedDevice]:
    for first in range(0, len(devices), TOGETHER):
        some = devices[first : first + TOGETHER]
        for device, packed in _sketches(session, some, metric, start_us, end_us).items():
            whole = merge_sketches(packed)
            yield RankedDevice(device=device, value=whole.quantile(share), count=whole.count)


def _sketches(
    session: Session, devices: Sequence[str], metric: str, start_us: int, end_us: int
) -> dict[str, list[bytes]]:  # fmt: skip
    """The sketches of each device: of complete days in the range, and of the hours of the rest."""
    first_us, last_us = -(-start_us // DAY_US) * DAY_US, end_us // DAY_US * DAY_US
    found: dict[str, list[bytes]] = defaultdict(list)
    days: dict[str, set[int]] = defaultdict(set)
    for device, t_us, packed in _rows(session, devices, metric, DAY, first_us, last_us):
        found[device].append(packed)
        days[device].add(t_us)
    gaps = [device for device in devices if len(days[device]) * DAY_US < last_us - first_us]
    spans = [(devices, start_us, min(first_us, end_us)), (devices, max(last_us, first_us), end_us)]
    for some, since_us, until_us in [(gaps, first_us, last_us), *spans]:
        for device, t_us, packed in _rows(session, some, metric, HOUR, since_us, until_us):
            if t_us // DAY_US * DAY_US not in days[device]:
                found[device].append(packed)
    return found


def _rows(
    session: Session, devices: Sequence[str], metric: str, step_s: int, start_us: int, end_us: int
) -> Iterator[tuple[str, int, bytes]]:
    if devices and start_us < end_us:
        series = [(device, metric) for device in devices]
        for row in of_series(session, SketchRow, "sketch", series, step_s, start_us, end_us).all():
            number, t_us, packed = tuple(row)
            yield devices[number], t_us, bytes(packed)
