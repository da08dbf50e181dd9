"""Receives Prometheus remote write and stores it as telemetry of devices. Repeated and unordered samples are accepted.

A series is (sender, labels). It is assigned a device and a metric once and permanently. All samples of a sender are
stored under one source, so a sample is identified by series and time. A sender writes only to devices that its own
series created, never to those of an agent, whatever its labels are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cramjam
from sqlmodel import Session, col, func, select

from cloud_hub.certificates import registry as certificates
from cloud_hub.database import scopes
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, HighWater, PrometheusSeries
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices.offsets import Key, StreamOffsets
from cloud_hub.errors import HubError
from cloud_hub.prometheus.core import naming, protobuf
from cloud_hub.security.core.roles import Scope
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.telemetry.samples import SampleRow

MAX_COMPRESSED, MAX_BYTES, MAX_SAMPLES = 8 << 20, 32 << 20, 200_000
AHEAD_US = 3_600_000_000
"""Samples further in the future are rejected: the sender's clock is wrong."""
PROFILE = "prometheus"
_CHUNK = 300


@dataclass(slots=True)
class Outcome:
    """Result of a request: the number of `stored` and `invalid` samples, and the first reason of the latter."""

    stored: int = 0
    invalid: int = 0
    reason: str = ""

    def refuse(self, count: int, reason: str) -> None:
        """Count samples that are rejected permanently."""
        self.invalid += count
        self.reason = self.reason or reason


@dataclass(slots=True)
class _PendingSeries:
    """A series with its samples in microseconds, and its device and metric once they are known."""

    labels: dict[str, str]
    digest: str
    samples: list[tuple[int, float]]
    device: str = ""
    metric: str = ""


@dataclass(frozen=True, slots=True)
class RemoteWriteReceiver:
    """Stores requests in `db`; registers at most `max_series` series."""

    db: Database
    max_series: int

    def write(self, content: bytes, sender: str, scope: Scope, now_us: int, trace: str) -> Outcome:
        """Store one request body (snappy, protobuf). Raises HubError 400 or 413 if the whole request is rejected."""
        outcome = Outcome()
        wanted = _validate(_decode(content), sender, outcome, now_us)
        if not wanted:
            return outcome
        with self.db.read(scope=scope) as session:
            source = _source(session, sender)
            _look_up(session, wanted)
            wanted = _without_removed(session, wanted, outcome)
            ready = _look_up(session, wanted)
        if not wanted:
            return outcome
        if ready and source is not None:
            with self.db.write(*sorted({one.device for one in wanted}), scope=scope) as session:
                _store(session, wanted, source, outcome)
            return outcome
        with self.db.write(scope=scope) as session:  # exclusive, so read again: rows may have changed
            _look_up(session, wanted)
            wanted = _without_removed(session, wanted, outcome)
            _Register(session, self.max_series, sender, scope, now_us, trace).name(wanted, outcome)
            _store(
                session, [one for one in wanted if one.metric], StreamOffsets(session).get(_key(sender)).source, outcome
            )
        return outcome


def _key(sender: str) -> Key:
    """The high-water key whose id is the source of a sender's samples; it belongs to no device."""
    return "", f"prometheus:{sender}", "telemetry"


def _source(session: Session, sender: str) -> int | None:
    device, epoch, stream = _key(sender)
    query = select(HighWater.id).where(HighWater.device == device, HighWater.epoch == epoch)
    return session.exec(query.where(HighWater.stream == stream)).first()


def _look_up(session: Session, wanted: Sequence[_PendingSeries]) -> bool:
    """Set device and metric of registered series; returns whether all are registered on visible devices."""
    rows: dict[str, tuple[str, str]] = {}
    for some in _chunks([one.digest for one in wanted]):
        query = select(PrometheusSeries.digest, PrometheusSeries.device, PrometheusSeries.metric)
        for number, device, metric in session.exec(query.where(col(PrometheusSeries.digest).in_(some))):
            rows[number] = device, metric
    for one in wanted:
        one.device, one.metric = rows.get(one.digest, ("", ""))
    there: set[str] = set()
    for some in _chunks(sorted({device for device, _ in rows.values()})):
        there.update(
            session.exec(scopes.restrict(session, select(Device.id).where(col(Device.id).in_(some)), col(Device.id)))
        )
    return all(one.device in there for one in wanted)


