"""`tidegate-edge check`: everything that can be known before the start, each problem with its cure."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from edge_agent.config import Config, read
from shared import plugins
from shared.bundle import load
from shared.errors import ConfigError, ModelError
from shared.mqtt import parse_address


def problems(path: Path) -> list[str]:
    """All problems found; empty when the agent can be started."""
    try:
        config, _ = read(path)
    except ConfigError as error:
        return [str(error)]
    return [*_plugins(config), *_models(config), *_link(config), *installation()]


def _plugins(config: Config) -> list[str]:
    found = []
    for table in config.collectors:
        try:
            plugins.load(plugins.COLLECTORS, table.kind, f"collector '{table.name}'")(table).close()
        except ConfigError as error:
            found.append(str(error))
    return found


def _models(config: Config) -> list[str]:
    found = []
    for table in config.models:
        try:
            manifest = load(Path(table.bundle)).manifest
            plugins.load(plugins.RUNNERS, manifest.runner, f"model '{table.name}'")
        except (ModelError, ConfigError) as error:
            found.append(f"model '{table.name}': {error}")
    return found


def _link(config: Config) -> list[str]:
    found = []
    if not config.link.discover and not config.link.address:
        found.append('link: discover is off and no address is set. Write for example: address = "10.0.0.5:8883"')
    if config.link.address:
        try:
            host, _ = parse_address(config.link.address, "link.address")
            enrolled = (Path(config.device.state_dir) / "pki" / "device.pem").is_file()
            if config.link.tls is None and not enrolled and host not in {"localhost", "127.0.0.1", "::1"}:
                found.append(f"link: {host} is reached without TLS. Enrol the device, or set [link.tls]")
        except ConfigError as error:
            found.append(str(error))
    tls = config.link.tls
    for name in ("ca", "certificate", "key") if tls is not None else ():
        if not Path(getattr(tls, name)).is_file():
            found.append(f"link.tls.{name}: {getattr(tls, name)} is not there. Enrol the device, or correct the path")
    return found


def installation() -> list[str]:
    """Compare installed files with the hashes that the wheel recorded: pip overwrites same-named packages silently."""
    try:
        files = distribution("tidegate").files or []
    except PackageNotFoundError:
        return ["tidegate is not installed in this environment. Install it: pip install 'tidegate[edge]'"]
    found = []
    for entry in files:
        if entry.hash is None or entry.hash.mode != "sha256" or "__pycache__" in entry.parts:
            continue
        file = Path(str(entry.locate()))
        digest = (
            urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
            if file.is_file()
            else ""
        )
        if digest != entry.hash.value:
            found.append(f"{file} is not the file that was installed. Reinstall tidegate into a venv of its own")
    return found
