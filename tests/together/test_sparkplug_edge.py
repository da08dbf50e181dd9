"""A real agent as a Sparkplug edge node on a real mosquitto: births, outages, primary hosts, and writes from SCADA."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from simulators.brokers import BrokerProcess, free_port, mosquitto, until
from simulators.certificates import certificates
from simulators.scada_host import ScadaHost

from edge_agent.store import outbox
from edge_agent.twin import local_cli
from shared.protocol.codec import decode
from shared.protocol.messages import Batch
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.payload import QUALITY
from shared.sparkplug.topics import MessageType, NodeId

PLUGIN = '''
from pathlib import Path
from shared.protocol.messages import Metric, Sample

class Press:
    """A press as files: `running`, `speed` (which can be set), and a count of its readings. `lost`: nothing is read."""

    name, period_s, writable = "plc", 0.1, ["press.speed", "press.valve"]

    def __init__(self, folder):
        self.folder, self.count = Path(folder), 0
        names = ["press.speed", "press.running", "press.valve", "press.count"]
        self.metrics = [Metric(name=name, unit="/min", low=0, high=200) for name in names]

    def collect(self, now_us):
        self.count += 1
        if (self.folder / "lost").read_text() == "1":
            for metric in self.metrics:
                yield Sample(metric=metric.name, t_us=now_us, value=None, quality="bad")
            return
        for name in ("speed", "running"):
            yield Sample(metric=f"press.{name}", t_us=now_us, value=float((self.folder / name).read_text()))
        yield Sample(metric="press.count", t_us=now_us, value=float(self.count))
        yield Sample(metric="press.valve", t_us=now_us, value=0.0)

    def write(self, metric, value, on_done):
        if metric == "press.valve":
            raise RuntimeError("a bug of the plug-in")
        with (self.folder / "speed.new").open("w") as file:
            file.write(str(value))
        (self.folder / "speed.new").replace(self.folder / "speed")
        on_done("")

    def close(self):
        pass

def open_collector(table):
    return Press(table.options["folder"])
'''

EDGE = """
[device]
id = "press-1"
profile = "x86-64"
state_dir = "{folder}/state"
[link]
discover = false
address = "127.0.0.1:{hub}"
[outbox]
commit_s = 0.1
[[collectors]]
kind = "press-simulator"
folder = "{folder}"
[[hard_limits]]
metric = "press.speed"
high = 90.0
[sparkplug]
group = "plant"
{options}
publish_s = 0.1
servers = [{servers}]
[[sparkplug.devices]]
id = "press"
metrics = ["press.*"]
names = "{{collector}}/{{metric}}"
[[sparkplug.writable]]
metric = "press.speed"
low = 0
high = 100
only_while = "press.running == 0"
[[sparkplug.writable]]
metric = "press.valve"
low = 0
high = 1
[[sparkplug.writable]]
metric = "settings.period_s"
low = 0.2
high = 5
"""
SPEED, COUNT = "plc/press.speed", "plc/press.count"


@dataclass
class Plant:
    """A press, its agent, and what reaches the outbox for the hub."""

    folder: Path
    servers: list[int]
    options: str = ""
    secured: str = ""
    """A server in place of `servers`, as TOML; the hosts use `servers`."""
    more: str = ""
    process: subprocess.Popen[bytes] | None = None
    hosts: list[ScadaHost] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "plugin" / "press-1.0.dist-info").mkdir(parents=True)
        info = self.folder / "plugin" / "press-1.0.dist-info"
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: press\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[tidegate.collectors]\npress-simulator = press_simulator:open_collector\n"
        )
        (self.folder / "plugin" / "press_simulator.py").write_text(PLUGIN)
        self.set("speed", 10)
        self.set("running", 0)
        self.set("lost", 0)
        servers = self.secured or ", ".join(f'{{ address = "127.0.0.1:{port}" }}' for port in self.servers)
        text = EDGE.format(folder=self.folder, hub=free_port(), servers=servers, options=self.options)
        (self.folder / "edge.toml").write_text(text + self.more, "utf-8")

    def set(self, name: str, value: float) -> None:
        (self.folder / f"{name}.tmp").write_text(str(value))
        (self.folder / f"{name}.tmp").replace(self.folder / name)

    def get(self, name: str) -> float:
        return float((self.folder / name).read_text())

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.folder / "plugin")}

    def start(self) -> None:
        program = shutil.which("tidegate-edge", path=sysconfig.get_path("scripts"))
        assert program
        with (self.folder / "edge.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "run", "--config", str(self.folder / "edge.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
            )  # fmt: skip

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            assert process.wait(30) == (0 if number == signal.SIGTERM else -number)

    def run(self, *arguments: str) -> tuple[int, str]:
        """`tidegate-edge ...` on this device: (exit code, output)."""
        program = shutil.which("tidegate-edge", path=sysconfig.get_path("scripts"))
        assert program
        command = [program, *arguments, "--config", str(self.folder / "edge.toml")]
        done = subprocess.run(command, capture_output=True, env=self._environment, timeout=60, check=False)
        return done.returncode, (done.stdout + done.stderr).decode()

    def host(self, server: int = 0) -> ScadaHost:
        self.hosts.append(ScadaHost(self.servers[server], NodeId("plant", "press-1")))
        return self.hosts[-1]

    def events(self) -> list[dict[str, Any]]:
        """Events of Sparkplug in the outbox, which go to the hub."""
        with closing(sqlite3.connect(f"file:{self.folder}/state/outbox.sqlite?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT payload FROM rows WHERE stream='event' ORDER BY first").fetchall()
        items = [item for (payload,) in rows for item in decode(Batch, payload).items]
        return [item for item in items if item["source"] == "sparkplug"]

    def telemetry(self) -> int:
        """How many samples have been stored for the hub."""
        file = self.folder / "state" / "outbox.sqlite"
        with suppress(sqlite3.OperationalError, TypeError):  # it is being made
            return int(outbox.status(file)["streams"]["telemetry"]["accepted"])
        return 0


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[BrokerProcess]]:
    found = [mosquitto(tmp_path_factory.mktemp(name)) for name in ("first", "second")]
    for broker in found:
        broker.start()
    yield found
    for broker in found:
        broker.stop()


@pytest.fixture
def make_plant(tmp_path: Path, brokers: list[BrokerProcess]) -> Iterator[Callable[..., Plant]]:
    made: list[Plant] = []

    def make(servers: list[int] | None = None, options: str = "", **more: str) -> Plant:
        made.append(Plant(tmp_path, [brokers[0].port] if servers is None else servers, options, **more))
        return made[-1]

    yield make
    for plant in made:
        plant.stop(signal.SIGKILL)
        for host in plant.hosts:
            host.close()


def test_a_node_is_born_reports_by_exception_and_is_born_again(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant()
    host = plant.host()
    plant.start()
    birth = host.wait("NBIRTH")
    press = host.wait("DBIRTH", "press")
    assert birth.values()["Properties/Tidegate Device"] == "press-1"
    assert birth.values()["Settings/period_s"] == 1.0
    speed = next(metric for metric in press.metrics if metric.name == SPEED)
    assert {key: item.value for key, item in (speed.properties or {}).items() if key != QUALITY} == {
        "engUnit": "/min", "engLow": 0.0, "engHigh": 200.0,
    }  # fmt: skip
    plant.set("speed", 95)
    host.wait_value(SPEED, lambda value: value == 95.0, "press")
    host.wait_value("Alarms/press.speed/high", lambda value: value is True, "press")
    assert host.wait_value("Alarms/Active", lambda value: value == 1) == 1
    counts = host.points(COUNT, "press", historical=False)
    speeds = host.points(SPEED, "press", historical=False)
    assert len(counts) > len(speeds)  # the count changes with each reading, the speed once

    host.ask_rebirth()
    number = len(host.seen)
    again = host.wait("NBIRTH", after=number)
    assert again.values()["bdSeq"] == birth.values()["bdSeq"]
    assert host.wait("DBIRTH", "press", after=number).values()[SPEED] == 95.0

    plant.stop()
    host.wait("NDEATH")
    number = len(host.seen)
    plant.start()
    later = host.wait("NBIRTH", after=number)
    assert later.values()["bdSeq"] == (birth.values()["bdSeq"] + 1) % 256
    restored = host.wait("DBIRTH", "press", after=number)
    assert restored.values()["Alarms/press.speed/high"] is True


def test_a_device_that_is_not_reached_dies_and_is_born_again(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant()
    host = plant.host()
    plant.start()
    host.wait("DBIRTH", "press")
    host.wait_value(SPEED, lambda value: value == 10.0, "press")
    plant.set("lost", 1)
    host.wait("DDEATH", "press")
    number = len(host.seen)
    host.ask_rebirth()
    host.wait("NBIRTH", after=number)
    plant.set("speed", 20)
    plant.set("lost", 0)
    assert host.wait("DBIRTH", "press", after=number).values()[SPEED] == 20.0
    count = len(host.points(COUNT, "press"))
    until("data goes on", lambda: len(host.points(COUNT, "press")) > count)
    assert [one.kind for one in host.seen if one.device == "press" and one.kind != "DDATA"] == [
        "DBIRTH", "DDEATH", "DBIRTH",
    ]  # fmt: skip


def test_what_changed_in_an_outage_comes_later_as_historical(
    make_plant: Callable[..., Plant], brokers: list[BrokerProcess]
) -> None:
    plant = make_plant([brokers[1].port])
    host = plant.host()
    plant.start()
    host.wait("DBIRTH", "press")
    before = host.wait_value(COUNT, lambda value: value > 5, "press")
    brokers[1].kill()
    until("changes of the outage are stored", lambda: len(_stored(plant, COUNT)) > 10)
    plant.set("speed", 33)
    until("the speed was stored", lambda: 33.0 in _stored(plant, SPEED))
    plant.stop(signal.SIGKILL)  # also the power is lost
    plant.start()
    brokers[1].start()
    again = plant.host()
    again.wait("DBIRTH", "press")
    until(
        "the speed of the outage", lambda: 33.0 in {one.value for one in again.points(SPEED, "press", historical=True)}
    )
    counts = {one.value for one in again.points(COUNT, "press", historical=True)}
    stored = {value for value in counts if value > before}
    assert len(stored) >= 10
    assert stored >= set(map(float, range(int(before) + 1, int(max(stored)) + 1)))  # without a gap
    host.faults.clear()  # it was cut off itself


def _stored(plant: Plant, name: str) -> list[float]:
    """Values of a metric in the store for outages."""
    with closing(sqlite3.connect(f"file:{plant.folder}/state/sparkplug.sqlite?mode=ro", uri=True)) as db:
        rows = [decode(Batch, payload).items for (payload,) in db.execute("SELECT payload FROM rows").fetchall()]
    return [item[3] for items in rows for item in items if item[1] == name]


def test_the_node_follows_its_primary_host_to_the_next_server(
    make_plant: Callable[..., Plant], brokers: list[BrokerProcess]
) -> None:
    plant = make_plant([brokers[0].port, brokers[1].port], 'primary_host = "scada"')
    first, second = plant.host(0), plant.host(1)
    second.state(online=True)
    first.state(online=True)
    plant.start()
    first.wait("DBIRTH", "press")
    assert [one.kind for one in second.seen] == []
    first.state(online=False, timestamp=1)  # an old message changes nothing
    plant.set("speed", 44)
    first.wait_value(SPEED, lambda value: value == 44.0, "press")
    first.state(online=False)
    first.wait("NDEATH")
    second.wait("DBIRTH", "press")
    state = until("the twin says so", lambda: _reported(plant, str(brokers[1].port)))
    assert (state["state"], state["primary_host"], state["births"]) == ("online", "scada", 2)


def test_a_node_that_waits_for_a_host_which_does_not_exist_says_so(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant(options='primary_host = "scda"')
    plant.start()
    log = plant.folder / "edge.log"
    until("the log says so", lambda: '"sparkplug.waiting"' in log.read_text("utf-8"))
    assert '"primary_host": "scda"' in log.read_text("utf-8")
    wanted = "last reported: waiting for the primary host 'scda'"
    until("status says so", lambda: wanted in plant.run("status")[1])


def _reported(plant: Plant, server: str) -> dict[str, Any] | None:
    documents = local_cli.twins(plant.folder / "state" / "kept.sqlite")
    state: dict[str, Any] = documents[""]["reported"].get("sparkplug", {})
    return state if server in state.get("server", "") and state["state"] == "online" else None


def test_a_write_needs_a_local_switch_its_rule_and_is_read_back(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant()
    host = plant.host()
    plant.start()
    host.wait("DBIRTH", "press")
    host.wait_value(SPEED, lambda value: value == 10.0, "press")

    def write(value: Any, name: str = SPEED) -> None:
        host.command(name, value, DataType.Double, "press")

    def outcome(*words: str) -> None:
        host.wait_value("Writes/press.speed", lambda text: all(word in str(text) for word in words), "press")

    write(50.0)
    outcome("refused", "tidegate-edge write enable press.speed")
    code, text = plant.run("write", "try", "press.speed", "50")
    assert (code, "would be written: 50, once writes to it are enabled" in text) == (0, True), text
    code, text = plant.run("write", "enable", "press.speed", "press.valve", "--for", "10m", "--reason", "shift 2")
    assert code == 0, text
    assert "no safety function" in text
    write(50.0)
    outcome("verified: 50.0")
    assert plant.get("speed") == 50.0
    write(101.0)
    outcome("refused", "above high 100")
    plant.set("running", 1)
    host.wait_value("plc/press.running", lambda value: value == 1.0, "press")
    write(60.0)
    outcome("refused", "press.running is 1")
    code, text = plant.run("write", "try", "press.speed", "60")
    assert (code, "press.running is 1" in text) == (1, True)
    write(1.0, "plc/press.valve")
    host.wait_value("Writes/press.valve", lambda text: "the collector failed" in str(text), "press")
    write(1.0, "plc/press.running")
    host.command("plc/press.speed", 70.0, DataType.Double, "press", retain=True)
    host.command("plc/press.speed", 70.0, DataType.Double)  # of the node, where there is no such metric
    code, text = plant.run("write", "disable")
    assert (code, text) == (0, "disabled: press.speed, press.valve\n")
    plant.set("running", 0)
    host.wait_value("plc/press.running", lambda value: value == 0.0, "press")
    write(70.0)
    outcome("refused", "not enabled")
    assert plant.get("speed") == 50.0

    expected = {
        "writes from SCADA to press.speed are enabled", "write to press.speed verified: 50.0",
        "write to press.speed refused: 101.0", "write to press.valve failed: 1.0",
        "write to press.running refused: 1.0", "writes from SCADA to press.speed are off again",
    }  # fmt: skip

    def reported() -> list[dict[str, Any]] | None:
        found = plant.events()
        return found if all(any(event["text"].startswith(text) for event in found) for text in expected) else None

    events = until("all events", reported)
    assert {event["fields"]["actor"] for event in events if "value" in event["fields"]} == {
        "scada spBv1.0/plant/DCMD/press-1/press"
    }


def test_a_setting_is_written_as_desired_state(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant()
    host = plant.host()
    plant.start()
    host.wait("DBIRTH", "press")
    assert plant.run("write", "enable", "settings.period_s", "--for", "1h")[0] == 0
    host.command("Settings/period_s", 0.5, DataType.Double)
    host.wait_value("Writes/settings.period_s", lambda text: text == "verified: 0.5")
    assert host.wait_value("Settings/period_s", lambda value: value == 0.5) == 0.5
    documents = local_cli.twins(plant.folder / "state" / "kept.sqlite")
    assert documents[""]["desired"]["settings"]["period_s"] == 0.5


def test_a_flood_of_commands_is_reported_and_changes_nothing(make_plant: Callable[..., Plant]) -> None:
    plant = make_plant()
    host = plant.host()
    plant.start()
    host.wait("DBIRTH", "press")
    before = plant.telemetry()
    for number in range(3000):
        host.command(SPEED, float(number), DataType.Double, "press")
        if number % 10 == 0:
            host.raw(MessageType.NCMD, b"\xff" * 50)
    until("the agent goes on for its hub", lambda: plant.telemetry() > before + 40)
    host.ask_rebirth()
    number = len(host.seen)
    host.wait("NBIRTH", after=number)
    assert plant.get("speed") == 10
    texts = [event["text"] for event in plant.events()]
    assert len(texts) <= 3
    assert any("too many write commands" in text for text in texts)


@pytest.fixture
def garbage_server() -> Iterator[int]:
    """A port where something accepts connections, and sends what is not MQTT."""
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def serve() -> None:
            while not stopped.is_set():
                with suppress(OSError), server.accept()[0] as peer:
                    peer.sendall(b"\x20\x02\x00\x00" + os.urandom(50_000))

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        stopped.set()
        thread.join()


def test_a_broken_server_disturbs_nothing_else(make_plant: Callable[..., Plant], garbage_server: int) -> None:
    plant = make_plant([garbage_server])
    plant.start()
    until("the agent goes on for its hub", lambda: plant.telemetry() > 60)
    until("what was not sent is stored", lambda: len(_stored(plant, COUNT)) > 5)
    plant.stop()  # at once, with exit code 0


SECURED = """
per_listener_settings true
{user}log_type error
listener {plain} 127.0.0.1
allow_anonymous true
listener {tls} 127.0.0.1
allow_anonymous false
password_file {folder}/passwords
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
tls_version tlsv1.3
"""


@pytest.fixture
def secured_broker(tmp_path: Path) -> Iterator[tuple[BrokerProcess, int]]:
    """A mosquitto with TLS and passwords for devices, and the port of that; its own port is open to the host."""
    folder = tmp_path / "secured"
    broker, tls = mosquitto(folder), free_port()
    certificates(folder, "broker")
    program = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
    subprocess.run([program, "-c", "-b", str(folder / "passwords"), "press-1", "pass word"], check=True)
    (folder / "password").write_text("pass word\n", "utf-8")
    user = "user root\n" if os.geteuid() == 0 else ""
    text = SECURED.format(folder=folder, plain=broker.port, tls=tls, user=user)
    (folder / "mosquitto.conf").write_text(text, "utf-8")
    broker.start()
    yield broker, tls
    broker.stop()


def test_a_server_with_tls_and_a_password_is_reached_by_mqtt_5(
    make_plant: Callable[..., Plant], secured_broker: tuple[BrokerProcess, int]
) -> None:
    broker, tls = secured_broker
    server = (
        f'{{ address = "localhost:{tls}", protocol = "5", username = "press-1", '
        f'password_file = "{broker.folder}/password", tls = {{ ca = "{broker.folder}/ca.pem" }} }}'
    )
    plant = make_plant([broker.port], secured=server)
    host = plant.host()
    plant.start()
    host.wait("DBIRTH", "press")
    code, text = plant.run("check")
    assert "sparkplug" not in text, (code, text)
    plant.stop()
    host.wait("NDEATH")


MODBUS = """
[[collectors]]
kind = "modbus"
name = "line"
address = "127.0.0.1:{port}"
period_s = 0.2
tags = [
  {{ name = "setpoint", table = "holding", address = 10, scale = 0.1, writable = true }},
  {{ name = "running", table = "holding", address = 11 }},
]
[[sparkplug.writable]]
metric = "line/setpoint"
low = 0
high = 50
max_step = 20
only_while = "line/running == 0"
"""


def test_a_register_of_a_modbus_device_is_written_and_read_back(make_plant: Callable[..., Plant]) -> None:
    pytest.importorskip("pymodbus")
    from simulators.modbus_devices import tcp_plc

    with tcp_plc() as plc:
        plc.put(10, 100, 0)
        plant = make_plant(more=MODBUS.format(port=plc.port))
        host = plant.host()
        plant.start()
        host.wait_value("line/setpoint", lambda value: value == 10.0)
        assert plant.run("write", "enable", "line/setpoint", "--for", "10m")[0] == 0

        def write(value: float, *words: str) -> None:
            host.command("line/setpoint", value, DataType.Double)
            host.wait_value("Writes/line/setpoint", lambda text: all(word in str(text) for word in words))

        write(25.5, "verified: 25.5")
        assert plc.get(10) == [255]
        write(49.0, "above max_step 20")
        plc.put(11, 1)
        host.wait_value("line/running", lambda value: value == 1.0)
        write(30.0, "refused", "line/running is 1")
        plc.put(11, 0)
        host.wait_value("line/running", lambda value: value == 0.0)
        plc.ignores_writes = True
        write(30.0, "failed")
        assert plc.get(10) == [255]
