"""broker: runs an embedded broker for trials; setup, check, grant, deny and reload manage a mosquitto."""

from __future__ import annotations

import argparse
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_hub.cli import Commands
from shared.errors import ConfigError
from shared.process.terminal import printable_lines

if TYPE_CHECKING:
    from cloud_hub.settings import Settings

EXAMPLES = """examples:
  tidegate-hub broker                                          an embedded broker for trials, on loopback
  tidegate-hub broker setup --folder /var/lib/tidegate-broker --name broker.plant.example --name 10.0.0.5
  tidegate-hub broker check                                    test its access control
  tidegate-hub broker grant press-3 --folder /var/lib/tidegate-broker --group line-1 --node press-3
  tidegate-hub broker reload --folder /var/lib/tidegate-broker after a grant or a revocation
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "broker", help="run an embedded broker for trials; set up and check mosquitto", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    group.set_defaults(action=_embedded)
    group.add_argument("--mqtt3", type=int, default=1884, help="embedded broker: port for MQTT 3.1.1 (default 1884)")
    group.add_argument("--mqtt5", type=int, default=1883, help="embedded broker: port for MQTT 5 (default 1883)")
    subcommands = group.add_subparsers(dest="what", metavar="COMMAND")
    folder, config = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", type=Path, required=True, help="configuration directory of the broker")
    config.add_argument("--config", type=Path, help="the hub's TOML file, which names its CA")
    setup = subcommands.add_parser(
        "setup", help="write the configuration directory of mosquitto", parents=[folder, config]
    )
    setup.set_defaults(action=_setup)
    setup.add_argument("--name", action="append", metavar="HOST|IP", help="name or address for clients; repeatable")
    setup.add_argument("--port", type=int, default=8883, help="port to listen on (default 8883)")
    setup.add_argument("--bind", default="", metavar="IP", help="address to listen on (default: all)")
    setup.add_argument("--user", default="mosquitto", help="user to run as when started by root (default mosquitto)")
    setup.add_argument("--aws-alias", action="store_true", help="allow $aws/..., as twins.aws_alias = true does")
    check = subcommands.add_parser(
        "check", help="test its access control with two clients of the hub's CA", parents=[config]
    )
    check.set_defaults(action=_check)
    check.add_argument("--folder", type=Path, help="its configuration directory, to find out why it does not start")
    check.add_argument("--address", metavar="HOST:PORT", help="address of the broker (default: mqtt.address)")
    grant = subcommands.add_parser("grant", help="allow a device to be a Sparkplug edge node", parents=[folder, config])
    grant.set_defaults(action=_grant)
    grant.add_argument("device")
    grant.add_argument("--group", required=True, help="its Sparkplug group")
    grant.add_argument("--node", required=True, help="its Sparkplug edge node")
    deny = subcommands.add_parser(
        "deny", help="block a revoked device, including open sessions", parents=[folder, config]
    )
    deny.set_defaults(action=_deny)
    deny.add_argument("device")
    deny.add_argument("--lift", action="store_true", help="unblock a device that is enrolled again")
    reload = subcommands.add_parser(
        "reload", help="update the list of revoked certificates and reload", parents=[folder, config]
    )
    reload.set_defaults(action=_reload)


def _settings(path: Path | None) -> Settings:
    from cloud_hub import settings  # noqa: PLC0415

    return settings.read(path)


def _config_option(arguments: argparse.Namespace) -> str:
    """The --config option that a follow-up command needs, with a leading space; '' without one."""
    return f" --config {shlex.quote(str(arguments.config))}" if arguments.config else ""


def _setup(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker import config_directory  # noqa: PLC0415
    from cloud_hub.broker.core.mosquitto import SPARKPLUG, BrokerPlan  # noqa: PLC0415
    from cloud_hub.certificates.enrolment import RESERVED  # noqa: PLC0415
    from cloud_hub.certificates.files import CaFolder  # noqa: PLC0415
    from cloud_hub.clock import now_us  # noqa: PLC0415

    settings = _settings(arguments.config)
    hub = settings.mqtt.client_id
    if not hub.startswith(RESERVED):
        text = f"'{hub}' could be the id of a device, which would then have the rights of the hub"
        raise ConfigError("mqtt.client_id", text, f"Let it begin with {RESERVED}")
    names = arguments.name or [socket.gethostname(), "localhost"]
    ca = CaFolder(settings.state_dir)
    plan = BrokerPlan(
        folder=str(arguments.folder.absolute()), port=arguments.port, bind=arguments.bind, user=arguments.user,
        hubs=(hub,), aws_alias=arguments.aws_alias or settings.twins.aws_alias,
    )  # fmt: skip
    config_directory.setup(plan, ca, ca.issue_server(names, now_us()))
    own = config_directory.write_hub_certificate(ca, ca.issue_client(hub, now_us()))
    print(f"{plan.folder}: written, for {', '.join(names)}")
    print(f"start it:  mosquitto -c {shlex.quote(f'{plan.folder}/mosquitto.conf')}  (as a service: docs/broker.md)")
    print(f"try it:    tidegate-hub broker check --address {names[0]}:{plan.port}{_config_option(arguments)}")
    print(f'the hub:   [mqtt]\n           address = "{names[0]}:{plan.port}"\n           [mqtt.tls]')
    for key, path in own.items():
        print(f'           {key} = "{path}"')
    scada = config_directory.write_hub_certificate(ca, ca.issue_client(hub + SPARKPLUG, now_us()), "spb")
    tls = ", ".join(f'{key} = "{path}"' for key, path in scada.items())
    print('Sparkplug: [sparkplug]  (docs/scada/host.md)\n           host_id = "tidegate"')
    print(f'           servers = [{{ address = "{names[0]}:{plan.port}", tls = {{ {tls} }} }}]')
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker.checks import check_broker  # noqa: PLC0415
    from cloud_hub.broker.config_directory import find_damage  # noqa: PLC0415
    from cloud_hub.certificates.files import CaFolder  # noqa: PLC0415
    from shared.transport.mqtt import parse_address  # noqa: PLC0415

    settings = _settings(arguments.config)
    address = parse_address(arguments.address or settings.mqtt.address, "--address")
    problems = find_damage(arguments.folder) if arguments.folder else []
    problems += check_broker(address, CaFolder(settings.state_dir), settings.twins.aws_alias)
    for line in problems:
        print(f"problem: {printable_lines(line)}", file=sys.stderr)
    if not problems:
        print("well: certificates of this CA only, TLS 1.3 only, each identity its own topics only")
    return 1 if problems else 0


def _grant(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker.core.mosquitto import grant_paragraph  # noqa: PLC0415

    return _amend(arguments, lambda: grant_paragraph(arguments.device, arguments.group, arguments.node))


def _deny(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker.core.mosquitto import deny_paragraph  # noqa: PLC0415

    return _amend(arguments, lambda: deny_paragraph(arguments.device), there=not arguments.lift)


def _amend(arguments: argparse.Namespace, paragraph: Callable[[], str], *, there: bool = True) -> int:
    from cloud_hub.broker.config_directory import edit_access_list  # noqa: PLC0415

    try:
        text = paragraph()
    except ValueError as error:
        raise ConfigError("broker", str(error), "Name another") from error
    new = edit_access_list(arguments.folder, text, there=there)
    options = f"--folder {shlex.quote(str(arguments.folder))}{_config_option(arguments)}"
    print(f"written; now: tidegate-hub broker reload {options}" if new else "unchanged")
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker.config_directory import reload  # noqa: PLC0415
    from cloud_hub.certificates.files import CaFolder  # noqa: PLC0415

    reload(arguments.folder, CaFolder(_settings(arguments.config).state_dir))
    print("reloaded: access list and revoked certificates. Open sessions stay open (docs/broker.md)")
    return 0


def _embedded(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker.embedded import WARNING, open_broker  # noqa: PLC0415

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with tempfile.TemporaryDirectory(prefix="tidegate-broker-") as folder:
        try:
            broker = open_broker(Path(folder), arguments.mqtt3, arguments.mqtt5).start()
        except OSError as error:
            raise ConfigError("broker", str(error), "Give free ports with --mqtt3 and --mqtt5") from error
        print(
            f"{WARNING}\nMQTT 3.1.1 on 127.0.0.1:{arguments.mqtt3}, MQTT 5 on 127.0.0.1:{arguments.mqtt5}", flush=True
        )
        while broker.is_running and not stopped.wait(0.5):
            pass
        ended_by_itself = not broker.is_running
        broker.stop()
    return 1 if ended_by_itself else 0
