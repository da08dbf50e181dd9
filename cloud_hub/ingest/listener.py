"""Drives ingest: the MQTT client's thread -> a bounded queue -> one writer thread that commits in batches.

Only after the commit are the hub's acknowledgements published and the broker's PUBACKs given, so that a
hub killed at any moment loses nothing. A full queue holds back the client's thread, and with it the broker.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable

from cloud_hub.clock import now_us
from cloud_hub.db import Database
from cloud_hub.ingest.router import Said, route
from cloud_hub.ingest.writer import Results, Writer, failed
from cloud_hub.settings import Mqtt, Twins
from cloud_hub.twins import Outgoing
from shared import topics
from shared.codec import inflate
from shared.errors import NotReady, WireError
from shared.mqtt import UNANSWERED, Connection, Inbound, Options, Tls, acknowledge_all, parse_address

log = logging.getLogger(__name__)

TOGETHER = 500
"""Messages of one commit at most, and that the broker gives before the first of them is acknowledged: a commit, and the
word to each device, are shared by all of them."""
COMMIT_BYTES = 4 << 20
"""A commit ends with the message that passes this: larger ones gain nothing, and all of it is in memory."""
BUSY = 20
"""After so many messages in one commit more are waited for, while they come."""
GATHER_S = 0.001
SESSION_S = 24 * 3600
NO_ALIAS = "this broker ends connections that ask for $aws topics: use mosquitto, or set twins.aws_alias = false"


class Listener:
    """The hub's connection to the broker. `ring(name)` wakes the loop that has new work.

    `changed` is told devices whose birth or twin was stored.
    """

    def __init__(
        self, settings: Mqtt, db: Database, twins: Twins, ring: Callable[[str], None],
        changed: Callable[[Iterable[str]], None] = lambda devices: None,
    ) -> None:  # fmt: skip
        self._db, self._ring, self._changed = db, ring, changed
        self._alias = twins.aws_alias
        self._writer = Writer(db.hub_epoch, twins.max_bytes, twins.aws_max_bytes)
        self._queue: queue.Queue[Inbound | None] = queue.Queue(2 * TOGETHER)
        self._address = parse_address(settings.address, "mqtt.address")
        tls = (
            Tls(ca=settings.tls.ca, certificate=settings.tls.certificate, key=settings.tls.key)
            if settings.tls
            else None
        )
        self._connection = Connection(
            Options(
                client_id=settings.client_id,
                filters=topics.hub_filters() + (topics.hub_filters(topics.AWS) if self._alias else []),
                manual_ack=True,
                session_s=SESSION_S,
                receive_maximum=TOGETHER,
                tls=tls,
            ),
            locate=lambda: self._address,
            on_message=self._queue.put,
            on_up=self._up,
            on_down=self._down,
        )
        self.connected = False
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
        self._queue.put(None)
        self._thread.join(10)

    def publish(self, messages: Iterable[Outgoing]) -> None:
        """Publish what is already committed; what cannot be delivered now is fetched by the device later."""
        for message in messages:
            self._send(message, message.topic)
            if self._alias and (other := topics.twin_topic(message.topic)):
                self._send(message, other)

    def _send(self, message: Outgoing, topic: str) -> None:
        self._connection.publish(
            topic, message.payload, traceparent=message.trace,
            response_topic=message.response_topic, correlation=message.correlation,
        )  # fmt: skip

    def _up(self) -> None:
        self.connected = True
        log.info("broker.up", extra={"fields": {"address": self._address}})

    def _down(self, reason: str) -> None:
        self.connected = False
        log.warning("broker.down", extra={"fields": {"reason": reason}})
        if self._alias and reason == UNANSWERED:
            log.error("broker.no_alias", extra={"fields": {"reason": NO_ALIAS}})

    # -- the writer's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        busy = False
        while (first := self._queue.get()) is not None:
            if busy:
                self._gather()
            batch, size = [first], len(first.payload)
            while len(batch) < TOGETHER and size < COMMIT_BYTES:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
                size += len(following.payload)
            self._take(batch)
            busy = len(batch) >= BUSY

    def _gather(self) -> None:
        """Leave the processor to the client's thread while it brings more: two threads of Python that take turns at
        every message are slower than one after the other."""
        before = -1
        while before < (found := self._queue.qsize()) < TOGETHER and not self._stopping.is_set():
            before = found
            time.sleep(GATHER_S)

    def _take(self, batch: list[Inbound]) -> None:
        said = [(inbound, thing) for inbound in batch if (thing := self._read(inbound)) is not None]
        results = self._commit(said)
        self.publish(results.outgoing())
        acknowledge_all(batch)
        for name in results.rang:
            self._ring(name)
        if results.changed:
            self._changed(results.changed)

    def _commit(self, said: list[tuple[Inbound, Said]]) -> Results:
        """Commit all of it, however often the database must be asked; a message that cannot be stored is refused."""
        while True:
            try:
                return self._commit_once(said)
            except NotReady as error:
                # Nothing is acknowledged meanwhile: the queue fills and the broker holds the rest.
                log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
                if self._stopping.wait(error.wait_s):
                    return Results()
            except Exception as error:
                if len(said) > 1:
                    return _joined([self._commit([one]) for one in said])
                self.refused += 1
                fields = {"topic": said[0][0].topic, "reason": f"{type(error).__name__}: {error}"[:500]}
                log.exception("ingest.refused", extra={"fields": fields})
                return failed(said[0][1], said[0][0].traceparent, now_us())

    def _commit_once(self, said: list[tuple[Inbound, Said]]) -> Results:
        results = Results()
        if said:
            with self._db.write(*{thing.device for _, thing in said}) as session:
                self._writer.write(session, [(thing, one.traceparent) for one, thing in said], now_us(), results)
        return results

    def _read(self, inbound: Inbound) -> Said | None:
        try:
            payload = inflate(inbound.payload, inbound.content_type, inbound.topic)
            return route(inbound.topic, payload, self._alias)
        except WireError as error:
            self.refused += 1
            log.warning("wire.refused", extra={"fields": {"reason": str(error)[:500]}, "trace": inbound.traceparent})
            return None


def _joined(parts: list[Results]) -> Results:
    whole = Results()
    for part in parts:
        whole.acks |= part.acks
        whole.messages += part.messages
        whole.rang |= part.rang
        whole.changed |= part.changed
    return whole
