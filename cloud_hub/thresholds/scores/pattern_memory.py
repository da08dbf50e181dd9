"""Novelty: discounts repeated anomalies of the current episode, and patterns seen before. No clock, no I/O.

The patterns are categories as in adaptive resonance (Carpenter, Grossberg and Rosen, "Fuzzy ART", 1991): the nearest
category matches if it is near enough; otherwise the new pattern becomes a category and replaces the least recently
matched one. Only anomalies are looked up or stored, so sixteen patterns last long at little cost.
"""

from __future__ import annotations

import numpy as np

from cloud_hub.thresholds.scores.state import EMPTY, PEAK, TICK, Columns, Longs, Singles

ORDINARY = np.float32(0.30103)
STRANGE = np.float32(1.7)  # once in fifty samples; lower scores are not looked up
GRAIN = np.float32(16.0)
# log10(1 + k), rounded, so that all math libraries agree.
TIMES = np.round(np.log10(1.0 + np.arange(256)), 6).astype(np.float32)


def novelty(columns: Columns, together: Singles, fade: float) -> Singles:
    """Scores `together`[n] beyond the recent peak, which decays by `fade` a sample; others become ORDINARY."""
    peak = columns.slim[PEAK]
    out: Singles = np.where(together > peak, together, np.minimum(together, ORDINARY))
    np.maximum(peak * np.float32(1.0 - fade), together, out=peak)
    return out


def discount_repeats(columns: Columns, y: Singles, s: Singles, count: Longs, near: float, apart: int) -> None:
    """Lower, in place, the scores s[n] of patterns y[features, n] seen in k episodes before by log10(1 + k).

    `near` is the root mean square distance within which two shapes are one; visits less than `apart` samples after
    one another belong to one episode.
    """
    chosen = np.flatnonzero(s >= STRANGE)
    if not chosen.size:
        return
    shapes, seen, when = columns.shapes, columns.seen, columns.when
    shape = np.clip(np.rint(y[:, chosen] * GRAIN), -127, 127).astype(np.int32)
    empty, now = seen[:, chosen] == EMPTY, count[chosen] >> TICK
    age = (now - when[:, chosen]) & 0xFFFF
    distance = ((shapes[:, :, chosen].astype(np.int32) - shape) ** 2).sum(axis=1)
    distance[empty] = np.iinfo(np.int32).max
    best = distance.argmin(axis=0)
    each = np.arange(chosen.size)
    known = distance[best, each] < match_radius(near, len(y))
    slot = np.where(known, best, np.where(empty, 0x10000, age).argmax(axis=0))
    again = known & (age[slot, each] > apart >> TICK)
    episodes = np.where(known, np.minimum(seen[slot, chosen].astype(np.int32) + again, EMPTY - 1), 0)
    shapes[slot, :, chosen] = np.where(known[:, None], shapes[slot, :, chosen], shape.T)
    seen[slot, chosen] = episodes
    when[slot, chosen] = now & 0xFFFF
    s[chosen] -= TIMES[episodes]


def match_radius(near: float, features: int) -> int:
    """The squared distance, in grains, of two shapes that are just not one."""
    return int(near * near * float(GRAIN) * float(GRAIN) * features)
