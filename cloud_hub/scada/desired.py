"""Turns desired leaves of Sparkplug devices into writes, and reports how these go as progress of desired state.

A leaf `desired.metrics.<name>` of the twin document `sparkplug` is one write, asked for by the person who set it. One
that an action, job, configuration or learning set is refused: nothing but a person writes to a plant.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import SparkplugNode, SparkplugWrite
from cloud_hub.scada import twin
from cloud_hub.scada.core import naming
from cloud_hub.scada.writes import WriteRequest, WriteService
from cloud_hub.twins import service as twins
from cloud_hub.twins.batch import read_documents
from cloud_hub.twins.core.owners import PERSON, RESERVED
from cloud_hub.twins.rows import TwinRows
from shared.protocol.messages import Applied, AppliedState

log = logging.getLogger(__name__)

LEAF_US = 60_000_000
"""A desired leaf that is older when it is first seen is not written: what a person wanted then may be wrong now."""
METRICS = "metrics"
CHUNK = 500
_APPLIED: dict[str, AppliedState] = {"pending": "received", "sent": "applied", "verified": "verified"}
"""Progress of desired state by the state of its write; all other states are `refused`."""


def guarded(what: str, device: str, work: Callable[[], None]) -> None:
    """Do some work for a device; if it fails it is logged, and ends nothing else."""
    try:
        work()
    except Exception as error:
        fields = {"device": device, "reason": f"{what}: {type(error).__name__}: {error}"[:500]}
        log.exception("sparkplug.write_failed", extra={"fields": fields})


class DesiredWrites:
    """Reads the desired leaves of devices whose twins changed."""

    def __init__(self, db: Database, service: WriteService) -> None:
        self._db, self._service = db, service

    def run(self, devices: list[str], now_us: int) -> None:
        """Make a write of each leaf that was set since the last one. One that fails ends no other."""
        for device in self._with_desired(devices):
            guarded("desired state", device, partial(self._desired, device, now_us))

    def _with_desired(self, devices: list[str]) -> list[str]:
        """Those of the devices with desired metrics: few of the many that are born."""
        found: list[str] = []
        for start in range(0, len(devices), CHUNK):
            with self._db.read() as session:
                rows = read_documents(session, devices[start : start + CHUNK], [twin.DOCUMENT])
            found += [name for (name, _), (document, _) in rows.items() if _part(document.state.get("desired"))]
        return found

    def _desired(self, device: str, now_us: int) -> None:
        """Make a write of each leaf that was set since the last one."""
        with self._db.read() as session:
            query = select(SparkplugNode.own).where(SparkplugNode.device == device).limit(1)
            if session.exec(query).first() is not False:
                return
            document, owners = TwinRows(session).get(device, twin.DOCUMENT)
            desired = _part(document.state.get("desired", {}))
            done = {metric: _last(session, device, metric) for metric in desired}
        marks, named = _part(document.metadata.get("desired", {})), _part(owners)
        for metric, value in desired.items():
            leaf_s = _leaf_s(marks.get(metric))
            leaf = naming.digest(str(leaf_s), json.dumps(value, sort_keys=True))
            if leaf == done[metric]:
                continue
            owner = named.get(metric)
            request = WriteRequest(
                device=device, metric=metric, value=value, actor=owner if isinstance(owner, str) else "",
                why="desired state", origin="twin", leaf=leaf, version=document.version,
            )  # fmt: skip
            refusal = _not_by_a_person(request.actor, device) or _too_old(leaf_s, now_us)
            guarded("desired state", device, partial(self._leaf, request, refusal, now_us))

    def _leaf(self, request: WriteRequest, refusal: str, now_us: int) -> None:
        with self._db.write(request.device) as session:
            row = self._service.request(session, request, now_us, refusal=refusal)
            record_progress(session, row, now_us)


def record_progress(session: Session, row: SparkplugWrite, now_us: int) -> None:
    """Report how a write of desired state goes, as devices do."""
    if row.origin != "twin":
        return
    state = _APPLIED.get(row.state, "refused")
    path = f"{METRICS}.{row.metric}"
    applied = Applied(shadow=twin.DOCUMENT, version=row.version, path=path, state=state, reason=row.reason)
    twins.record_progress(session, row.device, applied, now_us)
    if row.state == "verified":
        documents = TwinRows(session)
        twin.report(session, documents, row.device, {}, {row.metric: row.value}, now_us, 1 << 20)
        documents.save()


def _part(state: Any) -> dict[str, Any]:
    metrics = state.get(METRICS) if isinstance(state, dict) else None
    return metrics if isinstance(metrics, dict) else {}


def _leaf_s(mark: Any) -> int:
    """When a leaf was set, in seconds; of an object or array the newest part."""
    if isinstance(mark, dict):
        found = mark.get("timestamp")
        return found if isinstance(found, int) else max(map(_leaf_s, mark.values()), default=0)
    return max(map(_leaf_s, mark), default=0) if isinstance(mark, list) else 0


def _last(session: Session, device: str, metric: str) -> str | None:
    """The last leaf of a metric that became a write."""
    query = select(SparkplugWrite.leaf).where(
        SparkplugWrite.device == device, SparkplugWrite.metric == metric[:200], SparkplugWrite.origin == "twin"
    )
    return session.exec(query.order_by(col(SparkplugWrite.id).desc()).limit(1)).first()


def _not_by_a_person(owner: str, device: str) -> str:
    """Why a leaf of this owner is not written, or '': the hub's own parts, and the device itself, may not."""
    own = owner.startswith(RESERVED) and not owner.startswith(PERSON)
    if own or owner in {"", "hub", device}:
        return f"'{owner[:80]}' set it, and only a person may write to a plant. Set it yourself"
    return ""


def _too_old(leaf_s: int, now_us: int) -> str:
    """A leaf from the future, of before the clock was set back, may be as old as any."""
    return "it was set too long ago. Set it again" if abs(now_us - leaf_s * 1_000_000) > LEAF_US else ""
