"""Our edge node and our host, on real brokers behind the checker's proxies: no statement is violated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomllib
from simulators.brokers import mosquitto, until

from cloud_hub.scada.conformance.brokers import Broker
from cloud_hub.scada.conformance.core.checker import Scope
from cloud_hub.scada.conformance.core.deadlines import DEFAULT
from cloud_hub.scada.conformance.core.report import Status, Verdict, as_text, counts
from cloud_hub.scada.conformance.core.rules import Role
from cloud_hub.scada.conformance.service import Plan, provoke, result, watching
from cloud_hub.scada.conformance.stimulus import Nobody

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

GROUP, HOST, NODE = "line-1", "scada", "one"
DEVICE = f"line-1-tidegate-check-{NODE}"
LOOPBACK = "127.0.0.1"
PATIENT = DEFAULT.times(2)
"""A busy machine takes longer."""
TABLE = tomllib.loads((Path(__file__).parents[1] / "shared" / "sparkplug" / "statements.toml").read_text("utf-8"))

EDGE = """
[sparkplug]
group = "line-1"
primary_host = "scada"
publish_s = 0.2
[[sparkplug.servers]]
address = "127.0.0.1:{0}"
protocol = "{protocol}"
[[sparkplug.servers]]
address = "127.0.0.1:{1}"
protocol = "{protocol}"
[[sparkplug.devices]]
id = "machine"
metrics = ["memory.*", "disk.*"]
[[sparkplug.writable]]
metric = "settings.period_s"
low = 0.1
high = 10.0
"""

HUB = """
[sparkplug]
host_id = "scada"
servers = [{{ address = "127.0.0.1:{0}" }}, {{ address = "127.0.0.1:{1}", protocol = "3.1.1" }}]
[[sparkplug.writable]]
device = "{device}"
metric = "line/speed"
low = 0
high = 100
[[sparkplug.writable]]
device = "{device}-press"
metric = "temperature"
low = 0
high = 100
"""


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[list[Broker]]:
    """Two brokers that run."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in ("server-1", "server-2"):
            broker = mosquitto(tmp_path / name)
            stack.callback(broker.stop)
            broker.start()
            made.append(Broker(host=LOOPBACK, port=broker.port))
        yield made


def plan(role: Role, brokers: list[Broker], operator: Any, node: str = "") -> Plan:
    scope = Scope(role=role, group=GROUP, node=node, host_id=HOST, servers=2, deadlines=PATIENT)
    return Plan(scope=scope, brokers=brokers, listen=[(LOOPBACK, 0)] * 2, stimulate=True, operator=operator)


def judged(verdicts: list[Verdict], test: str) -> int:
    """The number of statements that hold. None is violated, and all hold for which the table names this test."""
    text = "\n".join(as_text(verdicts, details=True))
    print(text)
    assert [one.id for one in verdicts if one.status is Status.VIOLATED] == [], text
    claimed = {name for name, row in TABLE.items() if any(one.endswith(f"::{test}") for one in row.get("tests", []))}
    assert claimed - {f"tck-id-{one.id}" for one in verdicts if one.status is Status.HOLDS} == set()
    return counts(verdicts)[Status.HOLDS]


class StopEdge(Nobody):
    """Stops an agent when it is asked to."""

    def __init__(self, end: Callable[[str], int]) -> None:
        self._end = end

    def act(self, deed: str, group: str, node: str, device: str, metric: str) -> bool:
        if deed == "stop":
            self._end(node)
        return deed == "stop"


class HubOperator:
    """Works the hub by its REST interface."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def _device(self, node: str, device: str) -> str:
        return f"line-1-{node}" + (f"-{device}" if device else "")

    def confirms(self, rule: str, group: str, node: str, device: str, metric: str) -> bool:
        here = self._device(node, device)
        if rule.endswith("offline"):
            rows = self._world.get("/sparkplug/nodes") or []
            return any(row["device"] == here and row["state"] == "offline" for row in rows)
        rows = self._world.get(f"/sparkplug/nodes/{here}/metrics", values=True) or []
        return bool(rows) and all(row["stale"] for row in rows)

    def act(self, deed: str, group: str, node: str, device: str, metric: str) -> bool:
        if deed == "stop":
            self._world.end("hub")
            return True
        body = {"device": self._device(node, device), "metric": metric.lower(), "value": 42.0, "reason": "test"}
        answer = self._world.http.post("/sparkplug/writes", json=body)
        assert answer.status_code == 201, answer.text
        assert answer.json()["state"] == "pending", answer.text
        return True


def test_our_edge_node_violates_no_statement(build: Any, brokers: list[Broker]) -> None:
    world = build("mosquitto")
    world.broker.start()
    chosen = plan(Role.EDGE, brokers, StopEdge(world.end))
    with watching(chosen) as (watch, ports):
        for device, protocol in (("press-5", "5"), ("press-3", "3.1.1")):
            world.start_edge(device, EDGE.format(*ports, protocol=protocol))
        until("both are connected", lambda: len(watch.connected()) == 2)
        provoke(chosen, watch, print)
        found = result(watch)
    assert found.problems == []
    assert judged(found.verdicts, "test_our_edge_node_violates_no_statement") >= 158  # of 200 about edge nodes


def test_our_host_violates_no_statement(build: Any, brokers: list[Broker]) -> None:
    chosen = plan(Role.HOST, brokers, None, NODE)
    with watching(chosen) as (watch, ports):
        world = build("mosquitto", settings=HUB.format(*ports, device=DEVICE))
        world.broker.start()
        world.start_hub()
        until("the host is online", lambda: (world.get("/sparkplug") or {}).get("servers"))
        chosen = plan(Role.HOST, brokers, HubOperator(world), NODE)
        provoke(chosen, watch, print)
        found = result(watch)
    assert found.problems == []
    assert judged(found.verdicts, "test_our_host_violates_no_statement") >= 94  # of 96 about hosts
