"""A real broker, a real `tidegate-hub serve` and real `tidegate-edge run`, reached as any user reaches them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from simulators.brokers import BrokerProcess, Kind, broker_process, free_port, listens, until
from simulators.forked_programs import ForkedProgram, fork_server
from simulators.plants import Plant
from sqlmodel import select

from cloud_hub.access import tokens
from cloud_hub.database.sessions import Database
from cloud_hub.database.tables import EscalationRow, EventRow, HighWater, TelemetrySample
from cloud_hub.demo import digits

ASSETS = Path(str(resources.files("cloud_hub.demo"))) / "assets"

HUB = """
name = "together"
state_dir = "{state}"
database = "{database}"
[rest]
port = {rest}
[mqtt]
address = "127.0.0.1:{mqtt}"
[discovery]
announce = false
[experts]
frames = 120
alpha = 0.1
delta = 0.1
[experts.bundles]
digits = "{expert}"
{experts}
[actions]
cooldown_s = 600
verify_s = 10
"""

EDGE = """
[device]
id = "{device}"
profile = "x86-64"
state_dir = "{state}"
asset_path = "tests/together"
[link]
discover = false
address = "127.0.0.1:{mqtt}"
resend_s = 1.0
{more}
[outbox]
commit_s = 0.1
[settings]
period_s = 0.2
[[collectors]]
kind = "host"
[[hard_limits]]
metric = "cpu.load"
high = 101.0
"""

CAMERA = """
[[collectors]]
kind = "images"
name = "camera"
path = "{frames}"
period_s = 0.01
[[models]]
name = "digits"
bundle = "{bundle}"
frames = "camera"
"""

TLS = """
[{table}.tls]
ca = "{tls.ca}"
certificate = "{tls.certificate}"
key = "{tls.key}"
"""

Streams = dict[str, dict[str, Any]]


def _program(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    assert found, "tidegate is not installed in this environment"
    return found


@dataclass
class World:
    """Everything of one test, in one folder."""

    folder: Path
    broker: BrokerProcess
    database: str = ""
    assets: Path = ASSETS
    settings: str = ""
    experts: dict[str, Path] = field(default_factory=dict)
    """Bundles of more experts, by the devices' name of the model."""
    plant: Plant | None = None
    """Where there is one, its broker's door is mutual TLS, and each agent gets a certificate of its CA."""
    rest: int = field(default_factory=free_port)
    inside: dict[str, list[str]] = field(default_factory=dict)
    """Words before the command of a process, by its name: what it runs in."""
    processes: dict[str, subprocess.Popen[bytes] | ForkedProgram] = field(default_factory=dict)
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        text = HUB.format(
            state=self.folder / "hub", database=self.database, rest=self.rest, mqtt=self.broker.port,
            expert=ASSETS / "digits-expert", experts="\n".join(f'{k} = "{v}"' for k, v in self.experts.items()),
        )  # fmt: skip
        (self.folder / "hub.toml").write_text(text + self.settings, "utf-8")
        db = Database(self.database or f"sqlite:///{self.folder / 'hub' / 'hub.sqlite'}")
        with db.write() as session:
            token = tokens.create(session, "tester", "operator auditor admin", 1, "test")
        db.close()
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.rest}/api/v1", headers=headers, timeout=20)

    @staticmethod
    def program(name: str) -> str:
        """Path of an installed console script."""
        return _program(name)

    # -- processes ---------------------------------------------------------------------------------

    def start_hub(self) -> None:
        """The hub, and wait until REST answers."""
        self._spawn("hub", [_program("tidegate-hub"), "serve", "--config", str(self.folder / "hub.toml")])
        until("the hub answers", lambda: listens(self.rest))

    def start_edge(self, device: str, more: str = "", *, state: str = "", port: int = 0, link: str = "") -> None:
        """An agent; `state` names it and its folder where two share one id. `port` in place of the broker's own."""
        name = state or device
        text = EDGE.format(device=device, state=self.folder / name, mqtt=port or self.broker.port, more=link) + more
        if self.plant is not None:
            text += TLS.format(table="link", tls=self.plant.identity(device))
        (self.folder / f"{name}.toml").write_text(text, "utf-8")
        self.resume_edge(name)

    def resume_edge(self, name: str) -> None:
        """Start an agent again."""
        self._spawn(name, [_program("tidegate-edge"), "run", "--config", str(self.folder / f"{name}.toml")])

    def camera(self, bundle: Path = ASSETS / "digits-edge", frames: int = 1000) -> str:
        """Configuration of a camera with a model; the frames are held-out digits."""
        file = self.folder / "frames.npy"
        if not file.exists():
            np.save(file, digits.held_out()[0][:frames])
        return CAMERA.format(frames=file, bundle=bundle)

    def _spawn(self, name: str, command: list[str]) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
        path, inside = self.folder / f"{name}.log", self.inside.get(name, [])
        if name == "hub" and not inside:
            self.processes[name] = fork_server().start("tidegate-hub", command[1:], path, env)
            return
        with path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*inside, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env
            )

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(20)

    def kill(self, name: str) -> None:
        """Power off: `broker`, `hub` or an agent."""
        if name == "broker":
            self.broker.kill()
        else:
            self.end(name, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Start again what was killed."""
        {"broker": self.broker.start, "hub": self.start_hub}.get(name, lambda: self.resume_edge(name))()

    def close(self) -> None:
        """End everything."""
        for name in list(self.processes):
            self.end(name, signal.SIGKILL if name.startswith("doomed") else signal.SIGTERM)
        self.broker.stop()
        self.http.close()

    def stored(self, device: str, epoch: str) -> dict[str, tuple[int, int, int]]:
        """(rows, distinct, upto) of each stream, once the hub has ended."""
        return stored(f"sqlite:///{self.folder / 'hub' / 'hub.sqlite'}", device, epoch)

    # -- what can be seen --------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """GET; None while the hub cannot answer or does not know it yet."""
        try:
            answer = self.http.get(path, params=query)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def online(self, device: str) -> bool:
        """Whether the hub sees the device."""
        return bool((self.get(f"/devices/{device}") or {}).get("state") == "online")

    def reported(self, device: str, name: str = "") -> dict[str, Any]:
        """The reported part of a twin document."""
        twin = self.get(f"/devices/{device}/twin/name/{name}" if name else f"/devices/{device}/twin") or {}
        found: dict[str, Any] = twin.get("state", {}).get("reported", {})
        return found

    def progress(self, device: str, path: str, shadow: str = "") -> dict[str, Any]:
        """The device's last word on one path of desired state."""
        rows = self.get(f"/devices/{device}/twin/progress") or []
        return next((row for row in rows if (row["shadow"], row["path"]) == (shadow, path)), {})

    def log(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines that a process has logged; a process that died may leave half a line."""
        lines = []
        for line in (self.folder / f"{name}.log").read_text("utf-8", "replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines

    def logged(self, name: str, event: str) -> list[dict[str, Any]]:
        """Lines of one event."""
        return [line for line in self.log(name) if line.get("event") == event]

    def accepted(self, name: str) -> dict[str, Any]:
        """`tidegate-edge status --json`."""
        out = self.folder / f"{name}.status"
        arguments = ["status", "--json", "--config", str(self.folder / f"{name}.toml")]

        def printed() -> bool:
            out.unlink(missing_ok=True)
            return fork_server().start("tidegate-edge", arguments, out, dict(os.environ)).wait(30) == 0

        until("the status can be read, also at the agent's first start", printed, 10)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    def on_site(self, name: str, *arguments: str) -> tuple[int, str]:
        """`tidegate-edge twin ...`: exit code and what it printed."""
        command = [_program("tidegate-edge"), "twin", *arguments, "--config", str(self.folder / f"{name}.toml")]
        made = subprocess.run(command, capture_output=True, timeout=30, check=False)
        return made.returncode, made.stdout.decode()

    def streams(self, device: str, epoch: str) -> Streams:
        """What the hub holds of one epoch of a device."""
        rows = self.get(f"/devices/{device}/streams", count=True) or []
        return {row["stream"]: row for row in rows if row["epoch"] == epoch}

    def all_arrived(self, device: str, name: str = "") -> Streams:
        """Wait until all that the agent has accepted so far is at the hub; then each item is there just once."""
        status = self.accepted(name or device)

        def arrived() -> Streams | None:
            held = self.streams(device, status["epoch"])
            whole = all(held.get(s, {}).get("upto", 0) >= row["accepted"] for s, row in status["streams"].items())
            return held if whole else None

        held = until("all that was accepted is at the hub", arrived, 50)
        telemetry = held["telemetry"]
        assert telemetry["rows"] == telemetry["distinct"] == telemetry["upto"]
        assert not any(row["lost"] for row in held.values())
        return held


def stored(url: str, device: str, epoch: str) -> dict[str, tuple[int, int, int]]:
    """(rows, distinct, upto) of each stream, from the database of a hub that has ended. Two alarms are one row."""
    db = Database(url)
    with db.read() as session:
        marks = session.exec(select(HighWater).where(HighWater.device == device, HighWater.epoch == epoch)).all()
        found = {}
        for mark in marks:
            seqs: list[Any] = []
            if mark.stream == "telemetry":
                seqs = list(session.exec(select(TelemetrySample.seq).where(TelemetrySample.source == mark.id)))
            elif mark.stream == "event":
                seqs = list(session.exec(select(EventRow.seq).where(EventRow.source == mark.id)))
            elif mark.stream == "escalation":
                seqs = list(session.exec(select(EscalationRow.id).where(EscalationRow.device == device)))
            found[mark.stream] = (len(seqs), len(set(seqs)), mark.upto)
    db.close()
    return found


Build = Callable[..., World]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Makes the world over one kind of broker, on SQLite unless a database is named; ends it with the test."""
    made: list[World] = []

    def make(kind: Kind, database: str = "", **more: Any) -> World:
        made.append(World(tmp_path, broker_process(kind, tmp_path / "broker"), database, **more))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture(scope="module")
def around() -> Iterator[Callable[[BrokerProcess, str], World]]:
    """Makes a world around a broker in its folder, with more of the hub's settings; ends it with the module."""
    made: list[World] = []

    def make(broker: BrokerProcess, settings: str) -> World:
        made.append(World(broker.folder, broker, settings=settings))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[World]:
    """A world whose broker was set up by `tidegate-hub broker setup`, the hub with its certificate from there.

    `start_edge` gives each agent a certificate; `secured.plant` has the CA, for more identities and for revocation.
    """
    plant = Plant.make(tmp_path)
    world = World(tmp_path, plant.broker, settings=TLS.format(table="mqtt", tls=plant.hub), plant=plant)
    yield world
    world.close()
