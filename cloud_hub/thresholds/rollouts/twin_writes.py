"""What a rollout does to the twins: limits in the place of those before, and back, some devices in each transaction.

What was desired before is kept by device; what a person changed since is left alone, on the way forth and back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlmodel import Session, col
from sqlmodel import select as rows_of

from cloud_hub.database.tables import LearnedSeries, Rollout, RolloutDevice
from cloud_hub.errors import HubError
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.thresholds.limits import files as limit_files
from cloud_hub.thresholds.limits.core import entries as core_entries
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
"""Devices that are pushed to, or taken back, in one transaction."""
KEPT = "an alarm of its limits stands: they are kept until it ends or is judged false"
HOLDING = ("pushed", "verified", "refused")
"""States of a device whose desired limits are the rollout's."""

_ROWS: Any = RolloutDevice.__table__  # type: ignore[attr-defined]
Learned = dict[str, LearnedSeries]
"""A device's rows in the learning, by metric."""


def push(
    session: Session, rollout: Rollout, now_us: int, max_bytes: int, *, insist: bool = False
) -> list[OutgoingMessage]:  # fmt: skip
    """The stage's next devices get their limits; what was desired before is kept for the way back.

    A device that cannot be given them is left alone, with the reason; with `insist` HubError 413 is raised where its
    twin refuses them, so that whoever starts a rollout is told.
    """
    batch, stored, devices = _some(session, rollout, ("waiting",), now_us, max_bytes, rollout.stage)
    learned = _learned(session, rollout, devices)
    alarmed = standing_alarms(session, devices) if rollout.learning else {}
    for device in devices:
        document, owners = stored.get((device, DOCUMENT), (twin.Document(), {}))
        mine = learned.get(device, {})
        keep = {metric: KEPT for metric in mine if (device, metric) in alarmed}
        try:
            one = _pushed(session, batch, rollout, device, document, _owner(owners), mine, keep, now_us)
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # of what this device's twin holds
            log.exception("rollout.device_failed", extra={"fields": {"rollout": rollout.id, "device": device}})
            one = {"state": "left", "reason": f"the hub failed: {type(error).__name__}; see its log"}
        if insist and not rollout.learning and one.get("refused"):
            raise HubError(413, "The twin refused the limits", f"{device}: {one['reason']}")
        one.pop("refused", None)
        record_device(session, rollout.id, device, t_us=now_us, **one)
    batch.write(session)
    rollout.stage_us = now_us
    return batch.messages


def _pushed(
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
    """Give one device its limits: what is to be noted of it."""
    limits, held = _placed(session, rollout, document, owner, mine, keep)
    why = "; ".join(f"{metric}: {reason}" for metric, reason in sorted(held.items()))[:1000]
    if limits is None:
        return {"state": "left", "reason": why}
    value = limit_files.desired_value(session, device, limits, now_us)
    state, reason, version = _desire(batch, rollout, device, value)
    told = {"refused": "left", "unchanged": "verified", "written": "pushed"}[state]
    if state == "written":
        _remember(session, [row for metric, row in mine.items() if metric not in held], now_us)
    previous = document.state.get("desired", {}).get("limits")
    return {"state": told, "reason": reason or why, "version": version, "previous": previous, "pushed": value,
            "refused": state == "refused"}  # fmt: skip


def _placed(
    session: Session, rollout: Rollout, document: twin.Document, owner: str, mine: Learned, keep: dict[str, str]
) -> tuple[list[dict[str, Any]] | None, dict[str, str]]:
    """A device's set with the rollout's limits, None when none may stand there; and why not, by metric.

    Limits of the metrics `keep` stay as they are.
    """
    desired, own = (
        limit_files.read_entries(session, document.state.get(section, {}).get("limits"))
        for section in ("desired", "reported")
    )
    if not rollout.learning:
        return core_entries.merged(desired if desired is not None else own or [], rollout.wanted), {}
    wanted = [row.limits for name, row in mine.items() if row.limits is not None and name not in keep]
    if not wanted:
        return None, keep
    pushed = {name: row.pushed for name, row in mine.items()}
    limits, held = core_entries.place(desired, own or [], wanted, pushed, owner)
    return limits, held | keep


def _remember(session: Session, rows: Iterable[LearnedSeries], now_us: int) -> None:
    """Their limits stand on the device from now on."""
    for row in rows:
        if row.limits is not None:
            row.pushed_us = row.pushed_us if row.pushed is not None else now_us
            row.before, row.pushed = row.pushed, row.limits
            session.add(row)


def restore(session: Session, rollout: Rollout, now_us: int, max_bytes: int) -> list[OutgoingMessage]:
    """What was desired before is desired again, unless somebody has set something else meanwhile."""
    batch, stored, devices = _some(session, rollout, HOLDING, now_us, max_bytes)
    learned = _learned(session, rollout, devices)
    members = rows_of(RolloutDevice).where(
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


def _some(
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
        mine = rows_of(LearnedSeries).where(
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
    """Who set `limits` last; of a reference, who set its digest."""
    found = owners.get("limits", "")
    return str(found.get("digest", "")) if isinstance(found, dict) else str(found)


def record_device(session: Session, rollout: str, device: str, **changes: Any) -> None:
    """Keep how it stands on one device."""
    mine = (_ROWS.c.rollout == rollout) & (_ROWS.c.device == device)
    session.connection().execute(update(_ROWS).where(mine).values(**changes))
