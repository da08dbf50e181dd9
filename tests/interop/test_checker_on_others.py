"""The conformance checker finds, live, the known faults of the edge nodes of pysparkplug and npm sparkplug-client."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from simulators.brokers import free_port, listens, mosquitto, until
from simulators.interop import pysparkplug_node, sparkplug_client_node
from together.conftest import World

FAULTS = {
    "pysparkplug": {  # a Will of QoS 0, and no way to ask for a rebirth
        "message-flow-edge-node-birth-publish-will-message-qos",
        "operational-behavior-data-commands-rebirth-name",
        "payloads-nbirth-rebirth-req",
        "payloads-ndeath-will-message-qos",
        "topics-nbirth-rebirth-metric",
    },
    "sparkplug-client": {  # Will and subscriptions of QoS 0, bdSeq as UInt64 and without a timestamp
        "message-flow-device-dcmd-subscribe",
        "message-flow-edge-node-birth-publish-nbirth-payload-bdSeq",
        "message-flow-edge-node-birth-publish-will-message-payload-bdSeq",
        "message-flow-edge-node-birth-publish-will-message-qos",
        "message-flow-edge-node-ncmd-subscribe",
        "payloads-name-birth-data-requirement",
        "payloads-ndeath-will-message-qos",
    },
}
START = {"pysparkplug": pysparkplug_node, "sparkplug-client": sparkplug_client_node}


@pytest.mark.parametrize("library", list(FAULTS))
def test_the_checker_finds_the_known_faults_of_a_library_and_no_others(library: str, tmp_path: Path) -> None:
    broker = mosquitto(tmp_path / "broker")
    broker.start()
    port, file = free_port(), tmp_path / "verdicts.json"
    command = [World.program("tidegate-hub"), "sparkplug", "check", "--broker", f"127.0.0.1:{broker.port}"]
    command += ["--role", "edge", "--group", "plant", "--listen", str(port), "--for", "2s", "--json", str(file)]
    with (tmp_path / "check.log").open("wb") as log:
        checker = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until("the checker listens", lambda: listens(port))
        with START[library](port, "plant", "press", "drive"):
            assert checker.wait(90) == 1, (tmp_path / "check.log").read_text()
    finally:
        checker.kill()
        checker.wait(10)
        broker.stop()
    verdicts = json.loads(file.read_text("utf-8"))["statements"]
    found = {row["id"].removeprefix("tck-id-") for row in verdicts if row["status"] == "violated"}
    assert found == FAULTS[library]
