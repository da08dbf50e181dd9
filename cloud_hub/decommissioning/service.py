"""Removes a device in one transaction, and restores it.

Removal ends the device's open alarms, incidents, commands and jobs with a reason, revokes its certificates and its
claim, and adds a `RemovedDevice` row, which refuses everything that the device still sends until it is restored.
Telemetry, history and audit rows stay: `TABLES` lists what happens in each table with a device in it.
"""

from __future__ import annotations

from typing import Any

import sqlmodel
from sqlalchemy import Connection, delete, select, update
from sqlmodel import Session, col

from cloud_hub.alarms import suppression
from cloud_hub.audit import trail
from cloud_hub.certificates import registry as certificates
from cloud_hub.database import scopes
from cloud_hub.database.tables import (
    AppliedRow,
    Claim,
    Command,
    ConfigurationDevice,
    Dependency,
    Device,
    EscalationRow,
    JobDevice,
    LearnedSeries,
    LimitFile,
    RemovedDevice,
    Rollout,
    RolloutDevice,
    SparkplugNode,
    SparkplugWrite,
    StalledStream,
    TwinRow,
)
from cloud_hub.devices import commands, dependencies
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.incidents import service as incidents
from cloud_hub.incidents.service import REMOVED
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.thresholds.rollouts.service import ACTIVE
from cloud_hub.twins import service as twins
from shared.protocol import topics

HISTORY = "stays: history"
TABLES: dict[str, str] = {
    "actions": "under way: failed or refused, with the reason",
    "alarms": "raised: cleared, with the reason",
    "applied": "deleted",
    "ask_turns": HISTORY,
    "audit": HISTORY,
    "certificates": "revoked",
    "claims": "deleted",
    "commands": "under way: cancelled, with the reason; the device is told",
    "configuration_devices": "deleted",
    "cases": HISTORY,
    "dependencies": "deleted; made again from the tags by a restore",
    "device_notes": HISTORY,
    "devices": "deleted; path and tags stay in removed_devices",
    "escalations": "unanswered: deleted; answered: stay",
    "events": HISTORY,
    "high_water": "stays: what is here already is not stored twice after a restore",
    "identities": "stays: who was revoked before is so after a restore",
    "incident_evidence": HISTORY,
    "incidents": "unresolved: resolved, with the reason",
    "inference_records": HISTORY,
    "job_devices": "pending: gone, with the reason",
    "kept_from": HISTORY,
    "learned_series": "deleted",
    "learned_states": "stays: a place in a group, in which nothing new arrives",
    "limit_files": "deleted",
    "lost": HISTORY,
    "notifications": "stays: the channel's loop notifies the end of what was notified, and nothing else",
    "peer_states": "stays: made anew without it when its metric is next looked at",
    "prometheus_series": "stays: names its series, whose samples are refused",
    "removed_devices": "the row that refuses it",
    "rollout_devices": "of a rollout under way: left, with the reason",
    "rollouts": "stays: names its devices, removed ones among them",
    "rollup_due": "stays: what is stored is rolled up",
    "rollups": HISTORY,
    "sketches": HISTORY,
    "sparkplug_metrics": "stays: a name once given is given again",
    "sparkplug_nodes": "stays: names its node, whose messages are refused; after a restore its birth is read in full",
    "sparkplug_writes": "under way: failed, with the reason",
    "stalled_streams": "deleted",
    "suppressions": "of the device: ended",
    "telemetry": HISTORY,
    "troubles": HISTORY,
    "twin_changes": HISTORY,
    "twins": "documents deleted; their versions count on",
}
"""Each table with a device in it, and what removal does there. A test checks that none is missing."""


def remove(
    session: Session, device: str, now_us: int, *, actor: str, reason: str = "", trace: str = ""
) -> list[OutgoingMessage]:
    """Remove a device; publish the returned messages after the commit. Needs `write()` without devices.

    HubError 404.
    """
    row = device_registry.get_device(session, device)
    names = list(session.exec(sqlmodel.select(TwinRow.name).where(TwinRow.device == device)))
    messages = _commands(session, device, now_us, actor)
    counts = {
        "alarms": incidents.clear_all(session, device, now_us, actor=actor, reason=REMOVED),
        "incidents": incidents.resolve_all(session, device, now_us, actor=actor, reason=REMOVED),
        "commands": len(messages),
        "certificates": certificates.revoke_certificates(session, device, now_us),
    }
    for name in twins.versions(session, device):
        messages += twins.remove(session, device, name, now_us, actor=actor, trace=trace)
    _work(session, device, now_us, actor)
    session.add(RemovedDevice(device=device, removed_us=now_us, removed_by=actor, reason=reason,
                              assigned_path=row.assigned_path, tags=row.tags))  # fmt: skip
    session.delete(row)
    session.flush()
    certificates.clear_cache(session)
    trail.add(session, now_us, actor, "device.removed", device, device=device, trace=trace, reason=reason,
              path=row.assigned_path, **counts)  # fmt: skip
    return messages + clear_retained_messages(device, names)


