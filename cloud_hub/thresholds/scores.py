"""How surprising a sample is: one number for every series, calibrated, so that one threshold serves a whole fleet.

A surprise s is reached by ordinary samples of a series about once in 10**s samples. It is made in three steps, each of
constant work and memory: sixteen views of the series (`channels`), the rarity of each by its own tails (`tails`), and
their sum as Fisher combines tests (Fisher 1925), whose own tail is followed once more, because the views depend on
one another. Alarms need many views at once or one far out; what repeats raises the tails, so it is no news for long.
The score knows nothing of the band that is shown and pushed to devices.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds import channels, tails

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]

DAY_US = 24 * channels.HOUR_US
MAGIC = b"TGSC"
VERSION = 1
HEADER = struct.Struct("<4sHHqI")
BLOCK = 512  # columns at a time: their working set stays in the cache
FIRST, LAST, COUNT, PERIOD = range(4)


class ForeignState(ValueError):
    """The bytes are no state of scores, or of another version, or damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """How surprise is measured. The defaults come from reasons and ordinary data, not from labels.

    `memory_samples` and `memory_days`: the slow level and the scales remember at least both. `visits`: an hour's usual
    value is the mean of about so many visits. `tail`: share of numbers beyond each side that count as the tail.
    `narrow`: least mean excess of a tail in half-widths of its body; 1 is the exponential distribution's own.
    `forget`: share of a new number in the tails once settled. `threshold`: the surprise that pages.
    `quiet`: samples after a page in which the series pages no more; two thirds of a day at five minutes.
    """

    memory_samples: int = 3000
    memory_days: float = 14.0
    visits: float = 3.0
    tail: float = 0.05
    narrow: float = 1.0
    forget: float = 0.001
    warmup: int = 100
    threshold: float = 3.0
    quiet: int = 200

    def __post_init__(self) -> None:
        if min(self.memory_samples, self.memory_days, self.visits, self.narrow) <= 0:
            raise ValueError("memories, visits and narrow must be above 0")
        if not (0.0 < self.tail < 0.5 and 0.0 < self.forget < 0.1):
            raise ValueError("tail must lie between 0 and 0.5, forget between 0 and 0.1")
        if min(self.warmup, self.quiet) < 0 or not self.threshold > 0:
            raise ValueError("warmup and quiet must not be negative, threshold must be above 0")


DEFAULTS = ScoreSettings()
TUNED = ScoreSettings()

# The sum of sixteen surprises of ordinary data: its 99% quantile and mean excess before a series has shown its own,
# and how many samples that is worth.
USUAL_SUM, USUAL_EXCESS, WORTH = 20.0, 2.0, 10_000
RARE = 0.01


