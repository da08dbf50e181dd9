"""Sends writes that are pending, verifies them by what the node reports, and turns desired leaves into writes.

The host's thread calls it. A leaf `desired.metrics.<name>` of the twin document `sparkplug` is one write, asked for by
the person who set it; how it went is in the twin's progress. A leaf that an action, job, configuration or learning set
is refused: nothing but a person writes to a plant.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import SparkplugNode, SparkplugWrite, TwinRow
from cloud_hub.scada import twin, writes
from cloud_hub.scada.core import naming
from cloud_hub.scada.core.records import Key
from cloud_hub.scada.core.write_values import to_metric
from cloud_hub.scada.registry import NodeRegistry
from cloud_hub.scada.server import HostServer
from cloud_hub.scada.writes import WriteRequest, WriteService
from cloud_hub.twins import service as twins
from cloud_hub.twins.batch import read_documents
from cloud_hub.twins.core.owners import PERSON, RESERVED
from cloud_hub.twins.rows import TwinRows
from shared.plant.write_rules import CurrentValue, Refused, WriteRule, is_verified
from shared.protocol.messages import Applied, AppliedState
from shared.sparkplug.effects import Publish

log = logging.getLogger(__name__)

LEAF_US = 60_000_000
"""A desired leaf that is older when it is first seen is not written: what a person wanted then may be wrong now."""
METRICS = "metrics"
CHUNK = 500
_APPLIED: dict[str, AppliedState] = {"pending": "received", "sent": "applied", "verified": "verified"}
"""Progress of desired state by the state of its write; all other states are `refused`."""


@dataclass(slots=True)
class _Sent:
    """A write that waits for its read-back."""

    id: str
    rule: WriteRule
    value: Any
    deadline_us: int
    read: Any = None


class WriteDispatcher:
    """Writes under way. `server` finds the server on which a node is."""

    def __init__(
        self, db: Database, service: WriteService, registry: NodeRegistry, server: Callable[[Key], HostServer | None]
    ) -> None:  # fmt: skip
        self._db, self._service, self._registry, self._server = db, service, registry, server
        self._sent: dict[tuple[str, str], _Sent] = {}
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._loaded = False

    def devices_changed(self, devices: Collection[str]) -> bool:
        """Desired state of these devices may have changed. From any thread."""
        with self._lock:
            self._changed.update(devices)
        return bool(devices)

    def run_once(self, now_us: int) -> None:
        """Send what is pending, end what is overdue, read desired leaves. A write that fails ends no other."""
        if not self._loaded:
            self._load()
        with self._lock:
            changed, self._changed = self._changed, set()
        for device in self._with_desired(sorted(changed)):
            self._guarded("desired state", device, partial(self._desired, device, now_us))
        for write_id, device in self._pending():
            self._guarded("write", device, partial(self._send, write_id, device, now_us))
        for place, sent in list(self._sent.items()):
            if now_us >= sent.deadline_us:
                self._guarded("write", place[0], partial(self._overdue, place, sent, now_us))

    def _guarded(self, what: str, device: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            fields = {"device": device, "reason": f"{what}: {type(error).__name__}: {error}"[:500]}
            log.exception("sparkplug.write_failed", extra={"fields": fields})

    def _load(self) -> None:
        """Go on with the writes of an earlier run; read the desired leaves that it did not come to."""
        with self._db.read() as session:
            for row in writes.under_way(session):
                rule = self._service.rules.get((row.device, row.metric))
                if row.state == "sent" and rule is not None:
                    self._sent[row.device, row.metric] = _Sent(row.id, rule, row.value, row.deadline_us)
            query = select(TwinRow.device).where(TwinRow.name == twin.DOCUMENT, col(TwinRow.deleted).is_(False))
            devices = set(session.exec(query.where(col(TwinRow.device).in_(select(SparkplugNode.device)))))
        with self._lock:
            self._changed |= devices
        self._loaded = True

    def _pending(self) -> list[tuple[str, str]]:
        with self._db.read() as session:
            query = select(SparkplugWrite.id, SparkplugWrite.device, SparkplugWrite.metric, SparkplugWrite.state)
            rows = session.exec(
                query.where(col(SparkplugWrite.state).in_(writes.UNDER_WAY)).order_by(SparkplugWrite.id)
            )
            return [
                (write_id, device)
                for write_id, device, metric, state in rows
                if state == "pending" or (device, metric) not in self._sent
            ]

    # -- sending -----------------------------------------------------------------------------------

    def _send(self, write_id: str, device: str, now_us: int) -> None:
        """Judge a pending write once more, store it as sent, and send it."""
        with self._db.write(device) as session:
            row = session.get(SparkplugWrite, write_id)
            if row is None or row.state not in writes.UNDER_WAY:
                return
            messages, server = self._prepare(session, row, now_us)
            if server is None:
                self._progress(session, row, now_us)
                return
            rule = self._service.rules[row.device, row.metric]
            row.state, row.sent_us, row.deadline_us = "sent", now_us, now_us + int(rule.verify_s * 1e6)
            session.add(row)
            session.flush()
            writes.audit(session, row, now_us)
            sent = _Sent(row.id, rule, row.value, row.deadline_us)
        before = self._sent.get((device, rule.metric))
        if before is not None:
            self._end(device, before, "failed", "another value was written before it was verified", now_us)
        self._sent[device, rule.metric] = sent
        if not server.publish(messages):
            del self._sent[device, rule.metric]
            self._end(device, sent, "failed", "the connection to the server was lost", now_us)

    def _prepare(
        self, session: Session, row: SparkplugWrite, now_us: int
    ) -> tuple[list[Publish], HostServer | None]:  # fmt: skip
        """The messages of a write and their server; none if the row was ended instead."""
        if row.state == "sent":  # of an earlier run, and its rule is gone
            writes.finish(session, row, "failed", "the hub did not see how it ended", now_us)
            return [], None
        if now_us >= row.deadline_us:
            writes.finish(session, row, "expired", "it was not sent in time", now_us)
            return [], None
        verdict = self._service.judge(session, row.device, row.metric, row.value, now_us, besides=row.id)
        if isinstance(verdict, Refused):
            writes.finish(session, row, "refused", str(verdict), now_us)
            return [], None
        target = writes.find_target(session, row.device, row.metric)
        if isinstance(target, Refused):
            writes.finish(session, row, "refused", str(target), now_us)
            return [], None
        key = (target.node.group, target.node.node, target.node.sparkplug_device)
        server = self._server(key)
        if server is None or not server.connected:
            writes.finish(session, row, "failed", "no server with this node is connected", now_us)
            return [], None
        found = server.command(key, to_metric(target.metric.name, target.metric.datatype, verdict.value))
        if isinstance(found, str):
            writes.finish(session, row, "failed", found, now_us)
            return [], None
        return found, server

    # -- verifying ---------------------------------------------------------------------------------

    def read_back(self, device: str, new: Mapping[str, CurrentValue], now_us: int) -> None:
        """A node reported values: a write whose value is among them is verified."""
        for metric, one in new.items():
            sent = self._sent.get((device, metric))
            if sent is None:
                continue
            sent.read = one.value
            if one.good and is_verified(sent.rule, sent.value, one.value):
                del self._sent[device, metric]
                self._end(device, sent, "verified", "", now_us)

    def _overdue(self, place: tuple[str, str], sent: _Sent, now_us: int) -> None:
        """The deadline is over. A node that had the value already reports nothing, so its present value counts."""
        device, metric = place
        del self._sent[place]
        present = self._present(device, metric)
        if present is not None and present.good and is_verified(sent.rule, sent.value, present.value):
            sent.read = present.value
            self._end(device, sent, "verified", "", now_us)
            return
        seen = "it reported nothing" if sent.read is None else f"it reported {str(sent.read)[:100]}"
        reason = f"not read back within {sent.rule.verify_s:g} s: {seen}"
        self._end(device, sent, "failed", reason, now_us)

    def _present(self, device: str, metric: str) -> CurrentValue | None:
        with self._db.read() as session:
            return self._service.present(session, device).get(metric)

    def _end(self, device: str, sent: _Sent, state: str, reason: str, now_us: int) -> None:
        with self._db.write(device) as session:
            row = session.get(SparkplugWrite, sent.id)
            if row is None or row.state not in writes.UNDER_WAY:  # the device was removed meanwhile
                return
            writes.finish(session, row, state, reason, now_us, sent.read)
            self._progress(session, row, now_us)

    # -- desired leaves ----------------------------------------------------------------------------

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
            self._guarded("desired state", device, partial(self._leaf, request, refusal, now_us))

    def _leaf(self, request: WriteRequest, refusal: str, now_us: int) -> None:
        with self._db.write(request.device) as session:
            row = self._service.request(session, request, now_us, refusal=refusal)
            self._progress(session, row, now_us)

    def _progress(self, session: Session, row: SparkplugWrite, now_us: int) -> None:
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
    return "it was set too long ago. Set it again" if now_us - leaf_s * 1_000_000 > LEAF_US else ""
