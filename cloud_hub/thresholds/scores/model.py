"""The anomaly score of samples: one number for every series, so that one threshold serves a whole fleet.

The anomaly score s is -log10 of the probability of a sample: normal samples of a series reach s about once in 10**s
samples, up to about 4. Beyond 4, long tails reach it more often, and `episodes` measures how rare that is. The score is
computed with constant work and memory per sample: seventeen features of the series (`features`), the rarity of each by
its own tails (`tails`), and their sum, as Fisher combined tests (1925), because a fault shows a little in many features
before it shows a lot in one. Only novelty counts (`pattern_memory`), and its rarity is calibrated again, because the
features depend on one another. The score is independent of the bands that are shown and pushed to devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.scores import features, pattern_memory, tails
from cloud_hub.thresholds.scores import state as score_columns
from cloud_hub.thresholds.scores.state import COUNT, FIRST, LAST, Columns, Doubles, InvalidState, Longs, Singles
from shared.durations import DAY_US, HOUR_US

if TYPE_CHECKING:
    from cloud_hub.thresholds.scores.compiled.step import Plan

__all__ = ["DEFAULTS", "InvalidState", "ScoreModel", "ScoreSettings", "exceedances", "score_series"]

LARGEST = 1e30  # larger values are taken as missing

# Sum of seventeen feature scores of normal data: its median, and the increase that is a decade rarer (measured).
USUAL_SUM, DECADE = np.float32(12.8), np.float32(4.8)
NOVELTY_RARE, NOVELTY_WORTH, NOVELTY_LEAST = 0.002, 10_000, (score_columns.NOVELTY_START, 0.2)
GAP_RARE, GAP_LEAST = 0.01, (score_columns.GAP_START, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """Settings of the anomaly score.

    The defaults are round numbers with a reason each and were not tuned on labels. They are not independent of labels
    either: the features, novelty, `near`, `echo`, `narrow` and `quiet` were kept because they improved the result on
    the development half of NAB, and the scale of s was set on its samples outside of windows.

    `memory_samples` and `memory_days`: the slow level and the scales remember at least both. `visits`: an hour's usual
    value is the mean of about so many visits. `tail`: share of numbers beyond each side that count as the tail.
    `narrow`: least mean excess of a tail in half-widths of its body; 1 is that of an exponential about its middle.
    `forget`: share of a new number in the tails once settled: about three days at five minutes. `echo`: samples after
    which the peak of an episode has faded. `near`: distance, in logarithms of sizes, within which two shapes are one:
    each feature within a factor of 1.6. `warmup`: samples before a series is scored. `threshold`: the score that
    pages: once in a thousand samples. `quiet`: samples after a page without another one; it is the longest span of the
    features, which still contain the same episode.
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