class Scores:
    """The surprise of n series, sample by sample. Deterministic: same data, same bits."""

    def __init__(self, n: int, settings: ScoreSettings = DEFAULTS) -> None:
        self.settings = settings
        self._times = np.zeros((4, n), dtype=np.int64)
        self._wide = np.zeros((channels.WIDE, n))
        self._slim = np.zeros((channels.SLIM, n), dtype=np.float32)
        self._slim[channels.DAY :] = np.nan
        self._tails = tails.fresh(channels.CHANNELS, n)
        self._sum = np.empty((2, n), dtype=np.float32)
        self._sum[0], self._sum[1] = USUAL_SUM, USUAL_EXCESS

    @property
    def _parts(self) -> tuple[npt.NDArray[Any], ...]:
        return self._times, self._wide, self._slim, self._tails, self._sum

    def __len__(self) -> int:
        return self._times.shape[1]

    def step(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> Doubles:
        """Surprise float64[n] of values[n] at t_us[n] (UTC microseconds); NaN in, NaN out: no sample of that series.

        Infinite values count as no sample. Raises ValueError for arrays of another length.
        """
        times = np.ascontiguousarray(t_us, dtype=np.int64)
        x = np.asarray(values, dtype=np.float64)
        if x.shape != (len(self),) or times.shape != x.shape:
            raise ValueError(f"times {times.shape} and values {x.shape} must both be of length {len(self)}")
        out = np.full(x.size, np.nan)
        here = np.isfinite(x)
        if here.all():
            for start in range(0, x.size, BLOCK):
                cut = slice(start, start + BLOCK)
                out[cut] = _step(tuple(part[..., cut] for part in self._parts), times[cut], x[cut], self.settings)
            return out
        chosen = np.flatnonzero(here)
        for start in range(0, chosen.size, BLOCK):
            some = chosen[start : start + BLOCK]
            parts = tuple(part[..., some] for part in self._parts)
            out[some] = _step(parts, times[some], x[some], self.settings)
            for part, new in zip(self._parts, parts, strict=True):
                part[..., some] = new
        return out

    def pack(self) -> bytes:
        """The state as bytes, to be read by `unpack`: versioned, with a checksum."""
        body = b"".join(np.ascontiguousarray(part).tobytes() for part in self._parts)
        return HEADER.pack(MAGIC, VERSION, 0, len(self), zlib.crc32(body)) + body

    @classmethod
    def unpack(cls, packed: bytes, settings: ScoreSettings = DEFAULTS) -> Scores:
        """Scores as they were packed. Raises ForeignState for bytes that are not a whole state of this version."""
        if len(packed) < HEADER.size:
            raise ForeignState("too short for a state of scores")
        magic, version, _, n, check = HEADER.unpack_from(packed)
        if magic != MAGIC or version != VERSION:
            raise ForeignState(f"no state of scores of version {VERSION}")
        width = len(packed) - HEADER.size
        if n < 0 or width != n * cls(1).width or zlib.crc32(packed[HEADER.size :]) != check:
            raise ForeignState("the state of scores is damaged")
        scores, at = cls(n, settings), HEADER.size
        for part in scores._parts:
            part[:] = np.frombuffer(packed, dtype=part.dtype, count=part.size, offset=at).reshape(part.shape)
            at += part.nbytes
        return scores

    @property
    def width(self) -> int:
        """Bytes of state of one series."""
        return sum(part.nbytes for part in self._parts) // max(len(self), 1)


def _step(parts: tuple[npt.NDArray[Any], ...], t_us: Longs, x: Doubles, settings: ScoreSettings) -> Doubles:
    times, wide, slims, tail, total = parts
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        count = times[COUNT].copy()
        new = count == 0
        if new.any():
            wide[:, new] = x[new]
            times[FIRST, new] = times[LAST, new] = t_us[new]
        passed = np.maximum(t_us - times[LAST], 0)
        gain, learn = _gains(times, passed, count, settings)
        y = channels.views(wide, slims, x, t_us // channels.HOUR_US, gain, learn, count)
        pace, settle = _paces(count, settings.forget, settings.tail)
        each = tails.surprise(tail, y, 1.0 - settings.tail, settings.narrow, pace, settle)
        together = each[0].copy()
        for row in each[1:]:  # one after another: a sum in another order would have other bits
            together += row
        pace, settle = _paces(count + WORTH, settings.forget / 3, RARE)
        out = tails.once(total[0], total[1], together, RARE, pace, settle).astype(np.float64)
    times[LAST] = t_us
    times[COUNT] += 1
    out[count < settings.warmup] = 0.0
    return out


def _gains(times: Longs, passed: Longs, count: Longs, settings: ScoreSettings) -> tuple[Doubles, Doubles]:
    fresh = 1.0 / (count + 1.0)
    lasting = np.minimum(1.0 / settings.memory_samples, passed / (settings.memory_days * DAY_US))
    age = np.maximum(times[LAST] - times[FIRST], 0) / DAY_US
    visits = np.minimum(settings.visits, 1.0 + age)
    learn = np.clip(passed / (visits * channels.HOUR_US), 1e-4, 0.5)
    return np.maximum(fresh, lasting), learn


def _paces(count: Longs, forget: float, rare: float) -> tuple[Singles, Singles]:
    pace = np.maximum(10.0 / (count + 10.0), forget)
    settle = np.maximum(1.0 / (rare * count + 5.0), 10.0 * forget)
    return pace.astype(np.float32), settle.astype(np.float32)


def surprise(t_us: npt.NDArray[Any], values: npt.NDArray[Any], settings: ScoreSettings = DEFAULTS) -> Doubles:
    """Surprise float64[T] of one series values[T] at t_us[T]: what `Scores(1)` says sample by sample."""
    scores = Scores(1, settings)
    pairs = zip(np.asarray(t_us, dtype=np.int64), np.asarray(values, dtype=np.float64), strict=True)
    return np.array([scores.step(np.array([t]), np.array([value]))[0] for t, value in pairs], dtype=np.float64)


def alarms(s: npt.NDArray[Any], threshold: float = DEFAULTS.threshold, quiet: int = DEFAULTS.quiet) -> npt.NDArray[Any]:
    """Which samples page, bool[T]: those that reach the threshold, but none within `quiet` samples of the last page.

    One episode is one page. `quiet` counts from the page and does not stretch while the episode lasts, so what is
    still wrong after it pages again.
    """
    paging = np.zeros(len(s), dtype=np.bool_)
    free = 0
    for index in np.flatnonzero(np.asarray(s) >= threshold).tolist():
        if index >= free:
            paging[index] = True
            free = index + quiet + 1
    return paging
