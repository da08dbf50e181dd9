"""Writes a rollout's limits to twins, and restores the previous ones, a few devices per transaction.

The previous desired limits are stored per device. Limits that a person changed since are neither replaced nor restored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import sqlmodel
from sqlalchemy import select, update
from sqlmodel import Session, col

from cloud_hub.database.tables import LearnedSeries, Rollout, RolloutDevice
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.thresholds.limits import files as limit_files
from cloud_hub.thresholds.limits.core import entries as limit_entries
from cloud_hub.thresholds.limits.standing import standing_alarms
from cloud_hub.twins import batch as twin_batch
from cloud_hub.twins.batch import TwinBatch
from cloud_hub.twins.core.owners import LEARNING
from cloud_hub.twins.rows import Key, Stored
from shared import twin
from shared.codec import encode

log = logging.getLogger(__name__)

DOCUMENT = "thresholds"
TOGETHER = 10
"""Devices pushed to, or restored, in one transaction."""
KEPT = "an alarm of its limits is active: they are kept until it clears or is judged false"
HOLDING = ("pushed", "verified", "refused")
"""States of a device whose desired limits are the rollout's."""

_ROWS: Any = RolloutDevice.__table__  # type: ignore[attr-defined]
Learned = dict[str, LearnedSeries]
"""A device's rows in the learning job, by metric."""


def push(
    session: Session, rollout: Rollout, now_us: int, max_bytes: int, *, insist: bool = False
) -> list[OutgoingMessage]:  # fmt: skip
    """Write limits to the next devices of the stage; the previous desired limits are stored for a rollback.

    A device that cannot get them is left unchanged, with the reason. With `insist`, HubError 413 is raised if its twin
    refuses them, so that the caller who starts a rollout sees the error.
    """
    batch, stored, devices = _next_devices(session, rollout, ("waiting",), now_us, max_bytes, rollout.stage)
    learned = _learned(session, rollout, devices)
    alarmed = standing_alarms(session, devices) if rollout.learning else {}
    for device in devices:
        document, owners = stored.get((device, DOCUMENT), (twin.Document(), {}))
        mine = learned.get(device, {})
        keep = {metric: KEPT for metric in mine if (device, metric) in alarmed}
        try:
            outcome = _push_device(session, batch, rollout, device, document, _owner(owners), mine, keep, now_us)
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # by the content of this device's twin
            log.exception("rollout.device_failed", extra={"fields": {"rollout": rollout.id, "device": device}})
            outcome = {"state": "left", "reason": f"the hub failed: {type(error).__name__}; see its log"}
        if insist and not rollout.learning and outcome.get("refused"):
            raise HubError(413, "The twin refused the limits", f"{device}: {outcome['reason']}")
        outcome.pop("refused", None)
        record_device(session, rollout.id, device, t_us=now_us, **outcome)
    batch.write(session)
    rollout.stage_us = now_us
    return batch.messages


def _push_device(
    session: Session,
    batch: TwinBatch,
    rollout: Rollout,
    device: str,
    document: twin.Document,
    owner: str,
    mine: Learned,
    keep: dict[str, str],
    now_us: int,
) -> dict[str, Any]:
    """Write the limits of one device; returns the columns of its row in the rollout."""
    limits, reasons = _merged_limits(session, rollout, document, owner, mine, keep)
    reason_text = "; ".join(f"{metric}: {reason}" for metric, reason in sorted(reasons.items()))[:1000]
    if limits is None:
        return {"state": "left", "reason": reason_text}
    value = limit_files.desired_value(session, device, limits, now_us)
    state, reason, version = _desire(batch, rollout, device, value)
    outcome = {"refused": "left", "unchanged": "verified", "written": "pushed"}[state]
    if state == "written":
        _record_pushed(session, [row for metric, row in mine.items() if metric not in reasons], now_us)
    previous = document.state.get("desired", {}).get("limits")
    return {
        "state": outcome, "reason": reason or reason_text, "version": version, "previous": previous, "pushed": value,
        "refused": state == "refused",
    }  # fmt: skip


