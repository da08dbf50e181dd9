"""Watches as a subscriber: it sees what is published, but neither CONNECT packets nor who publishes."""

from __future__ import annotations

from collections.abc import Callable

from cloud_hub.scada.conformance.brokers import Broker, Client
from cloud_hub.scada.conformance.core.events import Publish
from cloud_hub.scada.conformance.watch import Watch, now_ms


class Subscriber:
    """Subscribes to the namespace on one broker. `simulated` says whether a topic is one of the checker's own node."""

    def __init__(self, watch: Watch, server: int, broker: Broker, simulated: Callable[[str], bool]) -> None:
        self._watch, self._server, self._simulated = watch, server, simulated
        self._client = Client(broker, self._received)
        self._client.subscribe("spBv1.0/#")

    def _received(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if self._simulated(topic):
            return
        self._watch.observe(
            Publish(at_ms=now_ms(), server=self._server, topic=topic, payload=payload, qos=qos, retain=retain)
        )

    def close(self) -> None:
        """End the subscription."""
        self._client.close()
