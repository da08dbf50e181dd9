"""Our edge session with every kind of metric, judged by the checker: DataSets, templates, deaths of devices.

The agent declares no templates and no DataSets; this is the session that any edge node of ours is built from.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from simulators.sparkplug_logs import HOST, T0

from cloud_hub.scada.conformance.core.checker import Checker, Scope
from cloud_hub.scada.conformance.core.events import (
    Closed,
    Connect,
    ConnectAck,
    Delivery,
    Publish,
    Subscribe,
    Tick,
    Will,
)  # fmt: skip
from cloud_hub.scada.conformance.core.events import Disconnect as Disconnected
from cloud_hub.scada.conformance.core.report import Status
from cloud_hub.scada.conformance.core.rules import Role
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.edge_session import EdgeOptions, EdgeSession
from shared.sparkplug.effects import Disconnect, EdgeEffect
from shared.sparkplug.effects import Publish as Send
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import (
    REBIRTH,
    STALE,
    DataSet,
    Metric,
    Parameter,
    Payload,
    Property,
    Template,
)  # fmt: skip
from shared.sparkplug.topics import NodeId

HERE = {"server": 0, "client": "0:1"}
QUALITY = {"Quality": Property(DataType.Int32, STALE), "more": Property(DataType.PropertySet, {
    "unit": Property(DataType.String, "m/s")})}  # fmt: skip
MEMBERS = (
    Metric(name="a", timestamp=T0, datatype=DataType.Int8, value=-5),
    Metric(name="b", timestamp=T0, datatype=DataType.Double, value=1.5),
)
PARAMETERS = (Parameter(name="p", type=DataType.Int32, value=1),)
DEFINITION = Template(is_definition=True, version="1", metrics=MEMBERS, parameters=PARAMETERS)


def instance(*members: Metric) -> Template:
    return Template(is_definition=False, template_ref="T", version="1", metrics=members, parameters=PARAMETERS)


TABLE = DataSet(columns=("x", "y"), types=(DataType.Int32, DataType.String), rows=((1, "one"), (-2, "two")))
NODE = (
    Metric(name="T", datatype=DataType.Template, value=DEFINITION),
    Metric(name="instance", datatype=DataType.Template, value=instance(*MEMBERS)),
    Metric(name="table", datatype=DataType.DataSet, value=TABLE),
    Metric(name="speed", datatype=DataType.Double, value=1.0, properties=QUALITY),
    Metric(name="none", datatype=DataType.String, value=None),
)
DEVICE = (Metric(name="temperature", datatype=DataType.Float, value=20.0),)


class Run:
    """An edge session whose effects the checker observes, as if a proxy had seen them."""

    def __init__(self, *, aliases: bool) -> None:
        self.checker = Checker(Scope(role=Role.EDGE, host_id=HOST))
        self.session = EdgeSession(EdgeOptions(node=NodeId("g", "n"), primary_host=HOST, aliases=aliases))
        self.now = T0

    def perform(self, effects: Iterable[EdgeEffect]) -> None:
        for effect in effects:
            self.now += 10
            if isinstance(effect, Send):
                self.checker.observe(
                    Publish(at_ms=self.now, topic=effect.topic, payload=effect.payload, qos=effect.qos,
                            retain=effect.retain, **HERE)  # type: ignore[arg-type]
                )  # fmt: skip
            elif isinstance(effect, Disconnect):
                self.checker.observe(Disconnected(at_ms=self.now, reason=4 if effect.with_will else 0, **HERE))  # type: ignore[arg-type]
                self.checker.observe(Closed(at_ms=self.now, **HERE))  # type: ignore[arg-type]

    def told(self, topic: str, payload: bytes) -> None:
        self.now += 1500
        self.checker.observe(
            Delivery(at_ms=self.now, topic=topic, payload=payload, qos=1, retain=False, **HERE)  # type: ignore[arg-type]
        )
        self.perform(self.session.received(topic, payload, self.now))

    def connect(self) -> None:
        will = self.session.connecting(self.now)
        told = Will(topic=will.topic, payload=will.payload, qos=1, retain=will.retain)
        self.checker.observe(Connect(at_ms=self.now, client_id="n", protocol=5, clean=True, will=told, **HERE))  # type: ignore[arg-type]
        self.checker.observe(ConnectAck(at_ms=self.now, accepted=True, **HERE))  # type: ignore[arg-type]
        filters = tuple((one, 1) for one in self.session.filters)
        self.checker.observe(Subscribe(at_ms=self.now, filters=filters, **HERE))  # type: ignore[arg-type]
        self.perform(self.session.subscribed(self.now))


@pytest.fixture(scope="module", params=[False, True], ids=["names", "aliases"])
def judged(request: pytest.FixtureRequest) -> dict[str, tuple[Status, str]]:
    """The verdicts on a whole life of an edge session."""
    run = Run(aliases=request.param)
    session = run.session
    session.set_node(NODE, run.now)
    session.set_device("d", DEVICE, run.now)
    run.connect()
    run.told(f"spBv1.0/STATE/{HOST}", b'{"online": true, "timestamp": 5}')
    run.perform(session.data("", [Metric(name="speed", value=2.0)], run.now))
    changed = instance(Metric(name="a", timestamp=run.now, datatype=DataType.Int8, value=-7))
    run.perform(session.data("", [Metric(name="instance", value=changed)], run.now))
    run.perform(session.data("d", [Metric(name="temperature", value=21.0)], run.now))
    asked = Metric(name=REBIRTH, datatype=DataType.Boolean, value=True)
    run.told("spBv1.0/g/NCMD/n", encode(Payload(timestamp=run.now, metrics=(asked,))))
    run.perform(session.device_died("d", run.now))
    run.perform(session.set_device("d", DEVICE, run.now))
    run.perform(session.disconnecting(run.now))
    run.checker.observe(Tick(at_ms=run.now + 100_000))
    found = run.checker.verdicts()
    return {one.id: (one.status, str(one.evidence[:2])) for one in found}


def test_our_edge_session_violates_no_statement(judged: dict[str, tuple[Status, str]]) -> None:
    assert {one: why for one, (status, why) in judged.items() if status in (Status.VIOLATED, Status.ADVICE)} == {}


def test_our_edge_session_keeps_every_statement_on_complex_data_and_deaths(
    judged: dict[str, tuple[Status, str]],
) -> None:
    parts = ("payloads-template", "payloads-dataset", "ddeath", "payloads-propertyset", "payloads-metric-property")
    unseen = [
        one for one, (status, _) in judged.items() if any(part in one for part in parts) and status is not Status.HOLDS
    ]
    assert unseen == ["operational-behavior-device-ddeath"]  # whether a device is lost, MQTT does not show
