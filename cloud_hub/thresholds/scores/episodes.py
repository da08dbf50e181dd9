"""Rarity of episodes of a series: the number that live monitoring compares with its alarm budget. Pure.

Up to KNOWN the anomaly score is calibrated on all measured data. Beyond KNOWN it is not: independent noise with long
tails (log-normal, Student t) reaches 5.86 up to a hundred times as often as once in 10**5.86 samples. A budget counts
episodes, and a series' own episodes show how heavy its tails are. So beyond KNOWN, episodes are judged, not samples:

1. Evidence is a leaky sum of scores above LEAST: persistent or repeated anomalies weigh more than one sample.
2. Exceedances within `quiet` samples of one another are one episode; its peak of evidence, capped at CLIP times the
   usual, moves the mean peak of the series' episodes, which begins at USUAL and is worth TRUST episodes.
3. Peaks in units of that mean are taken as exponential (peaks over threshold, declustered: Davison and Smith, 1990).

KNOWN and DECADES were fitted to the development half of NAB outside of labelled windows; KEPT was chosen on simulated
noise of seven kinds. `benchmarks.fleet_budget` measures both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST, KEPT = 2.0, 0.8
"""Score that adds nothing to the evidence, and the share of the evidence kept from sample to sample."""
BEGIN = 0.3
"""Evidence above which an episode begins or goes on."""
USUAL, TRUST, CLIP, MEMORY = 0.7, 10.0, 10.0, 100.0
KNOWN, DECADES = 3.2, 0.55
"""An episode whose peak is the usual one above BEGIN begins about once in 10**KNOWN samples; each further usual peak
makes it DECADES decades rarer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """Episode state of a series: current evidence, current episode, and the mean peak of `count` episodes.

    `left` is how many samples an episode still lasts without another exceedance; 0 between episodes.
    """

    evidence: float = 0.0
    peak: float = 0.0
    left: int = 0
    count: float = TRUST
    mean: float = USUAL

    def ended(self) -> Episodes:
        """The state after the current episode has ended and its peak has updated the mean."""
        count = min(self.count + 1.0, MEMORY)
        mean = self.mean + (min(self.peak, CLIP * self.mean) - self.mean) / count
        return Episodes(evidence=self.evidence, count=count, mean=mean)


def rarity(before: Episodes, scores: npt.NDArray[np.float64], quiet: int) -> tuple[Episodes, npt.NDArray[np.float64]]:
    """The state after these scores of a series, and the rarity of each sample in decades of samples.

    A rarity r begins an episode about once in 10**r ordinary samples. NaN scores are ignored.
    """
    out, now, last = np.minimum(np.nan_to_num(scores), KNOWN), before, -1
    for index in np.flatnonzero(scores > LEAST).tolist():
        now = _passed(now, index - last - 1)
        evidence = now.evidence * KEPT + float(scores[index]) - LEAST
        above, last = max(evidence - BEGIN, 0.0), index
        if above >= now.mean:
            out[index] = KNOWN + DECADES * (above / now.mean - 1.0)
        left = quiet if above else max(now.left - 1, 0)
        now = Episodes(evidence=evidence, peak=max(now.peak, above), left=left, count=now.count, mean=now.mean)
    return _passed(now, len(scores) - last - 1), out


def _passed(now: Episodes, samples: int) -> Episodes:
    """The state after so many samples without an exceedance."""
    if not samples:
        return now
    evidence, left = now.evidence * KEPT**samples, max(now.left - samples, 0)
    if now.left and not left:
        now = now.ended()
    return Episodes(evidence=evidence, peak=now.peak, left=left, count=now.count, mean=now.mean)
