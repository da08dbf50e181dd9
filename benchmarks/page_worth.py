"""Evaluates alarms of a simulated fleet: pages by a common rule, real and false, and faults found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.series import Floats, Ints
from benchmarks.server_faults import Fault
from benchmarks.server_shapes import METRICS
from benchmarks.servers import Fleet

REFRACTORY = 200
JOIN_S = 7200
TOLERANCE_S = 3600
SHIFT_S = 43_200
GOAL = 2.0
"""Pages per shift; half of them may be false, since faults need pages too."""


@dataclass(frozen=True, slots=True)
class Crossings:
    """What came near an alarm, in order of time: `score` of `series` at `step`."""

    step: Ints
    series: Ints
    score: Floats


@dataclass(frozen=True, slots=True)
class Worth:
    """Result of a threshold; `false` pages by the metric of their first alarm, faults `found` with the delay in s."""

    threshold: float
    alarms: int
    pages: int
    false: Counter[str]
    found: dict[int, float]


def raised(crossings: Crossings, threshold: float) -> list[tuple[int, int]]:
    """Alarms as (step, series) in order of time, each series under the refractory filter."""
    keep = crossings.score >= threshold
    free: dict[int, int] = {}
    found = []
    for step, series in zip(crossings.step[keep].tolist(), crossings.series[keep].tolist(), strict=True):
        if step >= free.get(series, 0):
            found.append((step, series))
            free[series] = step + REFRACTORY
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where an alarm is: its metric, its service, and the server, or None for the service as a whole."""

    metric: str
    service: int
    server: int | None


def place(fleet: Fleet, series: int) -> Place:
    """Series are metric by metric, first those of servers, then those of services."""
    servers, services = fleet.plan.servers, int(fleet.group.max()) + 1
    if series < len(METRICS) * servers:
        server = series % servers
        return Place(METRICS[series // servers], int(fleet.group[server]), server)
    rest = series - len(METRICS) * servers
    return Place(METRICS[rest // services], rest % services, None)


def paged(fleet: Fleet, told: Sequence[tuple[int, int]]) -> list[list[tuple[int, Place]]]:
    """The alarms of each page: within two hours of a service's last alarm, and a shift of its first, it is one call."""
    period_s, pages = fleet.plan.period_s, list[list[tuple[int, Place]]]()
    latest: dict[int, list[tuple[int, Place]]] = {}
    for step, series in told:
        where = place(fleet, series)
        page = latest.get(where.service)
        if page is None or step - page[-1][0] > JOIN_S / period_s or step - page[0][0] > SHIFT_S / period_s:
            page = latest[where.service] = []
            pages.append(page)
        page.append((step, where))
    return pages


def worth(fleet: Fleet, crossings: Crossings, threshold: float) -> Worth:
    """Alarms, pages and faults found at a threshold."""
    told = raised(crossings, threshold)
    pages = paged(fleet, told)
    found: dict[int, float] = {}
    false: Counter[str] = Counter()
    for page in pages:
        hits = [
            (n, step)
            for step, where in page
            for n, fault in enumerate(fleet.faults)
            if of_fault(fleet, fault, step, where)
        ]
        for n, step in hits:
            if step <= fleet.faults[n].end:
                found.setdefault(n, (step - fleet.faults[n].start) * float(fleet.plan.period_s))
        if not hits:
            false[page[0][1].metric] += 1
    return Worth(threshold, len(told), len(pages), false, found)


def of_fault(fleet: Fleet, fault: Fault, step: int, where: Place) -> bool:
    """Whether an alarm is of a fault, or of its aftermath."""
    if not fault.start <= step <= fault.end + TOLERANCE_S // fleet.plan.period_s:
        return False
    if where.server is not None:
        return where.server in fault.servers
    return len(fault.servers) > 1 and int(fleet.group[fault.servers[0]]) == where.service


def best(fleet: Fleet, crossings: Crossings) -> Worth:
    """The lowest threshold with at most GOAL pages a shift, by bisection of the ranks; the highest where none has."""
    most = GOAL * (len(fleet.t_us) - fleet.judged_from) * fleet.plan.period_s / SHIFT_S
    ranked = np.unique(crossings.score)[::-1] if crossings.score.size else np.array([np.inf])
    kept, low, high = worth(fleet, crossings, float(ranked[0])), 0, len(ranked) - 1
    while low < high:
        at = (low + high + 1) // 2 if high - low < 8 else max(low + 1, int(np.sqrt((low + 1) * high)))
        tried = worth(fleet, crossings, float(ranked[at]))
        if tried.pages <= most:
            kept, low = tried, at
        else:
            high = at - 1
    return kept
