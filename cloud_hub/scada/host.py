"""The hub as Sparkplug primary host application: MQTT threads -> bounded queue -> one thread that commits in batches.

One connection for each server. The host's thread reads the messages with the session of their server, stores what they
mean (`store`), asks for rebirths, sends writes and verifies them (`dispatch`). A full queue blocks the connections, and
thereby the servers. A message that cannot be stored is refused alone, its node is asked for its births.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlmodel import Session, select

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import SparkplugNode
from cloud_hub.ingest.core.rate_limit import RateLimiter
from cloud_hub.ingest.queue import IngestQueue
from cloud_hub.runtime.worker import NOTHING, WorkerSpec, WorkResult
from cloud_hub.scada import twin
from cloud_hub.scada.core.records import Birth, Data, Death, Key, Note, Record, cost
from cloud_hub.scada.current import CurrentValues
from cloud_hub.scada.dispatch import WriteDispatcher
from cloud_hub.scada.limits import LimitJudge
from cloud_hub.scada.server import HostServer, Received, ServerStatus
from cloud_hub.scada.store import Store, Stored
from cloud_hub.scada.writes import WriteService, rules_of
from cloud_hub.settings import Settings
from cloud_hub.twins.rows import TwinRows
from shared.errors import ConfigError, NotReady
from shared.sparkplug.topics import NodeId

log = logging.getLogger(__name__)

MAX_BATCH, COMMIT_BYTES, COMMIT_ROWS = 500, 8 << 20, 20_000
"""A commit ends with the message that exceeds one of these."""
QUEUE_MESSAGES, QUEUE_BYTES = 20_000, 64 << 20
TICK_S = 0.2
LIMITS_S = 1.0
"""The interval at which changed limits are read, and rules about missing data judged."""
TWIN_S = 10.0
"""The interval at which changed texts are written to the twins: each makes a version of the document."""
BUSY, GATHER_S = 20, 0.001
"""After a batch of so many messages, wait for more while they arrive: two threads that alternate are slower."""
SPARKPLUG = ":spb"
"""What a Sparkplug connection's identity has behind the hub's client id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """Counters since the start, and the connections."""

    host_id: str
    servers: list[ServerStatus]
    counts: dict[str, int]
    queued: int


@dataclass(slots=True)
class _Texts:
    """Texts that wait to be written to the twins, by device."""

    waiting: dict[str, dict[str, object]] = field(default_factory=dict)
    written_s: float = 0.0


