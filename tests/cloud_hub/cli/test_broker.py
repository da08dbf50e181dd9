"""tidegate-hub broker: the follow-up commands that it prints work as printed."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import tomllib
from cryptography import x509

from cloud_hub.__main__ import main
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a space in its name, the hub's CA and its hub.toml."""
    folder = tmp_path / "plant 1"
    folder.mkdir()
    CaFolder(folder / "hub").make("plant", now_us())
    (folder / "hub.toml").write_text(f'state_dir = "{folder}/hub"\n', "utf-8")
    return folder


def broker(capsys: pytest.CaptureFixture[str], site: Path, command: str, *arguments: str, config: bool = True) -> str:
    """What a subcommand prints."""
    user = ("--user", "root") if command == "setup" and os.geteuid() == 0 else ()
    options = ("--config", str(site / "hub.toml")) if config else ()
    assert main(["broker", command, *arguments, "--folder", str(site / "broker"), *user, *options]) == 0
    return capsys.readouterr().out


def follow_up(text: str) -> list[str]:
    (command,) = re.findall(r"tidegate-hub (.+)", text)
    return shlex.split(command)


def test_the_check_after_setup_is_printed_with_the_configuration(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = broker(capsys, site, "setup", "--name", "localhost")
    assert follow_up(printed) == [
        "broker", "check", "--address", "localhost:8883", "--config", str(site / "hub.toml"),
    ]  # fmt: skip


def test_the_setup_makes_the_certificate_of_the_sparkplug_host(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = broker(capsys, site, "setup", "--name", "localhost")
    (servers,) = re.findall(r"servers = .*", printed)
    (server,) = tomllib.loads(servers)["servers"]
    certificate = x509.load_pem_x509_certificate(Path(server["tls"]["certificate"]).read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=tidegate-hub:spb"
    assert Path(server["tls"]["key"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("arguments", [("grant", "press-3", "--group", "line-1", "--node", "n"), ("deny", "press-3")])
def test_the_reload_after_an_edit_is_printed_with_the_configuration(
    site: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    broker(capsys, site, "setup", "--name", "localhost")
    reload = ["broker", "reload", "--folder", str(site / "broker")]
    assert follow_up(broker(capsys, site, *arguments)) == [*reload, "--config", str(site / "hub.toml")]
    assert broker(capsys, site, *arguments) == "unchanged\n"


def test_the_reload_is_printed_without_a_configuration_when_none_was_given(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker(capsys, site, "setup", "--name", "localhost")
    printed = broker(capsys, site, "deny", "press-3", config=False)
    assert follow_up(printed) == ["broker", "reload", "--folder", str(site / "broker")]