def _without_removed(session: Session, wanted: list[_PendingSeries], outcome: Outcome) -> list[_PendingSeries]:
    """Drop the series of removed devices; their samples are counted as rejected."""
    certificates.preload(session, sorted({one.device for one in wanted if one.device}))
    for one in wanted:
        if one.device and certificates.removed(session, one.device):
            outcome.refuse(len(one.samples), _removed(one.device))
    return [one for one in wanted if not (one.device and certificates.removed(session, one.device))]


def _removed(device: str) -> str:
    return f"'{device}' was removed. {device_registry.CURE}"


def _store(session: Session, wanted: Sequence[_PendingSeries], source: int, outcome: Outcome) -> None:
    """Store the new samples; those already stored for the same series and time are skipped."""
    rows: dict[tuple[str, str, int], SampleRow] = {}
    for one in wanted:
        for t_us, value in one.samples:
            number, quality = (value, "good") if math.isfinite(value) else (None, "bad")
            key = one.device, one.metric, t_us
            rows.setdefault(key, (*key, source, 0, number, None, quality))
    for key in _stored_keys(session, source, list(rows)):
        del rows[key]
    telemetry.store_samples(session, list(rows.values()))
    outcome.stored += len(rows)


@dataclass(slots=True)
class _Register:
    """Registers new series in one transaction: assigns each a device and a metric."""

    session: Session
    max_series: int
    sender: str
    scope: Scope
    now_us: int
    trace: str
    _hosts: dict[str, str] = field(default_factory=dict)
    _new: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _taken: dict[str, set[str]] = field(default_factory=dict)

    def name(self, wanted: Sequence[_PendingSeries], outcome: Outcome) -> None:
        """Assign a device and metric to each new series, or count its samples as rejected."""
        self._check_registered(wanted, outcome)
        new = [one for one in wanted if not one.device]
        count = self.session.exec(select(func.count()).select_from(PrometheusSeries)).one()
        for one in new:
            if count >= self.max_series:
                cure = "send fewer (write_relabel_configs), or raise prometheus.max_series"
                outcome.refuse(len(one.samples), f"this hub accepts {self.max_series} series: {cure}")
                continue
            device = self._device(naming.host(one.labels))
            if certificates.removed(self.session, device):
                outcome.refuse(len(one.samples), _removed(device))
                continue
            count, one.device = count + 1, device
            one.metric = self._metric(one)
            self.session.add(
                PrometheusSeries(digest=one.digest, sender=self.sender, host=naming.host(one.labels), device=one.device,
                                 metric=one.metric, labels=one.labels, first_us=self.now_us)
            )  # fmt: skip
        self._write_metrics()

    def _check_registered(self, wanted: Sequence[_PendingSeries], outcome: Outcome) -> None:
        """Check registered series: create devices that are missing, reject those outside of the token's scope."""
        known: dict[str, list[_PendingSeries]] = {}
        for one in wanted:
            if one.device:
                known.setdefault(one.device, []).append(one)
        for device, mine in sorted(known.items()):
            if self.session.get(Device, device) is None:
                self._create_device(device)
            elif not scopes.sees(self.session, [device]):
                for one in mine:
                    outcome.refuse(len(one.samples), f"'{device}' is beyond the token's scope")
                    one.metric, one.samples = "", []

    def _device(self, host: str) -> str:
        if host not in self._hosts:
            query = select(PrometheusSeries.device).where(
                PrometheusSeries.sender == self.sender, PrometheusSeries.host == host
            )
            known = self.session.exec(query.limit(1)).first()
            self._hosts[host] = known or self._new_device(host)
        return self._hosts[host]

    def _new_device(self, host: str) -> str:
        """Create a device with a free id; ids of agents and other senders are not shared."""
        name = naming.device(host)
        if self.session.get(Device, name) is not None or certificates.removed(self.session, name):
            name = naming.disambiguate(name, naming.digest(self.sender, host), naming.DEVICE_MOST)
        if self.session.get(Device, name) is None and not certificates.removed(self.session, name):
            self._create_device(name)
        return name

    def _create_device(self, name: str) -> None:
        if self.scope is not None and len(self.scope) != 1:
            raise HubError(403, "Not allowed", "a token that creates devices must have exactly one scope, or none")
        self.session.add(Device(id=name, profile=PROFILE))
        self.session.flush()
        place = self.scope[0] if self.scope else ""
        device_registry.audit_registration(self.session, name, place, self.now_us, actor=self.sender, trace=self.trace)

    def _metric(self, one: _PendingSeries) -> str:
        if one.device not in self._taken:
            query = select(PrometheusSeries.metric).where(PrometheusSeries.device == one.device)
            self._taken[one.device] = set(self.session.exec(query))
        name = naming.metric(one.labels)
        if name in self._taken[one.device]:
            name = naming.disambiguate(name, one.digest, naming.METRIC_MOST)
        self._taken[one.device].add(name)
        kind = "counter" if one.labels["__name__"].endswith(("_total", "_bucket", "_sum", "_count")) else "gauge"
        self._new.setdefault(one.device, []).append({"name": name, "unit": "1", "kind": kind})
        return name

    def _write_metrics(self) -> None:
        for device, metrics in self._new.items():
            row = self.session.get(Device, device)
            if row is not None:
                row.metrics = [*row.metrics, *metrics]
                row.seen_us = self.now_us
                self.session.add(row)


