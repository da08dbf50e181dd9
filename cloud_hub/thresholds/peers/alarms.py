"""When evidence beside peers is an alarm, and when that is over. A core: slots of time in, changes out.

A **member** is a server (number n of N) or a service (N + s). One alarm stands for a member at a time: raised when its
evidence is at its threshold or above, cleared after CALM slots with samples in a row that were below it by MARGIN. What
falls silent is not calm. Slots before `live_us` are only learned from.
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
"""Half as rare: evidence that hovers about its threshold is one alarm."""
LEAST = 3
"""Servers of a service: of two nobody can say which one differs."""

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Evidence(Protocol):
    """`peers.PeerDetector` of one metric: (servers[1, N], services[1, S]) after values[1, N]."""

    def step(self, t_us: int, values: npt.NDArray[Any]) -> tuple[Doubles, Doubles]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAlarmTransition:
    """An alarm of a member begins or ends at `t_us`; `server` is the one to tell it on, of a service its strangest."""

    member: int
    state: Literal["raised", "cleared"]
    t_us: int
    evidence: float
    server: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who is seen beside whom: `service` of each of `devices` by number in `names`; `left_out` says why of others."""

    devices: tuple[str, ...]
    service: tuple[int, ...]
    names: tuple[str, ...]
    left_out: Mapping[str, str]

    def members(self) -> list[tuple[str, str]]:
        """(device, "") of each server, then ("", name) of each service."""
        return [(device, "") for device in self.devices] + [("", name) for name in self.names]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTask:
    """A metric of a learning: whom it is judged on, by which evidence; `form` is what the state is made for.

    Each member alarms at its one of `limits`.
    """

    learning: str
    metric: str
    fleet: Fleet
    side: Side
    form: str
    limits: tuple[float, ...] = ()


def fleet_of(tags: Mapping[str, Any], path: str) -> Fleet:
    """Services by the tag at `path` ("tags.service") of each device's tags; by name and number, so always the same."""
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
    """A text or a number is a service's name; all else is none."""
    found = tags
    for part in path.split(".")[1:]:
        found = found.get(part) if isinstance(found, dict) else None
    return str(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else ""


def warmup_start(values: Doubles) -> int:
    """From which slot of `values[T, N]` on a fresh fleet may learn: the first with half of its servers; else T."""
    enough = np.flatnonzero(np.isfinite(values).sum(axis=1) * 2 >= values.shape[1])
    return int(enough[0]) if enough.size else len(values)


def advance(
    peers: Evidence, service: Sequence[int], t_us: Ints, values: Doubles, limits: Sequence[float],
    standing: Mapping[int, int], live_us: int,
) -> tuple[dict[int, int], list[PeerAlarmTransition]]:  # fmt: skip
    """Judge `values[T, N]` of one metric at `t_us[T]`: (calm slots of each active alarm, changes in order).

    `peers` is stepped on; a slot without any sample is none. Each member alarms at its one of `limits`.
    """
    of = np.asarray(service, dtype=np.int64)
    count = int(of.max()) + 1
    asked = np.asarray(limits, dtype=np.float64)
    left, changes = dict(standing), list[PeerAlarmTransition]()
    for time, row in zip(t_us.tolist(), values, strict=True):
        here = np.isfinite(row)
        if not here.any():
            continue
        servers, services = peers.step(time, row[None, :])
        evidence = np.concatenate([servers[0], services[0]])
        if time < live_us:
            continue
        heard = np.concatenate([here, np.bincount(of[here], minlength=count) > 0])
        changes += _ended(left, time, evidence, heard, asked, of)
        for member in np.flatnonzero((evidence >= asked) & (evidence > 0)).tolist():
            if member not in left:
                left[member] = 0
                changes.append(_change(member, "raised", time, evidence, of, here))
    return left, changes


def _ended(
    left: dict[int, int], t_us: int, evidence: Doubles, heard: npt.NDArray[np.bool_], asked: Doubles, of: Ints
) -> list[PeerAlarmTransition]:
    """Count calm slots of what stands; what has been calm for long is over."""
    changes = []
    for member in [member for member in left if heard[member]]:
        left[member] = left[member] + 1 if evidence[member] < max(asked[member] - MARGIN, 1e-9) else 0
        if left[member] >= CALM:
            del left[member]
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
