"""The count that a forecast is worth, at a price for violations. Pure.

An instance costs one unit a minute, while it boots too. A minute whose demand exceeds the capacity costs `worth`
units. What is removed now cannot serve again before a boot time. So against the present count, n instances are worth

    more:  worth * hold * (P_later(n) - P_later(now)) - (n - now) * (hold + boot)
    fewer: (now - n) * hold - worth * (boot * (P_soon(now) - P_soon(n)) + hold * (P_later(now) - P_later(n)))

where P(n) is the probability that n instances carry the demand, and the n of the highest worth is wanted. The share of
demand that is provided for follows from the price, and differs from hour to hour: certain demand is provided for in
full, and a rare peak only where it costs little. (A newsvendor with a lead time: Arrow, Harris, Marschak 1951.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cloud_hub.autoscale.core.forecast import PROBABILITIES
from cloud_hub.autoscale.core.hpa import ROUNDING
from cloud_hub.autoscale.core.state import Outlook


def probability(quantiles: Sequence[float], demand: float) -> float:
    """The probability that the demand is at most `demand`; `quantiles` are at PROBABILITIES."""
    if demand >= quantiles[-1]:
        return 1.0
    return 0.0 if demand < quantiles[0] else float(np.interp(demand, quantiles, PROBABILITIES))


def worthwhile(outlook: Outlook, now: int, per_instance: float, boot_s: float, worth: float, maximum: int) -> int:
    """The count of the highest worth, at most `maximum`; `now` if none is better."""
    boot, hold = boot_s / 60, outlook.hold_s / 60
    capacities = {math.ceil(q / per_instance * (1 - ROUNDING)) for q in (*outlook.soon, *outlook.later)}
    counts = np.array(sorted({min(max(n, 0), maximum) for n in capacities} | {min(now, maximum)}), dtype=np.float64)
    later, soon = (_carried(q, counts * per_instance) for q in (outlook.later, outlook.soon))
    later_now, soon_now = (probability(q, now * per_instance) for q in (outlook.later, outlook.soon))
    more = worth * hold * (later - later_now) - (counts - now) * (hold + boot)
    fewer = (now - counts) * hold - worth * (boot * (soon_now - soon) + hold * (later_now - later))
    gain = np.where(counts >= now, more, fewer)
    best = int(np.argmax(gain))
    return int(counts[best]) if gain[best] > 1e-9 else min(now, maximum)


def _carried(quantiles: Sequence[float], demands: np.typing.NDArray[np.float64]) -> np.typing.NDArray[np.float64]:
    found = np.interp(demands, quantiles, PROBABILITIES)
    return np.where(demands >= quantiles[-1], 1.0, np.where(demands < quantiles[0], 0.0, found))
