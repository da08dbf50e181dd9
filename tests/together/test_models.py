"""Models on a real device with a real hub: bundles from `tidegate-hub model build`, sources, chains, experts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from PIL import Image
from simulators import trained_models as models
from simulators.brokers import until

from cloud_hub.models.build import build as build_bundle
from cloud_hub.models.request import BuildRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DEVICE = "press-1"

PARTS = """
[[collectors]]
kind = "folder"
name = "scanner"
path = "{scans}"
settle_s = 0.05
width = 32
height = 32
color = "rgb"
[[models]]
name = "parts"
bundle = "{bundles}/parts"
frames = "scanner"
deadline_s = 20
output = true
[[models]]
name = "tone"
bundle = "{bundles}/tone"
frames = "parts"
deadline_s = 0.5
fallback = "edge"
[[limits]]
metric = "parts/count_red"
high = 0.5
priority = "high"
"""

WINDOWS = """
[[collectors]]
kind = "metric_window"
name = "load"
metrics = ["cpu.load", "memory.used"]
samples = 24
step_s = 0.05
[[models]]
name = "life"
bundle = "{bundles}/life"
frames = "load"
deadline_s = 20
[[models]]
name = "odd"
bundle = "{bundles}/odd"
frames = "load"
deadline_s = 20
"""


def by_command(world: Any, folder: Path) -> None:
    """The detector's bundle as a newcomer makes it: pictures, a file of labels, one command."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, pixels in enumerate(models.squares(60, seed=2)):
        Image.fromarray(pixels).save(pictures / f"{number:03}.png")
    (folder / "labels.txt").write_text("bright\nred\n")
    models.saved(models.detector(), folder / "parts.onnx")
    command = [
        world.program("tidegate-hub"), "model", "build", "--onnx", str(folder / "parts.onnx"), "--task", "detection",
        "--calibration", str(pictures), "--labels", str(folder / "labels.txt"), "--out", str(folder / "parts"),
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr


def from_python(folder: Path, name: str, **request: Any) -> None:
    build_bundle(BuildRequest(out=folder / name, **request))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    crops = np.concatenate([np.full((30, 8, 8, 3), 230, np.uint8), np.full((30, 8, 8, 3), (240, 10, 10), np.uint8)])
    labels = np.array(["bright"] * 30 + ["red"] * 30)
    np.savez(folder / "crops.npz", inputs=crops, labels=labels)
    waves = models.waves(80, broken=10)
    np.savez(folder / "waves.npz", inputs=waves, labels=np.array(["anomaly"] * 10 + ["normal"] * 70))
    np.savez(folder / "lives.npz", inputs=waves, targets=10 * waves[:, :, 0].mean(axis=1) + waves[:, -1, 1])
    files = {name: models.saved(made, folder / f"{name}.onnx") for name, made in (
        ("tone", models.tone()), ("odd", models.autoencoder()), ("life", models.regressor()))}  # fmt: skip
    from_python(folder, "tone", onnx=files["tone"], task="classification", calibration=folder / "crops.npz",
                labels=["bright", "red"])  # fmt: skip
    from_python(folder, "odd", onnx=files["odd"], task="anomaly", calibration=folder / "waves.npz",
                labels=["normal", "anomaly"], options={"score": "reconstruction"})  # fmt: skip
    from_python(folder, "life", onnx=files["life"], task="regression", calibration=folder / "lives.npz",
                options={"low": -3.0, "high": 3.0})  # fmt: skip
    return folder


class Listener:
    """A machine on site that reads what the streams say."""

    def __init__(self, port: int) -> None:
        self.heard: list[dict[str, Any]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = lambda _client, _data, message: self.heard.append(json.loads(message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(f"tidegate/v1/things/{DEVICE}/results/#")
        self._client.loop_start()

    def of(self, model: str, by: str) -> list[dict[str, Any]]:
        return [one for one in self.heard if (one["model"], one["by"]) == (model, by)]

    def close(self) -> None:
        self._client.loop_stop()
        self._client.disconnect()


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    made: list[Listener] = []
    yield made
    for one in made:
        one.close()


def values(world: Any, metric: str) -> list[Any]:
    rows = world.get(f"/devices/{DEVICE}/telemetry/{metric}", limit=10_000) or []
    return [row["value"] for row in rows]


def model(world: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = world.reported(DEVICE).get("models", {}).get(name, {})
    return found


def put(scans: Path, first: int, count: int) -> None:
    """Scans arrive, each under its name at once."""
    for number, pixels in enumerate(models.squares(count, seed=first + 7), first):
        Image.fromarray(pixels).save(scans / f".{number}.png")
        (scans / f".{number}.png").rename(scans / f"{number:05}.png")


def test_a_built_detector_serves_from_a_folder_feeds_a_classifier_and_the_expert_acts(
    build: Any, tmp_path: Path, bundles: Path, listeners: list[Listener]
) -> None:
    world = build("mosquitto", experts={"parts": bundles / "parts"})
    by_command(world, bundles)
    scans = tmp_path / "scans"
    scans.mkdir()
    world.broker.start()
    world.start_hub()
    listeners.append(Listener(world.broker.port))
    world.start_edge(DEVICE, PARTS.format(scans=scans, bundles=bundles))
    until("both models run", lambda: all(model(world, one).get("state") == "running" for one in ("parts", "tone")))
    assert model(world, "parts")["variant"] == "cpu-int8"

    # No gate yet: the expert's answers are what the stream says, and the alarm follows them.
    put(scans, 0, 130)
    until("the expert's answers come back", lambda: len(listeners[0].of("parts", "expert")) >= 100)
    said = listeners[0].of("parts", "expert")[0]
    assert said["label"] == "bright:1 red:1"
    assert said["values"]["count.red"] == 1.0
    assert {box["label"] for box in said["boxes"]} == {"bright", "red"}
    until("they are telemetry", lambda: values(world, "parts/count_red").count(1.0) >= 100)
    assert set(values(world, "parts/by")) == {"expert"}
    until("the alarm is raised", lambda: world.get("/alarms", device=DEVICE))
    # The crops have no expert: the fallback, the edge's own answer, holds after the deadline.
    until("the crops are judged", lambda: len(values(world, "tone/label")) >= 200)
    assert set(values(world, "tone/by")) == {"fallback"}
    assert {"bright", "red"} == set(values(world, "tone/label"))

    # The gate is calibrated from them; then the device answers by itself.
    gate = until("the gate is in force", lambda: world.reported(DEVICE, "gates").get("parts"), 60)
    assert gate["digest"] == model(world, "parts")["digest"]
    put(scans, 1000, 30)
    until("the edge answers", lambda: listeners[0].of("parts", "edge"))
    assert {box["label"] for box in listeners[0].of("parts", "edge")[0]["boxes"]} == {"bright", "red"}

    # Desired bundles while it streams: a broken one, one elsewhere, then a sound one, which also survives a reboot.
    path = f"/devices/{DEVICE}/twin/name/models"
    broken = shutil.copytree(bundles / "parts", bundles / "broken")
    file = broken / "cpu-int8.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    shutil.copytree(bundles / "parts", tmp_path / "elsewhere")
    for wrong, reason in (
        (broken, "Copy the bundle anew"),
        (tmp_path / "elsewhere", "must be in"),
        (bundles / "none", "manifest.json cannot be read"),
    ):
        world.http.patch(path, json={"desired": {"parts": {"bundle": str(wrong)}}})
        word = until("it is refused", lambda reason=reason: refused(world, reason))
        assert model(world, "parts")["bundle"] == str(bundles / "parts"), word
    better = shutil.copytree(bundles / "parts", bundles / "parts-2")
    world.http.patch(path, json={"desired": {"parts": {"bundle": str(better)}}})
    until("it serves", lambda: model(world, "parts")["bundle"] == str(better))
    world.kill(DEVICE)
    world.restart(DEVICE)
    until("it has started anew", lambda: len(world.logged(DEVICE, "agent.started")) == 2)
    put(scans, 2000, 10)
    until("it serves again", lambda: (model(world, "parts").get("state"), model(world, "parts").get("bundle"))
          == ("running", str(better)))  # fmt: skip
    assert model(world, "parts")["starts"] == 1
    assert not (model(world, "parts").get("next"))
    world.all_arrived(DEVICE)


def refused(world: Any, reason: str) -> Any:
    word = world.progress(DEVICE, "parts.bundle", "models")
    return word if word.get("state") == "refused" and reason in word["reason"] else None


def test_windows_of_metrics_are_judged_by_a_regression_and_an_anomaly_model(build: Any, bundles: Path) -> None:
    world = build("mosquitto", experts={name: bundles / name for name in ("life", "odd")})
    world.broker.start()
    world.start_hub()
    world.start_edge(DEVICE, WINDOWS.format(bundles=bundles))
    until("both run", lambda: all(model(world, one).get("state") == "running" for one in ("life", "odd")))
    until("numbers arrive", lambda: len(values(world, "life/value")) > 10)
    until("scores arrive", lambda: len(values(world, "odd/label")) > 10)
    assert {"expert"} >= set(values(world, "odd/by")[:5])
    gate = until("a gate is in force", lambda: world.reported(DEVICE, "gates").get("life"), 60)
    assert gate["digest"] == model(world, "life")["digest"]
    until("the edge answers by itself", lambda: "edge" in values(world, "life/by"))
    declared = {row["name"] for row in world.get(f"/devices/{DEVICE}")["metrics"]}
    assert "life/value" in declared
