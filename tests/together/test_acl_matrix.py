"""Who may say and hear what, on a live mosquitto set up by the command (controls 5, 6 and 8).

mosquitto 2.0 grants a forbidden subscription and delivers nothing, so what is asserted is delivery. Each "no" has its
"yes": the same verb on the peer's own topic arrives, and each silence ends with a message that comes through.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from simulators.brokers import until
from simulators.plants import Peer, Plant, Refused

from shared.protocol import topics
from shared.protocol.topics import TABLE, thing

pytestmark = pytest.mark.slow

DEVICES = ("press", "press-1", "press-10", "cell_2")
HUB = "tidegate-hub"
GRANTED = 127


def plant_in(folder: Path) -> Plant:
    plant = Plant.make(folder, "--aws-alias")
    for device in DEVICES[:2]:
        plant.command("grant", device, "--group", "line 1", "--node", device)
    return plant


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = plant_in(tmp_path_factory.mktemp("plant"))
    made.broker.start()
    yield made
    made.broker.stop()


@pytest.fixture
def peers(plant: Plant) -> Iterator[dict[str, Peer]]:
    made = {cn: plant.peer(cn) for cn in identities()}
    yield made
    for peer in made.values():
        peer.close()


def identities() -> list[str]:
    return [*DEVICES, "press:spb", "press-1:spb", HUB, f"{HUB}:spb"]


# -- the table -------------------------------------------------------------------------------------

ME, OTHER = "press-1", "press"
SHADOW = [f"shadow/{verb}" for verb in ("get", "update", "update/delta", "update/accepted")]
OWN = [
    *(thing(ME, topic.rest.replace("<cid>", "c").replace("<name>", "n")) for topic in TABLE),
    *(thing(ME, rest, topics.AWS) for rest in SHADOW),
]
FOREIGN = [
    *(thing(OTHER, topic.rest.replace("<cid>", "c").replace("<name>", "n")) for topic in TABLE),
    *(thing(OTHER, rest, topics.AWS) for rest in SHADOW),
    thing("press-10", "telemetry"), thing("nobody", "birth"), thing(HUB, "session"), thing("press-1:spb", "birth"),
    f"$aws/events/presence/connected/{ME}", f"$aws/things/{ME}/jobs/notify", "$SYS/broker/uptime", "$SYS/press-1",
    f"tidegate/v2/things/{ME}/telemetry", "tidegate/v1/things", "tidegate/v1", f"things/{ME}/telemetry",
    f"/{thing(ME, 'birth')}",
    "spBv1.0/line 1/NCMD/press-1", "spBv1.0/line 1/NDATA/press", "spBv1.0/STATE/tidegate-hub", "anything", "a/b/c",
]  # fmt: skip
WIDE = [
    "#", "+/#", "+/+/#", "+/v1/things/#", "tidegate/#", thing("+", "#"), thing("+", "telemetry"), thing(OTHER, "#"),
    thing(OTHER, "acks"), thing(OTHER, "session"), "$SYS/#", "$SYS/broker/+", "$aws/#", "$aws/things/+/shadow/#",
    "spBv1.0/#", "spBv1.0/+/+/+", "spBv1.0/line 1/+/press/#", "+/line 1/#",
    f"$share/thieves/{thing('+', '#')}", f"$share/thieves/{thing(OTHER, 'telemetry')}", "$share/thieves/spBv1.0/#",
]  # fmt: skip


def test_a_device_says_its_own_topics_and_no_other(peers: dict[str, Peer]) -> None:
    """Publish and publish retained, over its whole tree and over everybody else's."""
    hub, scada = peers[HUB], peers[f"{HUB}:spb"]
    hub.subscribe(thing("+", "#"))
    hub.subscribe("$aws/things/+/shadow/#")
    scada.subscribe("spBv1.0/#")
    peers[OTHER].subscribe(thing(OTHER, "#"))
    for retain in (False, True):
        for topic in OWN:
            assert peers[ME].publish(topic, b"own", retain=retain), topic
        for topic in FOREIGN:
            assert not peers[ME].publish(topic, b"foreign", retain=retain), topic
    for listener, topic in (
        (hub, thing(HUB, "session")),
        (scada, "spBv1.0/end"),
        (peers[OTHER], thing(OTHER, "birth")),
    ):
        listener.publish(topic, b"last")
        until("the last is heard", lambda listener=listener: b"last" in listener.payloads())
        assert b"foreign" not in listener.payloads()
    assert {topic for topic, payload, _ in hub.heard if payload == b"own"} == set(OWN)
    for topic in OWN:
        peers[ME].publish(topic, b"", retain=True)


