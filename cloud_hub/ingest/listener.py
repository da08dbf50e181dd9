"""Drives ingest: the MQTT client's thread -> a bounded queue -> one writer thread that commits in batches.

Only after the commit are the hub's acknowledgements published and the broker's PUBACKs given, so that a
hub killed at any moment loses nothing. A full queue holds back the client's thread, and with it the broker.

Heartbeats are answered before that queue, at once and without the database: they ask whether this hub hears and is
heard. They travel at QoS 0, so that they pass messages which wait for a commit, and none is kept for a hub that is
away.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database, is_content_error
from cloud_hub.ingest.core import cost
from cloud_hub.ingest.core.rate_limit import RateLimiter
from cloud_hub.ingest.core.router import DataBatch, IngestMessage, UnreadableBatch, heartbeat, route, unreadable
from cloud_hub.ingest.queue import IngestQueue
from cloud_hub.ingest.writer import Writer, WriteResults, failure_replies, split_batch
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.settings import Mqtt, Twins
from shared import signatures, topics
from shared.codec import DEFLATED, encode, inflate
from shared.errors import NotReady, WireError
from shared.mqtt import STEADY_S, UNANSWERED, Address, Connection, Inbound, Options, Tls, acknowledge_all, parse_address
from shared.topics import TOPIC_STREAM

log = logging.getLogger(__name__)

MAX_BATCH = 500
"""Messages of one commit at most, and that the broker gives before the first of them is acknowledged: a commit, and the
word to each device, are shared by all of them."""
COMMIT_BYTES = 4 << 20
"""A commit ends with the message that passes this, inflated: larger ones gain nothing, and all of it is in memory."""
COMMIT_ROWS = 20_000
"""And with the one that passes this many rows, of which an alarm counts for more: others wait meanwhile."""
MAX_QUEUED_BYTES = 32 << 20
"""What waits for the writer at most: a thousand rows of ordinary size, and of the largest messages a few."""
BUSY = 20
"""After so many messages in one commit more are waited for, while they come."""
GATHER_S = 0.001
SESSION_S = 24 * 3600
NO_ALIAS = "this broker ends connections that ask for $aws topics: use mosquitto, or set twins.aws_alias = false"

SESSION_TAKEN_OVER = "session taken over"
EVICTIONS = 3
"""Connections in a row that end soon after they stood. mosquitto 2.0.11 evicts without saying why."""
TWO_HUBS = "the broker ends each connection soon: is another hub connected under this client id? Stop one of them"


class Listener:
    """The hub's connection to the broker. `notify(name)` wakes the worker that has new work.

    `changed` is told devices whose birth or twin was stored; `sign` signs commands: None where the hub has no key.
    """

    def __init__(
        self, settings: Mqtt, db: Database, twins: Twins, notify: Callable[[str], None],
        changed: Callable[[Iterable[str]], None] = lambda devices: None,
        sign: Callable[[bytes], bytes | None] = lambda message: None,
    ) -> None:  # fmt: skip
        self._sign = sign
        self._db, self._notify, self._changed = db, notify, changed
        self._alias = twins.aws_alias
        self._writer = Writer(db.hub_epoch, twins.max_bytes, twins.aws_max_bytes)
        self._inbox: IngestQueue[Inbound] = IngestQueue(2 * MAX_BATCH, MAX_QUEUED_BYTES)
        self._settings = settings
        # One for each thread: messages as they arrive, and what they cost once they are read and stored.
        self._arriving, self._working = RateLimiter(settings.device_rate), RateLimiter(settings.device_rate)
        self._heard: dict[str, int] = {}
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
        """Begin to listen; returns at once."""
        self._thread.start()
        self._connection.start()

    def stop(self) -> None:
        """Stop listening; what was committed is acknowledged, the rest will come again."""
        self._stopping.set()
        self._connection.stop()
        self._inbox.close()
        self._thread.join(10)

    def publish(self, messages: Iterable[OutgoingMessage]) -> None:
        """Publish what is already committed; what cannot be delivered now is fetched by the device later."""
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
        """When this hub last heard the device, microseconds of UTC; 0: not since it was started."""
        return self._heard.get(device, 0)

    # -- the connection's thread -------------------------------------------------------------------

    def _locate(self) -> Address:
        """The next broker in order; after a connection that stood, the first one again."""
        self._address = self._addresses[self._tried % len(self._addresses)]
        self._tried += 1
        return self._address

    def _arrived(self, inbound: Inbound) -> None:
        device, rest = _device_of(inbound.topic)
        if rest == "birth" and not inbound.payload:  # the broker forgot a removed device: our own wish
            inbound.acknowledge()
            return
        if not self._allowed(self._arriving, device):
            inbound.acknowledge()
            return
        self._heard[device] = now_us()
        if rest == "heartbeat":
            self._answer(device, inbound)
        else:
            self._inbox.put(inbound)

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
        """The hub's own signature over the bytes that leave: a broker in between can make none."""
        found = topics.split(topic)
        if found is None or not signatures.is_signed(found[1]):
            return ""
        signature = self._sign(signatures.message(topic, payload))
        return "" if signature is None else signatures.pack(signature)

    def _up(self) -> None:
        self.connected, self._tried, self._up_at = True, 0, time.monotonic()
        # Births that are answered from now on: their devices fetch what an older connection may have swallowed.
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
        while batch := self._inbox.take(MAX_BATCH, COMMIT_BYTES):
            self._take(batch)
            busy = len(batch) >= BUSY
            if busy:
                self._gather()

    def _gather(self) -> None:
        """Leave the processor to the client's thread while it brings more: two threads of Python that take turns at
        every message are slower than one after the other."""
        before = -1
        while before < (found := len(self._inbox)) < MAX_BATCH and not self._stopping.is_set():
            before = found
            time.sleep(GATHER_S)

    def _take(self, batch: list[Inbound]) -> None:
        for part in self._read_all(batch):
            self._store(part)

    def _read_all(self, batch: list[Inbound]) -> Iterator[list[tuple[Inbound, IngestMessage | None]]]:
        """The batch, read, in parts that are bounded once inflated: a small message may become a large one."""
        part: list[tuple[Inbound, IngestMessage | None]] = []
        size = items = 0
        for inbound in batch:
            thing = self._read(inbound)
            part.append((inbound, thing))
            size += thing.size if isinstance(thing, DataBatch) else len(inbound.payload)
            items += cost.rows(thing)
            if size >= COMMIT_BYTES or items >= COMMIT_ROWS:
                yield part
                part, size, items = [], 0, 0
        if part:
            yield part

    def _store(self, part: list[tuple[Inbound, IngestMessage | None]]) -> None:
        results = self._commit([(inbound, thing) for inbound, thing in part if thing is not None])
        self.publish(results.outgoing())
        self._clear([inbound for inbound, _ in part], results.removed)
        acknowledge_all(inbound for inbound, _ in part)
        for device, extra in results.cost.items():
            self._working.charge(device, extra, time.monotonic())
        for name in results.wake:
            self._notify(name)
        if results.changed:
            self._changed(results.changed)

    def _clear(self, part: list[Inbound], removed: set[str]) -> None:
        """Make the broker forget what it keeps of removed devices, a Will that it published just now too."""
        kept = {
            inbound.topic for inbound in part
            for device, rest in [topics.split(inbound.topic) or topics.split(inbound.topic, topics.AWS) or ("", "")]
            if device in removed and inbound.payload and (inbound.retained or rest == "birth")
        }  # fmt: skip
        for topic in sorted(kept):
            self._connection.publish(topic, b"", retain=True)

    def _commit(self, said: list[tuple[Inbound, IngestMessage]]) -> WriteResults:
        """Commit all of it, however often the database must be asked; a message that cannot be stored is refused."""
        while True:
            try:
                return self._commit_once(said)
            except NotReady as error:
                # Nothing is acknowledged meanwhile: the queue fills and the broker holds the rest.
                log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
                if self._stopping.wait(error.wait_s):
                    return WriteResults()
            except Exception as error:  # noqa: BLE001 - whatever it is, the other messages are stored
                if len(said) > 1:  # halves, so that one that fails costs the others few commits
                    middle = len(said) // 2
                    return _joined([self._commit(said[:middle]), self._commit(said[middle:])])
                return self._failed(*said[0], error)

    def _failed(self, inbound: Inbound, said: IngestMessage, error: Exception) -> WriteResults:
        """One message alone cannot be stored. Of a batch every item that can be is, where the content is to blame; what
        we fail at by ourselves is not acknowledged, and stalls its stream until we are mended.
        """
        if isinstance(said, DataBatch) and said.batch.lost is None and not said.invalid and is_content_error(error):
            return self._commit(
                [(inbound, part) for part in split_batch(said, f"{type(error).__name__}: {error}"[:500])]
            )
        self.refused += 1
        reason = f"{type(error).__name__}: {error}"[:500]
        log.exception("ingest.refused", extra={"fields": {"topic": inbound.topic, "reason": reason}})
        if isinstance(said, DataBatch):
            stalled = UnreadableBatch(device=said.device, stream=said.stream, reason=f"the hub fails: {reason}")
            return self._commit([(inbound, stalled)])
        return failure_replies(said, inbound.traceparent, now_us())

    def _commit_once(self, said: list[tuple[Inbound, IngestMessage]]) -> WriteResults:
        results = WriteResults()
        if said:
            with self._db.write(*{thing.device for _, thing in said}) as session:
                self._writer.write(session, [(thing, one.traceparent) for one, thing in said], now_us(), results)
        return results

    def _read(self, inbound: Inbound) -> IngestMessage | None:
        """The message as a thing to store; None for one that is refused."""
        device, rest = _device_of(inbound.topic)
        if not self._allowed(self._working, device):
            return None
        payload = inbound.payload
        try:
            if inbound.content_type == DEFLATED and rest not in TOPIC_STREAM:
                raise WireError("only batches may come deflated", inbound.topic)
            payload = inflate(inbound.payload, inbound.content_type, inbound.topic)
            said: IngestMessage | None = route(inbound.topic, payload, self._alias)
        except WireError as error:
            self.refused += 1
            log.warning("wire.refused", extra={"fields": {"reason": str(error)[:500]}, "trace": inbound.traceparent})
            said = unreadable(inbound.topic, error.reason)
        self._working.charge(device, cost.of_message(said, payload), time.monotonic())
        return said


def _device_of(topic: str) -> tuple[str, str]:
    """(device, the rest of its topic), by either prefix; empty for a topic of nobody."""
    return topics.split(topic) or topics.split(topic, topics.AWS) or ("", "")


def _joined(parts: list[WriteResults]) -> WriteResults:
    whole = WriteResults()
    for part in parts:
        whole.acks |= part.acks
        whole.messages += part.messages
        whole.wake |= part.wake
        whole.changed |= part.changed
        for device, extra in part.cost.items():
            whole.charge(device, extra)
        whole.removed |= part.removed
    return whole
