"""Device profiles: every fact has a source, and a machine finds its own profile."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import msgspec
import pytest

from edge_agent.cli.main import main
from edge_agent.runtime import machine
from shared import device_profile
from shared.device_profile import DeviceProfile, ModelDefaults
from shared.errors import ConfigError

ALL = [device_profile.load(name) for name in device_profile.names()]
EXPECTED = {
    "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "raspberry-pi-5", "rk3588", "generic-arm64",
    "x86-64", "x86-64-nvidia",
}  # fmt: skip


def facts(chosen: DeviceProfile) -> set[str]:
    """Fields that state something about hardware or software."""
    found = {f"models.{name}" for name in ModelDefaults.__dataclass_fields__}
    found |= {f"power.{name}" for name in ("mode", "modes") if getattr(chosen.power, name)}
    found |= {f"thermal.{name}" for name in ("throttle_c", "shutdown_c") if getattr(chosen.thermal, name) is not None}
    found |= {"match"} if chosen.match.compatible or chosen.match.paths else set()
    found |= {f"platforms.{one.name}" for one in chosen.platforms} | {
        f"unsupported.{p.name}" for p in chosen.unsupported
    }
    return found


def test_the_profiles_are_there() -> None:
    assert {one.name for one in ALL} == EXPECTED == set(device_profile.names())


@pytest.mark.parametrize("chosen", ALL, ids=lambda one: one.name)
def test_each_fact_has_a_source_and_each_source_a_fact(chosen: DeviceProfile) -> None:
    assert set(chosen.sources) == facts(chosen)
    assert all(len(one.source) > 15 for one in chosen.sources.values())
    assert chosen.models.providers[-1] == "CPUExecutionProvider", "what always works comes last"
    assert chosen.models.variants[-1] == "fp32"
    assert chosen.platforms
    assert not chosen.power.mode or chosen.power.mode in chosen.power.modes


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="raspberry-pi-5"):
        device_profile.load("toaster")
    with pytest.raises(msgspec.ValidationError, match="batch at least 1"):
        msgspec.convert({"providers": ["a"], "variants": ["b"], "memory_mb": 1, "batch": 0}, ModelDefaults)


def root(folder: Path, *entries: str, paths: tuple[str, ...] = ()) -> Path:
    """The root of a machine with this device tree and these files."""
    tree = folder / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"".join(entry.encode() + b"\0" for entry in entries))
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        (("nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"), "jetson-orin-nano"),
        (("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"), "jetson-orin-nx"),
        (("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"), "jetson-agx-orin"),
        (("nvidia,p3971-0089+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"), "jetson-thor"),
        (("raspberrypi,5-model-b", "brcm,bcm2712"), "raspberry-pi-5"),
        (("radxa,rock-5a", "rockchip,rk3588s"), "rk3588"),
        (("raspberrypi,4-model-b", "brcm,bcm2711"), "generic-arm64"),
        ((), "generic-arm64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_board_finds_its_profile(tmp_path: Path, entries: tuple[str, ...], name: str) -> None:
    found, reason = machine.detect(root(tmp_path, *entries), "aarch64")
    assert found is not None
    assert found.name == name
    assert reason


def test_a_pc_with_and_without_a_gpu_and_a_machine_of_another_kind(tmp_path: Path) -> None:
    assert machine.detect(tmp_path, "x86_64")[0] == device_profile.load("x86-64")
    with_gpu = root(tmp_path, paths=("dev/nvidia0",))
    assert machine.detect(with_gpu, "x86_64")[0] == device_profile.load("x86-64-nvidia")
    assert machine.detect(tmp_path, "riscv64") == (None, "no profile is for riscv64")


def test_an_accelerator_that_models_cannot_use_is_told(tmp_path: Path) -> None:
    chosen = device_profile.load("raspberry-pi-5")
    assert machine.unsupported(chosen, tmp_path) == {}
    found = machine.unsupported(chosen, root(tmp_path, paths=("dev/hailo0",)))
    assert "not supported yet" in found["hailo-8"]


def test_the_command_lists_detects_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == EXPECTED
    if platform.machine() in {"x86_64", "aarch64"}:
        assert main(["profile", "detect"]) == 0
        assert capsys.readouterr().out.split()[0] in EXPECTED
    assert main(["profile", "show", "jetson-thor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["memory_mb"] == 24000
    assert main(["profile", "show", "jetson-thor"]) == 0
    shown = capsys.readouterr().out
    assert "? Jetson Linux Developer Guide r38" in shown, "what was not verified is marked"
    assert main(["profile", "show", "toaster"]) == 78
    assert "there is no profile" in capsys.readouterr().err
