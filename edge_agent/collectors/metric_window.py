"""Collector `metric_window`: sliding windows over metrics of other collectors, for models of time series.

Every `step_s` it takes the latest value of each metric as a row; `samples` rows are a window.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Literal

import msgspec

from edge_agent.collectors import Window
from edge_agent.config import CollectorTable, options
from shared.errors import ConfigError
from shared.ids import first_duplicate, metric_name
from shared.protocol.messages import Metric, Sample

LATE = 1.5
"""A reading later than so many steps leaves rows out."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`metrics` are the columns in order, `samples` the rows of a window, `every` the rows between two windows. A value
    is missing when it is older than `max_age_s`: then `skip` gives no window with it, `nan` a NaN, and `hold` the old
    value however old.
    """

    metrics: list[str]
    samples: int
    step_s: float = 1.0
    every: int = 1
    missing: Literal["skip", "nan", "hold"] = "skip"
    max_age_s: float = 10.0

    def __post_init__(self) -> None:
        for name in self.metrics:
            metric_name(name)
        if not self.metrics or len(self.metrics) > 256 or first_duplicate(self.metrics) is not None:
            raise ValueError("metrics must name 1 to 256 metrics, each once")
        if not 1 <= self.samples <= 65_536 or not 1 <= self.every <= 65_536:
            raise ValueError("samples and every must be within 1..65536")
        if not 0.01 <= self.step_s <= 86_400 or not 0.01 <= self.max_age_s <= 864_000:
            raise ValueError("step_s must be within 0.01..86400 and max_age_s within 0.01..864000")


class MetricWindowCollector:
    """Windows over `observed`, whose samples the agent passes to `observe`."""

    def __init__(self, name: str, chosen: Options) -> None:
        self.name, self.period_s = name, chosen.step_s
        self.metrics: list[Metric] = []
        self.observed = list(chosen.metrics)
        self._options = chosen
        self._values: dict[str, tuple[int, float]] = {}
        self._rows: deque[bytes | None] = deque(maxlen=chosen.samples)
        self._since, self._number, self._last_us = 0, 0, 0

    def observe(self, sample: Sample) -> None:
        """Remember the latest value of an observed metric; text and bad values are none."""
        if isinstance(sample.value, (int, float)) and sample.quality != "bad" and math.isfinite(sample.value):
            self._values[sample.metric] = (sample.t_us, float(sample.value))

    def collect(self, now_us: int) -> Iterator[Window]:
        """Add a row, and yield a window when it is due and complete."""
        chosen, step_us = self._options, self._options.step_s * 1e6
        missed = round((now_us - self._last_us) / step_us) - 1 if self._last_us else 0
        if self._last_us and (now_us < self._last_us or now_us - self._last_us > LATE * step_us):
            self._gap(missed)
        self._last_us = now_us
        self._rows.append(self._row(now_us))
        self._since += 1
        if len(self._rows) == chosen.samples and self._since >= chosen.every and None not in self._rows:
            self._since = 0
            yield self._window(now_us)

    def _gap(self, missed: int) -> None:
        """Rows for the time in which the agent did not read, or a fresh start after the clock was set back."""
        if missed < 0 or missed >= self._options.samples:
            self._rows.clear()
            return
        held = self._rows[-1] if self._options.missing == "hold" and self._rows else None
        empty = array("f", [math.nan] * len(self.observed)).tobytes() if self._options.missing == "nan" else held
        self._rows.extend([empty] * missed)

    def _row(self, now_us: int) -> bytes | None:
        values = [self._value(name, now_us) for name in self.observed]
        if self._options.missing != "nan" and any(map(math.isnan, values)):
            return None
        return array("f", values).tobytes()

    def _value(self, name: str, now_us: int) -> float:
        t_us, value = self._values.get(name, (0, math.nan))
        old = abs(now_us - t_us) > self._options.max_age_s * 1e6
        return math.nan if old and self._options.missing != "hold" else value

    def _window(self, now_us: int) -> Window:
        data = b"".join(row for row in self._rows if row is not None)
        window = Window(
            source=self.name, number=self._number, t_us=now_us, data=data, names=tuple(self.observed),
            shape=(self._options.samples, len(self.observed)),
        )  # fmt: skip
        self._number += 1
        return window

    def close(self) -> None:
        """Do nothing: it has no resources."""


def open_collector(table: CollectorTable) -> MetricWindowCollector:
    """Entry point `metric_window`."""
    chosen = options(Options, table)
    if table.period_s is not None:
        raise ConfigError(f"collector '{table.name}'.period_s", "is not used by this kind", "Set `step_s` instead")
    return MetricWindowCollector(table.name, chosen)