class SparkplugHost:
    """The host application of the settings. `changed` is called with devices that were registered, born or died.

    `notify` wakes workers, when an alarm was raised.
    """

    def __init__(
        self, db: Database, settings: Settings, changed: Callable[[Iterable[str]], None] = lambda devices: None,
        notify: Callable[[str], None] = lambda worker: None,
    ) -> None:  # fmt: skip
        spb = settings.sparkplug
        self._db, self._changed, self._max_bytes = db, changed, settings.twins.max_bytes
        rules = rules_of(spb.writable)
        self.current = CurrentValues(rules)
        self.writes = WriteService(rules, self.current)
        self._store = Store(db, spb, settings.twins.max_bytes)
        self._queue: IngestQueue[Received] = IngestQueue(QUEUE_MESSAGES, QUEUE_BYTES)
        client_id = settings.mqtt.client_id + SPARKPLUG
        known = _known_nodes(db)
        self._servers = [
            HostServer(spb, server, client_id, self._queue.put, known.get(server.address, ())) for server in spb.servers
        ]
        self._server_of: dict[tuple[str, str], HostServer] = {}
        by_name = {server.name: server for server in self._servers}
        self._gone: list[Record] = []
        for name, nodes in known.items():
            if name in by_name:
                self._server_of |= dict.fromkeys(((node.group, node.node) for node in nodes), by_name[name])
            else:  # a server that the settings no longer have
                self._gone += [Death(key=(node.group, node.node, "")) for node in nodes]
        self._dispatcher = WriteDispatcher(db, self.writes, self._store.registry, self._server)
        self._limits = LimitJudge(db, notify, settings.twins.max_bytes)
        self._limits_read_s = -LIMITS_S
        self._host_id = spb.host_id
        self._counts: Counter[str] = Counter()
        self._heard: dict[str, int] = {}
        self._logged, self._asked = RateLimiter(1 / 60), RateLimiter(1 / 600)
        self._texts = _Texts()
        self._ticking = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sparkplug", daemon=True)

    def start(self) -> None:
        """Connect to all servers and begin; returns at once."""
        self._thread.start()
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Say on all servers that the host is offline, and end."""
        for server in self._servers:
            server.stop()
        self._stopping.set()
        self._queue.close()
        if self._thread.ident is not None:
            self._thread.join(10)

    def status(self) -> HostStatus:
        """How it is now. From any thread."""
        return HostStatus(
            host_id=self._host_id, servers=[server.status() for server in self._servers], counts=dict(self._counts),
            queued=len(self._queue),
        )  # fmt: skip

    def heard_us(self, device: str) -> int:
        """When this process last stored a message of the device, in UTC microseconds; 0 for never."""
        return self._heard.get(device, 0)

    def rebirth(self, key: Key) -> str:
        """Ask a node for its births; returns why that is not possible now, or ''. From any thread."""
        server = self._server(key)
        if server is None or not server.connected:
            return "no server with this node is connected"
        self._queue.put(Received(server=server, records=tuple(server.rebirth(key, "requested over REST"))))
        return ""

    def notify(self) -> None:
        """A write was stored, or the twin of a device changed: look at once."""
        self._tick()

    def devices_changed(self, devices: Collection[str]) -> None:
        """Desired state of these devices may have changed. From any thread."""
        if self._dispatcher.devices_changed(devices):
            self._tick()

    def workers(self) -> list[WorkerSpec]:
        """The worker that keeps the time of sessions and writes."""
        return [WorkerSpec(name="sparkplug", run_once=self.run_once, period_s=TICK_S)]

    def run_once(self) -> WorkResult:
        """Have the host's thread look at its timers; raises if that thread has ended."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopping.is_set():
            raise RuntimeError("the thread of the Sparkplug host has ended; restart the hub")
        self._tick()
        return NOTHING

    def _tick(self) -> None:
        if not self._ticking.is_set() and self._servers:
            self._ticking.set()
            self._queue.put(Received(server=self._servers[0]))

    def _server(self, key: Key) -> HostServer | None:
        """The server on which a node was last seen."""
        found = self._server_of.get(key[:2])
        return found or (self._servers[0] if len(self._servers) == 1 else None)

    # -- the host's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        if self._gone:
            self._guarded(partial(self._take, self._gone))
        while batch := self._queue.receive(MAX_BATCH, COMMIT_BYTES):
            self._process(batch)
            if len(batch) >= BUSY:
                self._gather()

    def _gather(self) -> None:
        before = -1
        while before < (queued := len(self._queue)) < MAX_BATCH and not self._stopping.is_set():
            before = queued
            time.sleep(GATHER_S)

    def _process(self, batch: Sequence[Received]) -> None:
        """Read and store a batch, then look at the timers if it is time. Nothing in it may end the thread."""
        for records in self._read(batch):
            self._guarded(partial(self._take, records))
        if any(not message.topic and not message.records for message in batch):
            self._guarded(self._timers)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except NotReady as error:
            log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
            self._stopping.wait(error.wait_s)
        except Exception as error:
            self._counts["failures"] += 1
            log.exception("sparkplug.failed", extra={"fields": {"reason": f"{type(error).__name__}: {error}"[:500]}})

    def _read(self, batch: Sequence[Received]) -> Iterator[list[Record]]:
        """The records of a batch, in parts of bounded size."""
        part: list[Record] = []
        rows = 0
        for message in batch:
            records = self._read_one(message)
            part += records
            rows += sum(map(cost, records))
            if rows >= COMMIT_ROWS:
                yield part
                part, rows = [], 0
        if part:
            yield part

    def _read_one(self, message: Received) -> list[Record]:
        if not message.topic and not message.records:
            return []
        self._counts["messages"] += bool(message.topic)
        try:
            records = message.server.read(message)
        except Exception as error:  # the session's own fault: this message alone is lost
            self._counts["failures"] += 1
            fields = {"topic": message.topic[:300], "reason": f"{type(error).__name__}: {error}"[:500]}
            log.exception("sparkplug.unreadable", extra={"fields": fields})
            return []
        return self._of_server(records, message.server)

    def _of_server(self, records: list[Record], server: HostServer) -> list[Record]:
        """Keep on which server each node is. The death that a node left on another server is not its own any more."""
        for record in records:
            if isinstance(record, Birth) and not record.key[2]:
                self._server_of[record.key[:2]] = server
        return [
            record for record in records
            if not isinstance(record, Death) or self._server_of.get(record.key[:2], server) is server
        ]  # fmt: skip

    def _timers(self) -> None:
        self._ticking.clear()
        for server in self._servers:
            records = self._of_server(server.tick(), server)
            if records:
                self._take(records)
        self._dispatcher.run_once(now_us())
        if time.monotonic() - self._limits_read_s >= LIMITS_S:
            self._limits_read_s = time.monotonic()
            self._limits.reload(now_us())
            if all(server.connected for server in self._servers):  # else it is not the nodes that are silent
                self._limits.tick(now_us())
        if time.monotonic() - self._texts.written_s >= TWIN_S:
            self._write_twins()

    # -- storing -----------------------------------------------------------------------------------

    def _take(self, records: Sequence[Record]) -> None:
        """Store records, and do what follows from them."""
        stored = self._commit(records)
        self._count(records, stored)
        self._observe(records)
        self._limits.take(stored.samples, now_us())
        for device, texts in stored.texts.items():
            self._texts.waiting.setdefault(device, {}).update(texts)
        for key in stored.again:
            self._ask(key, "its definitions are not known here")
        if stored.changed:
            self._changed(stored.changed)

    def _ask(self, key: Key, reason: str) -> None:
        """Ask a node for its births, the first time at once, then at most every ten minutes."""
        server, now = self._server(key), time.monotonic()
        self._asked.report(now)
        if server is not None and self._asked.allow("/".join(key[:2]), now):
            notes = server.rebirth(key, reason)
            self._counts["rebirths_requested"] += sum(isinstance(note, Note) and not note.refused for note in notes)

    def _commit(self, records: Sequence[Record]) -> Stored:
        """Commit records, retrying while the database is unavailable; refuse those that cannot be stored."""
        while True:
            try:
                return self._store.commit(records, now_us())
            except NotReady as error:
                log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
                if self._stopping.wait(error.wait_s):
                    return Stored()
            except Exception as error:  # noqa: BLE001 - the other records are still stored
                self._store.registry.forget()
                if len(records) > 1:  # halves, so that one bad record costs few commits
                    stored = self._commit(records[: len(records) // 2])
                    stored.add(self._commit(records[len(records) // 2 :]))
                    return stored
                return self._failed(records[0], error)

    def _failed(self, record: Record, error: Exception) -> Stored:
        reason = f"{type(error).__name__}: {error}"[:500]
        log.error("sparkplug.not_stored", extra={"fields": {"node": "/".join(record.key)[:300], "reason": reason}})
        return Stored(refused=[(record.key, reason)])

    def _count(self, records: Sequence[Record], stored: Stored) -> None:
        counts = self._counts
        for name in ("rows", "invalid", "unknown", "wrong_times", "removed"):
            counts[name] += getattr(stored, name)
        for record in records:
            if isinstance(record, Birth):
                counts["births"] += 1
            elif isinstance(record, Death):
                counts["deaths"] += 1
            elif isinstance(record, Note):
                counts["refused" if record.refused else "rebirths_requested"] += 1
                if record.refused:
                    self._log_refused(record.key, record.reason)
        for key, reason in stored.refused:
            counts["refused"] += 1
            self._log_refused(key, reason)

    def _log_refused(self, key: Key, reason: str) -> None:
        """Log at most one refusal a minute of each node."""
        node, now = "/".join(key)[:300], time.monotonic()
        self._logged.report(now)
        if self._logged.allow(node, now):
            log.warning("sparkplug.refused", extra={"fields": {"node": node, "reason": reason[:500]}})

    def _observe(self, records: Sequence[Record]) -> None:
        """Keep the present values that rules need, and the time of each device."""
        registry, now = self._store.registry, now_us()
        for record in records:
            if isinstance(record, Note):
                continue
            known = registry.get(record.key)
            if known is None:
                continue
            if isinstance(record, Death):
                mine = [known] if record.key[2] else registry.of_node(*record.key[:2]).values()
                self.current.forget(one.device for one in mine)
                continue
            self._heard[known.device] = now
            if isinstance(record, Data) and record.gap:
                self.current.forget(one.device for one in registry.of_node(*record.key[:2]).values())
            new = self.current.take(known, record, now)
            if new:
                values = {metric: one.value for metric, one in new.items() if one.value is not None}
                self._texts.waiting.setdefault(known.device, {}).update(values)
                self._dispatcher.read_back(known.device, new, now)

    def _write_twins(self) -> None:
        """Write changed texts, and the values of writable metrics, to the twins."""
        waiting, self._texts.waiting, self._texts.written_s = self._texts.waiting, {}, time.monotonic()
        devices = sorted(waiting)
        for start in range(0, len(devices), MAX_BATCH):
            part = devices[start : start + MAX_BATCH]
            with self._db.write(*part) as session:
                self._report(session, {device: waiting[device] for device in part})

    def _report(self, session: Session, texts: dict[str, dict[str, object]]) -> None:
        documents = TwinRows(session)
        documents.load([(device, twin.DOCUMENT) for device in texts])
        for device, values in texts.items():
            if documents.get(device, twin.DOCUMENT)[0].version:  # a removed device has none
                twin.report(session, documents, device, {}, values, now_us(), self._max_bytes)
        documents.save()


def _known_nodes(db: Database) -> dict[str, list[NodeId]]:
    """The nodes that were online when the hub last ran, by server."""
    query = select(SparkplugNode.server, SparkplugNode.group, SparkplugNode.node)
    found: dict[str, list[NodeId]] = {}
    with db.read() as session:
        for server, group, node in session.exec(
            query.where(SparkplugNode.state == "online", SparkplugNode.sparkplug_device == "")
        ):
            found.setdefault(server, []).append(NodeId(group, node))
    return found


def open_host(
    db: Database, settings: Settings, changed: Callable[[Iterable[str]], None], notify: Callable[[str], None]
) -> SparkplugHost | None:  # fmt: skip
    """The host application, or None if it is off. Raises ConfigError."""
    if not settings.sparkplug.host_id:
        return None
    try:
        return SparkplugHost(db, settings, changed, notify)
    except ValueError as error:
        raise ConfigError("sparkplug", str(error), "Every key is in docs/configuration/hub-sparkplug.md") from error
