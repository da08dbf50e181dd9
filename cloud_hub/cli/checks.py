"""`tidegate-hub check`: tests what `serve` needs, in bounded time, and reports problems with their fix."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_hub import settings as hub_settings
from cloud_hub.access.oidc import Oidc
from cloud_hub.clock import now_us
from cloud_hub.notifications.senders import open_sender
from cloud_hub.security import aws_key
from cloud_hub.settings import Settings, environment
from cloud_hub.settings.scada import ServerTls
from shared.errors import ConfigError, NotReady, TidegateError, WireError
from shared.process.checks import Findings, connection_error, run_with_timeout, write_error
from shared.protocol import topics
from shared.transport.mqtt import Connection, Options, parse_address
from shared.transport.tls import pair_problem

if TYPE_CHECKING:
    from cloud_hub.autoscale.core.targets import TargetEntry
    from cloud_hub.inference.engines import Engine

LOCAL = {"localhost", "127.0.0.1", "::1"}
SECRETS = {"key", "key_file", "token_file", "secret_file", "password_file", "url_file"}
"""Settings whose value is the path of a secret file."""
PLUGIN_S = 20.0
"""The timeout for an engine or a scaler."""
MOST_PLATFORMS = 50
"""Targets whose platform is asked."""
PROBE: dict[str, Any] = {"messages": [{"role": "user", "content": "A test of the connection."}], "max_tokens": 1}
"""A request for a connection test; the answer is ignored."""
ENDING_S = 30 * 86_400.0
"""A server certificate that expires sooner than this is a problem."""


def examine(path: Path | None) -> Findings:
    """Run all checks. They leave nothing behind; each address of a pool receives one small prompt."""
    findings = Findings()
    try:
        settings = hub_settings.read(path)
    except ConfigError as error:
        findings.problems.append(str(error))
        return findings
    parts = (_state, _database, _rest, _experts, _oidc, _channels, _aws, _desk)
    findings.problems += [*_environment(), *(line for part in parts for line in part(settings))]
    _broker(settings, findings)
    _sparkplug(settings, findings)
    findings.warnings += [*_port(settings), *_coverage(settings), *_secrets(settings.model_dump())]
    _platforms(settings, findings)
    _pools(settings, findings)
    if settings.twins.aws_alias and not findings.problems:
        findings.problems += _alias(settings)
    return findings


def _call_plugin(name: str, ask: Callable[[], None], findings: Findings) -> None:
    """Call a plug-in; one that is temporarily unavailable is a warning."""
    try:
        run_with_timeout(PLUGIN_S, lambda: _translated(name, ask))
    except (NotReady, TimeoutError) as error:
        findings.warnings.append(f"{name}: {error}. The hub goes on without it, and tries again")
    except TidegateError as error:
        findings.problems.append(str(error))


def _translated(name: str, ask: Callable[[], None]) -> None:
    try:
        ask()
    except TidegateError:
        raise
    except Exception as error:
        reason, cure = f"the plug-in fails ({type(error).__name__}: {error})", "Correct its options, or report it"
        raise ConfigError(name, reason, cure) from error


def _pools(settings: Settings, findings: Findings) -> None:
    """Each pool is opened, and each of its addresses asked. An embedded model is not loaded."""
    for pool in settings.inference.pools:
        try:
            from cloud_hub.inference.engines.pools import open_engines  # noqa: PLC0415 - httpx

            engines = open_engines(pool)
        except ConfigError as error:
            findings.problems.append(str(error))
            continue
        for engine in engines if pool.addresses else ():
            _call_plugin(f"inference.pools.{pool.name}", lambda engine=engine: asyncio.run(_ask(engine)), findings)  # type: ignore[misc]


async def _ask(engine: Engine) -> None:
    from cloud_hub.inference.engines import ChatRequest  # noqa: PLC0415

    try:
        with suppress(WireError):  # it answered, even if unusably: enough for a connection test
            async for _ in engine.chat(ChatRequest.from_body(PROBE), PLUGIN_S / 2):
                pass
    finally:
        await engine.aclose()


def _desk(settings: Settings) -> list[str]:
    """Whether the site's rules of the incident desk can be read."""
    from cloud_hub.incidents.desk import open_desk  # noqa: PLC0415 - with RE2, where it is wanted

    try:
        open_desk(settings.desk)
    except ConfigError as error:
        return [str(error)]
    return []