def test_nothing_foreign_is_retained(plant: Plant, peers: dict[str, Peer]) -> None:
    """A later subscriber finds what a device retained on its own topics, and nothing on another's."""
    assert peers[ME].publish(thing(ME, "birth"), b"mine", retain=True)
    for topic in FOREIGN:
        peers[ME].publish(topic, b"planted", retain=True)
    hub = peers[HUB]
    hub.subscribe(thing("+", "#"))
    hub.subscribe("$aws/things/+/shadow/#")
    until("the retained birth is found", lambda: (thing(ME, "birth"), b"mine", True) in hub.heard)
    hub.publish(thing(ME, "birth"), b"", retain=True)
    assert b"planted" not in hub.payloads()


def test_a_device_hears_its_own_topics_whatever_it_asks_for(peers: dict[str, Peer]) -> None:
    """mosquitto 2.0.11 says yes to each subscription. What comes is one's own."""
    me, other, hub = peers[ME], peers[OTHER], peers[HUB]
    codes = {wide: me.subscribe(wide) for wide in WIDE}
    assert max(codes.values()) <= GRANTED, "this mosquitto refuses subscriptions: better; tell docs/security.md"
    for rest in ("telemetry", "acks", "session", "birth", "shadow/update"):
        assert other.publish(thing(OTHER, rest), b"secret", retain=True)
        assert hub.publish(thing(OTHER, rest), b"secret")
        assert hub.publish(thing(OTHER, rest), b"", retain=True)
    assert hub.publish(thing(OTHER, "shadow/get", topics.AWS), b"secret")
    assert peers[f"{OTHER}:spb"].publish("spBv1.0/line 1/NDATA/press", b"secret")
    assert hub.publish(thing(ME, "acks"), b"mine")
    until("its own is heard", lambda: (thing(ME, "acks"), b"mine", False) in me.heard)
    assert {topic for topic, _, _ in me.heard} == {thing(ME, "acks")}


def test_a_stranger_with_a_good_certificate_has_its_own_empty_tree(plant: Plant) -> None:
    stranger = plant.peer("stranger")
    for topic in (*OWN, *FOREIGN):
        assert not stranger.publish(topic, b"x")
    assert stranger.publish(thing("stranger", "telemetry"), b"x")
    stranger.close()


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5], ids=["mqtt3", "mqtt5"])
def test_a_will_is_bound_to_own_topics(plant: Plant, peers: dict[str, Peer], protocol: int) -> None:
    """mosquitto 2.0.11 refuses the connection; what counts is that no foreign will is ever delivered or retained."""
    hub, scada = peers[HUB], peers[f"{HUB}:spb"]
    hub.subscribe(thing("+", "#"))
    hub.subscribe("$aws/things/+/shadow/#")
    scada.subscribe("spBv1.0/#")
    for topic in FOREIGN[::5]:
        try:
            plant.peer("cell_2", will=(topic, b"foreign will", True), protocol=protocol).vanish()
        except Refused:
            continue
    plant.peer("cell_2", will=(thing("cell_2", "birth"), b"own will", True), protocol=protocol).vanish()
    until("its own will is heard", lambda: b"own will" in hub.payloads())
    scada.publish("spBv1.0/end", b"last")
    until("all is heard", lambda: b"last" in scada.payloads())
    assert b"foreign will" not in hub.payloads() | scada.payloads()
    hub.publish(thing("cell_2", "birth"), b"", retain=True)


