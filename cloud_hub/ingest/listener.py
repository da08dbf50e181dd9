"""Receives device messages: MQTT client thread -> bounded queue -> one writer thread that commits in batches.

Acknowledgements to devices and PUBACKs to the broker are sent only after the commit, so a hub that is killed loses
nothing. A full queue blocks the client's thread, and thereby the broker.

Heartbeats are answered at once, without queue and database: they test the connection in both directions. They use QoS
0, so they overtake messages that wait for a commit, and the broker queues none for a hub that is offline.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database, is_content_error
from cloud_hub.inference.gateway.devices import DeviceQuestion
from cloud_hub.ingest.core import cost
from cloud_hub.ingest.core.rate_limit import RateLimiter
from cloud_hub.ingest.core.rate_meter import RateMeter
from cloud_hub.ingest.core.router import DataBatch, IngestMessage, UnreadableBatch, heartbeat, route, unreadable
from cloud_hub.ingest.queue import IngestQueue
from cloud_hub.ingest.writer import Writer, WriteResults, failure_replies, split_batch
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.settings import Mqtt, Twins
from shared.errors import NotReady, WireError
from shared.protocol import signatures, topics
from shared.protocol.codec import DEFLATED, encode, inflate
from shared.protocol.topics import TOPIC_STREAM
from shared.transport.mqtt import (
    STEADY_S,
    UNANSWERED,
    Address,
    Connection,
    Inbound,
    Options,
    Tls,
    acknowledge_all,
    parse_address,
)

log = logging.getLogger(__name__)

MAX_BATCH = 500
"""The maximum number of messages in one commit, and of unacknowledged messages in flight from the broker."""
COMMIT_BYTES = 4 << 20
"""A commit ends with the message that exceeds this size (inflated). Larger commits are not faster and use memory."""
COMMIT_ROWS = 20_000
"""A commit also ends with the message that exceeds this many rows; an alarm counts as several."""
MAX_QUEUED_BYTES = 32 << 20
"""The maximum size of the queue: a thousand messages of ordinary size, or a few of the largest."""
BUSY = 20
"""After a commit of at least this many messages, wait for more while they arrive."""
GATHER_S = 0.001
SESSION_S = 24 * 3600
NO_ALIAS = "this broker ends connections that ask for $aws topics: use mosquitto, or set twins.aws_alias = false"

SESSION_TAKEN_OVER = "session taken over"
EVICTIONS = 3
"""Consecutive short connections that count as eviction. mosquitto 2.0.11 evicts without a reason code."""
TWO_HUBS = "the broker ends each connection soon: is another hub connected under this client id? Stop one of them"


class Listener:
    """The hub's connection to the broker. `notify(name)` wakes the worker with that name.

    `changed` is called with the devices whose birth or twin was stored. `sign` signs commands; it returns None if the
    hub has no key. `ask` takes a device's question to a language model; it must not block.
    """

    def __init__(
        self, settings: Mqtt, db: Database, twins: Twins, notify: Callable[[str], None],
        changed: Callable[[Iterable[str]], None] = lambda devices: None,
        sign: Callable[[bytes], bytes | None] = lambda message: None,
        ask: Callable[[DeviceQuestion], None] = lambda question: None,
    ) -> None:  # fmt: skip
        self._sign, self._ask = sign, ask
        self._db, self._notify, self._changed = db, notify, changed
        self._alias = twins.aws_alias
        self._writer = Writer(db.hub_epoch, twins.max_bytes, twins.aws_max_bytes)
        self._queue: IngestQueue[Inbound] = IngestQueue(2 * MAX_BATCH, MAX_QUEUED_BYTES)
        self._settings = settings
        # One for each thread: the number of messages on arrival, and their cost when they are parsed and stored.
        self._arriving, self._working = RateLimiter(settings.device_rate), RateLimiter(settings.device_rate)
        self._heard: dict[str, int] = {}
        self._meter = RateMeter()
        self._addresses = [parse_address(text, "mqtt.address") for text in (settings.address, *settings.fallback)]
        self._address, self._tried = self._addresses[0], 0
        tls = (
            Tls(ca=settings.tls.ca, certificate=settings.tls.certificate, key=settings.tls.key)
            if settings.tls
            else None
        )
        self._connection = Connection(
            Options(
                client_id=settings.client_id,
                filters=topics.hub_filters() + (topics.hub_filters(topics.AWS) if self._alias else []),
                newest=topics.newest_filters(),
                manual_ack=True,
                session_s=SESSION_S,
                receive_maximum=MAX_BATCH,
                tls=tls,
            ),
            locate=self._locate,
            on_message=self._arrived,
            on_up=self._up,
            on_down=self._down,
            more=lambda: self._tried % len(self._addresses) != 0,
        )
        self.connected = False
        self._up_at, self._evictions = -STEADY_S, 0
        self.refused = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    def start(self) -> None:
        """Start receiving; returns at once."""
        self._thread.start()
        self._connection.start()

    def stop(self) -> None:
        """Stop receiving. Committed messages are acknowledged; the others will be sent again."""
        self._stopping.set()
        self._connection.stop()
        self._queue.close()
        self._thread.join(10)

    def publish(self, messages: Iterable[OutgoingMessage]) -> None:
        """Publish messages whose transaction is committed; devices fetch later what cannot be delivered now."""
        for message in messages:
            self._send(message, message.topic)
            if self._alias and (other := topics.twin_topic(message.topic)):
                self._send(message, other)

    def _send(self, message: OutgoingMessage, topic: str) -> None:
        self._connection.publish(
            topic, message.payload, traceparent=message.trace,
            response_topic=message.response_topic, correlation=message.correlation,
            signature=self._signature(topic, message.payload), retain=message.retain,
        )  # fmt: skip

    def heard_us(self, device: str) -> int:
        """When this process last received a message of the device, in UTC microseconds; 0 for never."""
        return self._heard.get(device, 0)

    def rate(self) -> float:
        """Messages a second over the last minute."""
        return self._meter.per_second(time.monotonic())

    # -- the connection's thread -------------------------------------------------------------------

    def _locate(self) -> Address:
        """The next broker in order; the first one again after a successful connection."""
        self._address = self._addresses[self._tried % len(self._addresses)]
        self._tried += 1
        return self._address

    def _arrived(self, inbound: Inbound) -> None:
        self._meter.count(time.monotonic())
        device, rest = _device_of(inbound.topic)
        if rest == "birth" and not inbound.payload:  # the hub itself cleared the retained birth of a removed device
            inbound.acknowledge()
            return
        if not self._allowed(self._arriving, device):
            inbound.acknowledge()
            return
        self._heard[device] = now_us()
        if rest == "heartbeat":
            self._answer(device, inbound)
        else:
            self._queue.put(inbound)

    def _answer(self, device: str, inbound: Inbound) -> None:
        try:
            answer = encode(heartbeat(inbound.topic, inbound.payload))
        except WireError as error:
            self.refused += 1
            log.warning("wire.refused", extra={"fields": {"reason": str(error)[:500]}})
        else:
            self._connection.publish(topics.thing(device, "heartbeat/answer"), answer, qos=0)
        inbound.acknowledge()

    def _allowed(self, limiter: RateLimiter, device: str) -> bool:
        now = time.monotonic()
        if limiter.allow(device, now):
            return True
        for flooding, count in limiter.report(now).items():
            fields = {
                "device": flooding,
                "refused": count,
                "reason": "more, or dearer, messages than mqtt.device_rate allows",
            }
            log.error("device.rate_limited", extra={"fields": fields})
        return False

    def _signature(self, topic: str, payload: bytes) -> str:
        """The hub's signature over the message, which a broker cannot forge."""
        parts = topics.split(topic)
        if parts is None or not signatures.is_signed(parts[1]):
            return ""
        signature = self._sign(signatures.message(topic, payload))
        return "" if signature is None else signatures.pack(signature)

    def _up(self) -> None:
        self.connected, self._tried, self._up_at = True, 0, time.monotonic()
        # Devices that are born from now on fetch what the previous connection may have lost.
        self._writer.hub_link = secrets.token_hex(8)
        log.info("broker.up", extra={"fields": {"address": self._address}})

    def _down(self, reason: str) -> None:
        self.connected = False
        log.warning("broker.down", extra={"fields": {"address": self._address, "reason": reason}})
        self._evictions = self._evictions + 1 if time.monotonic() - self._up_at < STEADY_S else 0
        self._up_at = -STEADY_S
        if self._evictions == EVICTIONS or SESSION_TAKEN_OVER in reason.lower():
            fields = {"client_id": self._settings.client_id, "reason": TWO_HUBS}
            log.error("broker.session_taken_over", extra={"fields": fields})
        if self._alias and reason == UNANSWERED:
            log.error("broker.no_alias", extra={"fields": {"reason": NO_ALIAS}})

    # -- the writer's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        busy = False
        while batch := self._queue.receive(MAX_BATCH, COMMIT_BYTES):
            self._process(batch)
            busy = len(batch) >= BUSY
            if busy:
                self._gather()

    def _gather(self) -> None:
        """Wait while the client's thread queues more messages.

        Two Python threads that alternate at every message are slower than one after the other.
        """
        before = -1
        while before < (queued := len(self._queue)) < MAX_BATCH and not self._stopping.is_set():
            before = queued
            time.sleep(GATHER_S)

    def _process(self, batch: list[Inbound]) -> None:
        for part in self._parse_all(batch):
            self._store(part)

    def _parse_all(self, batch: list[Inbound]) -> Iterator[list[tuple[Inbound, IngestMessage | None]]]:
        """Parse the batch into parts of bounded inflated size: a small message may inflate to a large one."""
        part: list[tuple[Inbound, IngestMessage | None]] = []
        size = items = 0
        for inbound in batch:
            message = self._parse(inbound)
            part.append((inbound, message))
            size += message.size if isinstance(message, DataBatch) else len(inbound.payload)
            items += cost.rows(message)
            if size >= COMMIT_BYTES or items >= COMMIT_ROWS:
                yield part
                part, size, items = [], 0, 0
        if part:
            yield part

    def _store(self, part: list[tuple[Inbound, IngestMessage | None]]) -> None:
        results = self._commit([(inbound, message) for inbound, message in part if message is not None])
        self.publish(results.outgoing())
        self._clear_retained([inbound for inbound, _ in part], results.removed)
        acknowledge_all(inbound for inbound, _ in part)
        for device, extra in results.cost.items():
            self._working.charge(device, extra, time.monotonic())
        for name in results.wake:
            self._notify(name)
        if results.changed:
            self._changed(results.changed)
        for question in results.questions:
            self._ask(question)

    def _clear_retained(self, part: list[Inbound], removed: set[str]) -> None:
        """Clear retained messages of removed devices on the broker, including a Will that it has just published."""
        retained = {
            inbound.topic for inbound in part
            for device, rest in [topics.split(inbound.topic) or topics.split(inbound.topic, topics.AWS) or ("", "")]
            if device in removed and inbound.payload and (inbound.retained or rest == "birth")
        }  # fmt: skip
        for topic in sorted(retained):
            self._connection.publish(topic, b"", retain=True)

    def _commit(self, messages: list[tuple[Inbound, IngestMessage]]) -> WriteResults:
        """Commit messages, retrying while the database is unavailable; refuse those that cannot be stored."""
        while True:
            try:
                return self._commit_once(messages)
            except NotReady as error:
                # Nothing is acknowledged meanwhile: the queue fills, and the broker keeps the rest.
                log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
                if self._stopping.wait(error.wait_s):
                    return WriteResults()
            except Exception as error:  # noqa: BLE001 - the other messages are still stored
                if len(messages) > 1:  # halves, so that one bad message costs few commits
                    middle = len(messages) // 2
                    return _merged([self._commit(messages[:middle]), self._commit(messages[middle:])])
                return self._failed(*messages[0], error)

    def _failed(self, inbound: Inbound, message: IngestMessage, error: Exception) -> WriteResults:
        """Handle a message that cannot be stored.

        If the content of a batch is to blame, store its good items. If the hub fails, the batch is not acknowledged,
        and its stream stalls until the hub is repaired.
        """
        if (
            isinstance(message, DataBatch)
            and message.batch.lost is None
            and not message.invalid
            and is_content_error(error)
        ):
            return self._commit(
                [(inbound, part) for part in split_batch(message, f"{type(error).__name__}: {error}"[:500])]
            )
        self.refused += 1
        reason = f"{type(error).__name__}: {error}"[:500]
        log.exception("ingest.refused", extra={"fields": {"topic": inbound.topic, "reason": reason}})
        if isinstance(message, DataBatch):
            stalled = UnreadableBatch(device=message.device, stream=message.stream, reason=f"the hub fails: {reason}")
            return self._commit([(inbound, stalled)])
        return failure_replies(message, inbound.traceparent, now_us())

    def _commit_once(self, messages: list[tuple[Inbound, IngestMessage]]) -> WriteResults:
        results = WriteResults()
        if messages:
            with self._db.write(*{message.device for _, message in messages}) as session:
                self._writer.write(
                    session, [(message, inbound.traceparent) for inbound, message in messages], now_us(), results
                )
        return results

    def _parse(self, inbound: Inbound) -> IngestMessage | None:
        """Parse a message; None if it is refused."""
        device, rest = _device_of(inbound.topic)
        if not self._allowed(self._working, device):
            return None
        payload = inbound.payload
        try:
            if inbound.content_type == DEFLATED and rest not in TOPIC_STREAM:
                raise WireError("only batches may come deflated", inbound.topic)
            payload = inflate(inbound.payload, inbound.content_type, inbound.topic)
            message: IngestMessage | None = route(inbound.topic, payload, self._alias)
        except WireError as error:
            self.refused += 1
            log.warning("wire.refused", extra={"fields": {"reason": str(error)[:500]}, "trace": inbound.traceparent})
            message = unreadable(inbound.topic, error.reason)
        self._working.charge(device, cost.of_message(message, payload), time.monotonic())
        return message


def _device_of(topic: str) -> tuple[str, str]:
    """(device, rest of the topic) under either prefix; empty for a topic of no device."""
    return topics.split(topic) or topics.split(topic, topics.AWS) or ("", "")


def _merged(parts: list[WriteResults]) -> WriteResults:
    merged = WriteResults()
    for part in parts:
        merged.acks |= part.acks
        merged.messages += part.messages
        merged.wake |= part.wake
        merged.changed |= part.changed
        for device, extra in part.cost.items():
            merged.charge(device, extra)
        merged.removed |= part.removed
        merged.questions += part.questions
    return merged
