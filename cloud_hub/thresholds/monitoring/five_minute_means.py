"""Reads five-minute means of one metric of many devices: the last hours from samples, older ones from rollups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sqlalchemy import text
from sqlmodel import Session

from cloud_hub.telemetry.rollups.matrices import columns

SLOT_S = 300
SLOT_US = SLOT_S * 1_000_000

Doubles = npt.NDArray[np.float64]

# The join starts at the learning job's series, so that each is one lookup in the index of samples.
_RECENT = text(
    "SELECT s.device, t.t_us / 300000000 AS slot, avg(t.value) FROM learned_series s CROSS JOIN telemetry t "
    "WHERE s.learning = :learning AND s.metric = :metric AND t.device = s.device AND t.metric = s.metric "
    "AND t.t_us >= :start AND t.t_us < :end AND t.value IS NOT NULL AND t.quality <> 'bad' GROUP BY s.device, slot"
)


def means_from_samples(
    session: Session, learning: str, metric: str, devices: Sequence[str], start_us: int, end_us: int
) -> Doubles:
    """Means [T, N] of the whole slots in start_us..end_us, from samples; NaN where there are none. One query."""
    place = {device: number for number, device in enumerate(devices)}
    found = np.full(((end_us - start_us) // SLOT_US, len(devices)), np.nan)
    wanted = {"learning": learning, "metric": metric, "start": start_us, "end": end_us}
    for device, slot, mean in session.connection().execute(_RECENT, wanted):
        if device in place:
            found[slot - start_us // SLOT_US, place[device]] = mean
    return found


def means_from_rollups(session: Session, metric: str, devices: Sequence[str], start_us: int, end_us: int) -> Doubles:
    """As `means_from_samples`, from rollups."""
    series = [(device, metric) for device in devices]
    pages = columns(session, series, start_us, end_us, SLOT_S)
    return np.concatenate([page.mean for page in pages]).T
