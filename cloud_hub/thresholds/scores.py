"""How surprising a sample is: one number for every series, so that one threshold serves a whole fleet.

A surprise s is reached by ordinary samples of a series about once in 10**s. Constant work and memory a sample:
seventeen views of the series (`channels`), the rarity of each by its own tails (`tails`), their sum, as Fisher
combined tests (1925), because what is wrong shows in many views a little before it shows in one a lot. Of that only
the news counts (`memory`), and the rarity of news is followed once more, because the views depend on one another.
The score knows nothing of the band that is shown and pushed to devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds import channels, columns, memory, tails
from cloud_hub.thresholds.columns import COUNT, FIRST, LAST, Columns, Doubles, ForeignState, Longs, Singles

__all__ = ["DEFAULTS", "TUNED", "ForeignState", "ScoreSettings", "Scores", "alarms", "surprise"]

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
LARGEST = 1e100  # values beyond are as good as this one; their squares still fit
BLOCK = 512  # series at a time: their working set stays in the cache

# Seventeen surprises of ordinary data together: their median, and how much more is a decade rarer (measured).
USUAL_SUM, DECADE = np.float32(12.8), np.float32(4.8)
NEWS_RARE, NEWS_WORTH, GAP_RARE = 0.002, 10_000, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """How surprise is measured. The defaults come from reasons and from ordinary data, not from labels.

    `memory_samples` and `memory_days`: the slow level and the scales remember at least both. `visits`: an hour's usual
    value is the mean of about so many visits. `tail`: share of numbers beyond each side that count as the tail.
    `narrow`: least mean excess of a tail in half-widths of its body; 1 is that of an exponential about its middle.
    `forget`: share of a new number in the tails once settled: about three days at five minutes. `echo`: samples after
    which the peak of an episode has faded. `near`: distance, in logarithms of sizes, within which two shapes are one:
    each view within a factor of 1.6. `warmup`: samples before a series may surprise. `threshold`: the surprise that
    pages: once in a thousand samples. `quiet`: samples after a page without another, the longest span of the views:
    what they still look back on is the same episode.
    """

    memory_samples: int = 3000
    memory_days: float = 14.0
    visits: float = 3.0
    tail: float = 0.05
    narrow: float = 1.0
    forget: float = 0.001
    echo: int = 1000
    near: float = 0.5
    warmup: int = 100
    threshold: float = 3.0
    quiet: int = 100

    def __post_init__(self) -> None:
        if min(self.memory_samples, self.memory_days, self.visits, self.narrow, self.echo, self.near) <= 0:
            raise ValueError("memories, visits, narrow, echo and near must be above 0")
        if not (0.0 < self.tail < 0.5 and 0.0 < self.forget < 0.1):
            raise ValueError("tail must lie between 0 and 0.5, forget between 0 and 0.1")
        if min(self.warmup, self.quiet) < 0 or not self.threshold > 0:
            raise ValueError("warmup and quiet must not be negative, threshold must be above 0")


DEFAULTS = ScoreSettings()
TUNED = ScoreSettings()


class Scores:
    """The surprise of n series, sample by sample. The same data give the same numbers bit for bit."""

    def __init__(self, n: int, settings: ScoreSettings = DEFAULTS) -> None:
        self.settings = settings
        self._columns = columns.fresh(n)

    def __len__(self) -> int:
        return int(self._columns.times.shape[1])

    def step(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> Doubles:
        """Surprise float64[n] of values[n] at t_us[n] (UTC microseconds). NaN in, NaN out: no sample of that series.

        An infinite value counts as no sample. Raises ValueError for arrays of another length.
        """
        times, x = self._arrays(t_us, values)
        here = np.isfinite(x)
        out = np.full(x.size, np.nan)
        if here.all():
            for start in range(0, x.size, BLOCK):
                cut = slice(start, start + BLOCK)
                out[cut] = _step(self._columns.take(cut), times[cut], x[cut], self.settings)
            return out
        chosen = np.flatnonzero(here)
        for start in range(0, chosen.size, BLOCK):
            some = chosen[start : start + BLOCK]
            part = self._columns.take(some)
            out[some] = _step(part, times[some], x[some], self.settings)
            self._columns.put(some, part)
        return out

    def silence(self, t_us: npt.NDArray[Any]) -> Doubles:
        """Surprise float64[n] of having heard nothing since the last sample until t_us[n]; changes nothing."""
        times, _ = self._arrays(t_us, np.zeros(len(self)))
        state = self._columns.times
        gap = self._columns.slim[[columns.USUAL_GAP, columns.GAP, columns.GAP_EXCESS]].copy()
        passed = np.maximum(times - state[LAST], 0)
        out = _gap(gap, passed, np.zeros(len(self), dtype=np.float32), state[COUNT])
        return np.where(state[COUNT] < max(self.settings.warmup, 1), 0.0, out).astype(np.float64)

    def _arrays(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[Longs, Doubles]:
        times, x = np.asarray(t_us, dtype=np.int64), np.asarray(values, dtype=np.float64)
        if x.shape != (len(self),) or times.shape != x.shape:
            raise ValueError(f"times {times.shape} and values {x.shape} must both be of length {len(self)}")
        return times, x

    def pack(self) -> bytes:
        """The state as bytes, to be read by `unpack`: versioned, with a checksum."""
        return columns.pack(self._columns)

    @classmethod
    def unpack(cls, packed: bytes, settings: ScoreSettings = DEFAULTS) -> Scores:
        """Scores as they were packed. Raises ForeignState for bytes that are not one whole state of this version."""
        scores = cls(0, settings)
        scores._columns = columns.unpack(packed)
        return scores

    @property
    def nbytes(self) -> int:
        """Bytes of state of all series together."""
        return self._columns.nbytes


def _step(state: Columns, t_us: Longs, x: Doubles, settings: ScoreSettings) -> Doubles:
    """One sample of each series; `state` moves on."""
    times, x = state.times, np.clip(x, -LARGEST, LARGEST)
    count = times[COUNT].copy()
    new = count == 0
    if new.any():
        state.wide[:, new] = x[new]
        times[FIRST, new] = times[LAST, new] = t_us[new]
    passed = np.maximum(t_us - times[LAST], 0)  # a clock that stepped back: no time has passed
    gain, learn = _gains(times, passed, count, settings)
    y = channels.views(state, x, t_us // HOUR_US, gain, learn, count)
    pace, settle = tails.paces(count, settings.forget, settings.tail)
    each = tails.surprise(state.tails, y, settings.tail, settings.narrow, pace, settle)
    s = _news(state, y, each, count, settings)
    gap = state.slim[columns.USUAL_GAP : columns.GAP_EXCESS + 1]
    s = np.maximum(s, _gap(gap, passed, gain.astype(np.float32), count))
    times[LAST] = t_us
    times[COUNT] += 1
    return np.where(count < settings.warmup, 0.0, s).astype(np.float64)


def _gains(times: Longs, passed: Longs, count: Longs, settings: ScoreSettings) -> tuple[Doubles, Doubles]:
    """The slow memory's share of this sample, and an hour's usual value's."""
    lasting = np.minimum(1.0 / settings.memory_samples, passed / (settings.memory_days * DAY_US))
    days = np.maximum(times[LAST] - times[FIRST], 0) / DAY_US
    learn = passed / (np.minimum(settings.visits, 1.0 + days) * HOUR_US)
    return np.maximum(1.0 / (count + 1.0), lasting), np.clip(learn, 1e-4, 0.5)


