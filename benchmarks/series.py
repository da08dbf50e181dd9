"""Labelled series from a Parquet file with the columns series, timestamp, value, label and window.

`label` is 1 inside an anomaly window, `window` the number of the window in its series and -1 outside; one of the two
is enough, and neither needs to name any window. Series come in the order of their names, samples in order of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.durations import DAY_US

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Series:
    """One series: `t_us` and `values` of T samples, `windows` as first and last sample of each, both included."""

    name: str
    t_us: Ints
    values: Floats
    windows: tuple[tuple[int, int], ...] = ()

    @property
    def learn(self) -> int:
        """NAB's probation: so many samples at the start are for learning only, nothing there is judged."""
        return probation(len(self.values))

    @cached_property
    def judged(self) -> list[tuple[int, int]]:
        """The windows that end after the probation."""
        return [(first, last) for first, last in self.windows if last >= self.learn]

    @cached_property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Which samples lie in a window."""
        found = np.zeros(len(self.values), dtype=bool)
        for first, last in self.windows:
            found[first : last + 1] = True
        return found

    @property
    def days(self) -> float:
        """Time that is judged, in days."""
        return float(self.t_us[-1] - self.t_us[min(self.learn, len(self.t_us) - 1)]) / DAY_US

    @property
    def period_us(self) -> int:
        """The usual time between two samples."""
        return max(1, int(np.median(np.diff(self.t_us)))) if len(self.t_us) > 1 else 1


def probation(samples: int) -> int:
    """NAB: the first 15 % of a series, at most 15 % of 5,000 samples."""
    return int(0.15 * min(samples, 5000))


def read(file: Path) -> list[Series]:
    """The series of a file; raises ValueError that names the file and what is wrong with it."""
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as wrong:
        raise ValueError(f"{file} cannot be read as Parquet: {wrong}") from None
    missing = [name for name in ("series", "timestamp", "value") if name not in table.column_names]
    if missing or not {"label", "window"} & set(table.column_names):
        wanted = ", ".join(missing) or "label or window"
        raise ValueError(f"{file} lacks the column {wanted}; it has {', '.join(table.column_names)}")
    try:
        names = np.asarray(table["series"].cast(pa.string()).to_pylist(), dtype=object).astype(str)
        t_us = pc.cast(pc.cast(table["timestamp"], pa.timestamp("us"), safe=False), pa.int64()).to_numpy()
        values = pc.cast(table["value"], pa.float64()).to_numpy().astype(np.float64)
        marks = _marks(table)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as wrong:
        raise ValueError(f"{file} has a column of an unusable type: {wrong}") from None
    found = []
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        rows = rows[np.argsort(t_us[rows], kind="stable")]
        found.append(Series(name, t_us[rows], values[rows], _windows(marks[rows])))
    if not found:
        raise ValueError(f"{file} holds no samples")
    return found


def _marks(table: Any) -> Ints:
    """The window of each row; from `label` alone every run of ones is a window (numbered by its start below)."""
    if "window" in table.column_names:
        return np.asarray(table["window"].fill_null(-1).to_numpy(), dtype=np.int64)
    return np.asarray(table["label"].fill_null(0).to_numpy(), dtype=np.int64) * 2 - 2  # 1 -> 0, 0 -> -2


def _windows(marks: Ints) -> tuple[tuple[int, int], ...]:
    """Runs of one mark of 0 or above."""
    edges = np.flatnonzero(np.diff(marks, prepend=-9, append=-9))
    runs = zip(edges[:-1], edges[1:] - 1, strict=True)
    return tuple((int(first), int(last)) for first, last in runs if marks[first] >= 0)
