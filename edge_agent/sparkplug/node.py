"""The edge node: the session, its connection, and the store for outages. All methods run in the agent's thread."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from edge_agent import clock
from edge_agent.config.sparkplug import Sparkplug
from edge_agent.sparkplug.buffer import Buffer
from edge_agent.sparkplug.core.rotation import Rotation
from edge_agent.sparkplug.core.tags import Change, TagTable, data_metrics
from edge_agent.sparkplug.servers import Down, ServerConnection, Up
from shared.errors import TidegateError
from shared.sparkplug.edge_session import EdgeOptions, EdgeSession, EdgeState
from shared.sparkplug.effects import Disconnect, EdgeEffect, Publish, Refused, Write
from shared.sparkplug.payload import Metric
from shared.sparkplug.topics import NodeId

log = logging.getLogger(__name__)

MAX_WAITING = 50_000
"""Changes that wait in memory for the next message; more are lost, the oldest ones."""
REPLAY_PER_S = 5000
"""Stored changes sent a second after an outage, so that neither the broker nor the memory is flooded."""
REPLAY_EACH = 500
"""Metrics in one message of stored changes."""
LOG_S = 10.0
"""Shortest time between two log lines about refused messages: a host may send any number of them."""
WAITING_LOG_S = 5.0
"""A node that has waited so long for its primary host is logged."""
REDEFINE_S = 5.0
"""New definitions are collected this long, because each change of them leads to new births."""


class EdgeNode:
    """One Sparkplug edge node. `save_bd_seq` makes bdSeq durable before each CONNECT; `on_write(device, write, topic)`
    gets the commands of hosts.
    """

    def __init__(
        self,
        config: Sparkplug,
        device: str,
        tags: TagTable,
        buffer: Buffer,
        bd_seq: int,
        save_bd_seq: Callable[[int], None],
        on_write: Callable[[Write, str], None],
    ) -> None:
        self._config, self._tags, self._buffer = config, tags, buffer
        self._save_bd_seq, self._on_write = save_bd_seq, on_write
        options = EdgeOptions(
            node=NodeId(config.group, config.node or device), primary_host=config.primary_host,
            servers=len(config.servers), aliases=config.aliases,
            mqtt5=all(server.protocol == "5" for server in config.servers),
        )  # fmt: skip
        self._session = EdgeSession(options, bd_seq)
        self._connection = ServerConnection(config.servers, f"{device}:spb")
        self._rotation = Rotation(len(config.servers), random.random)
        self._next_server = False
        self._waiting: list[Change] = []
        self._defined: set[str] = set()
        self._dead: set[str] = set()
        self._publish_s = self._redefined_s = self._waiting_s = 0.0
        self._waiting_logged = False
        self._replay = self._log_s = 0.0
        self._reason = ""
        self.counts: Counter[str] = Counter()
        """Births, messages and refused commands since the start."""

    @property
    def online(self) -> bool:
        """Whether data is sent now."""
        return self._session.publishing

    @property
    def state(self) -> dict[str, str | int]:
        """What the twin reports."""
        return {
            "server": self._config.servers[self._rotation.index].address, "state": str(self._session.state),
            "reason": "" if self.online else self._reason, "primary_host": self._config.primary_host,
            "births": self.counts["births"],
        }  # fmt: skip

    def add(self, changes: Iterable[Change]) -> None:
        """Changes to send with the next message."""
        self._waiting += changes
        if (excess := len(self._waiting) - MAX_WAITING) > 0:  # only if `tick` does not work
            del self._waiting[:excess]
            self.counts["lost"] += excess

    def tick(self, now_s: float) -> None:
        """Called about every 0.1 s. After an error the connection begins anew, so that nothing is half done."""
        try:
            self._tick(now_s)
        except Exception:
            self._connection.close(0.0)
            self._ended(Down("an error of the edge node, see the log", was_up=True), now_s)
            raise

    def tick_store(self, now_s: float) -> None:
        """Called after `tick`: send what is stored, and store what could not be sent."""
        self._replay_stored(now_s)
        self._buffer.tick(now_s)

    def _tick(self, now_s: float) -> None:
        self._handle_happened(now_s)
        if not self._connection.active and now_s >= self._rotation.at_s:
            self._connect(now_s)
        self._act(self._session.tick(_now_ms()), now_s)
        self._log_waiting(now_s)
        if now_s - self._publish_s >= self._config.publish_s:
            self._publish_s = now_s
            self._define(now_s)
            self._revive(now_s)
            self._send_waiting(now_s)
            self._bury(now_s)

    def close(self, now_s: float) -> None:
        """Publish the death of the node and disconnect."""
        self._send_waiting(now_s)
        was_online = self.online
        self._act(self._session.disconnecting(_now_ms()), now_s)
        self._connection.close(2.0)
        self._buffer.close(connected=was_online)

    # -- connection ------------------------------------------------------------------------------------

    def _connect(self, now_s: float) -> None:
        self._define(now_s)
        index = self._rotation.index
        will = self._session.connecting(_now_ms(), self._config.servers[index].address)
        self._save_bd_seq(self._session.bd_seq)
        self._next_server = False
        try:
            self._connection.connect(index, will, self._session.filters)
        except TidegateError as error:
            self._ended(Down(str(error), was_up=False), now_s)

    def _handle_happened(self, now_s: float) -> None:
        for event in self._connection.happened():
            if isinstance(event, Up):
                self._rotation.up(now_s)
                self._reason = ""
                log.info("sparkplug.up", extra={"fields": {"server": self.state["server"]}})
                self._act(self._session.subscribed(_now_ms()), now_s)
            elif isinstance(event, Down):
                self._ended(event, now_s)
            else:
                effects = self._session.received(event.topic, event.payload, _now_ms(), retained=event.retained)
                self._act(effects, now_s, event.topic)

    def _log_waiting(self, now_s: float) -> None:
        """Log once why a connected node is silent. A host that is online says so at once, because STATE is retained."""
        if self._session.state is not EdgeState.WAITING:
            self._waiting_s = now_s
            self._waiting_logged = self._waiting_logged and not self.online
        elif not self._waiting_logged and now_s - self._waiting_s >= WAITING_LOG_S:
            self._waiting_logged = True
            fields = {"server": self.state["server"], "primary_host": self._config.primary_host,
                      "cure": "Start this host, or correct sparkplug.primary_host"}  # fmt: skip
            log.warning("sparkplug.waiting", extra={"fields": fields})

    def _ended(self, event: Down, now_s: float) -> None:
        if event.was_up or event.reason != self._reason:
            fields = {"server": self.state["server"], "reason": event.reason}
            log.warning("sparkplug.down", extra={"fields": fields})
        self._reason = event.reason
        self._session.lost()
        self._rotation.down(now_s, next_server=self._next_server)
        self._buffer.lost(now_s)

    # -- effects ---------------------------------------------------------------------------------------

    def _act(self, effects: Sequence[EdgeEffect], now_s: float, topic: str = "") -> bool:
        """Carry out effects in order; False if a message could not be passed on."""
        sent = True
        for effect in effects:
            if isinstance(effect, Publish):
                sent = self._publish(effect) and sent
            elif isinstance(effect, Disconnect):
                self._next_server, self._reason = effect.next_server, effect.reason
                log.info("sparkplug.leaving", extra={"fields": {"reason": effect.reason}})
                self._connection.disconnect(with_will=effect.with_will)
            elif isinstance(effect, Write):
                self._on_write(effect, topic)
            else:
                self._refused(effect, now_s)
        return sent

    def _refused(self, effect: Refused, now_s: float) -> None:
        """Count what was refused, and log it, at most every LOG_S."""
        self.counts["refused"] += 1
        if now_s >= self._log_s:
            self._log_s = now_s + LOG_S
            fields = {"topic": effect.topic, "reason": effect.reason, "refused": self.counts["refused"],
                      "dropped": self._connection.dropped}  # fmt: skip
            log.warning("sparkplug.refused", extra={"fields": fields})

    def _publish(self, message: Publish) -> bool:
        self.counts["births"] += "/NBIRTH/" in message.topic
        self.counts["messages"] += 1
        return self._connection.publish(message.topic, message.payload, message.qos, message.retain)

    # -- metrics ---------------------------------------------------------------------------------------

    def _define(self, now_s: float) -> None:
        """Tell the session what has been defined since the last time."""
        missing = self._tags.redefined
        if not missing or (now_s - self._redefined_s < REDEFINE_S and self._session.state is EdgeState.ONLINE):
            return
        self._redefined_s = now_s
        for device in sorted(missing):  # the node first
            metrics = self._tags.definitions(device)
            if device:
                self._act(self._session.set_device(device, metrics, _now_ms()), now_s)
                self._dead.discard(device)
            else:
                self._act(self._session.set_node(metrics, _now_ms()), now_s)
            self._defined.add(device)
        missing.clear()

    def _revive(self, now_s: float) -> None:
        """A birth for each dead device that gives values again."""
        for device in [one for one in sorted(self._dead) if not self._tags.is_lost(one)]:
            self._dead.discard(device)
            metrics = self._tags.definitions(device)
            self._act(self._session.set_device(device, metrics, _now_ms()), now_s)

    def _bury(self, now_s: float) -> None:
        """A death for each device without good values, once its stored changes are sent: data needs a living device."""
        if self._buffer.waiting:
            return
        for device in sorted(self._defined - self._dead - {""}):
            if self._tags.is_lost(device):
                self._dead.add(device)
                self._act(self._session.device_died(device, _now_ms()), now_s)

    def _send_waiting(self, now_s: float) -> None:
        """Send what has changed, or store it, also what is not defined yet: the birth to come has current values."""
        undefined = self._tags.redefined
        changes = [change for change in self._waiting if change.place.device not in undefined]
        self._buffer.store(change for change in self._waiting if change.place.device in undefined)
        self._waiting = []
        if not changes:
            return
        was_online = self.online
        unsent = self._send(changes, now_s, historical=False)  # only sets current values while not online
        self._buffer.store(unsent if was_online else changes)
        if was_online:
            lost = set(map(id, unsent))
            self._buffer.sent_live((change for change in changes if id(change) not in lost), now_s)

    def _send(self, changes: list[Change], now_s: float, *, historical: bool) -> list[Change]:
        """Send one message for each device; returns what could not be sent."""
        unsent: list[Change] = []
        by_device = sorted(changes, key=lambda change: change.place.device)
        for device, group in groupby(by_device, key=lambda change: change.place.device):
            batch = list(group)
            if device not in self._defined or not self._send_batch(
                device, data_metrics(batch, historical=historical), now_s
            ):
                unsent += batch
        return unsent

    def _send_batch(self, device: str, metrics: list[Metric], now_s: float) -> bool:
        """One DATA message; a metric that the session refuses is left out, so that the others are sent."""
        try:
            return self._act(self._session.data(device, metrics, _now_ms()), now_s)
        except ValueError as error:
            if len(metrics) == 1:
                self.counts["invalid"] += 1
                log.error("sparkplug.invalid", extra={"fields": {"metric": metrics[0].name, "reason": str(error)}})
                return True  # it will never be sent
        sent = True
        for metric in metrics:
            sent = self._send_batch(device, [metric], now_s) and sent
        return sent

    def _replay_stored(self, now_s: float) -> None:
        """Send stored changes as historical, at most REPLAY_PER_S a second."""
        self._replay = min(self._replay + REPLAY_PER_S / 10, REPLAY_PER_S / 10)
        while self._replay > 0 and self.online and not self._tags.redefined:
            found = self._buffer.next()
            if found is None:
                return
            stored, number = found
            changes = [change for change in map(self._tags.fitted, stored) if change is not None]
            for start in range(0, len(changes), REPLAY_EACH):
                if self._send(changes[start : start + REPLAY_EACH], now_s, historical=True):
                    return
            self._replay -= len(changes) + 1
            self._buffer.sent(number, now_s)


def _now_ms() -> int:
    return clock.now_us() // 1000
