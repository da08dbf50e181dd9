"""The proxy, the subscriber, the stimuli and the subcommand, on a real mosquitto."""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import mosquitto, until
from simulators.certificates import certificates
from simulators.sparkplug_logs import encode

from cloud_hub.__main__ import main
from cloud_hub.cli.sparkplug_check import nothing_seen
from cloud_hub.scada.conformance.brokers import Broker, Client, parse_broker
from cloud_hub.scada.conformance.core.checker import Scope
from cloud_hub.scada.conformance.core.report import Status
from cloud_hub.scada.conformance.core.rules import Role
from cloud_hub.scada.conformance.proxy import Proxy
from cloud_hub.scada.conformance.service import Plan, result, watching
from cloud_hub.scada.conformance.service import check as run_check
from cloud_hub.scada.conformance.simulated_node import SimulatedNode
from cloud_hub.scada.conformance.watch import Watch
from shared.errors import ConfigError, NotReady

LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    process = mosquitto(tmp_path_factory.mktemp("broker"))
    process.start()
    yield Broker(host=LOOPBACK, port=process.port)
    process.stop()


def statuses(watch: Watch) -> dict[str, Status]:
    return {one.id: one.status for one in watch.verdicts()}


def edge_plan(broker: Broker, group: str, *, listen: bool) -> Plan:
    ports = [(LOOPBACK, 0)] if listen else []
    return Plan(scope=Scope(role=Role.EDGE, group=group), brokers=[broker], listen=ports)


def test_the_proxy_sees_the_connection_that_a_subscriber_cannot_see(broker: Broker) -> None:
    with watching(edge_plan(broker, "proxied", listen=True)) as (watch, ports):
        unwatched = Watch(Scope(role=Role.EDGE))
        node = SimulatedNode(unwatched, 0, Broker(host=LOOPBACK, port=ports[0]), "proxied", "n")
        node.birth()
        node.data()
        node.end()
        until("the end is seen", lambda: watch.connected() == set() and watch.messages() >= 5)
        found = statuses(watch)
    for statement in (
        "payloads-ndeath-will-message-qos", "message-flow-edge-node-ncmd-subscribe", "payloads-nbirth-bdseq-repeat",
        "principles-birth-certificates-order", "payloads-nbirth-qos", "payloads-ddata-seq-inc",
        "payloads-ndeath-will-message-publisher-disconnect-mqtt50",
    ):  # fmt: skip
        assert found[statement] is Status.HOLDS
    assert [one for one, status in found.items() if status is Status.VIOLATED] == []
    assert watch.problems == []


def test_the_subscriber_sees_qos_and_retain_as_they_were_published(broker: Broker) -> None:
    client = Client(broker, lambda *_: None)
    with watching(edge_plan(broker, "seen", listen=False)) as (watch, _):
        client.publish("spBv1.0/seen/NBIRTH/n", encode({"seq": 0}), 1, retain=True)
        until("it is seen", lambda: watch.messages() > 0)
        found = statuses(watch)
    client.publish("spBv1.0/seen/NBIRTH/n", b"", 1, retain=True)
    client.close()
    assert found["payloads-nbirth-qos"] is found["payloads-nbirth-retain"] is Status.VIOLATED
    assert found["payloads-ndeath-will-message"] is Status.NOT_SEEN


def test_the_proxy_forwards_what_it_cannot_read(broker: Broker) -> None:
    watch = Watch(Scope(role=Role.EDGE))
    proxy = Proxy(watch, 0, broker, LOOPBACK, 0)
    try:
        with socket.create_connection((LOOPBACK, proxy.port), 5) as sock:
            sock.sendall(b"\x10\xff\xff\xff\xff\xff")
            assert sock.recv(10) == b""  # mosquitto closes it, and so does the proxy
        until("it is a problem", lambda: watch.problems)
    finally:
        proxy.close()
    assert "is forwarded, but not judged any more" in watch.problems[0]


