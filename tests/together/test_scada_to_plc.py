"""From SCADA to a register and back: a real agent between a Sparkplug host and a Modbus device."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulators.brokers import free_port, mosquitto
from simulators.modbus_devices import Plc, tcp_plc
from simulators.scada_host import ScadaHost

from shared.sparkplug.datatypes import DataType
from shared.sparkplug.topics import NodeId

EDGE = """
[device]
id = "press-1"
profile = "x86-64"
state_dir = "{folder}/state"
[link]
discover = false
address = "127.0.0.1:{hub}"
[[collectors]]
kind = "modbus"
name = "plc"
address = "127.0.0.1:{plc}"
tags_file = "{folder}/plc.csv"
[collectors.groups.default]
period_s = 0.2
[sparkplug]
group = "plant"
publish_s = 0.1
servers = [{{ address = "127.0.0.1:{broker}" }}]
[[sparkplug.writable]]
metric = "plc/speed"
low = 0
high = 100
only_while = "plc/running == 0"
"""
TAGS = """name,table,address,type,scale,writable,bit,deadband
speed,holding,0,int16,0.1,true,,0
running,holding,1,bool,,,0,0
"""


@pytest.fixture
def plc() -> Iterator[Plc]:
    with tcp_plc() as found:
        found.put(0, 100, 0)
        yield found


@pytest.fixture
def host(tmp_path: Path, plc: Plc) -> Iterator[ScadaHost]:
    broker = mosquitto(tmp_path / "broker")
    broker.start()
    (tmp_path / "plc.csv").write_text(TAGS)
    text = EDGE.format(folder=tmp_path, hub=free_port(), plc=plc.port, broker=broker.port)
    (tmp_path / "edge.toml").write_text(text)
    found = ScadaHost(broker.port, NodeId("plant", "press-1"))
    with (tmp_path / "edge.log").open("ab") as log:
        agent = subprocess.Popen(command(tmp_path, "run"), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    yield found
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(30) == 0
    found.close()
    broker.stop()


def command(folder: Path, *arguments: str) -> list[str]:
    program = shutil.which("tidegate-edge", path=sysconfig.get_path("scripts"))
    assert program
    return [program, *arguments, "--config", str(folder / "edge.toml")]


def test_scada_sets_a_register_only_where_and_while_it_may_and_sees_the_outcome(
    tmp_path: Path, plc: Plc, host: ScadaHost
) -> None:
    def outcome(*words: str) -> None:
        host.wait_value("Writes/plc/speed", lambda text: all(word in str(text) for word in words))

    host.wait_value("plc/speed", lambda value: value == 10.0)
    host.command("plc/speed", 50.0, DataType.Double)
    outcome("refused", "tidegate-edge write enable plc/speed")
    subprocess.run(command(tmp_path, "write", "enable", "plc/speed", "--for", "10m", "--reason", "test"), check=True)
    host.command("plc/speed", 50.0, DataType.Double)
    outcome("verified: 50.0")
    assert plc.get(0) == [500]
    host.wait_value("plc/speed", lambda value: value == 50.0)
    plc.put(1, 1)
    host.wait_value("plc/running", lambda value: value == 1.0)
    host.command("plc/speed", 60.0, DataType.Double)
    outcome("refused", "plc/running is 1")
    plc.put(1, 0)
    host.wait_value("plc/running", lambda value: value == 0.0)
    plc.refusals = {6: 3}
    host.command("plc/speed", 70.0, DataType.Double)
    outcome("failed", "the device refused it: illegal data value (exception 3)")
    assert plc.get(0) == [500]
    plc.well()
    plc.cut()
    host.command("plc/speed", 80.0, DataType.Double)
    outcome("80")
