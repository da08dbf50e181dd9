"""Peer comparison: detects servers that persistently differ from their peers.

The anomaly score of one series (`scores`) is about one sample. In a fleet of six thousand series something rare happens
every minute, which should page nobody. A fault that should page persists, and shows on one server while the others of
its service are normal, or on a whole service at once. So each value is taken in units of the usual size of its series
(root mean square), and

- **a server** is compared with the median of its service, which cancels what its servers share: daily and weekly
  seasonality, bursts, and persistent changes of the load;
- **a service**, represented by that median, is compared with its usual value at this hour of working days or weekends.

In addition to the long means of these residuals (`persistence`), there are two features of a server's metric that a
mean does not show: how long the same value has been repeated (a stuck sensor), and how much it jumps between samples.
Pure: no clock, no I/O. Constant work and memory per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.peers import state as peer_state
from cloud_hub.thresholds.peers.persistence import STANDARD, Doubles, Flags, PeerSettings, PersistenceDetector
from cloud_hub.thresholds.scores.state import InvalidState
from shared.durations import DAY_US, HOUR_US

Longs = npt.NDArray[np.int64]
Side = Literal["high", "low", "both"]
SERVICES_SHARE = 0.15
"""Share of the budget for services. There are far fewer of them than servers, so a small share is enough."""


MOVING = 6.0
"""Factor by which deviations of servers count less while their service deviates from its usual value."""


def thresholds(false_a_day: float, servers: int, services: int) -> tuple[float, float]:
    """(evidence threshold of servers, of services) at which all together raise `false_a_day` false alarms a day.

    `servers` and `services` count series, so metrics times members. Several features per metric raise the number of
    pages by about as much as grouping lowers it (measured: docs/benchmarks.md). Raises ValueError for numbers not
    above 0.
    """
    if not (math.isfinite(false_a_day) and min(false_a_day, servers, services) > 0):
        raise ValueError("false alarms a day, servers and services must be finite and above 0")
    shares = (servers / (1 - SERVICES_SHARE), services / SERVICES_SHARE)
    return max(math.log10(shares[0] / false_a_day), 0.0), max(math.log10(shares[1] / false_a_day), 0.0)


class PeerDetector:
    """M metrics of N servers; `service[N]` counts from 0, `sides[M]` are the sides that alarm (default "both")."""

    STATE = ("_level", "_offset", "_seen", "_repeats", "_before", "_jump", "_mean_jump", "_last", "_usual")

    def __init__(
        self, metrics: int, service: npt.NDArray[Any], settings: PeerSettings = STANDARD, sides: Sequence[Side] = ()
    ) -> None:
        self.settings, self.metrics, self.sides = settings, metrics, tuple(sides)
        self._service = np.asarray(service, dtype=np.int64)
        n, services = len(self._service), int(self._service.max()) + 1
        self._members = _members(self._service, services)
        self._high = np.array([side == "high" for side in sides or ["both"] * metrics])[:, None]
        self._level, self._offset, self._seen, self._repeats = (np.zeros((metrics, n)) for _ in range(4))
        self._before, self._jump, self._mean_jump = (np.zeros((metrics, n)) for _ in range(3))
        self._last = np.full((metrics, n), np.nan)
        self._usual = np.full((2, 24, metrics, services), np.nan)
        means = _counted_features(metrics, len(settings.hours), sides)
        both = np.concatenate([means, np.ones((2, metrics, 1), dtype=bool)])
        # A value repeated for less than the span of the shortest mean never counts.
        shortest = settings.hours[0] * 3600 / settings.period_s
        self._servers = PersistenceDetector(metrics, n, settings, both, (shortest, 1e-9), self._service)
        self._services = PersistenceDetector(metrics, services, settings, means)

    def step(self, t_us: int, values: npt.NDArray[Any]) -> tuple[Doubles, Doubles]:
        """(evidence[M, N] of servers, evidence[M, S] of services) after `values[M, N]` at one time.

        NaN and infinity mean no sample. Evidence e is reached on about one day in 10**e of one metric of one server.
        """
        given = np.asarray(values, dtype=np.float64)
        here = np.isfinite(given)
        x = np.where(here, given, 0.0)
        gain = np.where(here, self.settings.gain(self._seen), 0.0)
        relative = np.where(here, x / self._unit(np.abs(x), gain), np.nan)
        middle = _medians(relative, self._members)
        residual = np.where(here, relative - middle[:, self._service], 0.0)
        self._offset += gain * (residual - self._offset)
        self._update_repeats_and_jumps(x, residual, here, gain)
        self._seen += here
        known = np.isfinite(middle)
        unusual = self._hourly_deviation(t_us, middle, known)
        deviation = _own_deviation(np.where(here, residual - self._offset, 0.0), unusual[:, self._service])
        servers = self._servers.step(t_us, deviation, here, np.stack([self._repeats, self._mean_jump]))
        services = self._services.step(t_us, unusual, known, np.empty((0, *middle.shape)))
        return servers, services

    def _unit(self, size: Doubles, gain: Doubles) -> Doubles:
        """The usual size of each series: its root mean square, which limits the weight of a single outlier.

        A sample counts as at most ten times the usual size.
        """
        usual = np.sqrt(self._level)
        size = np.where((self._seen > 50) & (usual > 0), np.minimum(size, 10 * usual), size)
        self._level += gain * (size**2 - self._level)
        return np.maximum(np.sqrt(self._level), 1e-9)

    def pack(self) -> bytes:
        """Serialise the state with settings, sides and services. Continuing after `unpack` gives the same bits."""
        parts = ((self, ""), (self._servers, "servers"), (self._services, "services"))
        arrays = {place + name: getattr(detector, name) for detector, place in parts for name in detector.STATE}
        about = {"metrics": self.metrics, "sides": self.sides, "settings": asdict(self.settings)}
        return peer_state.pack(about, {"service": self._service, **arrays})

    @classmethod
    def unpack(cls, packed: bytes) -> PeerDetector:
        """Restore a detector from `pack`. Raises InvalidState unless the bytes are a complete state of this version."""
        about, arrays = peer_state.unpack(packed)
        try:
            settings = about["settings"] | {"hours": tuple(about["settings"]["hours"])}
            peers = cls(about["metrics"], arrays["service"], PeerSettings(**settings), about["sides"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidState(f"the state of peers cannot be read: {error}") from None
        for detector, place in ((peers, ""), (peers._servers, "servers"), (peers._services, "services")):
            peer_state.fill(detector, detector.STATE, arrays, place)
        return peers

    def _update_repeats_and_jumps(self, x: Doubles, residual: Doubles, here: Flags, gain: Doubles) -> None:
        """Update the duration of repeated values, and the two-hour mean of jumps, capped at ten times the usual."""
        self._repeats = np.where(here, np.where(x == self._last, self._repeats + 1, 0.0), self._repeats)
        self._last = np.where(here, x, self._last)
        jump = np.abs(residual - self._before)
        jump = np.where(here & (self._seen > 50), np.minimum(jump, 10 * self._jump), jump)
        self._jump += gain * (jump - self._jump)
        self._mean_jump += np.where(here, (jump - self._mean_jump) * self.settings.period_s / 7200, 0.0)
        self._before = np.where(here, residual, self._before)

    def _hourly_deviation(self, t_us: int, middle: Doubles, known: Flags) -> Doubles:
        """Distance from the usual value of this hour, or of the other kind of day if this one has no value yet."""
        weekend, hour = int((t_us // DAY_US + 3) % 7 >= 5), t_us % DAY_US // HOUR_US  # 1970 began on a Thursday
        own, other = self._usual[weekend, hour], self._usual[1 - weekend, hour]
        expected = np.where(np.isfinite(own), own, np.where(np.isfinite(other), other, middle))
        share = self.settings.period_s / 3600 / 3  # a mean over about three visits of the hour
        learned = np.where(np.isfinite(own), own + share * (middle - own), middle)
        self._usual[weekend, hour] = np.where(known, learned, own)
        # If only high values alarm, a return from low ones (memory after a restart) is not a fault.
        expected = np.where(self._high, np.maximum(expected, 1.0), expected)
        return np.where(known, middle - expected, 0.0)


def _own_deviation(residual: Doubles, unusual: Doubles) -> Doubles:
    """The smaller of the deviation from the peers now and the deviation from the usual value at this hour.

    A server that stays constant while its peers change is not faulty, and deviations count less during such a change.
    """
    up, down = np.maximum(residual + np.minimum(unusual, 0), 0), np.minimum(residual + np.maximum(unusual, 0), 0)
    return np.where(residual > 0, up, down) / (1 + MOVING * np.abs(unusual))


def _counted_features(metrics: int, hours: int, sides: Sequence[Side]) -> Flags:
    """A mask of the means that count, [2 * hours, metrics, 1]: upward, then downward."""
    given = list(sides) or ["both"] * metrics
    if len(given) != metrics:
        raise ValueError(f"{len(given)} sides for {metrics} metrics")
    up, down = ([side in ("both", name) for side in given] for name in ("high", "low"))
    return np.array([up] * hours + [down] * hours, dtype=bool)[..., None]


def _members(service: Longs, count: int) -> Longs:
    """Servers of each service, [S, size of the largest], padded with -1."""
    sizes = np.bincount(service, minlength=count)
    found = np.full((count, int(sizes.max())), -1)
    for name in range(count):
        found[name, : sizes[name]] = np.flatnonzero(service == name)
    return found


def _medians(values: Doubles, members: Longs) -> Doubles:
    """Median [M, S] of the finite values of each service (the lower of two); NaN where there is none."""
    grouped = np.where(members >= 0, values[:, members], np.nan)
    grouped.sort(axis=2)  # NaN to the end
    middle = np.maximum((np.isfinite(grouped).sum(axis=2) - 1) // 2, 0)
    return np.asarray(np.take_along_axis(grouped, middle[..., None], axis=2)[..., 0])
