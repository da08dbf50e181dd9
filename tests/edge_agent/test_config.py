"""Configuration: what is wrong, where, and what to do about it; and what takes precedence over what."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import Config, options, parse, read
from shared import device_profile
from shared.errors import ConfigError
from shared.transport.mqtt import parse_address

DEVICE = """
[device]
id = "press-1"
profile = "x86-64"
state_dir = "state"
"""
CAMERA = """
[[collectors]]
kind = "images"
name = "camera"
path = "frames.npy"
"""
MODEL = """
[[models]]
name = "line-camera"
bundle = "digits"
frames = "camera"
"""


def config(text: str) -> Config:
    return parse(text, "edge.toml")[0]


BAD: dict[str, tuple[str, str, str]] = {
    # name: (text, what names the place or the fault, what is said of the cure)
    "unknown-key": (DEVICE + "[link]\nadress = 'x'", "$.link", "docs/configuration.md"),
    "unknown-key-at-top": (DEVICE + "[lnk]\n", "lnk", "docs/configuration.md"),
    "wrong-type": (DEVICE + "[outbox]\nmax_mb = 'much'", "$.outbox.max_mb", "docs/configuration.md"),
    "wrong-type-of-table": ("device = 5", "$.device", "docs/configuration.md"),
    "collectors-not-a-list": (DEVICE + "[collectors]\nkind = 'host'", "$.collectors", "docs/configuration.md"),
    "no-device": ("[link]\n", "device", "docs/configuration.md"),
    "bad-id": (DEVICE.replace("press-1", "Press 1"), "$.device", "use 1 to 60 of a-z"),
    "missing-profile": (DEVICE.replace('profile = "x86-64"', ""), "`profile` - at `$.device`", "docs/configuration.md"),
    "unknown-profile": (DEVICE.replace("x86-64", "toaster"), "device.profile", "x86-64"),
    "bad-bound": (DEVICE + "[outbox]\nmax_mb = 0.5", "$.outbox", "within 1.."),
    "bound-that-is-no-number": (DEVICE + "[outbox]\nmax_mb = nan", "$.outbox", "within 1.."),
    "endless-bound": (DEVICE + "[outbox]\nmax_mb = inf", "$.outbox", "within 1.."),
    "bad-commit": (DEVICE + "[outbox]\ncommit_s = 0", "$.outbox", "within 0.01..60"),
    "bad-resend": (DEVICE + "[link]\nresend_s = 0", "$.link", "within 0.1..3600"),
    "bad-settings-period": (DEVICE + "[settings]\nperiod_s = 0", "$.settings", "within 0.1..3600"),
    "bad-log-level": (DEVICE + "[settings]\nlog_level = 'loud'", "$.settings", "one of debug"),
    "no-kind": (DEVICE + "[[collectors]]\nname = 'x'", "collectors[0]", 'kind = "host"'),
    "kind-is-a-number": (DEVICE + "[[collectors]]\nkind = 1", "collectors[0]", 'kind = "host"'),
    "two-of-one-name": (DEVICE + CAMERA + CAMERA, "'camera' is there twice", 'name = "..."'),
    "two-of-one-kind-without-names": (DEVICE + "[[collectors]]\nkind='host'\n" * 2, "'host' is there twice", "name ="),
    "two-models-of-one-name": (DEVICE + CAMERA + MODEL * 2, "'line-camera' is there twice", 'name = "..."'),
    "model-without-collector": (DEVICE + MODEL, "models 'line-camera'", "Set `frames` to a collector"),
    "model-name-is-no-metric": (DEVICE + CAMERA + MODEL.replace("line-camera", "Line 1"), "$.models[0]", "lower-case"),
    "bad-watchdog": (DEVICE + CAMERA + MODEL + "watchdog_s = -1", "$.models[0]", "within 0.1..3600"),
    "bad-period": (DEVICE + CAMERA + "period_s = 0", "collectors[0].period_s", "in seconds"),
    "period-is-text": (DEVICE + CAMERA + "period_s = '1'", "collectors[0].period_s", "in seconds"),
    "period-is-true": (DEVICE + CAMERA + "period_s = true", "collectors[0].period_s", "in seconds"),
    "period-is-no-number": (DEVICE + CAMERA + "period_s = nan", "collectors[0].period_s", "in seconds"),
    "upside-down-limits": (DEVICE + "[[limits]]\nmetric='cpu.load'\nlow=9\nhigh=1", "$.limits[0]", "not below"),
    "limits-without-any": (DEVICE + "[[hard_limits]]\nmetric='cpu.load'", "$.hard_limits[0]", "neither a low nor"),
    "syntax": (DEVICE + "[link\n", "edge.toml", "docs/configuration.md"),
}


@pytest.mark.parametrize(("text", "place", "cure"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_with_the_place_and_the_cure(text: str, place: str, cure: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(text)
    assert place in str(caught.value)
    assert cure in str(caught.value)
    assert caught.value.cure
    assert "edge.toml" in caught.value.place or caught.value.place == "device.profile"


def test_a_file_that_cannot_be_read_is_told_with_its_path(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent.toml", tmp_path, binary):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read(path)
        assert caught.value.place == str(path)
        assert "--config" in caught.value.cure


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(DEVICE + CAMERA + "period_s = 2\n[[collectors]]\nkind = 'host'\n" + MODEL)
    chosen, hardware = read(path)
    assert hardware.name == "x86-64"
    camera, host = chosen.collectors
    assert (camera.kind, camera.name, camera.period_s, camera.options) == (
        "images", "camera", 2, {"path": "frames.npy"},
    )  # fmt: skip
    assert (host.kind, host.name, host.period_s, host.options) == ("host", "host", None, {})
    assert chosen.models[0].watchdog_s == 30.0


def test_defaults_stand_below_the_profile_and_the_profile_below_the_file() -> None:
    defaults = config(DEVICE.replace("x86-64", "raspberry-pi-5"))
    assert defaults.outbox.max_mb == device_profile.load("raspberry-pi-5").settings["outbox"]["max_mb"] == 128
    assert defaults.outbox.commit_s == 2.0
    assert defaults.settings.period_s == 1.0, "neither profile nor file says otherwise"
    chosen = config(DEVICE.replace("x86-64", "raspberry-pi-5") + "[outbox]\nmax_mb = 50\n[settings]\nperiod_s = 9")
    assert (chosen.outbox.max_mb, chosen.outbox.commit_s, chosen.settings.period_s) == (50, 2.0, 9)


@pytest.mark.parametrize("name", device_profile.names())
def test_each_shipped_profile_is_a_valid_ground_for_a_file(name: str) -> None:
    assert config(DEVICE.replace("x86-64", name)).device.profile == name


def test_wrong_options_name_the_collector_and_the_key() -> None:
    from edge_agent.collectors.images import Options

    table = config(DEVICE + CAMERA + "brightness = 2").collectors[0]
    with pytest.raises(ConfigError, match="collector 'camera'") as caught:
        options(Options, table)
    assert "brightness" in str(caught.value)
    assert "docs/configuration.md#images" in caught.value.cure


def test_an_address_in_the_file_is_read_by_discovery() -> None:
    link = config(DEVICE + "[link]\naddress = '10.0.0.5:8883'").link
    assert parse_address(link.address, "link") == ("10.0.0.5", 8883)