def _decode(content: bytes) -> list[protobuf.Written]:
    """Decompress and parse a request. Raises HubError; the size is checked before decompression."""
    try:
        size, _ = protobuf.varint(content, 0)
        if size > MAX_BYTES:
            raise HubError(
                413, "Too large", f"the request has {size} bytes uncompressed; at most {MAX_BYTES} are allowed"
            )
        plain = bytes(cramjam.snappy.decompress_raw(content))
        if len(plain) != size:
            raise protobuf.Malformed("the size of the block does not match its header")
        return protobuf.read(plain, MAX_SAMPLES)
    except (protobuf.Malformed, cramjam.DecompressionError) as error:
        raise HubError(400, "Invalid request", f"not remote write 1.0: {error}") from None


def _validate(found: Iterable[protobuf.Written], sender: str, outcome: Outcome, now_us: int) -> list[_PendingSeries]:
    """The series with valid labels and times; repeated series are merged."""
    known: dict[str, _PendingSeries] = {}
    for one in found:
        if not one.samples:
            continue  # a native histogram, or exemplars only
        try:
            labels = naming.validate_labels(one.labels)
        except ValueError as error:
            outcome.refuse(len(one.samples), str(error))
            continue
        number = naming.digest(sender, labels)
        series = known.setdefault(number, _PendingSeries(labels, number, []))
        good = [(t_ms * 1000, value) for t_ms, value in one.samples if 0 <= t_ms * 1000 <= now_us + AHEAD_US]
        if len(good) < len(one.samples):
            outcome.refuse(len(one.samples) - len(good), "a sample is before 1970 or more than an hour in the future")
        series.samples += good
    return [one for one in known.values() if one.samples]


def _stored_keys(session: Session, source: int, keys: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """The keys that are already stored."""
    connection = session.connection()
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    found: list[tuple[str, str, int]] = []
    for some in _chunks(keys):
        values = ", ".join([f"({mark}, {mark}, {mark})"] * len(some))
        query = (
            f"WITH wanted (device, metric, t_us) AS (VALUES {values}) "  # noqa: S608 - placeholders alone
            "SELECT t.device, t.metric, t.t_us FROM wanted w CROSS JOIN telemetry t WHERE t.device = w.device "
            f"AND t.metric = w.metric AND t.t_us = w.t_us AND t.source = {mark} AND t.seq = 0"
        )
        parameters = (*(part for key in some for part in key), source)
        found += [tuple(row) for row in connection.exec_driver_sql(query, parameters)]
    return found


def _chunks(items: list[Any]) -> Iterable[list[Any]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