def test_the_proxy_speaks_tls_to_the_broker_and_checks_its_certificate(tmp_path: Path) -> None:
    certificates(tmp_path, "broker")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "broker.pem", tmp_path / "broker.key")
    listener = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        with listener, context.wrap_socket(listener.accept()[0], server_side=True) as sock:
            sock.sendall(sock.recv(100)[::-1])

    threading.Thread(target=serve, daemon=True).start()
    secured = Broker(host="localhost", port=listener.getsockname()[1], ca=str(tmp_path / "ca.pem"))
    proxy = Proxy(Watch(Scope(role=Role.EDGE)), 0, secured, LOOPBACK, 0)
    try:
        with socket.create_connection((LOOPBACK, proxy.port), 5) as sock:
            sock.sendall(b"\x00plain")
            assert sock.recv(100) == b"nialp\x00"
    finally:
        proxy.close()


def test_a_broker_that_cannot_be_reached_is_a_problem_of_the_proxy() -> None:
    watch = Watch(Scope(role=Role.EDGE))
    proxy = Proxy(watch, 0, Broker(host=LOOPBACK, port=1), LOOPBACK, 0)
    try:
        with socket.create_connection((LOOPBACK, proxy.port), 5) as sock:
            assert sock.recv(10) == b""
        until("it is a problem", lambda: watch.problems)
    finally:
        proxy.close()
    assert "cannot be reached" in watch.problems[0]


def test_closing_the_proxy_with_a_client_connected_prints_no_traceback(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(Scope(role=Role.EDGE))
    proxy = Proxy(watch, 0, broker, LOOPBACK, 0)
    client = Client(Broker(host=LOOPBACK, port=proxy.port), lambda *_: None)
    proxy.close()
    client.close()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_the_proxy_says_which_port_is_taken(broker: Broker) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        Proxy(Watch(Scope(role=Role.EDGE)), 0, broker, LOOPBACK, broker.port)


@pytest.mark.parametrize("text", ["http://a:1", "a", "mqtts://a:8883", "a:99999"])
def test_an_address_that_is_none_says_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match="--broker"):
        parse_broker(text)


def test_a_client_names_the_broker_that_it_cannot_reach() -> None:
    with pytest.raises(NotReady, match=r"127\.0\.0\.1:1 cannot be reached"):
        Client(Broker(host=LOOPBACK, port=1), lambda *_: None)


def check(broker: Broker, *arguments: str) -> int:
    return main(["sparkplug", "check", "--broker", str(broker), "--for", "0s", *arguments])


