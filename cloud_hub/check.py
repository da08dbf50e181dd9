"""`tidegate-hub check`: everything that can be known before the start, each problem with its cure."""

from __future__ import annotations

import os
import queue
import socket
from pathlib import Path

from cloud_hub import aws_key, environment
from cloud_hub import settings as hub_settings
from cloud_hub.clock import now_us
from cloud_hub.notify.kinds import open_sender
from cloud_hub.oidc import Oidc
from cloud_hub.settings import Settings
from shared import plugins, topics
from shared.bundle import load
from shared.errors import ConfigError, ModelError, NotReady
from shared.mqtt import Connection, Options, parse_address

ENDING_S = 30 * 86_400.0
"""A server's certificate that ends sooner than this is a problem already."""


def problems(path: Path | None) -> list[str]:
    """All problems found; empty when the hub can be started."""
    try:
        settings = hub_settings.read(path)
    except ConfigError as error:
        return [str(error)]
    found = [
        *_environment(),
        *_database(settings),
        *_broker(settings),
        *_tls(settings),
        *_rest(settings),
        *_experts(settings),
        *_plugins(settings),
        *_oidc(settings),
        *_channels(settings),
    ]
    return found + _aws(settings) + (_alias(settings) if settings.twins.aws_alias and not found else [])


def _environment() -> list[str]:
    """Variables that nobody reads; one that resembles a setting has stopped the reading of them already."""
    strange = environment.unknown(os.environ, Settings)
    return [f"environment variable {name}: there is no such setting. Unset it, or correct its name" for name in strange]


def _database(settings: Settings) -> list[str]:
    if settings.database_url.startswith("sqlite"):
        return []  # a file, made at the first start
    from cloud_hub import engine  # noqa: PLC0415 - half a second of imports

    try:
        opened = engine.open_engine(settings.database_url)
        engine.fits(opened)
    except (ConfigError, NotReady) as error:
        return [str(error)]
    opened.dispose()
    return []


def _broker(settings: Settings) -> list[str]:
    try:
        host, port = parse_address(settings.mqtt.address, "mqtt.address")
        with socket.create_connection((host, port), 2):
            pass
    except ConfigError as error:
        return [str(error)]
    except OSError as error:
        cure = "Start it (mosquitto, or for a first look: tidegate-hub broker)"
        return [f"mqtt.address: no broker answers on {settings.mqtt.address} ({error}). {cure}"]
    if settings.mqtt.tls is None and host not in {"localhost", "127.0.0.1", "::1"}:
        return [f"mqtt: {host} is reached without TLS. Set [mqtt.tls] (docs/configuration.md)"]
    return []


def _tls(settings: Settings) -> list[str]:
    tls = settings.mqtt.tls
    if tls is None:
        return []
    cure = "Make it anew: tidegate-hub broker setup (docs/broker.md)"
    paths = {"mqtt.tls.ca": tls.ca, "mqtt.tls.certificate": tls.certificate, "mqtt.tls.key": tls.key}
    return _files(paths, "Correct the path") + _ending("mqtt.tls.certificate", tls.certificate, cure)


def _files(paths: dict[str, str], cure: str) -> list[str]:
    return [f"{name}: {path} is not there. {cure}" for name, path in paths.items() if not Path(path).is_file()]


def _ending(name: str, path: str, cure: str) -> list[str]:
    """Server certificates do not renew themselves: that one ends must be known before it has ended."""
    from cryptography import x509  # noqa: PLC0415 - only with TLS

    if not Path(path).is_file():
        return []
    try:
        end = x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        return [f"{name}: {path} is no certificate that can be read ({error}). {cure}"]
    left = end.timestamp() - now_us() / 1e6
    if left > ENDING_S:
        return []
    return [f"{name}: {path} {'ends' if left > 0 else 'ended'} on {end:%Y-%m-%d}. {cure}"]


def _rest(settings: Settings) -> list[str]:
    if (tls := settings.rest.tls) is not None:
        cure = "Make it: tidegate-hub ca issue-server --name ..."
        paths = {"rest.tls.certificate": tls.certificate, "rest.tls.key": tls.key}
        return _files(paths, cure) + _ending("rest.tls.certificate", tls.certificate, cure)
    if settings.rest.host not in {"localhost", "127.0.0.1", "::1"}:
        cure = "Set [rest.tls], or listen on 127.0.0.1 behind a TLS proxy"
        return [f"rest.host: {settings.rest.host} is served without TLS. {cure}"]
    return []


def _aws(settings: Settings) -> list[str]:
    path = settings.aws_key_path
    try:
        if aws_key.read(path) is None:
            cure = "Make it: tidegate-hub token create --aws"
            return [f"twins.aws_key_file: {path} is not there. {cure}"] if settings.twins.aws_key_file else []
    except ConfigError as error:
        return [f"twins.aws_key_file: {error}"]
    return [f"{path}: others may read it. Run: chmod 600 {path}"] if path.stat().st_mode & 0o007 else []


def _alias(settings: Settings) -> list[str]:
    """Say `$aws` to the broker and hear it. Not with TLS: there one certificate may be one session, the hub's."""
    if settings.mqtt.tls is not None:
        return []
    heard: queue.Queue[str] = queue.Queue()
    topic = topics.shadow("tidegate-check", "", "get", topics.AWS)

    def say() -> None:
        connection.publish(topic, b"")

    connection = Connection(
        Options(client_id=f"{settings.mqtt.client_id}-check", filters=[topic]),
        locate=lambda: parse_address(settings.mqtt.address, "mqtt.address"),
        on_message=lambda _: heard.put(""), on_up=say, on_down=heard.put,
    )  # fmt: skip
    connection.start()
    try:
        reason = heard.get(timeout=5)
    except queue.Empty:
        reason = "the broker delivers none: its access list must let the hub read and write $aws/#"
    connection.stop()
    return [f"twins.aws_alias: no $aws topics here ({reason}). Use mosquitto (docs/broker.md)"] if reason else []


def _experts(settings: Settings) -> list[str]:
    found = []
    for model, folder in settings.experts.bundles.items():
        try:
            load(Path(folder))
        except ModelError as error:
            found.append(f"experts.bundles.{model}: {error}. Give the folder of a model bundle")
    return found


def _oidc(settings: Settings) -> list[str]:
    """Its settings and the file of keys; an address is asked when somebody signs in."""
    try:
        if settings.oidc is not None:
            Oidc(settings.oidc)
    except ConfigError as error:
        return [str(error)]
    return []


def _channels(settings: Settings) -> list[str]:
    """Files and addresses of channels; `tidegate-hub notify test` sends over one."""
    found = []
    for name, channel in settings.notify.items():
        try:
            open_sender(name, channel, settings.name)
        except ConfigError as error:
            found.append(str(error))
    return found


def _plugins(settings: Settings) -> list[str]:
    wanted = [(plugins.ENGINES, settings.glm.kind, "glm.kind", bool(settings.glm.url))]
    wanted.append((plugins.SCALERS, settings.autoscale.kind, "autoscale.kind", bool(settings.autoscale.kind)))
    found = []
    for group, kind, place, used in wanted:
        try:
            if used:
                plugins.load(group, kind, place)
        except ConfigError as error:
            found.append(str(error))
    return found
