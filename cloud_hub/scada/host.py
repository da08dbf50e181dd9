"""The hub as Sparkplug primary host application: MQTT threads -> bounded queue -> one thread that commits in batches.

One connection for each server (`server`). The host's thread (`processor`) reads the messages with the session of their
server, stores what they mean (`store`), asks for rebirths, judges limits (`limits`), sends writes and verifies them
(`dispatch`). A full queue blocks the connections, and thereby the servers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from sqlmodel import select

from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import SparkplugNode
from cloud_hub.ingest.queue import IngestQueue
from cloud_hub.runtime.worker import NOTHING, WorkerSpec, WorkResult
from cloud_hub.scada.core.records import Death, Key, Record
from cloud_hub.scada.current import CurrentValues
from cloud_hub.scada.processor import BatchProcessor
from cloud_hub.scada.server import HostServer, Received, ServerStatus
from cloud_hub.scada.writes import WriteService, rules_of
from cloud_hub.settings import Settings
from shared.errors import ConfigError
from shared.sparkplug.topics import NodeId

MAX_BATCH, BATCH_BYTES = 500, 8 << 20
"""A batch ends with the message that exceeds one of these."""
QUEUE_MESSAGES, QUEUE_BYTES = 20_000, 64 << 20
TICK_S = 0.2
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


class SparkplugHost:
    """The host application of the settings. `changed` is called with devices that were registered, born or died.

    `notify` wakes workers, when an alarm was raised.
    """

    def __init__(
        self, db: Database, settings: Settings, changed: Callable[[Iterable[str]], None] = lambda devices: None,
        notify: Callable[[str], None] = lambda worker: None,
    ) -> None:  # fmt: skip
        spb = settings.sparkplug
        rules = rules_of(spb.writable)
        self.writes = WriteService(rules, CurrentValues(rules))
        self._queue: IngestQueue[Received] = IngestQueue(QUEUE_MESSAGES, QUEUE_BYTES)
        client_id = settings.mqtt.client_id + SPARKPLUG
        known = _known_nodes(db)
        self._servers = [
            HostServer(spb, server, client_id, self._queue.put, known.get(server.address, ())) for server in spb.servers
        ]
        self._host_id = spb.host_id
        self._ticking, self._stopping = threading.Event(), threading.Event()
        self._processor = BatchProcessor(db, settings, self._servers, self.writes, changed, notify, self._stopping)
        self._gone: list[Record] = []
        by_name = {server.name: server for server in self._servers}
        for name, nodes in known.items():
            if name in by_name:
                self._processor.server_of |= dict.fromkeys(((one.group, one.node) for one in nodes), by_name[name])
            else:  # a server that the settings no longer have
                self._gone += [Death(key=(one.group, one.node, "")) for one in nodes]
        self._thread = threading.Thread(target=self._run, name="sparkplug", daemon=True)

    def start(self) -> None:
        """Connect to all servers and begin; returns at once."""
        self._thread.start()
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Say on all servers that the host is offline, and end."""
        self._stopping.set()
        for server in self._servers:
            server.stop()
        self._queue.close()
        if self._thread.ident is not None:
            self._thread.join(10)

    def status(self) -> HostStatus:
        """How it is now. From any thread."""
        return HostStatus(
            host_id=self._host_id, servers=[server.status() for server in self._servers],
            counts=dict(self._processor.counts), queued=len(self._queue),
        )  # fmt: skip

    def heard_us(self, device: str) -> int:
        """When this process last stored a message of the device, in UTC microseconds; 0 for never."""
        return self._processor.heard.get(device, 0)

    def rebirth(self, key: Key) -> str:
        """Ask a node for its births; returns why that is not possible now, or ''. From any thread."""
        known = self._processor.server(key)
        asked = [one for one in ([known] if known else self._servers) if one.connected]
        if not asked:
            return "no server with this node is connected"
        for server in asked:  # all, for a node that is dead and may be on any
            self._queue.put(Received(server=server, records=tuple(server.rebirth(key, "requested over REST"))))
        return ""

    def notify(self) -> None:
        """A write was stored, or the twin of a device changed: look at once."""
        self._tick()

    def devices_changed(self, devices: Collection[str]) -> None:
        """Desired state of these devices may have changed. From any thread."""
        if self._processor.dispatcher.devices_changed(devices):
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
        """Have the timers looked at after the present batch. Never waits: a full queue wakes the thread by itself."""
        self._ticking.set()
        if not len(self._queue):
            self._queue.put(Received(server=self._servers[0]))

    # -- the host's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        if self._gone:
            self._processor.store_records(self._gone)
        while batch := self._queue.receive(MAX_BATCH, BATCH_BYTES):
            self._processor.process(batch)
            if self._ticking.is_set():
                self._ticking.clear()
                self._processor.timers()
            if len(batch) >= BUSY:
                self._gather()

    def _gather(self) -> None:
        before = -1
        while before < (queued := len(self._queue)) < MAX_BATCH and not self._stopping.is_set():
            before = queued
            time.sleep(GATHER_S)


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
