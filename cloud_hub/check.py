"""`tidegate-hub check`: everything that can be known before the start, each problem with its cure."""

from __future__ import annotations

import queue
import socket
from pathlib import Path

from cloud_hub import aws_key
from cloud_hub import settings as hub_settings
from cloud_hub.notify.kinds import open_sender
from cloud_hub.oidc import Oidc
from cloud_hub.settings import Settings
from shared import plugins, topics
from shared.bundle import load
from shared.errors import ConfigError, ModelError, NotReady
from shared.mqtt import Connection, Options, parse_address


def problems(path: Path | None) -> list[str]:
    """All problems found; empty when the hub can be started."""
    try:
        settings = hub_settings.read(path)
    except ConfigError as error:
        return [str(error)]
    found = [
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
    paths = {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key} if tls else {}
    return [f"mqtt.tls.{n}: {p} is not there. Correct the path" for n, p in paths.items() if not Path(p).is_file()]


def _rest(settings: Settings) -> list[str]:
    if (tls := settings.rest.tls) is not None:
        paths = {"certificate": tls.certificate, "key": tls.key}
        cure = "Make it: tidegate-hub ca issue-server --name ..."
        return [f"rest.tls.{n}: {p} is not there. {cure}" for n, p in paths.items() if not Path(p).is_file()]
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