def _commands(session: Session, device: str, now_us: int, actor: str) -> list[OutgoingMessage]:
    query = sqlmodel.select(Command).where(Command.device == device, col(Command.done_us).is_(None))
    rows = session.exec(query).all()
    return [message for row in rows for message in commands.give_up(session, row, now_us, actor, REMOVED)]


def _work(session: Session, device: str, now_us: int, actor: str) -> None:
    """Delete or end the device's rows that are no history."""
    connection = session.connection()
    tables: tuple[Any, ...] = (AppliedRow, Claim, ConfigurationDevice, Dependency, LearnedSeries, LimitFile,
                               StalledStream)  # fmt: skip
    for table in tables:
        rows = table.__table__
        connection.execute(delete(rows).where(rows.c.device == device))
    frames: Any = EscalationRow.__table__  # type: ignore[attr-defined]
    connection.execute(delete(frames).where(frames.c.device == device, frames.c.answer.is_(None)))
    gone: Any = JobDevice.__table__  # type: ignore[attr-defined]
    pending = (gone.c.device == device, gone.c.state == "pending")
    connection.execute(update(gone).where(*pending).values(state="gone", reason=REMOVED, t_us=now_us))
    left: Any = RolloutDevice.__table__  # type: ignore[attr-defined]
    active = select(col(Rollout.id)).where(col(Rollout.state).in_(ACTIVE))
    mine = (left.c.device == device, left.c.rollout.in_(active))
    connection.execute(update(left).where(*mine).values(state="left", reason=REMOVED, t_us=now_us))
    suppression.end_all(session, device, now_us, actor=actor)
    _sparkplug(connection, device, now_us)


def _sparkplug(connection: Connection, device: str, now_us: int) -> None:
    """Fail the writes under way, and have the next birth after a restore read in full."""
    writes: Any = SparkplugWrite.__table__  # type: ignore[attr-defined]
    nodes: Any = SparkplugNode.__table__  # type: ignore[attr-defined]
    under_way = (writes.c.device == device, writes.c.state.in_(("pending", "sent")))
    connection.execute(update(writes).where(*under_way).values(state="failed", reason=REMOVED, done_us=now_us))
    connection.execute(update(nodes).where(nodes.c.device == device).values(definitions="", state="offline"))


def clear_retained_messages(device: str, names: list[str]) -> list[OutgoingMessage]:
    """Empty retained messages, which clear its birth and twin requests that a client sent retained."""
    rests = ["birth", *(topics.shadow("x", name, "update")[len(topics.thing("x", "")) :] for name in {"", *names})]
    return [OutgoingMessage(topic=topics.thing(device, rest), payload=b"", retain=True) for rest in rests]


def list_removed(session: Session) -> list[RemovedDevice]:
    """Removed devices by id, within the session's scope."""
    rows = session.exec(sqlmodel.select(RemovedDevice).order_by(RemovedDevice.device))
    return [row for row in rows if scopes.covers(scopes.session_scope(session), (row.assigned_path,))]


def restore(session: Session, device: str, now_us: int, *, actor: str, trace: str = "") -> Device:
    """Restore a device with its path and tags; it is offline until its next birth. HubError 404.

    Its certificates stay revoked: the device enrols with a new claim.
    """
    row = session.get(RemovedDevice, device)
    if row is None or not scopes.covers(scopes.session_scope(session), (row.assigned_path,)):
        raise HubError(404, "Not removed", f"'{device[:80]}' is no removed device: see GET /api/v1/removed-devices")
    back = Device(id=device, assigned_path=row.assigned_path, tags=row.tags, tags_version=1 if row.tags else 0)
    session.delete(row)
    session.add(back)
    session.flush()
    dependencies.save(session, device, {}, row.tags)
    certificates.clear_cache(session)
    trail.add(session, now_us, actor, "device.restored", device, device=device, trace=trace, removed_us=row.removed_us,
              path=row.assigned_path)  # fmt: skip
    return back
