"""The STATE of a host application itself, and of others on the same server."""

from __future__ import annotations

from shared.sparkplug import state, topics
from shared.sparkplug.effects import HostStateSeen, Publish, Refused, Will, refused
from shared.sparkplug.topics import StateTopic
from shared.token_bucket import TokenBucket

PER_S, BURST = 10.0, 5
"""How often STATE is published again. Who keeps sending our STATE as offline must not make us answer without end."""


class OwnState:
    """Publishes STATE: the birth has the timestamp of the Will of the same connection. `host` '' publishes nothing."""

    def __init__(self, host: str) -> None:
        self._topic = str(StateTopic(topics.check_id(host, "host id"))) if host else ""
        self._connected_ms = 0
        self._online = False
        self._due = False
        self._bucket = TokenBucket.full(PER_S / 1000, BURST)
        self.filters = (self._topic,) if host else ()

    def connecting(self, now_ms: int) -> Will | None:
        """The Will: offline, with the time of this CONNECT."""
        self._connected_ms, self._online = now_ms, False
        if not self._topic:
            return None
        death = state.encode(state.HostState(online=False, timestamp=now_ms))
        return Will(topic=self._topic, payload=death, retain=True)

    def subscribed(self) -> list[Publish]:
        """The birth."""
        self._online, self._due = bool(self._topic), False
        return [self._publish(online=True, timestamp=self._connected_ms)] if self._topic else []

    def lost(self) -> None:
        """Not connected."""
        self._online = self._due = False

    def disconnecting(self, now_ms: int) -> list[Publish]:
        """The death, with the time of now, if there was a birth."""
        return [self._publish(online=False, timestamp=now_ms)] if self._online else []

    def received(self, topic: StateTopic, payload: bytes, now_ms: int) -> list[Publish | Refused | HostStateSeen]:
        """A STATE. Our own as offline (a late Will, another host) is answered by our birth. Raises WireError."""
        said = state.parse(payload)
        if str(topic) != self._topic:
            return [HostStateSeen(host=topic.host, online=said.online, timestamp=said.timestamp)]
        if not self._online or (said.online and said.timestamp <= self._connected_ms):  # older: retained, from before
            return []
        if said.online:
            return [refused(self._topic, "another host publishes STATE with our host id; give it an id of its own")]
        self._due = True
        return [*self.tick(now_ms)]

    def tick(self, now_ms: int) -> list[Publish]:
        """Publish the birth again, if it is due."""
        if not self._due or not self._bucket.allow(now_ms):
            return []
        self._due = False
        return [self._publish(online=True, timestamp=self._connected_ms)]

    def _publish(self, *, online: bool, timestamp: int) -> Publish:
        payload = state.encode(state.HostState(online=online, timestamp=timestamp))
        return Publish(topic=self._topic, payload=payload, qos=1, retain=True)
