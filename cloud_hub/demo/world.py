"""The processes and files of the demo: a broker, a hub, agents and a simulated cloud."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from cloud_hub.demo import digits
from cloud_hub.demo.client import ActFailed, Client, until
from cloud_hub.security import secret_files

PROFILES = ("jetson-orin-nano", "raspberry-pi-5", "x86-64")
ASSETS = Path(__file__).parent / "assets"
FRAMES = 6000
CALIBRATION_FRAMES = 200
MODEL = "line-camera"
QUOTA = 3
NAMESPACE, DEPLOYMENT = "tidegate", "expert"
SCADA_GROUP, SETTING = "demo", "period_s"


def free_ports(count: int) -> list[int]:
    """Find free ports of 127.0.0.1."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def program(name: str) -> str:
    """The path of an installed console script."""
    return str(Path(sys.executable).parent / name)


class World:
    """All processes of the demo. `folder` holds state, configuration and logs of each process."""

    def __init__(self, folder: Path, devices: int, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.devices = [f"line-{number + 1}" for number in range(devices)]
        self.rest_port, self.mqtt3, self.mqtt5, self.cloud_port = free_ports(4)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        images, labels = digits.held_out()
        order = np.random.default_rng(seed).integers(0, len(images), FRAMES)
        self.images, self.labels = images[order], labels[order]
        self.frames_file = folder / "frames.npy"
        self.line_log = folder / "line.log"
        self.client = Client("", "")

    # -- roles: with fewer devices one plays several ------------------------------------------------

    @property
    def camera(self) -> str:
        """The device with the camera."""
        return self.devices[0]

    @property
    def canary(self) -> str:
        """The device that receives trial limits; also the Sparkplug edge node."""
        return self.devices[1 % len(self.devices)]

    @property
    def worker(self) -> str:
        """The device that gets CPU load."""
        return self.devices[2 % len(self.devices)]

    # -- start and stop ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, and wait until each device is online and its model runs."""
        self.show_frames(1.0)
        self.line_log.write_text("", "utf-8")
        self._write_hub()
        self.start_cloud()
        self.start_broker()
        token = self._token()
        self.start_hub()
        self.client = Client(f"http://127.0.0.1:{self.rest_port}", token)
        for index, device in enumerate(self.devices):
            self._write_device(device, PROFILES[index % len(PROFILES)])
            self.start_device(device)
        until("all devices are online", self.all_online, 30)
        until("the camera's model runs", lambda: self.model_state() == "running", 30)

    def start_broker(self) -> None:
        """Start the embedded broker, and wait until it listens."""
        self._spawn(
            "broker", [program("tidegate-hub"), "broker", "--mqtt3", str(self.mqtt3), "--mqtt5", str(self.mqtt5)]
        )
        until("the broker listens", lambda: _listens(self.mqtt5), 20)

    def start_hub(self) -> None:
        """Start the hub, and wait until its REST answers."""
        self._spawn("hub", [program("tidegate-hub"), "serve", "--config", str(self.folder / "hub.toml")])
        until("the hub answers", lambda: _listens(self.rest_port), 30)

    def start_cloud(self) -> None:
        """Start the simulated Kubernetes API."""
        command = [sys.executable, "-P", "-m", "cloud_hub.demo.cloud", "--port", str(self.cloud_port)]
        command += ["--token-file", str(self.folder / "cloud.token"), "--namespace", NAMESPACE]
        self._spawn("cloud", [*command, "--deployment", DEPLOYMENT, "--replicas", "1", "--maximum", str(QUOTA)])
        until("the simulated cloud answers", lambda: _listens(self.cloud_port), 20)

    def start_device(self, device: str) -> None:
        """Start the agent of a device."""
        self._spawn(device, [program("tidegate-edge"), "run", "--config", str(self.folder / f"{device}.toml")])

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to a process, and wait until it has ended."""
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def stop(self) -> None:
        """Stop all processes, agents first, so that they disconnect cleanly."""
        for name in sorted(self.processes, key=lambda n: (n in {"broker", "cloud"}, n == "hub")):
            self.end(name)
        self.client.close()

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            # A separate session: Ctrl-C reaches only the demo, which stops the others in order.
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )

    def check_alive(self) -> None:
        """Raise ActFailed if a process has ended unexpectedly."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise ActFailed(f"'{name}' ended with code {process.returncode}; see {self.folder / name}.log")

    # -- files -------------------------------------------------------------------------------------

    def show_frames(self, brightness: float) -> None:
        """Set the brightness of the camera's frames."""
        fresh = self.frames_file.with_suffix(".new")
        with fresh.open("wb") as file:
            np.save(file, digits.with_brightness(self.images, brightness))
        fresh.replace(self.frames_file)

    def _write_hub(self) -> None:
        secret_files.write(self.folder / "cloud.token", secrets.token_urlsafe(24), new=False)
        (self.folder / "hub.toml").write_text(
            HUB.format(
                name=f"demo-{self.mqtt5}", state=self.folder / "hub", rest=self.rest_port, mqtt=self.mqtt5,
                frames=CALIBRATION_FRAMES, model=MODEL, expert=ASSETS / "digits-expert",
                targets=self.folder / "targets.yaml",
            ),
            "utf-8",
        )  # fmt: skip
        token = self.folder / "cloud.token"
        targets = TARGETS.format(cloud=self.cloud_port, namespace=NAMESPACE, deployment=DEPLOYMENT, token=token)
        (self.folder / "targets.yaml").write_text(targets, "utf-8")

    def _write_device(self, device: str, profile: str) -> None:
        text = DEVICE.format(
            device=device, profile=profile, state=self.folder / device, hub=f"demo-{self.mqtt5}", mqtt=self.mqtt5
        )
        if device == self.camera:
            text += CAMERA.format(frames=self.frames_file, model=MODEL, bundle=ASSETS / "digits-edge")
        if device == self.canary:
            text += LINE_LOG.format(path=self.line_log)
            text += SPARKPLUG.format(group=SCADA_GROUP, mqtt=self.mqtt3, setting=SETTING)
        if device == self.worker:
            text += LOAD
        (self.folder / f"{device}.toml").write_text(text, "utf-8")

    def _token(self) -> str:
        command = [program("tidegate-hub"), "token", "create", "--config", str(self.folder / "hub.toml")]
        made = subprocess.run(
            [*command, "--name", "demo", "--role", "operator", "--role", "auditor", "--role", "admin"],
            capture_output=True,
            check=False,
        )
        if made.returncode:
            raise ActFailed(f"no token: {made.stderr.decode()[-300:]}")
        return made.stdout.decode().strip()

    # -- state -------------------------------------------------------------------------------------

    def all_online(self) -> bool:
        """Whether every device is connected."""
        self.check_alive()
        states = {row["id"]: row["state"] for row in self.client.get("/devices")}
        return all(states.get(device) == "online" for device in self.devices)

    def model_state(self) -> str:
        """The state of the camera's model in the twin."""
        return str(self.client.reported(self.camera).get("models", {}).get(MODEL, {}).get("state", ""))

    def outbox(self, device: str) -> dict[str, Any]:
        """`tidegate-edge status --json`: what the device has accepted, and what the hub has acknowledged."""
        command = [program("tidegate-edge"), "status", "--json", "--config", str(self.folder / f"{device}.toml")]
        made = subprocess.run(command, capture_output=True, check=False)
        if made.returncode:
            raise ActFailed(f"status of {device}: {made.stderr.decode()[-300:]}")
        status: dict[str, Any] = json.loads(made.stdout)
        return status

    def addresses(self) -> dict[str, Any]:
        """The addresses and credentials of the running demo."""
        return {
            "rest": self.client.base, "mqtt3": f"127.0.0.1:{self.mqtt3}", "mqtt5": f"127.0.0.1:{self.mqtt5}",
            "token": self.client.token, "config": str(self.folder / "hub.toml"), "devices": self.devices,
            "pids": {name: process.pid for name, process in self.processes.items()},
        }  # fmt: skip


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5):
            return True
    except OSError:
        return False


