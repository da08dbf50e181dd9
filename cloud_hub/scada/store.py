"""Stores births, data and deaths of Sparkplug nodes, many in one transaction.

Numbers and texts become telemetry of the device that the node is here. A value is identified by metric and time, so one
that is repeated (in a birth, or after an outage) is stored once; of two within one millisecond the later one stays.
Texts and ids also stand in the reported part of its twin document `sparkplug`. A death makes the device offline: all
its metrics are stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, delete, select, update
from sqlmodel import Session

from cloud_hub.certificates import registry as certificates
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, SparkplugNode
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.scada import twin
from cloud_hub.scada.core import definitions
from cloud_hub.scada.core.records import Birth, Data, Death, Key, Note, Record
from cloud_hub.scada.core.values import Row, Rows, to_rows
from cloud_hub.scada.registry import PROFILE, Known, NodeRegistry, RefusedBirth, chunks, device_metrics
from cloud_hub.settings.scada import Sparkplug
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.twins.rows import TwinRows

SOURCE = ("", "sparkplug", "telemetry")
"""The high-water key whose id is the source of all samples; it belongs to no device."""

_NODES: Any = SparkplugNode.__table__  # type: ignore[attr-defined]
_DEVICES: Any = Device.__table__  # type: ignore[attr-defined]
_NODE = _NODES.c.digest == bindparam("b_digest")
_BORN = update(_NODES).where(_NODE).values(
    state="online", born_us=bindparam("b_us"), bd_seq=bindparam("b_bd_seq"), server=bindparam("b_server"),
    births=_NODES.c.births + bindparam("b_births"),
)  # fmt: skip
_DIED = update(_NODES).where(_NODE).values(state="offline", died_us=bindparam("b_us"))
_DEFINED = update(_NODES).where(_NODE).values(
    definitions=bindparam("b_definitions"), metrics=bindparam("b_metrics")
)  # fmt: skip
_REQUESTED = update(_NODES).where(_NODE).values(requested=_NODES.c.requested + bindparam("b_count"))
_REFUSED = update(_NODES).where(_NODE).values(
    refused=_NODES.c.refused + bindparam("b_count"), refusal=bindparam("b_reason"), refused_us=bindparam("b_us")
)  # fmt: skip
_DEVICE = _DEVICES.c.id == bindparam("b_id")
_UP = update(_DEVICES).where(_DEVICE).values(
    state="online", born_us=bindparam("b_us"), seen_us=bindparam("b_us"), profile=PROFILE
)  # fmt: skip
_DOWN = update(_DEVICES).where(_DEVICE).values(state="offline", seen_us=bindparam("b_us"))
_SET_METRICS = update(_DEVICES).where(_DEVICE).values(metrics=bindparam("b_metrics"), profile=PROFILE)
_PROFILES = select(_DEVICES.c.id, _DEVICES.c.profile).where(_DEVICES.c.id.in_(bindparam("b_ids", expanding=True)))


@dataclass(slots=True)
class Stored:
    """What a commit did. `changed` devices were registered, born or died; `again` are nodes that must be born anew."""

    rows: int = 0
    invalid: int = 0
    unknown: int = 0
    wrong_times: int = 0
    refused: list[tuple[Key, str]] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    again: set[Key] = field(default_factory=set)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    removed: int = 0
    samples: list[Row] = field(default_factory=list)

    def add(self, other: Stored) -> None:
        """Merge another part."""
        for name in ("rows", "invalid", "unknown", "wrong_times", "removed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.refused += other.refused
        self.samples += other.samples
        self.changed |= other.changed
        self.again |= other.again
        for device, texts in other.texts.items():
            self.texts.setdefault(device, {}).update(texts)


class Store:
    """Stores records. One thread uses it. `max_bytes` limits a twin document."""

    def __init__(self, db: Database, settings: Sparkplug, max_bytes: int) -> None:
        self._db, self._max_bytes = db, max_bytes
        self.registry = NodeRegistry(settings)
        self._source = 0

    def commit(self, records: Sequence[Record], now_us: int, trace: str = "") -> Stored:
        """Store all records in one transaction, or none and raise."""
        nodes = {record.key[:2] for record in records if isinstance(record, Death | Birth) and not record.key[2]}
        keys = {record.key for record in records} | {(*record.key[:2], "") for record in records}
        with self._db.read() as session:
            self.registry.load(session, keys, nodes)
        births = [record for record in records if isinstance(record, Birth)]
        new = any(self._is_new(birth) for birth in births) or not self._source
        devices = {known.device for key in keys if (known := self.registry.get(key))}
        devices |= {known.device for node in nodes for known in self.registry.of_node(*node).values()}
        if not devices and not new:
            unknown = {record.key for record in records if isinstance(record, Data)}
            return Stored(again=unknown)
        with self._db.write(*(() if new else sorted(devices))) as session:
            if not self._source:
                self._source = StreamOffsets(session).get(SOURCE).source
            work = _Work(session, self.registry, self._source, self._max_bytes, now_us, trace)
            work.preload(devices)
            for record in records:
                work.add(record)
            work.flush()
        self.registry.remember(work.staged)
        self.registry.forget(work.gone)
        return work.stored

    def _is_new(self, birth: Birth) -> bool:
        """Whether a birth may register something, so that no other writer may run."""
        known = self.registry.get(birth.key)
        return known is None or (not birth.key[2] and known.own != bool(definitions.own_device(birth.metrics)))


@dataclass(slots=True)
class _Work:
    """The state of one transaction: rows to write, the last state of each node."""

    session: Session
    registry: NodeRegistry
    source: int
    max_bytes: int
    now_us: int
    trace: str
    stored: Stored = field(default_factory=Stored)
    staged: dict[Key, Known] = field(default_factory=dict)
    gone: set[Key] = field(default_factory=set)
    _rows: Rows = field(default_factory=Rows)
    _profiles: dict[str, str] = field(default_factory=dict)
    _ups: dict[str, dict[str, Any]] = field(default_factory=dict)
    _downs: dict[str, str] = field(default_factory=dict)
    _defined: list[dict[str, Any]] = field(default_factory=list)
    _metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _requested: dict[str, int] = field(default_factory=dict)
    _refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    _reports: dict[str, tuple[Key, str]] = field(default_factory=dict)

    def preload(self, devices: set[str]) -> None:
        """Read which of the devices are removed, and their profiles."""
        for chunk in chunks(sorted(devices)):
            certificates.preload(self.session, chunk)
        for chunk in chunks(sorted(devices)):
            rows = self.session.connection().execute(_PROFILES, {"b_ids": chunk})
            self._profiles |= {row.id: row.profile for row in rows}

    def add(self, record: Record) -> None:
        """Handle one record."""
        if isinstance(record, Data):
            self._data(record)
        elif isinstance(record, Birth):
            self._birth(record)
        elif isinstance(record, Death):
            self._death(record)
        else:
            self._note(record)

    def _known(self, key: Key) -> Known | None:
        """The node or device, unless it is not registered, or was removed, or an agent has taken its id."""
        known = self.staged.get(key) or self.registry.get(key)
        if known is None or key in self.gone:
            return None
        if not self._is_ours(known):
            self._give_up(key, known)
            return None
        if not certificates.removed(self.session, known.device):
            return known
        self.stored.removed += 1
        self.gone.add(key)
        return None

    def _is_ours(self, known: Known) -> bool:
        """Whether the device is still that of the node, or the node is an agent."""
        return known.own or self._profiles.get(known.device, PROFILE) in {PROFILE, ""}

    def _give_up(self, key: Key, known: Known) -> None:
        """An agent was enrolled under the id of this node, which gets another one at its next birth."""
        self.session.connection().execute(delete(_NODES).where(_NODES.c.digest == known.digest))
        self.gone.add(key)
        self.stored.again.add(key)
        self.stored.refused.append((key, f"an agent has the id '{known.device}' now; the node gets another one"))

    def _data(self, record: Data) -> None:
        known = self._known(record.key)
        if known is None and record.key not in self.gone:  # its birth could not be stored
            self.stored.again.add(record.key)
        if known is None or known.own:
            return
        if not known.definitions:  # restored, or never defined: its birth must be read first
            self.stored.again.add(record.key)
        before = self._rows.texts
        self._rows.texts = {}
        to_rows(known.device, record.metrics, known.names, self.source, record.sent_ms, self.now_us, self._rows)
        if self._rows.texts:
            self.stored.texts.setdefault(known.device, {}).update(self._rows.texts)
        self._rows.texts = before

    # -- births and deaths -------------------------------------------------------------------------

    def _birth(self, birth: Birth) -> None:
        try:
            known = self._born(birth)
        except RefusedBirth as refusal:
            self.stored.refused.append((birth.key, str(refusal)))
            return
        if known is None:
            return
        if not birth.key[2]:
            for key, other in self._devices_of(birth.key).items():
                self._down(key, other)
        self._downs.pop(known.digest, None)
        births = self._ups.get(known.digest, {}).get("b_births", 0) + 1
        self._ups[known.digest] = {
            "b_digest": known.digest, "b_id": known.device, "b_us": self.now_us, "b_bd_seq": _shown(birth.bd_seq),
            "b_server": birth.server, "b_births": births, "own": known.own,
        }  # fmt: skip
        if not known.own:
            self.stored.changed.add(known.device)
            self._data(Data(key=birth.key, metrics=birth.metrics, sent_ms=birth.sent_ms))
            self._reports[known.device] = (birth.key, "online")

    def _born(self, birth: Birth) -> Known | None:
        """The registered node of a birth, with its definitions; None if it was removed."""
        known = self._known(birth.key)
        if known is None and birth.key in self.gone:
            return None
        parent = self._known((*birth.key[:2], "")) if birth.key[2] else None
        if birth.key[2] and parent is None:
            raise RefusedBirth("its node is not registered")
        whole = not self.session.info["devices"]
        if known is None or (whole and self.registry.is_own_changed(self.session, birth, parent, known)):
            known = self.staged[birth.key] = self.registry.register(
                self.session, birth, parent, self.now_us, self.trace
            )
        return known if known.own else self._define(birth, known)

    def _define(self, birth: Birth, known: Known) -> Known:
        """Store the metrics of a birth that differ from those of the last one."""
        wanted = definitions.read(birth.metrics)
        number = definitions.digest(wanted)
        if number == known.definitions and self._profiles.get(known.device, PROFILE) == PROFILE:
            return known
        known, names, left_out = self.registry.define(self.session, known, wanted)
        self.staged[birth.key] = known
        self._metrics[known.device] = device_metrics(wanted, names)
        self._defined.append(
            {"b_digest": known.digest, "b_definitions": known.definitions, "b_metrics": len(known.names)}
        )
        if left_out:
            cure = "raise sparkplug.max_metrics, or publish fewer"
            self.stored.refused.append((birth.key, f"{left_out} of its metrics are not stored: {cure}"))
        return known

    def _devices_of(self, key: Key) -> Mapping[Key, Known]:
        """The devices of a node, without the node itself."""
        staged = {name: known for name, known in self.staged.items() if name[:2] == key[:2]}
        found = {**self.registry.of_node(*key[:2]), **staged}
        return {name: known for name, known in found.items() if name[2]}

    def _death(self, record: Death) -> None:
        known = self._known(record.key)
        if known is not None:
            self._down(record.key, known)
        if not record.key[2]:
            for key, other in self._devices_of(record.key).items():
                self._down(key, other)

    def _down(self, key: Key, known: Known) -> None:
        self._ups.pop(known.digest, None)
        mine = not known.own and self._is_ours(known)
        self._downs[known.digest] = known.device if mine else ""
        if mine and not certificates.removed(self.session, known.device):
            self.stored.changed.add(known.device)
            self._reports[known.device] = (key, "offline")

    def _note(self, note: Note) -> None:
        known = self._known(note.key)
        if known is None:
            return
        if note.refused:
            self._refused[known.digest] = (self._refused.get(known.digest, (0, ""))[0] + 1, note.reason[:300])
        else:
            self._requested[known.digest] = self._requested.get(known.digest, 0) + 1

    # -- writing -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write everything."""
        rows = {row[:3]: row for row in self._rows.rows}
        telemetry.store_samples(self.session, rows.values(), replace=True)
        for key, reason in self.stored.refused:
            known = self.staged.get(key) or self.registry.get(key)
            if known is not None:
                self._refused[known.digest] = (self._refused.get(known.digest, (0, ""))[0] + 1, reason[:300])
        ups = list(self._ups.values())
        downs = [{"b_digest": digest, "b_us": self.now_us} for digest in self._downs]
        mine = [{"b_id": up["b_id"], "b_us": up["b_us"]} for up in ups if not up["own"]]
        gone = [{"b_id": device, "b_us": self.now_us} for device in self._downs.values() if device]
        metrics = [{"b_id": device, "b_metrics": found} for device, found in self._metrics.items()]
        asked = [{"b_digest": digest, "b_count": count} for digest, count in self._requested.items()]
        refused = [
            {"b_digest": digest, "b_count": count, "b_reason": reason, "b_us": self.now_us}
            for digest, (count, reason) in self._refused.items()
        ]
        births = [{name: value for name, value in up.items() if name not in {"own", "b_id"}} for up in ups]
        for statement, values in (
            (_BORN, births), (_DIED, downs), (_DEFINED, self._defined), (_UP, mine), (_DOWN, gone),
            (_SET_METRICS, metrics), (_REQUESTED, asked), (_REFUSED, refused),
        ):  # fmt: skip
            if values:
                self.session.connection().execute(statement, values)
        self._report()
        self.stored.rows += len(rows)
        self.stored.samples = list(rows.values())
        self.stored.invalid, self.stored.unknown = self._rows.invalid, self._rows.unknown
        self.stored.wrong_times = self._rows.wrong_times

    def _report(self) -> None:
        """Write the twin documents of devices that were born or died, if they change."""
        documents = TwinRows(self.session)
        for chunk in chunks(sorted(self._reports)):
            documents.load([(device, twin.DOCUMENT) for device in chunk])
        for device, (key, state) in self._reports.items():
            texts = self.stored.texts.pop(device, {})
            twin.report(
                self.session, documents, device, twin.identity(key) | {"state": state}, texts, self.now_us,
                self.max_bytes, self.trace,
            )  # fmt: skip
        documents.save()


def _shown(bd_seq: int | None) -> int | None:
    """A bdSeq as its column holds it: it is at most 255, and only shown. None for one of a node that counts on."""
    return bd_seq if bd_seq is not None and 0 <= bd_seq < 1 << 31 else None
