"""Settings: one file, the environment before it, and an error that names the place and the cure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from cloud_hub import settings
from cloud_hub.settings import environment
from shared.errors import ConfigError


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "hub.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_defaults_without_a_file() -> None:
    read = settings.read(None)
    assert (read.rest.port, read.mqtt.address, read.experts.frames) == (8080, "127.0.0.1:1883", 300)
    assert read.database_url == "sqlite:////var/lib/tidegate-hub/hub.sqlite"


def test_a_file_before_the_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'name = "works"\nstate_dir = "/x"\n[rest]\nport = 9000\n[experts.bundles]\na = "b"\n')
    read = settings.read(file)
    assert (read.name, read.rest.port, read.rest.host, read.experts.bundles) == ("works", 9000, "127.0.0.1", {"a": "b"})
    assert read.database_url == "sqlite:////x/hub.sqlite"


def test_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, 'name = "works"\n[rest]\nport = 9000\nhost = "127.0.0.2"\n')
    monkeypatch.setenv("TIDEGATE_REST__PORT", "9001")
    monkeypatch.setenv("TIDEGATE_NAME", "elsewhere")
    monkeypatch.setenv("TIDEGATE_MQTT__TLS__CA", "ca.pem")
    monkeypatch.setenv("TIDEGATE_MQTT__TLS__CERTIFICATE", "c.pem")
    monkeypatch.setenv("TIDEGATE_MQTT__TLS__KEY", "k.pem")
    monkeypatch.setenv("TIDEGATE_ACTIONS__AUTOMATIC", '["diagnose"]')
    monkeypatch.setenv("TIDEGATE_DATABASE", "sqlite:///elsewhere.sqlite")
    read = settings.read(file)
    assert (read.name, read.rest.port, read.rest.host) == ("elsewhere", 9001, "127.0.0.2")
    assert read.mqtt.tls is not None
    assert (read.mqtt.tls.ca, read.actions.automatic) == ("ca.pem", ["diagnose"])
    assert read.database_url == "sqlite:///elsewhere.sqlite"


def test_settings_are_frozen() -> None:
    read = settings.read(None)
    with pytest.raises(ValidationError):
        read.rest.port = 1


@pytest.mark.parametrize(("text", "place"), [
    ("[rest]\nport = 'x'", "rest.port"),
    ("[rest]\nport = 70000", "rest.port"),
    ("[rest]\nport = -1", "rest.port"),
    ("[rest]\nprot = 1", "rest.prot"),
    ("unknown = 1", "unknown"),
    ("[mqtt.tls]\nca = 'x'", "mqtt.tls.certificate"),
    ("rest = 7", "rest"),
    ("log_level = 'loud'", "log_level"),
    ("[twins]\nmax_bytes = 10", "twins.max_bytes"),
    ("[experts]\nalpha = 0.9", "experts.alpha"),
    ("[experts]\nalpha = nan", "experts.alpha"),
    ("[experts]\nframes = 5", "experts.frames"),
    ("[actions]\nautomatic = ['erase']", "actions.automatic.0"),
    ("[actions]\ncooldown_s = -1", "actions.cooldown_s"),
    ("[autoscale]\ntargets_file = 0", "autoscale.targets_file"),
])  # fmt: skip
def test_a_bad_value_is_named(tmp_path: Path, text: str, place: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        settings.read(file)
    assert refused.value.place == f"{file}: {place}"
    assert refused.value.cure == "Every key is in docs/configuration.md"


def test_the_former_table_of_a_language_model_names_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "[glm]\nurl = 'http://127.0.0.1:1/v1'\nmodel = 'm'")
    with pytest.raises(ConfigError, match="gone: language models are pools") as refused:
        settings.read(file)
    assert refused.value.place == f"{file}: glm"
    assert "[[inference.pools]]" in refused.value.cure
    for variable in ("TIDEGATE_GLM__URL", "tidegate_glm"):
        monkeypatch.setenv(variable, "{}")
        with pytest.raises(ConfigError, match="gone: language models are pools") as refused:
            settings.read(None)
        assert refused.value.place == f"environment variable {variable}"
        monkeypatch.delenv(variable)


def test_a_former_setting_of_the_scaler_names_its_successor(tmp_path: Path) -> None:
    file = write(tmp_path, "[autoscale]\nkind = 'kubernetes'\nmaximum = 4")
    with pytest.raises(ConfigError, match="targets are in a file of their own") as refused:
        settings.read(file)
    assert refused.value.place == f"{file}: autoscale.kind"
    assert "autoscale.targets_file" in refused.value.cure


@pytest.mark.parametrize("text", ["[rest", "a = ", "a = 1\na = 2", b"\xff\xfe", "= 1"])
def test_bad_toml(tmp_path: Path, text: str | bytes) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        settings.read(file)
    assert (refused.value.place, refused.value.cure) == (str(file), "Mend the TOML")


def test_a_missing_file_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ConfigError, match="is not there") as refused:
            settings.read(path)
        assert "--config" in refused.value.cure


@pytest.mark.parametrize(("name", "value", "place"), [
    ("TIDEGATE_REST__PORT", "x", "rest.port"), ("TIDEGATE_REST__PROT", "1", "rest.prot"),
    ("TIDEGATE_LOG_LEVEL", "loud", "log_level"), ("TIDEGATE_EXPERTS__BUNDLES", "{", "experts"),
    ("TIDEGATE_REST", "not json", "rest"), ("TIDEGATE_REST", '{"port": "x"}', "rest.port"),
    ("tidegate_rest__port", "x", "rest.port"), ("TIDEGATE_MQTT__TLS__CA", "x", "mqtt.tls.certificate"),
    ("TIDEGATE_ACTIONS__AUTOMATIC", '["erase"]', "actions.automatic.0"),
])  # fmt: skip
def test_a_bad_environment_is_blamed_on_its_variable_and_not_on_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, place: str
) -> None:
    file = write(tmp_path, 'name = "works"\n')
    monkeypatch.setenv(name, value)
    for path in (None, file):
        with pytest.raises(ConfigError) as refused:
            settings.read(path)
        assert refused.value.place.startswith(f"environment variable {name}")
        assert place in str(refused.value)
        assert str(file) not in str(refused.value)


def test_the_file_is_blamed_for_what_stands_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_REST", '{"host": "127.0.0.1"}')
    with pytest.raises(ConfigError) as refused:
        settings.read(write(tmp_path, "[mqtt]\nadress = '127.0.0.1:1883'"))
    assert refused.value.place.endswith("hub.toml: mqtt.adress")
    assert "did you mean 'address'?" in refused.value.reason


@pytest.mark.parametrize(("name", "meant"), [
    ("TIDEGATE_STATE_DIRR", "TIDEGATE_STATE_DIR"), ("TIDEGATE_STATEDIR", "TIDEGATE_STATE_DIR"),
    ("TIDEGATE_REST_PORT", "TIDEGATE_REST__PORT"), ("TIDEGATE_LOGLEVEL", "TIDEGATE_LOG_LEVEL"),
    ("TIDEGATE_RESTS__PORT", "TIDEGATE_REST__PORT"), ("TIDEGATE_DATABSE", "TIDEGATE_DATABASE"),
])  # fmt: skip
def test_a_typo_in_a_variable_is_reported_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError, match=f"{name}: there is no such setting; did you mean '{meant}'"):
        settings.read(None)


def test_what_kubernetes_and_the_subcommands_set_is_no_typo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TIDEGATE_URL": "http://h", "TIDEGATE_TOKEN": "tg_x", "TIDEGATE_SERVICE_HOST": "10.0.0.1",
        "TIDEGATE_MQTT_SERVICE_PORT_TLS": "1", "TIDEGATE_MQTT_PORT": "tcp://10.0.0.1:8883",
        "TIDEGATE_PORT_8080_TCP_ADDR": "10.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert settings.read(None).name == "hub"
    assert environment.unknown_variables(os.environ, settings.Settings) == {}


def test_a_variable_like_no_setting_is_for_check_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_XYZZY", "1")
    assert settings.read(None).name == "hub"
    assert environment.unknown_variables(os.environ, settings.Settings) == {"TIDEGATE_XYZZY": ""}
