"""What a Prometheus sends by remote write, into the telemetry of devices. Sent again, or out of order, it is the same.

A series is (sender, labels). The register gives it a device and a metric once, for good; its samples are stored under
one source a sender, so that a sample is known by series and time. A sender writes to devices that came into being by
its own series, never to an agent's, whatever its labels say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cramjam
from sqlmodel import Session, col, func, select

from cloud_hub.certificates import registry as register
from cloud_hub.database import scopes
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import Device, HighWater, PrometheusSeries
from cloud_hub.devices import registry as fleet
from cloud_hub.devices.offsets import Key, StreamOffsets
from cloud_hub.errors import HubError
from cloud_hub.prometheus.core import naming, protobuf
from cloud_hub.security.core.roles import Scope
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.telemetry.samples import SampleRow

MAX_COMPRESSED, MAX_BYTES, MAX_SAMPLES = 8 << 20, 32 << 20, 200_000
AHEAD_US = 3_600_000_000
"""Samples further in the future are of a wrong clock."""
PROFILE = "prometheus"
_TOGETHER = 300


@dataclass(slots=True)
class Outcome:
    """What became of a request: `stored` samples, and for the rest how many and the first reason."""

    stored: int = 0
    invalid: int = 0
    reason: str = ""

    def refuse(self, count: int, reason: str) -> None:
        """Count samples that cannot be stored, now or ever."""
        self.invalid += count
        self.reason = self.reason or reason


@dataclass(slots=True)
class _Known:
    """A series with its samples in microseconds, and its place once it is known."""

    labels: dict[str, str]
    digest: str
    samples: list[tuple[int, float]]
    device: str = ""
    metric: str = ""


@dataclass(frozen=True, slots=True)
class RemoteWriteReceiver:
    """Stores requests into `db`; at most `max_series` series are ever given a name."""

    db: Database
    max_series: int

    def write(self, content: bytes, sender: str, scope: Scope, now_us: int, trace: str) -> Outcome:
        """Store one request as it came (snappy, protobuf). Raises HubError 400 or 413: all of it is refused."""
        outcome = Outcome()
        wanted = _checked(_decoded(content), sender, outcome, now_us)
        if not wanted:
            return outcome
        with self.db.read(scope=scope) as session:
            source = _source(session, sender)
            _find(session, wanted)
            wanted = _welcome(session, wanted, outcome)
            ready = _find(session, wanted)
        if not wanted:
            return outcome
        if ready and source is not None:
            with self.db.write(*sorted({one.device for one in wanted}), scope=scope) as session:
                _store(session, wanted, source, outcome)
            return outcome
        with self.db.write(scope=scope) as session:  # alone: what was read above may have changed
            _find(session, wanted)
            wanted = _welcome(session, wanted, outcome)
            _Register(session, self.max_series, sender, scope, now_us, trace).name(wanted, outcome)
            _store(
                session, [one for one in wanted if one.metric], StreamOffsets(session).get(_key(sender)).source, outcome
            )
        return outcome


def _key(sender: str) -> Key:
    """The mark that gives a sender's samples their source: no device's."""
    return "", f"prometheus:{sender}", "telemetry"


def _source(session: Session, sender: str) -> int | None:
    device, epoch, stream = _key(sender)
    query = select(HighWater.id).where(HighWater.device == device, HighWater.epoch == epoch)
    return session.exec(query.where(HighWater.stream == stream)).first()


def _find(session: Session, wanted: Sequence[_Known]) -> bool:
    """Fill in the places that are known; whether that is all of them, and the session sees their devices."""
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


def _welcome(session: Session, wanted: list[_Known], outcome: Outcome) -> list[_Known]:
    """Without the series of devices that were removed: their samples are refused, and counted."""
    register.preload(session, sorted({one.device for one in wanted if one.device}))
    for one in wanted:
        if one.device and register.removed(session, one.device):
            outcome.refuse(len(one.samples), _removed(one.device))
    return [one for one in wanted if not (one.device and register.removed(session, one.device))]


def _removed(device: str) -> str:
    return f"'{device}' was removed. {fleet.CURE}"


def _store(session: Session, wanted: Sequence[_Known], source: int, outcome: Outcome) -> None:
    """New samples alone: one that is there is the same, by series and time."""
    rows: dict[tuple[str, str, int], SampleRow] = {}
    for one in wanted:
        for t_us, value in one.samples:
            number, quality = (value, "good") if math.isfinite(value) else (None, "bad")
            key = one.device, one.metric, t_us
            rows.setdefault(key, (*key, source, 0, number, None, quality))
    for key in _there(session, source, list(rows)):
        del rows[key]
    telemetry.store_samples(session, list(rows.values()))
    outcome.stored += len(rows)


@dataclass(slots=True)
class _Register:
    """Gives names to series that have none yet, in one transaction."""

    session: Session
    max_series: int
    sender: str
    scope: Scope
    now_us: int
    trace: str
    _hosts: dict[str, str] = field(default_factory=dict)
    _new: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _taken: dict[str, set[str]] = field(default_factory=dict)

    def name(self, wanted: Sequence[_Known], outcome: Outcome) -> None:
        """Each series that has no place gets one, or is counted as refused."""
        self._mend(wanted, outcome)
        new = [one for one in wanted if not one.device]
        count = self.session.exec(select(func.count()).select_from(PrometheusSeries)).one()
        for one in new:
            if count >= self.max_series:
                cure = "send fewer (write_relabel_configs), or raise prometheus.max_series"
                outcome.refuse(len(one.samples), f"this hub takes {self.max_series} series: {cure}")
                continue
            device = self._device(naming.host(one.labels))
            if register.removed(self.session, device):
                outcome.refuse(len(one.samples), _removed(device))
                continue
            count, one.device = count + 1, device
            one.metric = self._metric(one)
            self.session.add(
                PrometheusSeries(digest=one.digest, sender=self.sender, host=naming.host(one.labels), device=one.device,
                                 metric=one.metric, labels=one.labels, first_us=self.now_us)
            )  # fmt: skip
        self._tell_metrics()

    def _mend(self, wanted: Sequence[_Known], outcome: Outcome) -> None:
        """Series that have a place: the device may have been removed since, or be elsewhere now."""
        known: dict[str, list[_Known]] = {}
        for one in wanted:
            if one.device:
                known.setdefault(one.device, []).append(one)
        for device, mine in sorted(known.items()):
            if self.session.get(Device, device) is None:
                self._make(device)
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
        """A free id; one that somebody else has, an agent or another sender, is not shared."""
        name = naming.device(host)
        if self.session.get(Device, name) is not None or register.removed(self.session, name):
            name = naming.disambiguate(name, naming.digest(self.sender, host), naming.DEVICE_MOST)
        if self.session.get(Device, name) is None and not register.removed(self.session, name):
            self._make(name)
        return name

    def _make(self, name: str) -> None:
        if self.scope is not None and len(self.scope) != 1:
            raise HubError(
                403, "Not allowed", "a token that sends new devices must have one scope, or none: they stand there"
            )
        self.session.add(Device(id=name, profile=PROFILE))
        self.session.flush()
        place = self.scope[0] if self.scope else ""
        fleet.audit_registration(self.session, name, place, self.now_us, actor=self.sender, trace=self.trace)

    def _metric(self, one: _Known) -> str:
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

    def _tell_metrics(self) -> None:
        for device, metrics in self._new.items():
            row = self.session.get(Device, device)
            if row is not None:
                row.metrics = [*row.metrics, *metrics]
                row.seen_us = self.now_us
                self.session.add(row)


def _decoded(content: bytes) -> list[protobuf.Written]:
    """Raises HubError: a block tells its size first, so a bomb is refused before it is opened."""
    try:
        size, _ = protobuf.varint(content, 0)
        if size > MAX_BYTES:
            raise HubError(
                413, "Too large", f"the request has {size} bytes uncompressed; at most {MAX_BYTES} are taken"
            )
        plain = bytes(cramjam.snappy.decompress_raw(content))
        if len(plain) != size:
            raise protobuf.Malformed("the block does not have the size that it tells")
        return protobuf.read(plain, MAX_SAMPLES)
    except (protobuf.Malformed, cramjam.DecompressionError) as error:
        raise HubError(400, "Invalid request", f"no remote write 1.0: {error}") from None


def _checked(found: Iterable[protobuf.Written], sender: str, outcome: Outcome, now_us: int) -> list[_Known]:
    """Series with good labels and times; one that comes twice is one."""
    known: dict[str, _Known] = {}
    for one in found:
        if not one.samples:
            continue  # a native histogram, or exemplars alone
        try:
            labels = naming.validate_labels(one.labels)
        except ValueError as error:
            outcome.refuse(len(one.samples), str(error))
            continue
        number = naming.digest(sender, labels)
        series = known.setdefault(number, _Known(labels, number, []))
        good = [(t_ms * 1000, value) for t_ms, value in one.samples if 0 <= t_ms * 1000 <= now_us + AHEAD_US]
        if len(good) < len(one.samples):
            outcome.refuse(len(one.samples) - len(good), "a sample is before 1970 or more than an hour in the future")
        series.samples += good
    return [one for one in known.values() if one.samples]


def _there(session: Session, source: int, keys: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Those of the keys that are stored already."""
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
    return (items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER))
