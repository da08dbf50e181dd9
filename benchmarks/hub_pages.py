"""Computes the alarms and pages that a hub would have raised from a fleet's peer comparison.

It uses the hub's own cores for the start and end of alarms of a server or service (`thresholds.peers.alarms`) and for
the grouping of alarms into pages, and allows one alarm at a time, as `thresholds.monitoring.peer_alarms` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.page_worth import Crossings, Place, Worth, of_fault
from benchmarks.series import Floats
from benchmarks.server_shapes import METRICS
from benchmarks.servers import Fleet
from cloud_hub.incidents.core import grouping
from cloud_hub.incidents.core.grouping import AlarmSpan
from cloud_hub.thresholds.peers import alarms as peer_rules


@dataclass
class ActiveAlarm:
    """An alarm that began at `step`; `about` is peers or service, `server` the one that it is raised on."""

    where: Place
    about: str
    server: int
    step: int
    end: int = 1 << 40


class PrecomputedEvidence:
    """Precomputed evidence, with the interface of `PeerDetector`."""

    def __init__(self, servers: int) -> None:
        self.servers, self.now = servers, np.zeros(0)

    def step(self, t_us: int, values: Any) -> tuple[Floats, Floats]:
        return self.now[None, : self.servers], self.now[None, self.servers :]


def alarms(fleet: Fleet, crossings: Crossings, parts: tuple[float, float]) -> list[ActiveAlarm]:
    """The alarms that the hub would have raised, in order; `crossings` have the evidence relative to `parts`."""
    servers, services = fleet.plan.servers, int(fleet.group.max()) + 1
    limits, of = [parts[0]] * servers + [parts[1]] * services, fleet.group.tolist()
    told, found = PrecomputedEvidence(servers), list[ActiveAlarm]()
    calm: list[dict[int, int]] = [{} for _ in METRICS]
    stand: list[dict[int, ActiveAlarm]] = [{} for _ in METRICS]
    for step, evidence in _steps(fleet, crossings, parts):
        for number, metric in enumerate(METRICS):
            told.now, values = evidence[number], fleet.values[number, step][None].astype(np.float64)
            left, changes = peer_rules.advance(told, of, np.array([step]), values, limits, calm[number], 0)
            for change in changes:
                if change.state == "cleared":
                    stand[number].pop(change.member).end = step
                elif not _is_active(stand, number, change, fleet):
                    service = change.member >= servers
                    where = Place(metric, int(fleet.group[change.server]), None if service else change.server)
                    about = "service" if service else "peers"
                    one = ActiveAlarm(where=where, about=about, server=change.server, step=step)
                    stand[number][change.member] = one
                    found.append(one)
            calm[number] = {thing: slots for thing, slots in left.items() if thing in stand[number]}
    return found


def _steps(fleet: Fleet, crossings: Crossings, parts: tuple[float, float]) -> Iterator[tuple[int, Floats]]:
    """(step, evidence [metric, server or service]); what was not kept is far below every threshold."""
    servers, services = fleet.plan.servers, int(fleet.group.max()) + 1
    shape = (len(METRICS) * servers, len(METRICS) * services)
    part = np.repeat(parts, shape)
    begins = np.searchsorted(crossings.step, np.arange(fleet.judged_from, len(fleet.t_us) + 1))
    for n, (first, last) in enumerate(pairwise(begins)):
        flat = np.zeros(sum(shape))
        series = crossings.series[first:last]
        flat[series] = crossings.score[first:last] + part[series]
        yield (
            fleet.judged_from + n,
            np.concatenate([flat[: shape[0]].reshape(-1, servers), flat[shape[0] :].reshape(-1, services)], axis=1),
        )


def _is_active(
    stand: list[dict[int, ActiveAlarm]], metric: int, change: peer_rules.PeerAlarmTransition, fleet: Fleet
) -> bool:
    """Whether an alarm is active already: of the server by any metric, of the service, or of this series."""
    service = change.member >= fleet.plan.servers
    mine = fleet.group[change.server]
    for number, some in enumerate(stand):
        for one in some.values():
            same = number == metric and one.server == change.server
            alike = one.about == "service" and fleet.group[one.server] == mine
            if same or (alike if service else one.about == "peers" and one.server == change.server):
                return True
    return False


def worth(fleet: Fleet, crossings: Crossings, parts: tuple[float, float]) -> Worth:
    """Alarms, pages and faults found; devices have no asset path, so the fleet is one site."""
    told = alarms(fleet, crossings, parts)
    period_us = fleet.plan.period_s * 1_000_000
    of = {
        AlarmSpan(device=str(one.server), site="", about=one.where.metric, start_us=one.step * period_us,
              end_us=one.end * period_us, service=str(one.where.service)): one
        for one in told
    }  # fmt: skip
    pages = grouping.group_into_pages(of)
    found: dict[int, float] = {}
    false: Counter[str] = Counter()
    for page in pages:
        ones = [of[stood] for stood in page]
        hits = [
            (n, one)
            for one in ones
            for n, fault in enumerate(fleet.faults)
            if of_fault(fleet, fault, one.step, one.where)
        ]
        for n, one in hits:
            if one.step <= fleet.faults[n].end:
                found.setdefault(n, (one.step - fleet.faults[n].start) * float(fleet.plan.period_s))
        if not hits:
            false[ones[0].where.metric] += 1
    return Worth(0.0, len(told), len(pages), false, found)
