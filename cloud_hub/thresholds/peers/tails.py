"""Tail calibration: how rare a daily peak is in a group of similar members, by a common tail corrected per group.

Servers that run jobs start and end them at slightly different times every day, so their peaks vary more than those of
servers without jobs. With one common tail the former alarm too often and the latter too late. A group's own peaks alone
are too few; so each group starts with the common tail, and its own peaks count by their number (empirical Bayes:
Robbins 1956; a common curve with a correction per site is the index flood of Hosking and Wallis 1997). Pure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

TRUST = 10.0
"""Number of peaks beyond `near` at which a group's own tail and the common tail have equal weight."""


def fit_tails(
    peaks: npt.NDArray[np.float32], group: npt.NDArray[np.int64], near: float, far: float
) -> tuple[Doubles, Doubles]:
    """(base, slope)[V, M, G] of peaks[D, V, M, K], NaN where there is none: evidence is base + slope * log10(peak).

    `near` and `far` are the shares of all peaks between which the slope of the common tail is estimated. Evidence e
    means one day in 10**e.
    """
    start, slope = _common(peaks, near, far)
    width = np.log10(near / far) / slope
    beyond = np.log10(np.maximum(peaks, 1e-9)) - start
    over = beyond > 0
    # Peaks are capped at the rarest of the common tail, so that a fault does not desensitise its group.
    many, size, there = (
        _by_group(part, group) for part in (over, np.where(over, np.minimum(beyond, width), 0.0), np.isfinite(peaks))
    )
    share = many.sum(axis=2, keepdims=True) / np.maximum(there.sum(axis=2, keepdims=True), 1)
    mean = size.sum(axis=2, keepdims=True) / np.maximum(many.sum(axis=2, keepdims=True), 1)
    often = (many + TRUST) / (there * share + TRUST)
    heavy = (size / np.maximum(mean, 1e-9) + TRUST) / (many + TRUST)
    own = np.clip(slope / heavy, 1.0, 10.0)
    return np.asarray(-np.log10(near * often) - own * start), np.asarray(own)


def _common(peaks: npt.NDArray[np.float32], near: float, far: float) -> tuple[Doubles, Doubles]:
    """(log10 of the start of the common tail, its slope), [V, M, 1] each."""
    pooled = np.moveaxis(peaks, 0, 2).reshape(*peaks.shape[1:3], -1)
    low, high = np.nanquantile(pooled, [1 - near, 1 - far], axis=2)
    high = np.maximum(high, 1.0)  # peaks below the record are not evidence
    steep = np.log10(near / far)
    slope = np.clip(steep / np.log10(np.maximum(high / np.maximum(low, 0.5), 1.0001)), 1.0, 10.0)
    return np.asarray(np.log10(high) - steep / slope)[..., None], np.asarray(slope)[..., None]


def _by_group(part: npt.NDArray[np.generic], group: npt.NDArray[np.int64]) -> Doubles:
    """Sums over the days of part[D, V, M, K] and over the members of each group, [V, M, G]."""
    member = np.zeros((len(group), int(group.max()) + 1))
    member[np.arange(len(group)), group] = 1.0
    return np.asarray(part.sum(axis=0) @ member)