def test_a_sparkplug_connection_is_its_node_and_no_more(peers: dict[str, Peer]) -> None:
    """Positive controls: its births, its devices' and its commands; the other's node, group and host state are shut."""
    node, host, device = peers["press-1:spb"], peers[f"{HUB}:spb"], peers["press-1"]
    host.subscribe("spBv1.0/#")
    node.subscribe("spBv1.0/#")
    own = ["NBIRTH/press-1", "NDATA/press-1", "DBIRTH/press-1/camera", "DDATA/press-1/camera", "NDEATH/press-1"]
    for rest in own:
        assert node.publish(f"spBv1.0/line 1/{rest}", b"own")
    for topic in ("spBv1.0/line 1/NBIRTH/press", "spBv1.0/line 1/NCMD/press", "spBv1.0/line 1/DCMD/press/camera",
                  "spBv1.0/line 2/NDATA/press-1", "spBv1.0/STATE/tidegate-hub", thing("press-1", "telemetry"),
                  thing("press", "telemetry")):  # fmt: skip
        assert not node.publish(topic, b"foreign"), topic
    assert not device.publish("spBv1.0/line 1/NBIRTH/press-1", b"foreign"), "the link is not the node"
    assert peers["press:spb"].publish("spBv1.0/line 1/NDATA/press", b"secret")
    assert host.publish("spBv1.0/line 1/NCMD/press", b"secret")
    assert host.publish("spBv1.0/STATE/tidegate-hub", b"online")
    assert host.publish("spBv1.0/line 1/NCMD/press-1", b"order")
    until("its command is heard", lambda: b"order" in node.payloads())
    assert node.payloads() == {b"own", b"online", b"order"}
    until("the host has heard", lambda: sum(payload == b"own" for _, payload, _ in host.heard) == len(own))
    assert b"foreign" not in host.payloads()


# -- random tries ------------------------------------------------------------------------------------


def allowed(cn: str, topic: str) -> bool:
    """The rule in words: one's own tree and shadow; the hub every device's; a Sparkplug identity its node's."""
    parts = topic.split("/")
    whose = parts[3] if parts[:3] == ["tidegate", "v1", "things"] and len(parts) > 3 else None
    if parts[:2] == ["$aws", "things"] and parts[3:4] == ["shadow"] and len(parts) > 4:
        whose = parts[2]
    if cn == HUB:
        return whose is not None
    if parts[0] == "spBv1.0":
        if cn == f"{HUB}:spb":
            return True
        node = cn.removesuffix(":spb")
        return cn in {"press:spb", "press-1:spb"} and parts[1] == "line 1" and parts[3:4] == [node]
    return whose == cn


