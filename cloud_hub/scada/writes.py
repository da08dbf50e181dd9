"""Writes to metrics of Sparkplug devices: asked for by a person, judged by a rule, sent once, verified by read-back.

A write is a row of `sparkplug_writes`. It is judged and stored in one transaction, `pending`; the host sends it after
it has stored it as `sent`, so that it is never sent twice. Only metrics that the settings declare can be written. This
is not a safety function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.audit import trail
from cloud_hub.clock import new_id
from cloud_hub.database import scopes
from cloud_hub.database.tables import SparkplugMetric, SparkplugNode, SparkplugWrite
from cloud_hub.devices import registry as device_registry
from cloud_hub.errors import HubError
from cloud_hub.scada.core.write_values import to_metric
from cloud_hub.scada.current import CurrentValues, Rules
from shared.plant.write_rules import Allowed, CurrentValue, Refused, WriteRule, judge_write

UNDER_WAY = ("pending", "sent")
COUNTED = ("pending", "sent", "verified", "failed")
"""States of writes that count for the rate: those that were or may have been sent."""
SEND_US = 10_000_000
"""A write that was not sent within this time expires."""
SHOWN = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """What a person asks for. `why` is their reason; `leaf` and `version` are of desired state."""

    device: str
    metric: str
    value: Any
    actor: str
    why: str = ""
    dry_run: bool = False
    origin: str = "rest"
    leaf: str = ""
    version: int = 0
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a write goes: the node or device, and the metric by its Sparkplug name."""

    node: SparkplugNode
    metric: SparkplugMetric


class WriteService:
    """Judges and stores writes. `current` are the values that rules need."""

    def __init__(self, rules: Rules, current: CurrentValues) -> None:
        self.rules, self.current = rules, current

    def request(
        self, session: Session, request: WriteRequest, now_us: int, *, refusal: str = ""
    ) -> SparkplugWrite:  # fmt: skip
        """Judge a write and store it: refused (at once, with `refusal`), dry-run or pending. Needs the device's lock.

        HubError 404 for an unknown device.
        """
        device_registry.require_device(session, request.device)
        verdict: Allowed | str = refusal
        if not refusal:
            judged = self.judge(session, request.device, request.metric, request.value, now_us)
            verdict = judged if isinstance(judged, Allowed) else str(judged)
        allowed = isinstance(verdict, Allowed)
        state = ("dry-run" if request.dry_run else "pending") if allowed else "refused"
        row = SparkplugWrite(
            id=new_id(), device=request.device, metric=request.metric[:200],
            value=verdict.value if isinstance(verdict, Allowed) else _bounded(request.value), state=state,
            reason="" if isinstance(verdict, Allowed) else verdict[:500], actor=request.actor, why=request.why,
            origin=request.origin, leaf=request.leaf, version=request.version, requested_us=now_us,
            deadline_us=now_us + SEND_US if state == "pending" else 0, done_us=None if state == "pending" else now_us,
            traceparent=request.trace,
        )  # fmt: skip
        session.add(row)
        session.flush()
        audit(session, row, now_us)
        return row

    def present(self, session: Session, device: str) -> Mapping[str, CurrentValue]:
        """The present values of a device that has rules."""
        target = session.exec(select(SparkplugNode).where(SparkplugNode.device == device).limit(1)).first()
        return {} if target is None else self.current.of(device, target.node_digest)

    def judge(
        self, session: Session, device: str, metric: str, value: Any, now_us: int, *, besides: str = ""
    ) -> Allowed | Refused:  # fmt: skip
        """Whether this may be written now; `besides` is the id of the write itself, when it is judged again."""
        rule = self.rules.get((device, metric))
        if rule is None:
            reason = f"{metric[:200]} of {device[:80]} is not declared as writable"
            return Refused("allowed", reason, "Declare it in [[sparkplug.writable]] of the hub's settings")
        target = find_target(session, device, metric)
        if isinstance(target, Refused):
            return target
        values = self.current.of(device, target.node.node_digest)
        verdict = judge_write(rule, value, values, self._history(session, rule, device, now_us, besides), now_us)
        if isinstance(verdict, Refused):
            return verdict
        try:
            to_metric(target.metric.name, target.metric.datatype, verdict.value)
        except (ValueError, OverflowError) as error:
            return Refused("type", str(error), f"Write a value of type {target.metric.datatype}")
        return verdict

    def _history(self, session: Session, rule: WriteRule, device: str, now_us: int, besides: str) -> list[int]:
        since_us = now_us - int(max(60.0, rule.min_interval_s) * 1e6)
        query = select(SparkplugWrite.requested_us).where(
            SparkplugWrite.device == device, SparkplugWrite.metric == rule.metric, SparkplugWrite.id != besides,
            SparkplugWrite.requested_us >= since_us, col(SparkplugWrite.state).in_(COUNTED),
        )  # fmt: skip
        return list(session.exec(query))