def burn(seconds: float) -> list[subprocess.Popen[bytes]]:
    """Start a process that keeps every core busy for `seconds`."""
    code = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
    command = [sys.executable, "-I", "-c", code, str(seconds)]
    return [subprocess.Popen(command, start_new_session=True) for _ in range(os.cpu_count() or 1)]


def now_us() -> int:
    """The current UTC time in microseconds."""
    return time.time_ns() // 1000


HUB = """
name = "{name}"
state_dir = "{state}"
[rest]
port = {rest}
[mqtt]
address = "127.0.0.1:{mqtt}"
[discovery]
interfaces = ["127.0.0.1"]
[experts]
frames = {frames}
alpha = 0.02
[experts.bundles]
{model} = "{expert}"
[actions]
cooldown_s = 60
[autoscale]
targets_file = "{targets}"
[sparkplug]
host_id = "{name}"
servers = [{{ address = "127.0.0.1:{mqtt}" }}]
"""

TARGETS = """
targets:
  - name: experts
    platform:
      kind: kubernetes
      options:
        url: "http://127.0.0.1:{cloud}"
        namespace: {namespace}
        deployment: {deployment}
        token_file: "{token}"
    signals:
      - name: escalations
        source: {{type: escalations, of: rate, window_s: 5}}
        unit: 1/s
        per_instance: 5
        target: 1.0
    minimum: 1
    maximum: 4
    period_s: 2
    max_step: 2
    cooldown_s: 20
    boot_s: 3
    prediction: {{mode: never}}
"""

DEVICE = """
[device]
id = "{device}"
profile = "{profile}"
state_dir = "{state}"
asset_path = "demo/plant-1/packing/{device}/cell-1"
[link]
discover = true
interfaces = ["127.0.0.1"]
hub = "{hub}"
address = "127.0.0.1:{mqtt}"
[[collectors]]
kind = "host"
"""

CAMERA = """
[[collectors]]
kind = "images"
name = "camera"
path = "{frames}"
period_s = 0.05
[[models]]
name = "{model}"
bundle = "{bundle}"
frames = "camera"
deadline_s = 5
[[limits]]
metric = "{model}/age_s"
high = 2.0
on_delay_s = 1.0
priority = "high"
"""

LINE_LOG = """
[[collectors]]
kind = "log"
name = "line"
path = "{path}"
pattern = "lamp|error"
level = "warning"
"""

SPARKPLUG = """
[sparkplug]
group = "{group}"
servers = [{{ address = "127.0.0.1:{mqtt}" }}]
[[sparkplug.writable]]
metric = "settings.{setting}"
low = 0.5
high = 5.0
"""

LOAD = """
[[limits]]
metric = "cpu.load"
high = 95.0
deadband = 5.0
on_delay_s = 3.0
off_delay_s = 1.0
"""