def _platforms(settings: Settings, findings: Findings) -> None:
    """Whether the targets file can be read, and each platform answers."""
    from cloud_hub.autoscale.targets_file import read_file  # noqa: PLC0415

    path = settings.autoscale.targets_file
    try:
        entries = read_file(path) if path else ()
    except ConfigError as error:
        findings.problems.append(str(error))
        return
    for entry in entries[:MOST_PLATFORMS]:
        _call_plugin(f"target {entry.name}", partial(_read_counts, path, entry), findings)


def _read_counts(path: str, entry: TargetEntry) -> None:
    from cloud_hub.autoscale.targets_file import open_target  # noqa: PLC0415

    open_target(path, entry).scaler.current()


def _state(settings: Settings) -> list[str]:
    """Whether the current user can write or create the state directory."""
    if reason := write_error(Path(settings.state_dir)):
        cure = "Give a folder of the hub's user, and run `check` as that user"
        return [f"state_dir: {settings.state_dir} cannot be written ({reason}). {cure}"]
    return []


def _secrets(table: Any, place: str = "") -> list[str]:
    """Secret files that other users can read."""
    problems = []
    for key, value in table.items():
        if isinstance(value, dict):
            problems += _secrets(value, f"{place}{key}.")
        elif key in SECRETS and value and Path(value).is_file() and Path(value).stat().st_mode & 0o007:
            problems.append(f"{place}{key}: others may read {value}. Run: chmod 600 {value}")
    return problems


def _port(settings: Settings) -> list[str]:
    try:
        port_free(settings.rest.host, settings.rest.port)
    except ConfigError as error:
        return [f"{error}. Ignore this if the hub is already running"]
    return []


def _environment() -> list[str]:
    """Unknown TIDEGATE_ variables; one that resembles a setting has already failed the reading of settings."""
    strange = environment.unknown_variables(os.environ, Settings)
    return [f"environment variable {name}: there is no such setting. Unset it, or correct its name" for name in strange]


def _database(settings: Settings) -> list[str]:
    if settings.database_url.startswith("sqlite"):
        return []  # a file, made at the first start
    from cloud_hub.database import engine  # noqa: PLC0415 - half a second of imports

    try:
        opened = engine.open_engine(settings.database_url)
        engine.check_database(opened)
    except (ConfigError, NotReady) as error:
        return [str(error)]
    opened.dispose()
    return []


def _broker(settings: Settings, findings: Findings) -> None:
    """The broker must answer, where the certificates can be used to ask it; those to fall back on may be away."""
    tls = settings.mqtt.tls
    fits = tls is not None and not _pair(settings)
    files = (tls.ca, tls.certificate, tls.key) if tls is not None and fits else None
    findings.problems += _pair(settings)
    for number, text in enumerate((settings.mqtt.address, *settings.mqtt.fallback)):
        place = "mqtt.fallback" if number else "mqtt.address"
        try:
            address = parse_address(text, place)
        except ConfigError as error:
            findings.problems.append(str(error))
            continue
        if tls is None and address[0] not in LOCAL:
            findings.problems.append(
                f"{place}: {address[0]} is reached without TLS. Set [mqtt.tls] (docs/configuration.md)"
            )
        if reason := connection_error(address, files):
            cure = "Start it (mosquitto, or for a first look: tidegate-hub broker)"
            (findings.warnings if number else findings.problems).append(f"{place}: {reason} {cure}")


def _sparkplug(settings: Settings, findings: Findings) -> None:
    """The servers of the Sparkplug host: their files are there and fit; one that is away is a warning."""
    if settings.sparkplug.servers and not settings.sparkplug.host_id:
        findings.warnings.append("sparkplug.host_id: is empty, so the Sparkplug host is off. Give it an id")
    for server in settings.sparkplug.servers if settings.sparkplug.host_id else ():
        place = f"sparkplug.servers {server.address}"
        tls = server.tls
        paths = {f"{place}: password_file": server.password_file}
        if tls is not None:
            paths |= {f"{place}: {name}": getattr(tls, name) for name in ("ca", "certificate", "key")}
        problems = _files({name: path for name, path in paths.items() if path}, "Correct the path")
        findings.warnings += _secrets(server.model_dump(), f"{place}: ")
        if tls is not None and tls.certificate and not problems and (reason := pair_problem(*_pem(tls))):
            problems.append(f"{place}: {reason}. Create them again: tidegate-hub broker setup (docs/broker.md)")
        try:
            address = parse_address(server.address, "sparkplug.servers.address")
        except ConfigError as error:
            problems.append(str(error))
        findings.problems += problems
        if problems:
            continue
        if tls is None and address[0] not in LOCAL:
            findings.warnings.append(f"{place}: is reached without TLS. Set tls, if the server has it")
        reason = connection_error(address, _pem(tls), tls.minimum) if tls else connection_error(address, None)
        if reason:
            findings.warnings.append(f"{place}: {reason} The hub goes on without it, and tries again")