def _news(state: Columns, y: Singles, each: Singles, count: Longs, settings: ScoreSettings) -> Singles:
    total = each[0].copy()
    for row in each[1:]:  # one after another: another order has other bits
        total += row
    # What a series does while it is new must neither be remembered as an episode nor as a shape.
    awake = count >= settings.warmup
    together = np.where(awake, (total - USUAL_SUM) / DECADE + tails.HALF, np.float32(0.0))
    alone = np.where(awake, each[channels.NEXT], np.float32(0.0))
    s = np.maximum(memory.news(state, together, 1.0 / settings.echo), alone)
    memory.repeated(state, y, s, count, settings.near, settings.quiet)
    quantile, excess = state.slim[columns.NEWS], state.slim[columns.NEWS_EXCESS]
    pace, settle = tails.paces(10 * (count + NEWS_WORTH), settings.forget, NEWS_RARE)
    return tails.upper(quantile, excess, s, NEWS_RARE, (columns.NEWS_START, 0.2), 10 * pace, settle)


def _gap(gap: Singles, passed: Longs, gain: Singles, count: Longs) -> Singles:
    """Surprise float32[n] of the time since the last sample; the rows usual root, quantile and excess move on."""
    root = np.sqrt(np.minimum(passed, 366 * DAY_US).astype(np.float64)).astype(np.float32)
    periods = np.clip((root / (gap[0] + channels.TINY)) ** 2, 1.0, 1e6).astype(np.float32)
    gap[0] += gain * (root - gap[0])
    pace, settle = tails.paces(count, 0.001, GAP_RARE)
    return tails.upper(gap[1], gap[2], channels.ln(periods), GAP_RARE, (columns.GAP_START, 0.5), pace, settle)


def surprise(t_us: npt.NDArray[Any], values: npt.NDArray[Any], settings: ScoreSettings = DEFAULTS) -> Doubles:
    """Surprise float64[T] of one series values[T] at t_us[T], in order of arrival: `Scores(1)` sample by sample."""
    scores = Scores(1, settings)
    times, x = np.asarray(t_us, dtype=np.int64), np.asarray(values, dtype=np.float64)
    if times.shape != x.shape or x.ndim != 1:
        raise ValueError(f"times {times.shape} and values {x.shape} must be one-dimensional and of one length")
    return np.array([scores.step(times[i : i + 1], x[i : i + 1])[0] for i in range(x.size)], dtype=np.float64)


def alarms(
    s: npt.NDArray[Any], threshold: float = DEFAULTS.threshold, quiet: int = DEFAULTS.quiet
) -> npt.NDArray[np.bool_]:
    """Which samples page, bool[T]: those that reach the threshold, but none within `quiet` samples after a page.

    `quiet` counts from the page and does not stretch with the episode, so what is still news after it pages again.
    """
    paging, free = np.zeros(len(s), dtype=np.bool_), 0
    for index in np.flatnonzero(np.asarray(s) >= threshold).tolist():
        if index >= free:
            paging[index], free = True, index + quiet + 1
    return paging
