"""Sends writes that are pending, and verifies them by what the node reports. The host's thread calls it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import SparkplugNode, SparkplugWrite, TwinRow
from cloud_hub.scada import twin, writes
from cloud_hub.scada.core.records import Key
from cloud_hub.scada.core.write_values import to_metric
from cloud_hub.scada.desired import DesiredWrites, guarded, record_progress
from cloud_hub.scada.server import HostServer
from cloud_hub.scada.writes import WriteService
from shared.plant.write_rules import CurrentValue, Refused, WriteRule, is_verified
from shared.sparkplug.effects import Publish


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
        self, db: Database, service: WriteService, server: Callable[[Key], HostServer | None]
    ) -> None:  # fmt: skip
        self._db, self._service, self._server = db, service, server
        self._desired = DesiredWrites(db, service)
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
        self._desired.run(sorted(changed), now_us)
        for write_id, device in self._pending():
            guarded("write", device, partial(self._send, write_id, device, now_us))
        for place, sent in list(self._sent.items()):
            if now_us >= sent.deadline_us:
                guarded("write", place[0], partial(self._overdue, place, sent, now_us))

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
                record_progress(session, row, now_us)
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
            record_progress(session, row, now_us)