def _pem(tls: ServerTls) -> tuple[str, str, str]:
    return tls.ca, tls.certificate, tls.key


def _pair(settings: Settings) -> list[str]:
    """What is wrong with the files of [mqtt.tls]."""
    tls = settings.mqtt.tls
    if tls is None:
        return []
    cure = "Create it again: tidegate-hub broker setup (docs/broker.md)"
    paths = {"mqtt.tls.ca": tls.ca, "mqtt.tls.certificate": tls.certificate, "mqtt.tls.key": tls.key}
    if missing := _files(paths, "Correct the path"):
        return missing
    reason = pair_problem(tls.ca, tls.certificate, tls.key)
    return [f"mqtt.tls: {reason}. {cure}"] if reason else _ending("mqtt.tls.certificate", tls.certificate, cure)


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
        if missing := _files(paths, cure):
            return missing
        reason = pair_problem("", tls.certificate, tls.key)
        return [f"rest.tls: {reason}. {cure}"] if reason else _ending("rest.tls.certificate", tls.certificate, cure)
    if settings.rest.host not in LOCAL:
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
    """Publish on `$aws` and receive it. Not with TLS, where a certificate may have only one session, the hub's."""
    if settings.mqtt.tls is not None:
        return []
    received: queue.Queue[str] = queue.Queue()
    topic = topics.shadow("tidegate-check", "", "get", topics.AWS)

    def publish_probe() -> None:
        connection.publish(topic, b"")

    connection = Connection(
        Options(client_id=f"{settings.mqtt.client_id}-check", filters=[topic]),
        locate=lambda: parse_address(settings.mqtt.address, "mqtt.address"),
        on_message=lambda _: received.put(""), on_up=publish_probe, on_down=received.put,
    )  # fmt: skip
    connection.start()
    try:
        reason = received.get(timeout=5)
    except queue.Empty:
        reason = "the broker delivers none: its access list must let the hub read and write $aws/#"
    connection.stop()
    return [f"twins.aws_alias: no $aws topics here ({reason}). Use mosquitto (docs/broker.md)"] if reason else []


def _experts(settings: Settings) -> list[str]:
    """Each expert is opened, which has it answer one blank frame."""
    from cloud_hub.inference.experts.registry import check_experts  # noqa: PLC0415

    try:
        check_experts(settings)
    except ConfigError as error:
        return [str(error)]
    except ModuleNotFoundError as error:
        return [f"experts.bundles: {error}. Install what it needs: pip install 'tidegate[hub]'"]
    return []


def _coverage(settings: Settings) -> list[str]:
    """Models whose escalations arrive and have no expert. A database that is not there yet, or is older, tells none."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - half a second of imports
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415
    from sqlmodel import Session  # noqa: PLC0415

    from cloud_hub.database.engine import open_engine  # noqa: PLC0415
    from cloud_hub.inference.experts.coverage import configured, hint, models_without_expert  # noqa: PLC0415

    url = settings.database_url
    if url.startswith("sqlite") and not Path(make_url(url).database or "").is_file():
        return []
    with suppress(TidegateError, SQLAlchemyError), Session(open_engine(url)) as session:
        return [hint(model) for model in models_without_expert(session, configured(settings.experts), now_us())]
    return []


def _oidc(settings: Settings) -> list[str]:
    """The OIDC settings and the file of keys; a URL is fetched only at the first sign-in."""
    try:
        if settings.oidc is not None:
            Oidc(settings.oidc)
    except ConfigError as error:
        return [str(error)]
    return []


def _channels(settings: Settings) -> list[str]:
    """Files and addresses of channels; `tidegate-hub notify test` sends over one."""
    problems = []
    for name, channel in settings.notify.items():
        try:
            open_sender(name, channel, settings.name)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def port_free(host: str, port: int) -> None:
    """ConfigError unless REST can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            cure = "Stop what listens there, or set rest.port to another"
            raise ConfigError("rest", f"cannot listen on {host}:{port} ({error.strerror})", cure) from error
