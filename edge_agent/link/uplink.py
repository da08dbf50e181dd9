"""Executes the effects of the link session over MQTT. Runs in the agent's thread.

MQTT events are posted to that thread, so no method runs in two threads.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from edge_agent.clock import monotonic_s
from edge_agent.config import Config
from edge_agent.link.core.session import (
    Effect,
    Fetch,
    Forget,
    LinkSession,
    PublishBirth,
    Reconnect,
    Renew,
    Send,
    SendHeartbeat,
)
from edge_agent.link.discovery import BrokerLocator
from edge_agent.store.outbox import Outbox
from shared.errors import WireError
from shared.protocol import topics
from shared.protocol.codec import DEFLATED, JSON, decode, deflate, encode
from shared.protocol.messages import Ack, Birth, Heartbeat, Session
from shared.protocol.topics import STREAM_TOPIC
from shared.transport.mqtt import Connection, Inbound, Options, Tls, Will

log = logging.getLogger(__name__)

UNANSWERED = 3
"""Number of unanswered births after which a warning is logged: a broker silently drops what its access list forbids."""

Post = Callable[[Callable[[], None]], None]


class Uplink:
    """The device's connection to its hub.

    `birth(session)` returns the birth message; `on_fetch(restart)` is called when the hub has accepted the device;
    `on_message(rest, inbound)` gets all other messages. `enrolled` are the TLS files of the enrolment; `[link.tls]`
    takes precedence.
    """

    def __init__(
        self,
        config: Config,
        outbox: Outbox,
        hub_epoch: str,
        post: Post,
        birth: Callable[[str], Birth],
        on_fetch: Callable[[bool], None],
        on_message: Callable[[str, Inbound], None],
        enrolled: Tls | None = None,
    ) -> None:
        self._id, self._outbox, self._post = config.device.id, outbox, post
        self._birth, self._on_fetch, self._on_message = birth, on_fetch, on_message
        self.session = LinkSession(
            outbox.epoch, outbox.acked, hub_epoch, config.link.resend_s, config.link.heartbeat_s, random.random,
            config.link.replay_kb_s * 1000,
        )  # fmt: skip
        self.session.appended(outbox.last)
        self.locator = BrokerLocator(config.link)
        self._connection_id, self._epoch = "", outbox.epoch
        self._heartbeat = topics.thing(self._id, "heartbeat")
        self._unanswered_births = 0
        self._deflates = False
        tls = Tls(**msgspec.structs.asdict(config.link.tls)) if config.link.tls else enrolled
        self._connection = Connection(
            Options(client_id=self._id, filters=topics.device_filters(self._id), tls=tls),
            self.locator.locate,
            on_message=lambda inbound: post(lambda: self._received(inbound)),
            on_up=lambda: post(self._up),
            on_down=lambda reason: post(partial(self._down, reason, self.locator.address)),
            will=self._will,
            more=self.locator.has_more,
        )

    def start(self) -> None:
        """Start to connect; returns at once."""
        self._connection.start()

    def stop(self) -> None:
        """Publish the offline birth and disconnect; after a clean stop the Will is not sent."""
        self.publish("birth", self._offline(), retain=True)
        self._connection.stop()

    def renew(self) -> None:
        """Reconnect with the new certificate. May be called from any thread."""
        self._connection.renew()

    def publish(
        self, rest: str, message: Any, *, retain: bool = False, trace: str = "", correlation: bytes = b"", qos: int = 1
    ) -> bool:
        """Publish a message that does not need the outbox; False while there is no connection."""
        topic = topics.thing(self._id, rest)
        return self._connection.publish(
            topic, encode(message), retain=retain, traceparent=trace, correlation=correlation, qos=qos
        )

    def pump(self) -> None:
        """Send all rows that may be sent now."""
        if self._outbox.epoch != self._epoch:  # the outbox was replaced or renewed
            self._epoch = self._outbox.epoch
            self._execute(self.session.renewed(self._epoch, self._outbox.last, monotonic_s()))
        self.session.appended(self._outbox.last)
        while (send := self.session.next(monotonic_s())) is not None:
            if not self._send(send):
                return

    def tick(self) -> None:
        """Run timers of the session; called about once a second."""
        self._execute(self.session.tick(monotonic_s()))
        self.pump()

    # -- events ------------------------------------------------------------------------------------

    def _will(self) -> Will:
        """Create the Will, with a new session id; called for each connection attempt, from the connection's thread."""
        self._connection_id = secrets.token_hex(8)
        return Will(topic=topics.thing(self._id, "birth"), payload=encode(self._offline()))

    def _offline(self) -> Birth:
        return Birth(device=self._id, session=self._connection_id, state="offline", epoch=self._outbox.epoch)

    def _up(self) -> None:
        log.info("link.up", extra={"fields": {"address": self.locator.address, "found_by": self.locator.found_by}})
        self._execute(self.session.up(self._connection_id, monotonic_s()))

    def _down(self, reason: str, address: str) -> None:
        log.warning("link.down", extra={"fields": {"address": address, "reason": reason}})
        self._execute(self.session.down())

    def _received(self, inbound: Inbound) -> None:
        _, rest = topics.split(inbound.topic) or ("", "")
        try:
            if rest == "acks":
                ack = decode(Ack, inbound.payload, inbound.topic)
                self._execute(self.session.handle_ack(ack, monotonic_s()))
            elif rest == "heartbeat/answer":
                answer = decode(Heartbeat, inbound.payload, inbound.topic)
                self._execute(self.session.handle_heartbeat(answer, monotonic_s()))
            elif rest == "session":
                self._handle_session(decode(Session, inbound.payload, inbound.topic))
            else:
                self._on_message(rest, inbound)
        except WireError as error:
            log.warning("wire.refused", extra={"fields": {"reason": str(error)}, "trace": inbound.traceparent})
        self.pump()

    def _handle_session(self, message: Session) -> None:
        effects = self.session.handle_session(message, monotonic_s())
        self._deflates = DEFLATED in message.reads
        self._unanswered_births = 0
        if self.session.accepted:
            self.locator.confirm()
        if self.session.refused:
            log.error("link.refused", extra={"fields": {"reason": self.session.refused}})
        self._execute(effects)

    # -- effects -----------------------------------------------------------------------------------

    def _execute(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, PublishBirth):
                self._publish_birth()
            elif isinstance(effect, Forget):
                self._outbox.forget(effect.stream, effect.upto)
            elif isinstance(effect, Fetch):
                self._on_fetch(effect.restart)
            elif isinstance(effect, Send):
                self._send(effect)
            elif isinstance(effect, Renew):
                self._renew()
            elif isinstance(effect, SendHeartbeat):
                self._connection.publish(self._heartbeat, encode(Heartbeat(session=self._connection_id)), qos=0)
            elif isinstance(effect, Reconnect):
                self._connection.drop(f"half-dead: no answer from the hub for {effect.silent_s:.0f} s")

    def _publish_birth(self) -> None:
        self._unanswered_births = 0 if self.session.accepted else self._unanswered_births + 1
        if self._unanswered_births == UNANSWERED:
            cure = "is the hub running, and may this identity publish on its own topics?"
            log.warning("hub.silent", extra={"fields": {"births": UNANSWERED, "cure": cure}})
        self.publish("birth", self._birth(self._connection_id), retain=True)

    def _renew(self) -> None:
        old, new = self._outbox.epoch, f"{secrets.randbits(64):016x}"
        self._outbox.renew(new)
        reason = "this store is an older copy of itself; what it holds is sent again, some of it for the second time"
        log.error("outbox.renewed", extra={"fields": {"epoch": new, "before": old, "reason": reason}})
        self.pump()

    def _send(self, send: Send) -> bool:
        row = self._outbox.after(send.stream, send.after)
        if row is None:
            return False
        topic = topics.thing(self._id, STREAM_TOPIC[row.stream])
        telemetry = row.stream == "telemetry"
        payload, content_type = deflate(row.payload) if self._deflates and telemetry else (row.payload, JSON)
        if not self._connection.publish(topic, payload, traceparent=row.trace, content_type=content_type):
            return False
        self.session.sent(row.stream, row.last, monotonic_s(), len(payload))
        return True