def _merged_limits(
    session: Session, rollout: Rollout, document: twin.Document, owner: str, mine: Learned, keep: dict[str, str]
) -> tuple[list[dict[str, Any]] | None, dict[str, str]]:
    """(The device's set with the rollout's limits, None when none applies; reasons of those that do not, by metric).

    Limits of the metrics in `keep` are not changed.
    """
    desired, own = (
        limit_files.read_entries(session, document.state.get(section, {}).get("limits"))
        for section in ("desired", "reported")
    )
    if not rollout.learning:
        return limit_entries.merged(desired if desired is not None else own or [], rollout.wanted), {}
    wanted = [row.limits for name, row in mine.items() if row.limits is not None and name not in keep]
    if not wanted:
        return None, keep
    pushed = {name: row.pushed for name, row in mine.items()}
    limits, reasons = limit_entries.place(desired, own or [], wanted, pushed, owner)
    return limits, reasons | keep


def _record_pushed(session: Session, rows: Iterable[LearnedSeries], now_us: int) -> None:
    """Record that the device has these limits from now on."""
    for row in rows:
        if row.limits is not None:
            row.pushed_us = row.pushed_us if row.pushed is not None else now_us
            row.before, row.pushed = row.pushed, row.limits
            session.add(row)


def restore(session: Session, rollout: Rollout, now_us: int, max_bytes: int) -> list[OutgoingMessage]:
    """Restore the previous desired limits, except where somebody has set other limits since."""
    batch, stored, devices = _next_devices(session, rollout, HOLDING, now_us, max_bytes)
    learned = _learned(session, rollout, devices)
    members = sqlmodel.select(RolloutDevice).where(
        RolloutDevice.rollout == rollout.id, col(RolloutDevice.device).in_(devices)
    )  # fmt: skip
    for member in session.exec(members).all():
        document, owners = stored.get((member.device, DOCUMENT), (twin.Document(), {}))
        desired = document.state.get("desired", {}).get("limits")
        if not twin.json_equal(desired, member.pushed):
            member.state, member.reason = "kept", f"{_owner(owners) or 'somebody'} has set other limits since"
        else:
            _desire(batch, rollout, member.device, member.previous)
            member.state = "restored"
            for row in learned.get(member.device, {}).values():
                row.pushed, row.pushed_us = row.before, None if row.before is None else row.pushed_us
                session.add(row)
        member.t_us = now_us
        session.add(member)
    batch.write(session)
    session.flush()
    return batch.messages


def _next_devices(
    session: Session, rollout: Rollout, states: Sequence[str], now_us: int, max_bytes: int, stage: int | None = None
) -> tuple[TwinBatch, dict[Key, Stored], list[str]]:
    """The next devices in these states, with their documents."""
    query = select(_ROWS.c.device).where(_ROWS.c.rollout == rollout.id, _ROWS.c.state.in_(states))
    if stage is not None:
        query = query.where(_ROWS.c.stage == stage)
    devices = list(session.connection().execute(query.order_by(_ROWS.c.device).limit(TOGETHER)).scalars())
    stored = twin_batch.read_documents(session, devices, [DOCUMENT], lock=True)
    return TwinBatch(stored, now_us, max_bytes, rollout.traceparent), stored, devices


def _learned(session: Session, rollout: Rollout, devices: Iterable[str]) -> dict[str, dict[str, LearnedSeries]]:
    found: dict[str, dict[str, LearnedSeries]] = {}
    if rollout.learning:
        mine = sqlmodel.select(LearnedSeries).where(
            LearnedSeries.learning == rollout.learning, col(LearnedSeries.device).in_(devices)
        )  # fmt: skip
        for row in session.exec(mine.order_by(LearnedSeries.device, LearnedSeries.metric)):
            found.setdefault(row.device, {})[row.metric] = row
    return found


def _desire(batch: TwinBatch, rollout: Rollout, device: str, value: Any) -> tuple[str, str, int]:
    patch = {"limits": value}
    actor = LEARNING + rollout.learning if rollout.learning else "hub"
    return batch.patch_desired(device, DOCUMENT, patch, encode({"state": {"desired": patch}}), actor)


def _owner(owners: twin.State) -> str:
    """The actor that set `limits` last; for a reference, the one that set its digest."""
    found = owners.get("limits", "")
    return str(found.get("digest", "")) if isinstance(found, dict) else str(found)


def record_device(session: Session, rollout: str, device: str, **changes: Any) -> None:
    """Update the row of one device."""
    mine = (_ROWS.c.rollout == rollout) & (_ROWS.c.device == device)
    session.connection().execute(update(_ROWS).where(mine).values(**changes))
