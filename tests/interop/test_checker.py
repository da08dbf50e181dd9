"""The conformance checker on edge nodes of others: it finds their known faults, and no fault that they have not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from simulators.brokers import mosquitto, until
from simulators.interop import Driver, pysparkplug_node, sparkplug_client_node

from cloud_hub.scada.conformance.brokers import Broker
from cloud_hub.scada.conformance.core.checker import Scope
from cloud_hub.scada.conformance.core.report import Status, counts
from cloud_hub.scada.conformance.core.rules import Role
from cloud_hub.scada.conformance.service import Plan, watching

LOOPBACK = "127.0.0.1"
FLOW = "message-flow-edge-node-birth-publish"
WILL_QOS = {f"{FLOW}-will-message-qos", "payloads-ndeath-will-message-qos"}
KNOWN = {
    "pysparkplug": WILL_QOS | {
        "operational-behavior-data-commands-rebirth-name", "payloads-nbirth-rebirth-req",
        "topics-nbirth-rebirth-metric",
    },
    "sparkplug-client": WILL_QOS | {
        "message-flow-edge-node-ncmd-subscribe", "message-flow-device-dcmd-subscribe",
        f"{FLOW}-nbirth-payload-bdSeq", f"{FLOW}-will-message-payload-bdSeq", "payloads-name-birth-data-requirement",
    },
}  # fmt: skip
"""Measured with pysparkplug 0.6.1 and npm sparkplug-client 3.2.4: QoS 0 of the Will and of the subscriptions, bdSeq as
UInt64 without timestamp, no 'Node Control/Rebirth'."""


@pytest.mark.parametrize(
    ("library", "start"), [("pysparkplug", pysparkplug_node), ("sparkplug-client", sparkplug_client_node)]
)
def test_the_checker_finds_the_known_faults_of_a_library_and_no_other(
    library: str, start: Callable[..., AbstractContextManager[Driver]], tmp_path: Path
) -> None:
    broker = mosquitto(tmp_path / "broker")
    broker.start()
    try:
        plan = Plan(
            scope=Scope(role=Role.EDGE, group="plant"), brokers=[Broker(host=LOOPBACK, port=broker.port)],
            listen=[(LOOPBACK, 0)],
        )  # fmt: skip
        with watching(plan) as (watch, ports), start(ports[0], "plant", "press", "hydraulics") as driver:
            until("the births are seen", lambda: watch.messages() >= 2)
            driver.send(do="data", metric="pressure", value=112.5)
            until("the data are seen", lambda: watch.messages() >= 3)
            found = watch.verdicts()
    finally:
        broker.stop()
    assert {one.id for one in found if one.status is Status.VIOLATED} == KNOWN[library]
    assert [one.id for one in found if one.status is Status.ADVICE] == ["payloads-metric-datatype-not-req"]
    assert counts(found)[Status.HOLDS] > 90