@dataclass
class Tries:
    """Random verbs by random peers; what each should have heard is kept beside."""

    rng: random.Random
    peers: dict[str, Peer]
    filters: dict[str, set[str]] = field(default_factory=lambda: {cn: set() for cn in identities()})
    retained: dict[str, bytes] = field(default_factory=dict)
    expected: dict[str, set[tuple[str, bytes]]] = field(default_factory=lambda: {cn: set() for cn in identities()})
    made: dict[bytes, str] = field(default_factory=dict)

    def topic(self) -> str:
        whose = self.rng.choice([*DEVICES, *DEVICES, HUB, "press:spb", "nobody", "tidegate"])
        rest = self.rng.choice(["telemetry", "acks", "session", "birth", "shadow/update", "commands/c/request"])
        sparkplug = (
            f"spBv1.0/{self.rng.choice(['line 1', 'line 1', 'line 2'])}/{self.rng.choice(['NDATA', 'NCMD'])}/{whose}"
        )
        return self.rng.choice([thing(whose, rest), thing(whose, rest), thing(whose, rest, topics.AWS), sparkplug])

    def filter(self) -> str:
        parts = self.topic().split("/")
        for level in range(len(parts)):
            if self.rng.random() < 0.35:
                parts[level] = "+"
        if self.rng.random() < 0.4:
            parts = [*parts[: self.rng.randrange(len(parts))], "#"]
        return "/".join(parts)

    def step(self, number: int) -> None:
        cn = self.rng.choice(identities())
        if self.rng.random() < 0.15:
            self.subscribe(cn, self.filter())
        else:
            self.publish(cn, self.topic(), f"{number}".encode(), self.rng.random() < 0.3)

    def subscribe(self, cn: str, wanted: str) -> None:
        self.peers[cn].subscribe(wanted)
        self.filters[cn].add(wanted)
        found = {item for item in self.retained.items() if paho.topic_matches_sub(wanted, item[0])}
        self.expected[cn] |= {(topic, payload) for topic, payload in found if allowed(cn, topic)}

    def publish(self, cn: str, topic: str, payload: bytes, retain: bool) -> None:
        self.made[payload] = cn
        self.peers[cn].publish(topic, payload, retain=retain)
        if not allowed(cn, topic):
            return
        if retain:
            self.retained[topic] = payload
        for other, filters in self.filters.items():
            if allowed(other, topic) and any(paho.topic_matches_sub(wanted, topic) for wanted in filters):
                self.expected[other].add((topic, payload))

    def heard(self) -> dict[str, set[tuple[str, bytes]]]:
        """What each has heard, once a last word of its own has come back to it."""
        for cn, peer in self.peers.items():
            topic = "spBv1.0/line 1/NDATA/" + cn.removesuffix(":spb") if cn.endswith(":spb") else thing(cn, "birth")
            peer.subscribe(topic)
            peer.publish(topic, b"last")
            until(f"{cn} hears its last word", lambda peer=peer: b"last" in peer.payloads())
        return {cn: {(topic, payload) for topic, payload, _ in peer.heard if payload in self.made}
                for cn, peer in self.peers.items()}  # fmt: skip

    def crossed(self) -> list[tuple[str, str, str]]:
        """(who heard it, topic, who said it) of each message that one of the two had no right to."""
        return [
            (cn, topic, self.made[payload])
            for cn, heard in self.heard().items()
            for topic, payload in heard
            if not (allowed(cn, topic) and allowed(self.made[payload], topic))
        ]


def tried(plant: Plant, seed: int, steps: int) -> Tries:
    tries = Tries(random.Random(seed), {cn: plant.peer(cn) for cn in identities()})
    for number in range(steps):
        tries.step(number)
    return tries


def close(tries: Tries) -> None:
    for peer in tries.peers.values():
        peer.close()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 12))])
def test_of_random_tries_none_crosses(tmp_path: Path, seed: int) -> None:
    plant = plant_in(tmp_path)
    plant.broker.start()
    try:
        tries = tried(plant, seed, 10_000)
        assert tries.crossed() == []
        heard = tries.heard()
        for cn, expected in tries.expected.items():
            assert heard[cn] >= expected, f"{cn} lacks what is its own"
            assert len(expected) >= 20, f"{cn} has tried too little to show anything"
        close(tries)
    finally:
        plant.broker.stop()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("pattern readwrite tidegate/v1/things/%u/#", "pattern readwrite tidegate/v1/things/+/#"),
        (
            "pattern readwrite $aws/things/%u/shadow/#",
            "pattern readwrite $aws/things/%u/shadow/#\npattern read spBv1.0/#",
        ),
        (
            "user press-1:spb\ntopic readwrite spBv1.0/line 1/+/press-1",
            "user press-1:spb\ntopic readwrite spBv1.0/line 1/+/+",
        ),
    ],
)
def test_the_random_tries_find_a_rule_that_is_too_wide(tmp_path: Path, right: str, wrong: str) -> None:
    plant = plant_in(tmp_path)
    plant.rules(right, wrong)
    plant.broker.start()
    try:
        tries = tried(plant, 1, 1500)
        assert tries.crossed()
        close(tries)
    finally:
        plant.broker.stop()
