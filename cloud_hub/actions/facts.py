"""Reads from the database what the policy needs to know about a request."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub.actions.catalogue import Catalogue
from cloud_hub.actions.core.policy import (
    Facts,
    HourlyHistory,
    Policy,
    PolicyRequest,
    RecentAction,
    Rule,
    SensitiveSequence,
    is_concerned,
    matches,
)  # fmt: skip
from cloud_hub.actions.states import CARRIED_OUT
from cloud_hub.database import scopes
from cloud_hub.database.tables import Action, Device, Suppression
from cloud_hub.errors import HubError
from shared.durations import DAY_US, HOUR_US

HISTORY_HOURS = 168
RECENT_ROWS = 2000
SITE_PARTS = 2
"""A site is the first names of an asset path: enterprise and site."""


def site_of(path: str) -> str:
    """The site of an asset path, '' without one."""
    return "/".join(path.split("/")[:SITE_PARTS])


def gather(
    session: Session, catalogue: Catalogue, policy: Policy, request: PolicyRequest, action_id: str, uncalled: str,
    now_us: int,
) -> Facts:  # fmt: skip
    """The facts about a request; the action itself does not count. Leaves out the hourly history."""
    site = site_of(request.paths[0]) if request.paths else ""
    operation = operation_of(request.details)
    carried_out = (Action.id != action_id, col(Action.state).in_(CARRIED_OUT))
    same = (Action.device == request.device, Action.type == request.type, Action.operation == operation)
    last = session.exec(select(func.max(Action.started_us)).where(*carried_out, *same)).one()
    budgets = [rule for rule in policy.rules if rule.budget is not None]
    return Facts(
        uncalled=uncalled, last_us=last, site=site,
        used={rule.name: _used(session, rule, request, site, carried_out, now_us) for rule in budgets},
        recent=_recent(session, catalogue, policy.sequences, request, action_id, now_us),
    )  # fmt: skip


def operation_of(details: Sequence[str]) -> str:
    """The part of the first detail by which cooldowns count, such as the verb of a command."""
    return details[0].partition("/")[0] if details else ""


def _used(
    session: Session, rule: Rule, request: PolicyRequest, site: str, carried_out: Any, now_us: int
) -> int:  # fmt: skip
    if rule.budget is None or not is_concerned(rule, request):
        return 0
    query = select(func.count()).where(*carried_out, Action.rule == rule.name, Action.started_us > now_us - DAY_US)
    if rule.budget.of == "device":
        query = query.where(Action.device == request.device)
    elif rule.budget.of == "site":
        devices: Any = select(Device.id).where(scopes.scope_condition([site]))
        query = query.where(col(Action.device).in_(devices) if site else Action.device == request.device)
    return session.exec(query).one()


def _recent(
    session: Session, catalogue: Catalogue, sequences: Sequence[SensitiveSequence], request: PolicyRequest,
    action_id: str, now_us: int,
) -> list[RecentAction]:  # fmt: skip
    """What could begin a sequence that this request would complete."""
    concerned = [one for one in sequences if matches(one.then, request.type, request.details)]
    if not concerned:
        return []
    since_us = now_us - int(max(one.within_s for one in concerned) * 1e6)
    types = {pattern.partition(":")[0] for one in concerned for pattern in one.first}
    query = (
        select(Action, Device.assigned_path)
        .join(Device, col(Device.id) == Action.device, isouter=True)
        .where(Action.id != action_id, col(Action.state).in_(CARRIED_OUT), Action.started_us > since_us)
    )
    if not any("*" in name for name in types):
        query = query.where(col(Action.type).in_(types))
    if all(one.of == "device" for one in concerned):
        query = query.where(Action.device == request.device)
    rows = session.exec(query.order_by(col(Action.started_us).desc()).limit(RECENT_ROWS))
    found = [
        RecentAction(
            type=row.type, details=_details(catalogue, row), t_us=row.started_us, device=row.device,
            site=site_of(path or ""),
        )
        for row, path in rows
    ]  # fmt: skip
    return found + _suppressed(session, request, since_us)


def _details(catalogue: Catalogue, row: Action) -> tuple[str, ...]:
    try:
        return catalogue.get(row.type).details(catalogue.decode(row.type, row.parameters))
    except HubError:  # a type that is not installed any more
        return (row.detail,)


def _suppressed(session: Session, request: PolicyRequest, since_us: int) -> list[RecentAction]:
    """The alarms of the request's device that people suppressed, as actions of type `alarm`."""
    query = select(Suppression).where(Suppression.created_us > since_us, col(Suppression.ended_us).is_(None))
    rows = session.exec(query.order_by(col(Suppression.created_us).desc()).limit(RECENT_ROWS))
    path = request.paths[0] if request.paths else ""
    return [
        RecentAction(
            type="alarm", details=(f"{row.method}/{row.metric}",), t_us=row.created_us,
            device=request.device, site=site_of(path),
        )
        for row in rows
        if row.device == request.device or (row.path and scopes.is_below(path, row.path))
    ]  # fmt: skip


class HourlyCounter:
    """How many actions were proposed in each hour. The hours before this one are read once an hour."""

    def __init__(self) -> None:
        self._hour, self._past = -1, (0.0, 0.0)

    def read(self, session: Session, ceiling: int, now_us: int) -> HourlyHistory:
        """This hour (counted to just beyond `ceiling`) against the last week."""
        hour = now_us // HOUR_US
        if hour != self._hour:
            self._past = _mean_and_deviation(_counts(session, hour))
            self._hour = hour
        some = select(Action.id).where(Action.created_us >= hour * HOUR_US).limit(ceiling + 1)
        return HourlyHistory(count=len(session.exec(some).all()), mean=self._past[0], deviation=self._past[1])


def _counts(session: Session, hour: int) -> list[int]:
    number: Any = (col(Action.created_us) - col(Action.created_us) % HOUR_US).label("hour")
    first = (hour - HISTORY_HOURS) * HOUR_US
    query: Any = select(number, func.count()).where(Action.created_us >= first, Action.created_us < hour * HOUR_US)
    counts = [int(count) for _, count in session.exec(query.group_by(number))]
    return counts + [0] * (HISTORY_HOURS - len(counts))


def _mean_and_deviation(counts: Sequence[int]) -> tuple[float, float]:
    mean = sum(counts) / len(counts)
    return mean, sqrt(sum((count - mean) ** 2 for count in counts) / len(counts))