def test_check_of_a_broker_finds_mosquitto_compliant(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(broker, "--role", "broker", "--stimulate", "--json", "-") == 0
    document = json.loads(capsys.readouterr().out)
    held = {one["id"] for one in document["statements"] if one["status"] == "holds"}
    assert held == {f"tck-id-conformance-mqtt-{one}" for one in ("qos0", "qos1", "will-messages", "retained")}
    others = {one["status"] for one in document["statements"] if one["id"] not in held}
    assert others == {"not applicable"}  # mosquitto is not Sparkplug aware


def broker_verdicts(broker: Broker, certificate: Callable[[Client, str, bytes], None]) -> dict[str, Status]:
    """Verdicts on a broker, beside which a client does with births what an aware broker does."""
    aware: Client

    def received(topic: str, payload: bytes, _qos: int, _retain: bool) -> None:
        if "BIRTH" in topic:
            certificate(aware, f"$sparkplug/certificates/{topic}", payload)

    aware = Client(broker, received)
    aware.subscribe("spBv1.0/tidegate-check/#", 0)
    plan = Plan(scope=Scope(role=Role.BROKER), brokers=[broker], stimulate=True, for_s=0)
    found = run_check(plan, lambda _: None)
    aware.close()
    return {one.id: one.status for one in found.verdicts}


def test_a_broker_that_keeps_births_is_aware_and_one_that_does_not_retain_them_is_not(broker: Broker) -> None:
    stored: list[str] = []

    def retained(client: Client, topic: str, payload: bytes) -> None:
        stored.append(topic)
        client.send(topic, payload, retain=True)

    good = broker_verdicts(broker, retained)
    cleaner = Client(broker, lambda *_: None)
    for topic in stored:
        cleaner.publish(topic, b"", retain=True)
    cleaner.close()
    bad = broker_verdicts(broker, lambda client, topic, payload: client.send(topic, payload))
    aware = {one for one in good if "aware" in one} - {"conformance-mqtt-aware-ndeath-timestamp"}
    assert {good[one] for one in aware} == {Status.HOLDS}
    assert {bad[one] for one in aware} == {Status.HOLDS, Status.VIOLATED}
    assert bad["conformance-mqtt-aware-store"] is Status.VIOLATED


def test_check_exits_3_where_nothing_is_seen(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(broker, "--role", "edge", "--group", "nobody") == 3
    assert "nothing seen" in capsys.readouterr().err


def test_nodes_outside_the_scope_are_not_judged_but_named(broker: Broker) -> None:
    client = Client(broker, lambda *_: None)
    with watching(edge_plan(broker, "hall-9", listen=False)) as (watch, _):
        client.publish("spBv1.0/hall-2/NBIRTH/n", encode({"seq": 0}), 1)
        until("it is seen", lambda: watch.others() == ["hall-2/n"])
        found = result(watch)
    client.close()
    assert not found.seen
    arguments = argparse.Namespace(role="edge", group="hall-9", node="", host_id="")
    assert "--role edge --group hall-9; these edge nodes publish: hall-2/n" in nothing_seen(arguments, ["hall-2/n"])


def test_check_exits_3_where_no_broker_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(Broker(host=LOOPBACK, port=1), "--role", "edge") == 3
    assert "127.0.0.1:1 cannot be reached" in capsys.readouterr().err


def test_an_interrupt_gives_what_was_seen_so_far(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    watches: list[Watch] = []

    def watch(scope: Scope) -> Watch:
        watches.append(Watch(scope))
        return watches[0]

    monkeypatch.setattr("cloud_hub.scada.conformance.service.Watch", watch)
    client = Client(broker, lambda *_: None)

    def progress(text: str) -> None:
        if text.startswith("watching"):
            client.publish("spBv1.0/cut/NBIRTH/n", encode({"seq": 0}), 1)
            until("it is seen", watches[0].messages)
            raise KeyboardInterrupt

    found = run_check(edge_plan(broker, "cut", listen=False), progress)
    client.close()
    assert found.seen
    assert found.violated


def test_check_exits_1_with_the_evidence_and_writes_json(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, topic = Client(broker, lambda *_: None), "spBv1.0/broken/NBIRTH/n\u202e"
    client.publish(topic, b"\xff", 0, retain=True)
    code = main([
        "sparkplug", "check", "--broker", str(broker), "--role", "edge", "--group", "broken", "--for", "1s",
        "--json", str(tmp_path / "out.json"),
    ])  # fmt: skip
    client.publish(topic, b"", 0, retain=True)
    client.close()
    printed = capsys.readouterr().out
    assert code == 1
    assert "violated: tck-id-payloads-nbirth-retain" in printed
    assert "\u202e" not in printed
    document: dict[str, Any] = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert document["role"] == "edge"
    assert document["counts"]["violated"] > 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--role", "edge", "--listen", "0.0.0.0:0"], "is not loopback"),
        (["--role", "edge", "--listen", "x"], "is no port"),
        (["--role", "edge", "--listen", "1", "--listen", "2"], "give one for each"),
        (["--role", "edge", "--json", "/nowhere/at/all.json"], "there is no such folder"),
        (["--role", "edge", "--patience", "0"], "within 1..100"),
        (["--role", "edge", "--ask"], "--ask needs --stimulate"),
        (["--role", "broker"], "needs --stimulate"),
    ],
)
def test_check_exits_2_for_arguments_that_do_not_fit(
    broker: Broker, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(broker, *arguments) == 2
    assert says in capsys.readouterr().err
