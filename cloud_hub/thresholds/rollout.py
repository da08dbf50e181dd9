"""A set of limits pushed to canary devices and watched; a bad one is taken back by itself.

Bad is: a device refuses it, or the canaries raise more alarms on its metrics within the watch than were allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub import audit, fleet, scopes, twins
from cloud_hub.clock import new_id
from cloud_hub.errors import HubError
from cloud_hub.tables import AlarmRow, AppliedRow, Rollout
from cloud_hub.twins import Outgoing
from shared.codec import plain
from shared.thresholds import Limits

DOCUMENT = "thresholds"


def _desired(session: Session, device: str) -> list[dict[str, Any]] | None:
    state = twins.load(session, device, DOCUMENT).state
    limits = state.get("desired", {}).get("limits", state.get("reported", {}).get("limits"))
    return limits if isinstance(limits, list) else None


def _merged(current: list[dict[str, Any]] | None, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The device's set with the wanted limits in the place of those on the same metrics."""
    changed = {row["metric"] for row in wanted}
    return [row for row in current or [] if row["metric"] not in changed] + wanted


def start(
    session: Session, devices: Sequence[str], limits: Sequence[Limits], now_us: int, *,
    who: str, watch_s: float, max_alarms: int, max_bytes: int, trace: str,
) -> tuple[Rollout, list[Outgoing]]:  # fmt: skip
    """Push `limits` to the canary devices and begin to watch; what was desired before is kept for the way back."""
    for device in devices:
        fleet.known(session, device)
    for other in session.exec(select(Rollout).where(Rollout.state == "watching")):
        if shared := sorted(set(other.devices) & set(devices)):
            detail = f"rollout {other.id} is still watched on {', '.join(shared)}; wait until it has ended"
            raise HubError(409, "Another rollout is under watch", detail)
    wanted = [plain(one) for one in limits]
    previous = {device: _desired(session, device) for device in devices}
    rollout = Rollout(
        id=new_id(), devices=list(devices), wanted=wanted, previous=previous, started_us=now_us, watch_s=watch_s,
        max_alarms=max_alarms, traceparent=trace,
    )  # fmt: skip
    session.add(rollout)
    audit.add(session, now_us, who, "rollout.started", rollout.id, trace=trace, devices=list(devices),
              metrics=[row["metric"] for row in wanted])  # fmt: skip
    messages: list[Outgoing] = []
    for device in devices:
        state = {"limits": _merged(previous[device], wanted)}
        messages += twins.desire(session, device, DOCUMENT, state, now_us, who=who, max_bytes=max_bytes, trace=trace)
    return rollout, messages


def due(session: Session) -> bool:
    """Whether `step` has anything to look at: asked first, because only writing makes others wait."""
    return session.exec(select(Rollout.id).where(Rollout.state == "watching").limit(1)).first() is not None


def step(session: Session, now_us: int, max_bytes: int) -> list[Outgoing]:
    """Look at every rollout under watch; returns what must be published."""
    messages: list[Outgoing] = []
    for rollout in session.exec(select(Rollout).where(Rollout.state == "watching").order_by(Rollout.id)).all():
        reason = _bad(session, rollout)
        if reason:
            messages += _take_back(session, rollout, reason, now_us, max_bytes)
        elif now_us - rollout.started_us > rollout.watch_s * 1e6:
            rollout.state, rollout.ended_us = "confirmed", now_us
            rollout.reason = f"not more than {rollout.max_alarms} alarms in {rollout.watch_s:g} s"
            audit.add(session, now_us, "hub", "rollout.confirmed", rollout.id, trace=rollout.traceparent)
    return messages


def _bad(session: Session, rollout: Rollout) -> str:
    for device in rollout.devices:
        word = session.get(AppliedRow, (device, DOCUMENT, "limits"))
        if word is not None and word.state == "refused" and word.t_us >= rollout.started_us:
            return f"{device} refused it: {word.reason}"
    metrics = [row["metric"] for row in rollout.wanted]
    query = select(AlarmRow).where(
        col(AlarmRow.device).in_(rollout.devices),
        col(AlarmRow.metric).in_(metrics),
        col(AlarmRow.received_us) >= rollout.started_us,
    )
    raised = len(session.exec(query).all())
    return f"alarms raised: {raised}, allowed: {rollout.max_alarms}" if raised > rollout.max_alarms else ""


def _take_back(session: Session, rollout: Rollout, reason: str, now_us: int, max_bytes: int) -> list[Outgoing]:
    rollout.state, rollout.reason, rollout.ended_us = "rolled-back", reason, now_us
    audit.add(session, now_us, "hub", "rollout.rolled-back", rollout.id, trace=rollout.traceparent, reason=reason)
    messages: list[Outgoing] = []
    for device, before in rollout.previous.items():
        state = {"limits": before if before is not None else []}
        messages += twins.desire(
            session, device, DOCUMENT, state, now_us, who="hub", max_bytes=max_bytes, trace=rollout.traceparent
        )
    return messages


def get(session: Session, rollout_id: str) -> Rollout:
    """The rollout, or HubError 404."""
    row = session.get(Rollout, rollout_id)
    if row is None or not scopes.sees(session, row.devices):
        raise HubError(404, "No such rollout", f"'{rollout_id}' is not known")
    return row
