"""Stores device messages, many in one transaction, and collects what to publish after the commit.

Idempotent by (device, epoch, stream, seq): items at or below the high-water mark are already stored; items after a gap
wait until a resend fills the gap.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.certificates import registry as certificates
from cloud_hub.database.tables import Device, EscalationRow
from cloud_hub.devices import commands
from cloud_hub.devices import registry as device_registry
from cloud_hub.devices.births import Births, birth_streams, refused_session, session_answer
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.inference.gateway.devices import DeviceQuestion
from cloud_hub.ingest.core import cost
from cloud_hub.ingest.core.router import (
    DataBatch,
    DeviceMessage,
    IngestMessage,
    ShadowRequest,
    TelemetryBatch,
    UnreadableBatch,
    validate_items,
)
from cloud_hub.ingest.stalled_streams import StalledStreams
from cloud_hub.runtime import tracing
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.telemetry import samples as telemetry
from cloud_hub.twins import service as twins
from cloud_hub.twins.rows import TwinRows
from shared.ids import trace_id
from shared.protocol import topics
from shared.protocol.codec import ITEM_TYPE, encode
from shared.protocol.messages import Ack, Applied, Batch, Birth, CommandResult, Escalation, InferenceRequest
from shared.twin.shadow import MAX_BYTES, rejected

log = logging.getLogger(__name__)

GAP_US = 300_000_000
"""How long a stream may wait for a missing item while later ones arrive."""


REFUSED = "its messages are refused until it is restored (tidegate-hub device restore)"
LOGGED_US = 60_000_000
"""The interval between log lines about a removed device that still sends."""


@dataclass(slots=True)
class WriteResults:
    """What to do after the commit of a transaction.

    `wake` names workers with new work, and commands that have ended. `changed` are devices whose configurations must be
    reconciled after a birth or twin update. `removed` are removed devices that still send.
    """

    acks: dict[tuple[str, str, str], int] = field(default_factory=dict)
    messages: list[OutgoingMessage] = field(default_factory=list)
    wake: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    cost: dict[str, float] = field(default_factory=dict)
    """Additional cost by device (`ingest.core.cost`)."""
    removed: set[str] = field(default_factory=set)
    questions: list[DeviceQuestion] = field(default_factory=list)
    """Questions to language models, to ask after the commit."""

    def charge(self, device: str, cost: float) -> None:
        """Add to the cost of a device."""
        self.cost[device] = self.cost.get(device, 0.0) + cost

    def outgoing(self) -> list[OutgoingMessage]:
        """The messages to publish: replies first, then one acknowledgement for each stream that advanced."""
        acks = [
            OutgoingMessage(
                topic=topics.thing(device, "acks"),
                payload=encode(Ack(epoch=epoch, stream=stream, upto=upto)),  # type: ignore[arg-type]
            )
            for (device, epoch, stream), upto in self.acks.items()
        ]
        return self.messages + acks


@dataclass(slots=True)
class _Work:
    """The state of one transaction: rows read ahead, and rows to write."""

    session: Session
    marks: StreamOffsets
    now_us: int
    results: WriteResults
    samples: list[telemetry.SampleRow] = field(default_factory=list)
    lost: list[device_registry.Lost] = field(default_factory=list)
    awaited: set[str] = field(default_factory=set)
    births: Births = field(init=False)
    twins: TwinRows = field(init=False)
    stalls: StalledStreams = field(init=False)

    def __post_init__(self) -> None:
        self.births, self.twins = Births(self.session, self.marks), TwinRows(self.session)
        self.stalls = StalledStreams(self.session, self.marks, self.now_us)

    def preload(self, messages: Sequence[IngestMessage]) -> None:
        """Load the rows that these messages need, with a fixed number of queries."""
        births = [
            message.message
            for message in messages
            if isinstance(message, DeviceMessage) and isinstance(message.message, Birth)
        ]
        births_of = {birth.device for birth in births}
        certificates.preload(self.session, {message.device for message in messages})
        self.stalls.load({message.device for message in messages if isinstance(message, (DataBatch, UnreadableBatch))})
        self.marks.load(
            (message.device, message.batch.epoch, message.stream)
            for message in messages
            if isinstance(message, DataBatch)
        )
        shadows = {(message.device, message.name) for message in messages if isinstance(message, ShadowRequest)}
        self.births.load(births_of | {device for device, _ in shadows})
        self.twins.load(shadows)
        if births_of:
            self.marks.load(key for birth in births if birth.state == "online" for key in birth_streams(birth))
            self.awaited = commands.devices_with_pending(self.session, births_of, self.now_us)

    def flush(self) -> None:
        """Write the collected rows."""
        telemetry.store_samples(self.session, self.samples)
        device_registry.record_lost_range(self.session, self.lost)
        self.births.save()
        self.twins.save()
        self.marks.save()
        self.samples, self.lost = [], []


class Writer:
    """Writes device messages. `max_bytes` limits a twin document, `aws_max_bytes` one under the `$aws` alias."""

    def __init__(self, hub_epoch: str, max_bytes: int, aws_max_bytes: int = MAX_BYTES) -> None:
        self._hub_epoch = hub_epoch
        self.hub_link = ""
        self._waiting: dict[tuple[str, str], int] = {}
        self._logged_us: dict[str, int] = {}
        self._max_bytes = {topics.PREFIX: max_bytes, topics.AWS: aws_max_bytes}

    def write(
        self, session: Session, messages: Sequence[tuple[IngestMessage, str]], now_us: int, results: WriteResults
    ) -> None:
        """Store messages, each with its traceparent, in this order: all of them or, on an exception, none.

        Of a revoked device, only its offline message is stored. Rows that many messages need are loaded once (stream
        offsets, revocations, devices, pending commands); offsets are written once, and samples inserted together.
        """
        work = _Work(session, StreamOffsets(session), now_us, results)
        work.preload([message for message, _ in messages])
        for message, trace in messages:
            if certificates.removed(session, message.device):
                self._removed(message, now_us, results)
            elif (reason := certificates.revocation_reason(session, message.device)) and not _is_offline(message):
                _refuse(message, reason, self._hub_epoch, results)
            elif isinstance(message, DataBatch):
                self._data(work, message, trace)
            elif isinstance(message, UnreadableBatch):
                work.stalls.begin(message.device, message.stream, message.reason)
            elif isinstance(message, ShadowRequest):
                self._shadow(work, message, trace)
            else:
                self._device_message(work, message, trace)
        work.flush()

    def _removed(self, message: IngestMessage, now_us: int, results: WriteResults) -> None:
        """Refuse a message of a removed device; a birth is answered with the reason."""
        results.removed.add(message.device)
        is_birth = isinstance(message, DeviceMessage) and isinstance(message.message, Birth)
        if is_birth or now_us - self._logged_us.get(message.device, 0) >= LOGGED_US:
            self._logged_us[message.device] = now_us
            log.warning("device.removed", extra={"fields": {"device": message.device, "reason": REFUSED}})
        if (
            isinstance(message, DeviceMessage)
            and isinstance(message.message, Birth)
            and message.message.state == "online"
        ):
            answer = refused_session(message.message, f"'{message.device}' was removed: {REFUSED}", self._hub_epoch)
            results.messages.append(
                OutgoingMessage(topic=topics.thing(message.device, "session"), payload=encode(answer))
            )

    # -- streams -----------------------------------------------------------------------------------

    def _data(self, work: _Work, message: DataBatch, trace: str) -> None:
        batch = message.batch
        key = (message.device, batch.epoch, message.stream)
        mark = work.marks.get(key)
        first = mark.upto + 1
        if batch.first <= first <= batch.last:
            if batch.lost is not None:
                work.lost.append((mark.source, first, batch.last, batch.lost.reason))
            elif message.invalid:
                self._invalid(work, message, mark.source, [(first, batch.last)], message.invalid, trace)
            else:
                numbered = enumerate(batch.items[first - batch.first :], first)
                self._items(work, message, mark.source, numbered, trace)
            mark.upto = batch.last
            self._waiting.pop((message.device, message.stream), None)
            work.stalls.end(message.device, message.stream)
        elif batch.first > first:
            self._gap(work, message, first)
        work.results.acks[key] = mark.upto

    def _gap(self, work: _Work, message: DataBatch, first: int) -> None:
        """Wait for missing items to be resent; after `GAP_US` the stream has stalled."""
        since_us = self._waiting.setdefault((message.device, message.stream), work.now_us)
        if work.now_us - since_us >= GAP_US:
            batch = message.batch
            reason = f"item {first} of epoch '{batch.epoch}' is missing, but those from {batch.first} on arrived"
            work.stalls.begin(message.device, message.stream, reason)

    def _invalid(
        self, work: _Work, message: DataBatch, source: int, ranges: Sequence[tuple[int, int]], reason: str, trace: str
    ) -> None:  # fmt: skip
        """Record ranges of items that cannot be stored, and log the first reason."""
        work.lost += [(source, first, last, "invalid") for first, last in ranges]
        count = sum(last - first + 1 for first, last in ranges)
        fields = {
            "device": message.device,
            "stream": message.stream,
            "seq": ranges[0][0],
            "items": count,
            "reason": reason,
        }
        log.warning("wire.item_refused", extra={"fields": fields, "trace": trace})

    def _items(
        self, work: _Work, message: DataBatch, source: int, numbered: Iterable[tuple[int, Any]], trace: str
    ) -> None:
        session = work.session
        if isinstance(message.batch, TelemetryBatch):
            work.samples += telemetry.sample_rows(message.device, source, numbered)
            return
        good, bad = validate_items(ITEM_TYPE[message.stream], numbered, message.nul)
        if bad:
            self._invalid(work, message, source, [(seq, seq) for seq, _ in bad], bad[0][1][:500], trace)
        if message.stream == "telemetry":
            work.samples += telemetry.sample_rows(message.device, source, good)
        elif message.stream == "event" and good:
            telemetry.store_events(session, message.device, source, good, trace)
        elif message.stream == "alarm" and good:
            opened = incidents.handle_alarms(session, message.device, [alarm for _, alarm in good], work.now_us, trace)
            work.results.charge(message.device, opened * cost.INCIDENT)
            work.results.wake |= {"diagnosis", "rollouts"}
        elif message.stream == "escalation" and good:
            _escalations(session, message, [item for _, item in good], trace, work.now_us)
            work.results.wake |= {"experts", "experts-remote"}

    # -- twins and device messages -----------------------------------------------------------------

    def _shadow(self, work: _Work, message: ShadowRequest, trace: str) -> None:
        session, now_us, results = work.session, work.now_us, work.results
        if work.births.is_known(message.device):
            replies = twins.handle_request(
                session, message.device, message.name, message.verb, message.payload, now_us,
                actor=message.device, max_bytes=self._max_bytes[message.prefix], trace=trace,
                rows=work.twins,
            )  # fmt: skip
            results.wake.add("actions")
            if message.verb != "get":
                results.changed.add(message.device)
        else:
            log.warning("twin.unknown_device", extra={"fields": {"device": message.device}, "trace": trace})
            replies = [twins.unknown_thing_reply(message.verb, message.payload, now_us)]
        messages = twins.reply_messages(message.device, message.name, replies, trace, message.prefix)
        results.messages += messages
        results.charge(message.device, sum(len(request.payload) for request in messages) / cost.BYTES)

    def _device_message(self, work: _Work, message: DeviceMessage, trace: str) -> None:
        session, now_us, results, content = work.session, work.now_us, work.results, message.message
        if isinstance(content, Birth):
            self._birth(work, content)
        elif isinstance(content, Applied):
            twins.record_progress(session, message.device, content, now_us)
            results.wake.add("rollouts")
        elif isinstance(content, CommandResult) and commands.handle_result(session, message.device, content, now_us):
            results.wake |= {"actions", "diagnosis", content.id}
        elif isinstance(content, InferenceRequest):
            device = session.get(Device, message.device)
            path = device.assigned_path if device is not None else ""
            known = device is not None
            results.questions.append(DeviceQuestion(message.device, (path,) if path else (), known, content, trace))

    def _birth(self, work: _Work, birth: Birth) -> None:
        session, now_us, results = work.session, work.now_us, work.results
        results.changed.add(birth.device)
        log.info("device.birth", extra={"fields": {"device": birth.device, "state": birth.state}})
        if birth.state == "offline":
            work.births.handle_death(birth, now_us)
            return
        if conflict := work.births.handle_birth(birth, now_us):
            log.error("device.conflict", extra={"fields": {"device": birth.device, "reason": conflict}})
        answer = session_answer(session, work.marks, birth, self._hub_epoch, self.hub_link, conflict)
        results.messages.append(OutgoingMessage(topic=topics.thing(birth.device, "session"), payload=encode(answer)))
        if not answer.refused and birth.device in work.awaited:
            results.messages += commands.pending_messages(session, birth.device, now_us)


def failure_replies(message: IngestMessage, trace: str, now_us: int) -> WriteResults:
    """The replies to a message that the hub failed to store: a twin request is rejected with status 500."""
    if not isinstance(message, ShadowRequest):
        return WriteResults()
    reply = rejected(message.verb, 500, "Internal service failure", message.payload, now_us // 1_000_000)
    return WriteResults(messages=twins.reply_messages(message.device, message.name, [reply], trace, message.prefix))


def split_batch(message: DataBatch, reason: str) -> list[DataBatch]:
    """Split a batch that could not be stored, to find the bad items; a single item is marked invalid."""
    batch, count = message.batch, len(message.batch.items)
    if count < 2 or message.invalid:
        return [replace(message, invalid=reason)]
    middle = count // 2
    return [replace(message, batch=_part(batch, 0, middle)), replace(message, batch=_part(batch, middle, count))]


def _part(batch: Batch | TelemetryBatch, start: int, end: int) -> Batch | TelemetryBatch:
    first = batch.first + start
    if isinstance(batch, Batch):
        return replace(batch, first=first, items=batch.items[start:end])
    return msgspec.structs.replace(batch, first=first, items=batch.items[start:end])


def _is_offline(message: IngestMessage) -> bool:
    return (
        isinstance(message, DeviceMessage) and isinstance(message.message, Birth) and message.message.state == "offline"
    )


def _refuse(message: IngestMessage, reason: str, hub_epoch: str, results: WriteResults) -> None:
    """Refuse a message of a revoked device; a birth is answered with the reason."""
    log.warning("device.revoked", extra={"fields": {"device": message.device, "reason": reason}})
    if isinstance(message, DeviceMessage) and isinstance(message.message, Birth):
        answer = refused_session(message.message, f"'{message.device}' was revoked", hub_epoch)
        results.messages.append(OutgoingMessage(topic=topics.thing(message.device, "session"), payload=encode(answer)))


def _escalations(session: Session, message: DataBatch, items: Sequence[Escalation], trace: str, now_us: int) -> None:
    known = set(session.exec(select(EscalationRow.id).where(col(EscalationRow.id).in_({item.id for item in items}))))
    if items:
        about: dict[str, str | int] = {"tidegate.device": message.device, "tidegate.escalations": len(items)}
        tracing.start("escalation.ingest", trace, about, kind="consumer").end()
    for item in items:
        if item.id in known:
            continue
        known.add(item.id)
        height, width, channels = item.shape
        session.add(
            EscalationRow(
                id=item.id, device=message.device, model=item.model, digest=item.digest, number=item.number,
                reason=item.reason, label=item.label, margin=item.margin, height=height, width=width,
                channels=channels, dtype=item.dtype, color=item.color, frame=item.frame, features=item.features,
                t_us=item.t_us, received_us=now_us,
                wire_bytes=message.size // max(1, len(message.batch.items)), trace_id=trace_id(trace),
            )
        )  # fmt: skip