class ScoreModel:
    """Scores n series, sample by sample. The same data give the same scores bit for bit."""

    def __init__(self, n: int, settings: ScoreSettings = DEFAULTS, *, fast: bool = True) -> None:
        """`fast` uses numba's machine code if it is installed; the scores are the same."""
        self.settings = settings
        self._state = score_columns.Blocks(n)
        self._fast = fast

    def __len__(self) -> int:
        return self._state.n

    def step(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> Doubles:
        """Scores float64[n] of values[n] at t_us[n] (UTC microseconds). NaN in, NaN out: no sample of that series.

        An infinite value, or one beyond 1e30, counts as no sample. Raises ValueError for arrays of another length.
        """
        times, x = self._arrays(t_us, values)
        out = np.full(x.size, np.nan)
        if self._plan is not None:
            _compiled().step(self._state.flat, times, x, self._plan, out)
            return out
        for cut, block in self._state.cut():
            self._block(block, times[cut], x[cut], out[cut])
        return out

    def _block(self, block: Columns, times: Longs, x: Doubles, out: Doubles) -> None:
        """Score one sample of each series of a block into `out`."""
        here = np.abs(x) <= LARGEST  # NaN is not
        chosen = slice(None) if here.all() else np.flatnonzero(here)
        part = block.take(chosen)
        with np.errstate(over="ignore"):  # overflows are clipped
            out[chosen] = _step(part, times[chosen], x[chosen], self.settings)
        block.put(chosen, part)

    def follow(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> Doubles:
        """Scores float64[T] of values[T] at t_us[T] of a single series: as `step` for each sample, but faster.

        Raises ValueError unless there is one series, and for arrays that do not fit together.
        """
        times, x = _pair(t_us, values)
        if len(self) != 1 or x.ndim != 1:
            raise ValueError(f"{len(self)} series cannot follow values of shape {x.shape}: one series, one dimension")
        out = np.full(x.size, np.nan)
        if self._plan is not None:
            _compiled().run(self._state.flat, times, x, self._plan, out)
        else:
            for at in range(x.size):
                out[at] = self.step(times[at : at + 1], x[at : at + 1])[0]
        return out

    def restart(self, chosen: npt.NDArray[np.intp]) -> None:
        """Reset the chosen series, for example after a change of sensor or unit.

        Otherwise values in a unit a thousand times smaller raise no alarm for some 10,000 samples.
        """
        self._state.restart(chosen)

    def silence(self, t_us: npt.NDArray[Any]) -> Doubles:
        """Scores float64[n] of the absence of samples since the last one until t_us[n]; changes nothing."""
        times, _ = self._arrays(t_us, np.zeros(len(self)))
        state = self._state.joined("times")
        gap = self._state.joined("slim")[score_columns.USUAL_GAP : score_columns.GAP_EXCESS + 1]
        passed = np.maximum(times - state[LAST], 0)
        out = _gap(gap, passed, np.zeros(len(self), dtype=np.float32), state[COUNT])
        return np.where(state[COUNT] < max(self.settings.warmup, 1), 0.0, out).astype(np.float64)

    def _arrays(self, t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[Longs, Doubles]:
        times, x = _pair(t_us, values)
        if x.shape != (len(self),):
            raise ValueError(f"times and values of shape {x.shape} for {len(self)} series")
        return times, x

    def pack(self) -> bytes:
        """Serialise the state for `unpack`: versioned, with a checksum."""
        return score_columns.pack(self._state)

    @classmethod
    def unpack(cls, packed: bytes, settings: ScoreSettings = DEFAULTS) -> ScoreModel:
        """Restore a model from `pack`. Raises InvalidState for bytes that are not a complete state of this version."""
        scores = cls(0, settings)
        scores._state = score_columns.unpack(packed)
        return scores

    @cached_property
    def _plan(self) -> Plan | None:
        """The settings for the compiled step; None where NumPy computes. The first sample asks for it."""
        return _plan(self.settings) if self._fast and _compiled() else None

    @property
    def nbytes(self) -> int:
        """Bytes of state of all series together."""
        return self._state.flat.nbytes


def _pair(t_us: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[Longs, Doubles]:
    times = np.asarray(t_us, dtype=np.int64, order="C")
    x = np.asarray(values, dtype=np.float64, order="C")
    if x.shape != times.shape:
        raise ValueError(f"times of shape {times.shape} and values of shape {x.shape} do not fit together")
    return times, x


@cache
def _compiled() -> Any:
    """The module of the compiled step, or None without numba.

    It is imported for the first sample and not with this module: numba takes 0.3 s and 70 MB, which a process that
    scores nothing saves.
    """
    from cloud_hub.thresholds.scores.compiled import jit, step  # noqa: PLC0415

    return step if jit.AVAILABLE else None


def _plan(settings: ScoreSettings) -> Plan:
    single = np.float32
    plan: Plan = _compiled().Plan(
        largest=LARGEST,
        memory_samples=settings.memory_samples,
        memory_days=settings.memory_days,
        visits=settings.visits,
        forget=settings.forget,
        tail=settings.tail,
        share=single(settings.tail),
        body=single(-np.log10(settings.tail)),
        narrow=single(settings.narrow),
        warmup=settings.warmup,
        usual_sum=USUAL_SUM,
        decade=DECADE,
        fade=single(1.0 - 1.0 / settings.echo),
        reach=pattern_memory.match_radius(settings.near, score_columns.FEATURES),
        quiet=settings.quiet,
        novelty_worth=NOVELTY_WORTH,
        novelty_rare=NOVELTY_RARE,
        novelty_share=single(NOVELTY_RARE),
        novelty_body=single(-np.log10(NOVELTY_RARE)),
        novelty_least=(single(NOVELTY_LEAST[0]), single(NOVELTY_LEAST[1])),
        gap_rare=GAP_RARE,
        gap_share=single(GAP_RARE),
        gap_body=single(-np.log10(GAP_RARE)),
        gap_least=(single(GAP_LEAST[0]), single(GAP_LEAST[1])),
    )
    return plan


def _step(state: Columns, t_us: Longs, x: Doubles, settings: ScoreSettings) -> Doubles:
    """Score one sample of each series and update `state`."""
    times = state.times
    count = times[COUNT].copy()
    new = count == 0
    if new.any():
        state.wide[:, new] = x[new]
        times[FIRST, new] = times[LAST, new] = t_us[new]
    passed = np.maximum(t_us - times[LAST], 0)  # the clock was set back: no time has passed
    gain, learn = _gains(times, passed, count, settings)
    x = features.clip_outliers(state, x)
    y = features.compute_features(state, x, t_us // HOUR_US, gain, learn, count)
    pace, settle = tails.paces(count, settings.forget, settings.tail)
    each = tails.two_sided(state.tails, y, settings.tail, settings.narrow, pace, settle)
    s = _novelty(state, y, each, count, settings)
    gap = state.slim[score_columns.USUAL_GAP : score_columns.GAP_EXCESS + 1]
    s = np.maximum(s, _gap(gap, passed, gain.astype(np.float32), count))
    times[LAST] = t_us
    times[COUNT] += 1
    return np.where(count < settings.warmup, 0.0, s).astype(np.float64)


def _gains(times: Longs, passed: Longs, count: Longs, settings: ScoreSettings) -> tuple[Doubles, Doubles]:
    """The slow memory's share of this sample, and an hour's usual value's."""
    slow = np.minimum(1.0 / settings.memory_samples, passed / (settings.memory_days * DAY_US))
    days = np.maximum(times[LAST] - times[FIRST], 0) / DAY_US
    learn = passed / (np.minimum(settings.visits, 1.0 + days) * HOUR_US)
    return np.maximum(1.0 / (count + 1.0), slow), np.clip(learn, 1e-4, 0.5)


def _novelty(state: Columns, y: Singles, each: Singles, count: Longs, settings: ScoreSettings) -> Singles:
    total = each[0].copy()
    for row in each[1:]:  # one after another: another order has other bits
        total += row
    # A new series stores neither episodes nor shapes.
    awake = count >= settings.warmup
    together = np.where(awake, (total - USUAL_SUM) / DECADE + tails.HALF, np.float32(0.0))
    alone = np.where(awake, each[features.NEXT], np.float32(0.0))
    s = np.maximum(pattern_memory.novelty(state, together, 1.0 / settings.echo), alone)
    pattern_memory.discount_repeats(state, y, s, count, settings.near, settings.quiet)
    quantile, excess = state.slim[score_columns.NOVELTY], state.slim[score_columns.NOVELTY_EXCESS]
    pace, settle = tails.paces(10 * (count + NOVELTY_WORTH), settings.forget, NOVELTY_RARE)
    return tails.one_sided(quantile, excess, s, NOVELTY_RARE, NOVELTY_LEAST, tails.TEN * pace, settle)


def _gap(gap: Singles, passed: Longs, gain: Singles, count: Longs) -> Singles:
    """Score float32[n] of the gap since the last sample; updates the usual gap, its quantile and its excess."""
    root = np.sqrt(np.minimum(passed, 366 * DAY_US).astype(np.float64)).astype(np.float32)
    first = np.where(count == 1, features.ONE, gain)  # the first interval is the usual one until there are more
    gap[0] += first * (root - gap[0])
    times = np.clip(root / (gap[0] + features.TINY), features.ONE, features.FAR)
    pace, settle = tails.paces(count, 0.001, GAP_RARE)
    return tails.one_sided(gap[1], gap[2], features.ln(times * times), GAP_RARE, GAP_LEAST, pace, settle)


def score_series(t_us: npt.NDArray[Any], values: npt.NDArray[Any], settings: ScoreSettings = DEFAULTS) -> Doubles:
    """Scores float64[T] of one series values[T] at t_us[T], in order of arrival; NaN where there is no sample."""
    return ScoreModel(1, settings).follow(t_us, values)


def exceedances(
    s: npt.NDArray[Any], threshold: float = DEFAULTS.threshold, quiet: int = DEFAULTS.quiet
) -> npt.NDArray[np.bool_]:
    """The samples that page, bool[T]: those that reach the threshold, but none within `quiet` samples after a page.

    `quiet` counts from the page and is not extended by the episode, so an anomaly that is still new then pages again.
    """
    paging, free = np.zeros(len(s), dtype=np.bool_), 0
    for index in np.flatnonzero(np.asarray(s) >= threshold).tolist():
        if index >= free:
            paging[index], free = True, index + quiet + 1
    return paging
