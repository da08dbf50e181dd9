"""What the Sparkplug host does with a batch of messages: read it, store it, and what follows from that.

One thread uses it. Whatever fails ends neither the thread nor the rest of the batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlmodel import Session

from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.ingest.core.rate_limit import RateLimiter
from cloud_hub.scada import twin
from cloud_hub.scada.core.records import Birth, Death, Key, Note, Record, cost
from cloud_hub.scada.dispatch import WriteDispatcher
from cloud_hub.scada.limits import LimitJudge
from cloud_hub.scada.server import HostServer, Received
from cloud_hub.scada.store import Store, Stored
from cloud_hub.scada.writes import WriteService
from cloud_hub.settings import Settings
from cloud_hub.twins.rows import TwinRows
from shared.errors import NotReady

log = logging.getLogger(__name__)

COMMIT_ROWS = 20_000
"""A commit ends with the message that exceeds so many rows."""
LIMITS_S = 1.0
"""The interval at which changed limits are read, and rules about missing data judged."""
TWIN_S = 10.0
"""The interval at which changed texts are written to the twins: each makes a version of the document."""
TWINS = 500
"""Twins that are written in one transaction."""


@dataclass(slots=True)
class _Texts:
    """Texts that wait to be written to the twins, by device."""

    waiting: dict[str, dict[str, object]] = field(default_factory=dict)
    written_s: float = 0.0


class BatchProcessor:
    """Processes batches. `changed` is called with devices that were registered, born or died.

    `notify` wakes workers when an alarm was raised. While `stopping` is set, the database is not waited for.
    """

    def __init__(
        self, db: Database, settings: Settings, servers: Sequence[HostServer], service: WriteService,
        changed: Callable[[Iterable[str]], None], notify: Callable[[str], None], stopping: threading.Event,
    ) -> None:  # fmt: skip
        self._db, self._servers, self._changed, self._stopping = db, servers, changed, stopping
        self._max_bytes = settings.twins.max_bytes
        self.store = Store(db, settings.sparkplug, self._max_bytes)
        self.dispatcher = WriteDispatcher(db, service, self.server)
        self._current = service.current
        self._limits = LimitJudge(db, notify, self._max_bytes)
        self._limits_read_s = -LIMITS_S
        self.server_of: dict[tuple[str, str], HostServer] = {}
        self.counts: Counter[str] = Counter()
        self.heard: dict[str, int] = {}
        self._logged, self._asked = RateLimiter(1 / 60), RateLimiter(1 / 600)
        self._texts = _Texts()
        self._arrived_us = 0
        """When the first message of the present batch arrived; 0 between batches."""

    def server(self, key: Key) -> HostServer | None:
        """The server on which a node was last seen."""
        found = self.server_of.get(key[:2])
        return found or (self._servers[0] if len(self._servers) == 1 else None)

    def process(self, batch: Sequence[Received]) -> None:
        """Read and store a batch."""
        self._arrived_us = min((message.at_us for message in batch), default=0)
        for records in self._read(batch):
            self.store_records(records)
        self._arrived_us = 0

    def store_records(self, records: Sequence[Record]) -> None:
        """Store records, and do what follows from them."""
        self._guarded(partial(self._store_records, records))

    def timers(self) -> None:
        """Time has passed: for sessions, writes, limits and twins."""
        for server in self._servers:
            self._guarded(partial(self._tick, server))
        self._guarded(lambda: self.dispatcher.run_once(now_us()))
        if time.monotonic() - self._limits_read_s >= LIMITS_S:
            self._limits_read_s = time.monotonic()
            self._guarded(self._judge)
        if time.monotonic() - self._texts.written_s >= TWIN_S:
            self._guarded(self._write_twins)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except NotReady as error:
            log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
            self._stopping.wait(error.wait_s)
        except Exception as error:
            self.counts["failures"] += 1
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
        self.counts["messages"] += bool(message.topic)
        try:
            records = message.server.read(message)
        except Exception as error:  # the session's own fault: this message alone is lost
            self.counts["failures"] += 1
            fields = {"topic": message.topic[:300], "reason": f"{type(error).__name__}: {error}"[:500]}
            log.exception("sparkplug.unreadable", extra={"fields": fields})
            return []
        return self._of_server(records, message.server)

    def _of_server(self, records: list[Record], server: HostServer) -> list[Record]:
        """Keep on which server each living node is. The death that a node left on another server is not its own any
        more.
        """
        kept: list[Record] = []
        for record in records:
            node = record.key[:2]
            if isinstance(record, Birth) and not record.key[2]:
                self.server_of[node] = server
            elif isinstance(record, Death):
                if self.server_of.get(node, server) is not server:
                    continue
                if not record.key[2]:
                    self.server_of.pop(node, None)
            kept.append(record)
        return kept

    def _tick(self, server: HostServer) -> None:
        records = self._of_server(server.tick(), server)
        if records:
            self._store_records(records)

    def _judge(self) -> None:
        self._limits.reload(now_us())
        if all(server.connected for server in self._servers):  # else it is not the nodes that are silent
            self._limits.tick(now_us())

    # -- storing -----------------------------------------------------------------------------------

    def _store_records(self, records: Sequence[Record]) -> None:
        """Store records, and do what follows from them."""
        stored = self._commit(records)
        self._count(records, stored)
        self._observe(records)
        self._limits.judge(stored.samples, now_us())
        for device, texts in stored.texts.items():
            self._texts.waiting.setdefault(device, {}).update(texts)
        for key in stored.again:
            self._ask(key, "its definitions are not known here")
        if stored.changed:
            self._changed(stored.changed)

    def _ask(self, key: Key, reason: str) -> None:
        """Ask a node for its births, the first time at once, then at most every ten minutes."""
        server, now = self.server(key), time.monotonic()
        self._asked.report(now)
        if server is not None and self._asked.allow("/".join(key[:2]), now):
            notes = server.rebirth(key, reason)
            self.counts["rebirths_requested"] += sum(isinstance(note, Note) and not note.refused for note in notes)

    def _commit(self, records: Sequence[Record]) -> Stored:
        """Commit records, retrying while the database is unavailable; refuse those that cannot be stored."""
        while True:
            try:
                return self.store.commit(records, now_us())
            except NotReady as error:
                log.error("database.not_ready", extra={"fields": {"reason": error.reason}})
                if self._stopping.wait(error.wait_s):
                    return Stored()
            except Exception as error:  # noqa: BLE001 - the other records are still stored
                self.store.registry.forget()
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
        counts = self.counts
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
        """Keep the present values that rules need, and the time of each device.

        What waited, for its turn or for the database, is as old as its arrival.
        """
        registry, now = self.store.registry, min(self._arrived_us or now_us(), now_us())
        for record in records:
            if isinstance(record, Note):
                continue
            known = registry.get(record.key)
            if known is None:
                continue
            if isinstance(record, Death):
                mine = [known] if record.key[2] else registry.of_node(*record.key[:2]).values()
                self._current.forget(one.device for one in mine)
                continue
            if not known.own:  # an agent speaks for itself; anybody can say that he is one
                self.heard[known.device] = now
            if record.gap:
                self._current.forget(one.device for one in registry.of_node(*record.key[:2]).values())
            new = self._current.update(known, record, now)
            if new:
                values = {metric: one.value for metric, one in new.items() if one.value is not None}
                self._texts.waiting.setdefault(known.device, {}).update(values)
                self.dispatcher.read_back(known.device, new, now_us())

    def _write_twins(self) -> None:
        """Write changed texts, and the values of writable metrics, to the twins. What cannot be written yet waits."""
        waiting, self._texts.written_s = self._texts.waiting, time.monotonic()
        devices = sorted(waiting)
        for start in range(0, len(devices), TWINS):
            part = devices[start : start + TWINS]
            self._write_part({device: waiting[device] for device in part})
            for device in part:
                del waiting[device]

    def _write_part(self, texts: dict[str, dict[str, object]]) -> None:
        """Write some twins in one transaction; those that fail are found by halves, and left out."""
        try:
            with self._db.write(*texts) as session:
                self._report(session, texts)
        except NotReady:
            raise
        except Exception as error:
            if len(texts) == 1:
                self.counts["failures"] += 1
                fields = {"device": next(iter(texts)), "reason": f"{type(error).__name__}: {error}"[:500]}
                log.exception("sparkplug.twin_failed", extra={"fields": fields})
                return
            devices = list(texts)
            for part in (devices[: len(devices) // 2], devices[len(devices) // 2 :]):
                self._write_part({device: texts[device] for device in part})

    def _report(self, session: Session, texts: dict[str, dict[str, object]]) -> None:
        documents = TwinRows(session)
        documents.load([(device, twin.DOCUMENT) for device in texts])
        for device, values in texts.items():
            if documents.get(device, twin.DOCUMENT)[0].version:  # a removed device has none
                twin.report(session, documents, device, {}, values, now_us(), self._max_bytes)
        documents.save()
