"""Applies the desired limits and alarm rules of Sparkplug devices at the hub: nothing on the device would.

They are those of the twin document `thresholds`, as for an agent: `desired.limits` and `desired.alarm_rules`. The hub
reports them as in force, or says why not, so that rollouts of learned limits end as on an agent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from cloud_hub.clock import new_id
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import AlarmRow, SparkplugNode, TwinRow
from cloud_hub.incidents import service as incidents
from cloud_hub.scada.core.limit_rules import ABOUT, Active, DeviceRules
from cloud_hub.scada.core.values import Row
from cloud_hub.thresholds.limits import files as limit_files
from cloud_hub.twins import service as twins
from shared.protocol.codec import encode, from_plain
from shared.protocol.messages import Alarm, Applied
from shared.thresholds import AlarmRules, Limits

log = logging.getLogger(__name__)

DOCUMENT = "thresholds"
MAX_RULES = 10_000
"""The maximum number of limits of one device."""


class LimitJudge:
    """The rules of all Sparkplug devices. The host's thread uses it. `notify` wakes workers when alarms are raised."""

    def __init__(self, db: Database, notify: Callable[[str], None], max_bytes: int) -> None:
        self._db, self._notify, self._max_bytes = db, notify, max_bytes
        self._rules: dict[str, DeviceRules] = {}
        self._versions: dict[str, int] = {}

    def reload(self, now_us: int) -> None:
        """Read the documents that changed since the last call. One that fails ends no other."""
        with self._db.read() as session:
            foreign = select(SparkplugNode.device).where(col(SparkplugNode.own).is_(False))
            query = select(TwinRow.device, TwinRow.version).where(
                TwinRow.name == DOCUMENT, col(TwinRow.deleted).is_(False), col(TwinRow.device).in_(foreign)
            )
            found = dict(session.exec(query).all())
        for device in sorted(self._versions.keys() - found.keys()):
            self._rules.pop(device, None)
            del self._versions[device]
        for device, version in sorted(found.items()):
            if self._versions.get(device) != version:
                self._guarded(device, partial(self._load, device, now_us))

    def judge(self, rows: Iterable[Row], now_us: int) -> None:
        """Judge samples that are stored; those of a device in the order of their times."""
        mine: dict[str, list[Row]] = {}
        for row in rows:
            if row[0] in self._rules:
                mine.setdefault(row[0], []).append(row)
        for device, found in mine.items():
            self._guarded(device, partial(self._judge, device, found, now_us))

    def tick(self, now_us: int) -> None:
        """Judge the time without samples."""
        for device, rules in list(self._rules.items()):
            self._guarded(device, partial(self._tick, device, rules, now_us))

    def _tick(self, device: str, rules: DeviceRules, now_us: int) -> None:
        self._alarms(device, rules.tick(now_us, new_id), now_us)

    def _judge(self, device: str, rows: list[Row], now_us: int) -> None:
        rules, alarms = self._rules[device], list[Alarm]()
        for _, metric, t_us, _, _, value, text, quality in sorted(rows, key=lambda row: row[2]):
            if quality != "bad" and (value is not None or text is not None):
                alarms += rules.judge(metric, t_us, value, now_us, new_id)
        self._alarms(device, alarms, now_us)

    def _alarms(self, device: str, alarms: Sequence[Alarm], now_us: int) -> None:
        if not alarms:
            return
        with self._db.write(device) as session:
            incidents.handle_alarms(session, device, alarms, now_us, "")
        for worker in ("diagnosis", "rollouts"):
            self._notify(worker)

    def _guarded(self, device: str, work: Callable[[], None]) -> None:
        """Rules whose alarms could not be stored are read again, with the alarms that are."""
        try:
            work()
        except Exception as error:
            self._rules.pop(device, None)
            self._versions.pop(device, None)
            fields = {"device": device, "reason": f"{type(error).__name__}: {error}"[:500]}
            log.exception("sparkplug.limits_failed", extra={"fields": fields})

    # -- loading -----------------------------------------------------------------------------------

    def _load(self, device: str, now_us: int) -> None:
        with self._db.write(device) as session:
            document = twins.load(session, device, DOCUMENT)
            desired = document.state.get("desired", {})
            limits = self._part(session, device, desired, "limits", document.version, now_us)
            rules = self._part(session, device, desired, "alarm_rules", document.version, now_us)
            version = twins.load(session, device, DOCUMENT).version
            active = _active(session, device)
        made = DeviceRules(limits or (), rules or AlarmRules(), active)
        self._versions[device] = version
        self._rules[device] = made
        self._alarms(device, made.orphans(now_us), now_us)

    def _part(
        self, session: Session, device: str, desired: dict[str, Any], path: str, version: int, now_us: int
    ) -> Any:  # fmt: skip
        """Limits or rules as desired, reported as in force; None, with the reason, when they are refused."""
        wanted = desired.get(path)
        if wanted is None:
            return None
        try:
            read = _limits(session, wanted) if path == "limits" else from_plain(AlarmRules, wanted)
        except ValueError as error:
            refusal = Applied(shadow=DOCUMENT, version=version, path=path, state="refused", reason=str(error)[:500])
            twins.record_progress(session, device, refusal, now_us)
            return None
        if twins.reported(session, device, DOCUMENT).get(path) != wanted:
            payload = encode({"state": {"reported": {path: wanted}}})
            twins.handle_request(
                session, device, DOCUMENT, "update", payload, now_us, actor=device, max_bytes=self._max_bytes
            )
        done = Applied(shadow=DOCUMENT, version=version, path=path, state="verified")
        twins.record_progress(session, device, done, now_us)
        return read


def _limits(session: Session, wanted: Any) -> list[Limits]:
    """The limits of a document, inline or in a file; raises ValueError."""
    entries = limit_files.read_entries(session, wanted) if isinstance(wanted, dict) else wanted
    if entries is None:
        raise ValueError("the file with the limits is not there")
    limits = from_plain(list[Limits], entries)
    metrics = [one.metric for one in limits]
    if len(metrics) > MAX_RULES or len(set(metrics)) != len(metrics):
        raise ValueError(f"at most {MAX_RULES} limits, and one for a metric")
    return limits


def _active(session: Session, device: str) -> Active:
    query = select(AlarmRow.metric, AlarmRow.about, AlarmRow.id, AlarmRow.kind).where(
        AlarmRow.device == device, AlarmRow.state == "raised", col(AlarmRow.about).in_(ABOUT)
    )
    return {(metric, about): (number, kind) for metric, about, number, kind in session.exec(query)}  # type: ignore[misc]
