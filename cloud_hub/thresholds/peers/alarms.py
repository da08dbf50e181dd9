"""Alarm state machine of the peer comparison: time slots in, raised and cleared alarms out. No clock, no I/O.

A **member** is a server (number n of N) or a service (N + s). A member has one alarm at a time: raised when its
evidence reaches its threshold, cleared after CALM consecutive slots with samples that were below it by MARGIN. Slots
without samples do not count as calm. Slots before `live_us` train the detector and raise no alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from cloud_hub.thresholds.peers.detector import Side

CALM = 20
MARGIN = 0.3
"""Hysteresis: evidence that hovers around its threshold is one alarm."""
LEAST = 3
"""Minimum servers of a service: with two it cannot be decided which one differs."""

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Evidence(Protocol):
    """`peers.PeerDetector` of one metric: (servers[1, N], services[1, S]) after values[1, N]."""

    def step(self, t_us: int, values: npt.NDArray[Any]) -> tuple[Doubles, Doubles]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAlarmTransition:
    """An alarm of a member is raised or cleared at `t_us` on `server`: for a service, the one that deviates most."""

    member: int
    state: Literal["raised", "cleared"]
    t_us: int
    evidence: float
    server: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Groups of the comparison: the `service` of each of `devices`, as index into `names`; `left_out` has reasons."""

    devices: tuple[str, ...]
    service: tuple[int, ...]
    names: tuple[str, ...]
    left_out: Mapping[str, str]

    def members(self) -> list[tuple[str, str]]:
        """(device, "") of each server, then ("", name) of each service."""
        return [(device, "") for device in self.devices] + [("", name) for name in self.names]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTask:
    """The peer comparison of one metric of a learning job; `form` identifies what the stored state was made for.

    `limits` are the thresholds of the members.
    """

    learning: str
    metric: str
    fleet: Fleet
    side: Side
    form: str
    limits: tuple[float, ...] = ()


def fleet_of(tags: Mapping[str, Any], path: str) -> Fleet:
    """Group devices into services by the tag at `path` ("tags.service"), in order of name."""
    named = {device: _name(tags[device], path) for device in sorted(tags)}
    sizes: dict[str, int] = {}
    for name in named.values():
        sizes[name] = sizes.get(name, 0) + 1
    names = tuple(sorted(name for name, size in sizes.items() if name and size >= LEAST))
    number = {name: index for index, name in enumerate(names)}
    left_out = {
        device: f"only {sizes[name]} of service '{name[:100]}': {LEAST} are the least" if name else f"has no {path}"
        for device, name in named.items()
        if name not in number
    }
    kept = tuple(device for device, name in named.items() if name in number)
    return Fleet(kept, tuple(number[named[device]] for device in kept), names, left_out)


def _name(tags: Any, path: str) -> str:
    """The service's name: a string or a number, else ''."""
    found = tags
    for part in path.split(".")[1:]:
        found = found.get(part) if isinstance(found, dict) else None
    return str(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else ""


def warmup_start(values: Doubles) -> int:
    """The first slot of `values[T, N]` that a new fleet learns from: the first with half of its servers, or T."""
    enough = np.flatnonzero(np.isfinite(values).sum(axis=1) * 2 >= values.shape[1])
    return int(enough[0]) if enough.size else len(values)


def advance(
    peers: Evidence, service: Sequence[int], t_us: Ints, values: Doubles, limits: Sequence[float],
    standing: Mapping[int, int], live_us: int,
) -> tuple[dict[int, int], list[PeerAlarmTransition]]:  # fmt: skip
    """Judge `values[T, N]` of one metric at `t_us[T]`: (calm slots of each active alarm, changes in order).

    Updates `peers`; slots without any sample are skipped. `limits` are the thresholds of the members.
    """
    of = np.asarray(service, dtype=np.int64)
    count = int(of.max()) + 1
    thresholds = np.asarray(limits, dtype=np.float64)
    active, changes = dict(standing), list[PeerAlarmTransition]()
    for time, row in zip(t_us.tolist(), values, strict=True):
        here = np.isfinite(row)
        if not here.any():
            continue
        servers, services = peers.step(time, row[None, :])
        evidence = np.concatenate([servers[0], services[0]])
        if time < live_us:
            continue
        present = np.concatenate([here, np.bincount(of[here], minlength=count) > 0])
        changes += _ended(active, time, evidence, present, thresholds, of)
        for member in np.flatnonzero((evidence >= thresholds) & (evidence > 0)).tolist():
            if member not in active:
                active[member] = 0
                changes.append(_change(member, "raised", time, evidence, of, here))
    return active, changes


def _ended(
    active: dict[int, int], t_us: int, evidence: Doubles, present: npt.NDArray[np.bool_], thresholds: Doubles, of: Ints
) -> list[PeerAlarmTransition]:
    """Count calm slots of active alarms and clear those that have been calm for long."""
    changes = []
    for member in [member for member in active if present[member]]:
        active[member] = active[member] + 1 if evidence[member] < max(thresholds[member] - MARGIN, 1e-9) else 0
        if active[member] >= CALM:
            del active[member]
            changes.append(_change(member, "cleared", t_us, evidence, of, np.ones(len(of), dtype=bool)))
    return changes


def _change(
    member: int, state: Literal["raised", "cleared"], t_us: int, evidence: Doubles, of: Ints, here: Any
) -> PeerAlarmTransition:
    server = member
    if member >= len(of):
        members = np.flatnonzero((of == member - len(of)) & here)
        server = int(members[np.argmax(evidence[members])])
    return PeerAlarmTransition(member=member, state=state, t_us=t_us, evidence=float(evidence[member]), server=server)