def find_target(session: Session, device: str, metric: str) -> Target | Refused:
    """The node and metric of a write; refused unless both are there and online."""
    node = session.exec(select(SparkplugNode).where(SparkplugNode.device == device).limit(1)).first()
    if node is None:
        return Refused("allowed", f"{device} is no Sparkplug node or device", "See GET /api/v1/sparkplug/nodes")
    if node.own:
        return Refused("allowed", f"{device} is an agent of this hub", "Change the desired state of its twin")
    found = session.get(SparkplugMetric, (device, metric))
    if found is None or not found.present:
        return Refused(
            "allowed", f"{device} has no metric {metric[:200]}", "See GET /api/v1/sparkplug/nodes/ID/metrics"
        )
    if node.state != "online":
        return Refused("stale", f"{device} is offline", "Write when it is back")
    return Target(node, found)


def finish(session: Session, row: SparkplugWrite, state: str, reason: str, now_us: int, read_back: Any = None) -> None:
    """Set the last state of a write, and audit it."""
    row.state, row.reason, row.done_us, row.read_back = state, reason[:500], now_us, read_back
    session.add(row)
    session.flush()
    audit(session, row, now_us)


def audit(session: Session, row: SparkplugWrite, now_us: int) -> None:
    """One row of the audit trail for each state of a write, refused ones included."""
    detail: dict[str, Any] = {"id": row.id, "metric": row.metric, "value": row.value, "origin": row.origin}
    if row.why:
        detail["why"] = row.why
    if row.reason:
        detail["reason"] = row.reason
    if row.read_back is not None:
        detail["read_back"] = row.read_back
    kind = f"sparkplug.write.{row.state}"
    trail.add(session, now_us, row.actor, kind, row.metric, device=row.device, trace=row.traceparent, **detail)


def get(session: Session, write_id: str) -> SparkplugWrite:
    """One write; HubError 404."""
    row = session.get(SparkplugWrite, write_id)
    if row is None or not scopes.sees(session, [row.device]):
        raise HubError(404, "No such write", f"'{write_id[:80]}' is not known here: see GET /api/v1/sparkplug/writes")
    return row


def list_writes(session: Session, *, device: str = "", state: str = "", limit: int = 100) -> list[SparkplugWrite]:
    """The newest writes first."""
    query = scopes.restrict(session, select(SparkplugWrite), col(SparkplugWrite.device))
    if device:
        query = query.where(SparkplugWrite.device == device)
    if state:
        query = query.where(SparkplugWrite.state == state)
    return list(session.exec(query.order_by(col(SparkplugWrite.id).desc()).limit(min(max(limit, 1), SHOWN))))


def under_way(session: Session) -> Sequence[SparkplugWrite]:
    """All writes that have not ended."""
    return session.exec(select(SparkplugWrite).where(col(SparkplugWrite.state).in_(UNDER_WAY))).all()


def _bounded(value: Any) -> Any:
    """A refused value as it is stored: it may be anything."""
    if isinstance(value, bool | float) or value is None:
        return value if value is None or abs(value) < float("inf") else str(value)
    if isinstance(value, int):
        return value if value.bit_length() <= 63 else f"an integer of {value.bit_length()} bits"
    return str(value)[:200].replace("\0", "\ufffd")


def rules_of(writable: Sequence[Any]) -> Mapping[tuple[str, str], WriteRule]:
    """The rules of the settings by device and metric."""
    return {(one.device, one.metric): one.rule for one in writable}
