"""Which of many servers differs from its peers, lastingly: evidence for calling a person.

The surprise of one series (`scores`) is about one sample. In a fleet of six thousand series something rare happens
every minute, and nobody should be called for it. What a person wants to hear of lasts, and shows on one server while
the others of its service go on, or on a whole service at once. So each value is taken in units of its series' own usual
size (the root of its mean square), and

- **a server** is seen beside the median of its service: daily and weekly course, bursts and lasting changes of the
  load, which all its servers share, are gone from the difference;
- **a service**, as that median, is seen beside its usual value at this hour of working days or weekends.

Besides the lasting means of these residuals (`lasting`) two things of a server's metric are watched that a mean does
not see: how long the very same value has been repeated (a stuck sensor), and how much it jumps from sample to sample.
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
from shared.times import DAY_US, HOUR_US

Longs = npt.NDArray[np.int64]
Side = Literal["high", "low", "both"]
SERVICES_SHARE = 0.15
"""Of the budget. Services are far fewer than servers: with a small share of it each may still speak sooner."""


MOVING = 6.0
"""How much less differences of servers count while their service is where it usually is not."""


def thresholds(false_a_day: float, servers: int, services: int) -> tuple[float, float]:
    """Evidence at which metrics of servers and of services alarm: together falsely `false_a_day` times a day.

    `servers` and `services` count series, so metrics times things. That a metric has several views costs about what
    pages that group alarms save (measured: docs/benchmarks.md). Raises ValueError for numbers not above 0.
    """
    if not (math.isfinite(false_a_day) and min(false_a_day, servers, services) > 0):
        raise ValueError("false alarms a day, servers and services must be finite and above 0")
    shares = (servers / (1 - SERVICES_SHARE), services / SERVICES_SHARE)
    return max(math.log10(shares[0] / false_a_day), 0.0), max(math.log10(shares[1] / false_a_day), 0.0)


class PeerDetector:
    """M metrics of N servers; `service[N]` counts from 0, `sides[M]` say what is of concern ("both" if left out)."""

    STATE = ("_level", "_offset", "_seen", "_run", "_before", "_jump", "_unrest", "_last", "_usual")

    def __init__(
        self, metrics: int, service: npt.NDArray[Any], settings: PeerSettings = STANDARD, sides: Sequence[Side] = ()
    ) -> None:
        self.settings, self.metrics, self.sides = settings, metrics, tuple(sides)
        self._service = np.asarray(service, dtype=np.int64)
        n, services = len(self._service), int(self._service.max()) + 1
        self._members = _members(self._service, services)
        self._high = np.array([side == "high" for side in sides or ["both"] * metrics])[:, None]
        self._level, self._offset, self._seen, self._run = (np.zeros((metrics, n)) for _ in range(4))
        self._before, self._jump, self._unrest = (np.zeros((metrics, n)) for _ in range(3))
        self._last = np.full((metrics, n), np.nan)
        self._usual = np.full((2, 24, metrics, services), np.nan)
        means = _concern(metrics, len(settings.hours), sides)
        both = np.concatenate([means, np.ones((2, metrics, 1), dtype=bool)])
        # A value repeated for less than the shortest mean is nothing, whatever the record.
        shortest = settings.hours[0] * 3600 / settings.period_s
        self._servers = PersistenceDetector(metrics, n, settings, both, (shortest, 1e-9), self._service)
        self._services = PersistenceDetector(metrics, services, settings, means)

    def step(self, t_us: int, values: npt.NDArray[Any]) -> tuple[Doubles, Doubles]:
        """(evidence[M, N] of servers, evidence[M, S] of services) after `values[M, N]` at one time.

        NaN and infinite is no sample. Evidence e: on about one day in 10**e of one metric of one server.
        """
        given = np.asarray(values, dtype=np.float64)
        here = np.isfinite(given)
        x = np.where(here, given, 0.0)
        gain = np.where(here, self.settings.gain(self._seen), 0.0)
        relative = np.where(here, x / self._unit(np.abs(x), gain), np.nan)
        middle = _medians(relative, self._members)
        residual = np.where(here, relative - middle[:, self._service], 0.0)
        self._offset += gain * (residual - self._offset)
        self._watch(x, residual, here, gain)
        self._seen += here
        known = np.isfinite(middle)
        unusual = self._unusual(t_us, middle, known)
        alone = _alone(np.where(here, residual - self._offset, 0.0), unusual[:, self._service])
        servers = self._servers.step(t_us, alone, here, np.stack([self._run, self._unrest]))
        services = self._services.step(t_us, unusual, known, np.empty((0, *middle.shape)))
        return servers, services

    def _unit(self, size: Doubles, gain: Doubles) -> Doubles:
        """The usual size of each series: the root of its mean square, so that a lone error is not a hundred times it.

        A sample moves it by no more than ten times the usual size.
        """
        usual = np.sqrt(self._level)
        size = np.where((self._seen > 50) & (usual > 0), np.minimum(size, 10 * usual), size)
        self._level += gain * (size**2 - self._level)
        return np.maximum(np.sqrt(self._level), 1e-9)

    def pack(self) -> bytes:
        """The whole state, settings, sides and services too. Stepping on after `unpack` gives the same bits."""
        parts = ((self, ""), (self._servers, "servers"), (self._services, "services"))
        arrays = {place + name: getattr(thing, name) for thing, place in parts for name in thing.STATE}
        about = {"metrics": self.metrics, "sides": self.sides, "settings": asdict(self.settings)}
        return peer_state.pack(about, {"service": self._service, **arrays})

    @classmethod
    def unpack(cls, packed: bytes) -> PeerDetector:
        """What `pack` made. Raises ForeignState for bytes that are not one whole state of this version."""
        about, arrays = peer_state.unpack(packed)
        try:
            settings = about["settings"] | {"hours": tuple(about["settings"]["hours"])}
            peers = cls(about["metrics"], arrays["service"], PeerSettings(**settings), about["sides"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidState(f"the state of peers cannot be read: {error}") from None
        for thing, place in ((peers, ""), (peers._servers, "servers"), (peers._services, "services")):
            peer_state.fill(thing, thing.STATE, arrays, place)
        return peers

    def _watch(self, x: Doubles, residual: Doubles, here: Flags, gain: Doubles) -> None:
        """How long the same value, and the mean of two hours of jumps, each at most ten times the usual one."""
        self._run = np.where(here, np.where(x == self._last, self._run + 1, 0.0), self._run)
        self._last = np.where(here, x, self._last)
        jump = np.abs(residual - self._before)
        jump = np.where(here & (self._seen > 50), np.minimum(jump, 10 * self._jump), jump)
        self._jump += gain * (jump - self._jump)
        self._unrest += np.where(here, (jump - self._unrest) * self.settings.period_s / 7200, 0.0)
        self._before = np.where(here, residual, self._before)

    def _unusual(self, t_us: int, middle: Doubles, known: Flags) -> Doubles:
        """Distance from the usual value of this hour; where that is not known yet, from the other kind of day's."""
        weekend, hour = int((t_us // DAY_US + 3) % 7 >= 5), t_us % DAY_US // HOUR_US  # 1970 began on a Thursday
        own, other = self._usual[weekend, hour], self._usual[1 - weekend, hour]
        expected = np.where(np.isfinite(own), own, np.where(np.isfinite(other), other, middle))
        share = self.settings.period_s / 3600 / 3  # a mean over about three visits of the hour
        learned = np.where(np.isfinite(own), own + share * (middle - own), middle)
        self._usual[weekend, hour] = np.where(known, learned, own)
        # Where only much is trouble, coming back from little (memory after a restart) is none.
        expected = np.where(self._high, np.maximum(expected, 1.0), expected)
        return np.where(known, middle - expected, 0.0)


def _alone(residual: Doubles, unusual: Doubles) -> Doubles:
    """What stands out beside the peers now and beside what is usual at this hour, whichever is less.

    Who is merely left behind by peers that move is no trouble; and while they move, differences mean less.
    """
    up, down = np.maximum(residual + np.minimum(unusual, 0), 0), np.minimum(residual + np.maximum(unusual, 0), 0)
    return np.where(residual > 0, up, down) / (1 + MOVING * np.abs(unusual))


def _concern(metrics: int, hours: int, sides: Sequence[Side]) -> Flags:
    """Which means count, [2 * hours, metrics, 1]: upward, then downward."""
    told = list(sides) or ["both"] * metrics
    if len(told) != metrics:
        raise ValueError(f"{len(told)} sides for {metrics} metrics")
    up, down = ([side in ("both", name) for side in told] for name in ("high", "low"))
    return np.array([up] * hours + [down] * hours, dtype=bool)[..., None]


def _members(service: Longs, count: int) -> Longs:
    """Servers of each service, [S, widest]; -1 where there are no more."""
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
