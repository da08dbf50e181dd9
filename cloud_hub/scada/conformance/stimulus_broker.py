"""Tries a broker with clients of our own. Source: specification 3.0, section 10.1.4 and 10.1.5."""

from __future__ import annotations

import secrets

from cloud_hub.scada.conformance.brokers import Broker, Client
from cloud_hub.scada.conformance.stimulus import Stage
from shared.errors import NotReady

WAIT_S = 5.0


class BrokerStimulus:
    """Publishes and receives under `tidegate-check/<random>` on one broker."""

    def __init__(self, stage: Stage, brokers: list[Broker]) -> None:
        self._stage, self._watch, self._broker = stage, stage.watch, brokers[0]
        self._base = f"tidegate-check/{secrets.token_hex(6)}"
        self._got: list[tuple[str, int, bool]] = []
        self._open: list[Client] = []

    def run(self) -> None:
        """Try QoS 0 and 1, the retain flag, Wills."""
        self._client("listener").subscribe(f"{self._base}/#")
        sender = self._client("sender")
        self._stage.progress("QoS 0 and 1")
        sender.publish(f"{self._base}/0", b"0", 0)
        acknowledged = sender.publish(f"{self._base}/1", b"1", 1)
        self._judge("broker.qos0", self._seen("0", 0), "a message of QoS 0 was not delivered")
        self._judge("broker.qos1", acknowledged and self._seen("1", 1), "a message of QoS 1 was not delivered at QoS 1")
        self._retained(sender)
        self._will()

    def close(self) -> None:
        """Disconnect, and clear what was retained."""
        for topic in ("kept", "will"):
            self._open[1].publish(f"{self._base}/{topic}", b"", 1, retain=True)
        for client in self._open:
            client.close()

    def _client(self, name: str, will: tuple[str, bytes, int, bool] | None = None) -> Client:
        client = Client(self._broker, self._received, name=f"check-{name}-{secrets.token_hex(3)}", will=will)
        self._open.append(client)
        return client

    def _received(self, topic: str, _payload: bytes, qos: int, retain: bool) -> None:
        self._got.append((topic.removeprefix(f"{self._base}/"), qos, retain))

    def _seen(self, topic: str, qos: int, retain: bool | None = None) -> bool:
        def there() -> bool:
            return any(one[:2] == (topic, qos) and retain in (None, one[2]) for one in self._got)

        return self._watch.wait(WAIT_S, there)

    def _again(self, topic: str) -> bool:
        """Whether a new subscription is given the retained message."""
        self._got.clear()
        self._client("late").subscribe(f"{self._base}/{topic}")
        return self._seen(topic, 1, retain=True)

    def _retained(self, sender: Client) -> None:
        self._stage.progress("the retain flag")
        sender.publish(f"{self._base}/kept", b"1", 1, retain=True)
        kept = self._again("kept")
        sender.publish(f"{self._base}/kept", b"", 1, retain=True)
        self._got.clear()
        self._client("later").subscribe(f"{self._base}/kept")
        cleared = not self._watch.wait(1.0, lambda: bool(self._got))
        self._judge("broker.retained", kept and cleared, f"kept: {kept}, cleared: {cleared}")

    def _will(self) -> None:
        self._stage.progress("a Will of QoS 1, retained")
        self._got.clear()
        try:
            mortal = self._client("mortal", (f"{self._base}/will", b"1", 1, True))
        except NotReady as error:
            self._judge("broker.will", False, error.reason)
            return
        mortal.close(with_will=True)
        self._open.remove(mortal)
        told = self._seen("will", 1)
        self._judge("broker.will", told and self._again("will"), f"published: {told}, and kept or not")

    def _judge(self, rule: str, kept: bool, what: str) -> None:
        self._watch.confirm(rule, kept, what)
