"""`[sparkplug]` as `tidegate-edge check` tests it: files, addresses, connections, names, and rules for writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from edge_agent.collectors import Collector, Writer
from edge_agent.config import Config, Settings
from edge_agent.config.sparkplug import Server, Sparkplug
from edge_agent.runtime.health import METRICS
from edge_agent.sparkplug.core.image import SETTING, NodeImage
from edge_agent.sparkplug.switches import SwitchFile
from shared.errors import ConfigError
from shared.plant.write_rules import needed_metrics
from shared.process.checks import Findings, connection_error
from shared.protocol.messages import Metric
from shared.transport.mqtt import parse_address
from shared.transport.tls import pair_problem

LOCAL = {"localhost", "127.0.0.1", "::1"}


def check_sparkplug(config: Config, collectors: Mapping[str, Collector], models: list[Metric], found: Findings) -> None:
    """Check `[sparkplug]` if there is one. An unreachable server is a warning, as for the hub's broker."""
    table = config.sparkplug
    if table is None:
        return
    for index, server in enumerate(table.servers):
        _check_server(f"sparkplug.servers[{index}]", server, found)
    if len(collectors) == len(config.collectors):  # else what they declare is not known
        declared = [metric for collector in collectors.values() for metric in collector.metrics]
        sources = {metric.name: name for name, collector in collectors.items() for metric in collector.metrics}
        _check_names(config, table, [*declared, *models, *METRICS], sources, found)
        _check_rules(table, collectors, {metric.name for metric in [*declared, *models, *METRICS]}, found)
    file = SwitchFile(Path(config.device.state_dir))
    file.read()
    if file.problem:
        found.warnings.append(f"sparkplug: {file.problem}. `tidegate-edge write disable` makes a new one")


def _check_server(place: str, server: Server, found: Findings) -> None:
    try:
        address = parse_address(server.address, f"{place}.address")
    except ConfigError as error:
        found.problems.append(str(error))
        return
    files = _files(place, server, found)
    if server.password_file and (reason := _unreadable(server.password_file)):
        found.problems.append(
            f"{place}.password_file: {server.password_file} {reason}. Give a file of the agent's user"
        )
    if server.tls is None and address[0] not in LOCAL:
        text = f"{place}: {address[0]} is reached without TLS, so anybody on the network can read and write"
        found.warnings.append(f"{text}. Set tls = {{ca = ...}}")
    if files is not None and (reason := _connection_error(address, server, files)):
        found.warnings.append(f"{place}: {reason}")


def _connection_error(address: tuple[str, int], server: Server, files: tuple[str, str, str]) -> str:
    return (
        connection_error(address, None) if server.tls is None else connection_error(address, files, server.tls.minimum)
    )


def _files(place: str, server: Server, found: Findings) -> tuple[str, str, str] | None:
    """The PEM files, three times '' without TLS; None if one is unusable, which is added to the problems."""
    tls = server.tls
    if tls is None:
        return "", "", ""
    for name, path in (("ca", tls.ca), ("certificate", tls.certificate), ("key", tls.key)):
        if path and (reason := _unreadable(path)):
            found.problems.append(f"{place}.tls.{name}: {path} {reason}. Correct the path")
            return None
    if tls.certificate and (reason := pair_problem(tls.ca, tls.certificate, tls.key)):
        found.problems.append(f"{place}.tls: {reason}. Give the key that belongs to the certificate")
        return None
    return tls.ca, tls.certificate, tls.key


def _unreadable(path: str) -> str:
    if not Path(path).is_file():
        return "is not there"
    return "" if os.access(path, os.R_OK) else "cannot be read by this user"


def _check_names(
    config: Config, table: Sparkplug, metrics: list[Metric], sources: Mapping[str, str], found: Findings
) -> None:
    """Warn of metrics that cannot be published because of their names, and of devices without metrics."""
    image = NodeImage(table, config.device.id, "", sources, 0)
    image.declare(metrics, 0)
    for metric, reason in list(image.tags.problems.items())[:10]:
        cure = "Change `names` so that each metric has a name of its own"
        found.warnings.append(f"sparkplug.names: '{metric}' is not published: {reason}. {cure}")
    for device in table.devices:
        if device.id not in image.tags.devices:
            cure = "Correct the patterns in `metrics`; they are for the agent's names of metrics"
            found.warnings.append(f"sparkplug.devices '{device.id}': no metric here matches. {cure}")
            continue
        names = [metric.name for metric in metrics]
        idle = [pattern for pattern in device.metrics if not any(fnmatchcase(name, pattern) for name in names)]
        for pattern in idle[:10]:
            cure = "Correct it; patterns are for the agent's names of metrics, such as press/oil-temp"
            found.warnings.append(f"sparkplug.devices '{device.id}': no metric here matches '{pattern}'. {cure}")


def _check_rules(table: Sparkplug, collectors: Mapping[str, Collector], declared: set[str], found: Findings) -> None:
    """A rule that nothing can carry out is a warning: writes are refused. So is a condition that can never hold."""
    settings = {SETTING + name for name in Settings.__struct_fields__}
    writable = settings | {
        metric for collector in collectors.values() if isinstance(collector, Writer) for metric in collector.writable
    }
    for rule in table.writable:
        place = f"sparkplug.writable '{rule.metric}'"
        if rule.metric not in writable:
            cure = "Correct its name, or use a collector that writes"
            found.warnings.append(f"{place}: no collector here can set it, so every write is refused. {cure}")
        for metric in sorted(needed_metrics(rule) - declared - settings):
            cure = "Correct its name, or add the collector that gives it"
            found.warnings.append(f"{place}: no collector here declares '{metric}', so writes are refused. {cure}")
