"""Tries a broker with clients of our own. Source: specification 3.0, section 10.1.4 and 10.1.5."""

from __future__ import annotations

import secrets
from typing import TypeAlias

from cloud_hub.scada.conformance.brokers import Broker, Client
from cloud_hub.scada.conformance.core.host_rules import BROKER_RULES
from cloud_hub.scada.conformance.simulated_node import DEVICE, PREFIX, SimulatedNode
from cloud_hub.scada.conformance.stimulus import Stage
from shared.errors import NotReady

WAIT_S = 5.0
AWARE_S = 1.5
"""Time for an aware broker to publish a certificate."""
CERTIFICATES = "$sparkplug/certificates/"
Got: TypeAlias = list[tuple[str, int, bool]]
"""(topic below ours, QoS, retain flag) of messages."""


class BrokerStimulus:
    """Publishes and receives under `tidegate-check/<random>` on one broker."""

    def __init__(self, stage: Stage, brokers: list[Broker]) -> None:
        self._stage, self._watch, self._broker = stage, stage.watch, brokers[0]
        self._base = f"tidegate-check/{secrets.token_hex(6)}"
        self._got: Got = []
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
        self._aware()

    def close(self) -> None:
        """Disconnect, and clear what was retained."""
        for topic in ("kept", "will"):
            self._open[1].publish(f"{self._base}/{topic}", b"", 1, retain=True)
        for client in self._open:
            client.close()

    def _client(self, name: str, will: tuple[str, bytes, int, bool] | None = None, got: Got | None = None) -> Client:
        """A client whose messages are put into `got`, or into those of the listener."""
        into = self._got if got is None else got

        def received(topic: str, _payload: bytes, qos: int, retain: bool) -> None:
            into.append((topic.removeprefix(f"{self._base}/"), qos, retain))

        client = Client(self._broker, received, name=f"check-{name}-{secrets.token_hex(3)}", will=will)
        self._open.append(client)
        return client

    def _seen(self, topic: str, qos: int) -> bool:
        return self._watch.wait(WAIT_S, lambda: any(one[:2] == (topic, qos) for one in self._got))

    def _stored(self, topic: str, wait_s: float = WAIT_S) -> bool:
        """Whether a new subscription is given a retained message."""
        got: Got = []
        self._client("late", got=got).subscribe(f"{self._base}/{topic}")
        return self._watch.wait(wait_s, lambda: (topic, 1, True) in got)

    def _retained(self, sender: Client) -> None:
        self._stage.progress("the retain flag")
        sender.publish(f"{self._base}/kept", b"1", 1, retain=True)
        kept = self._stored("kept")
        sender.publish(f"{self._base}/kept", b"", 1, retain=True)
        cleared = not self._stored("kept", wait_s=1.0)
        self._judge("broker.retained", kept and cleared, f"kept: {kept}, cleared: {cleared}")

    def _will(self) -> None:
        self._stage.progress("a Will of QoS 1, retained")
        try:
            mortal = self._client("mortal", (f"{self._base}/will", b"1", 1, True))
        except NotReady as error:
            self._judge("broker.will", False, error.reason)
            return
        mortal.close(with_will=True)
        self._open.remove(mortal)
        told = self._seen("will", 1)
        self._judge("broker.will", told and self._stored("will"), f"published: {told}, and kept or not")

    def _aware(self) -> None:
        """Births of a simulated edge node: an aware broker keeps them under `$sparkplug/certificates/`."""
        self._stage.progress("births, as an aware broker keeps them")
        got: Got = []
        self._client("certificates", got=got).subscribe(f"{CERTIFICATES}#")
        node = SimulatedNode(self._watch, 0, self._broker, "tidegate-check", f"{PREFIX}{secrets.token_hex(3)}")
        node.birth()
        names = {"nbirth": f"NBIRTH/{node.node}", "dbirth": f"DBIRTH/{node.node}/{DEVICE}"}
        if self._watch.wait(AWARE_S, lambda: len(got) >= len(names)) or got:
            self._certificates(names)
        else:
            rules = [rule.name for rule in BROKER_RULES if rule.name.startswith("aware.")]
            self._watch.excuse(rules, "the broker keeps no births: it is not Sparkplug aware")
        node.end()

    def _certificates(self, names: dict[str, str]) -> None:
        """Judge what a new subscription is given."""
        got: Got = []
        self._client("late", got=got).subscribe(f"{CERTIFICATES}#")
        self._watch.wait(AWARE_S, lambda: len(got) >= len(names))
        topics = {topic: retain for topic, _, retain in got}
        paths = {kind: f"{CERTIFICATES}spBv1.0/tidegate-check/{name}" for kind, name in names.items()}
        self._judge("aware.stored", set(paths.values()) <= topics.keys(), f"kept: {sorted(topics)[:4]}")
        for kind, path in paths.items():
            self._judge(f"aware.{kind}", path in topics, f"no message on {path}")
            self._judge(f"aware.{kind}-retain", topics.get(path, False), f"{path} is not retained")
        basic = not any(self._watch.violated(f"broker.{one}") for one in ("qos0", "qos1", "retained", "will"))
        self._judge("aware.basic", basic, "it is no compliant broker")

    def _judge(self, rule: str, kept: bool, what: str) -> None:
        self._watch.confirm(rule, kept, what)
