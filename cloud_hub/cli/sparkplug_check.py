"""sparkplug check: checks a live Sparkplug B namespace against the specification, statement by statement."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_hub.cli import Commands
from cloud_hub.cli.times import seconds
from shared.errors import NotReady
from shared.process.terminal import printable, printable_json

if TYPE_CHECKING:
    from cloud_hub.scada.conformance.brokers import Broker
    from cloud_hub.scada.conformance.service import Plan, Result

EXIT_VIOLATED, EXIT_USAGE, EXIT_NOTHING = 1, 2, 3
LOOPBACK = "127.0.0.1"

EXAMPLES = """examples:
  tidegate-hub sparkplug check --broker 10.0.0.5:1883 --role edge --group plant-1 --for 5m
                                       watch all edge nodes of a group, change nothing
  tidegate-hub sparkplug check --broker 10.0.0.5:1883 --role edge --group plant-1 --node press-3 --host-id scada \\
      --listen 1884 --stimulate        press-3 connects to port 1884 here; the checker plays its primary host
  tidegate-hub sparkplug check --broker 10.0.0.5:1883 --role host --host-id scada --listen 1884 --stimulate --ask
                                       the host connects to port 1884; the checker plays an edge node
  tidegate-hub sparkplug check --broker 10.0.0.5:1883 --role broker --stimulate --for 0s

--stimulate publishes: rebirth requests and STATE of --host-id to edge nodes, a simulated edge node to a host.
Do not use it where production depends on the answer.

exit codes: 0 nothing violated; 1 violated; 2 usage; 3 nothing seen, or no broker there
"""


def add(commands: Commands) -> None:
    """Add the parser of `check` to the subcommands of `sparkplug`."""
    parser = commands.add_parser(
        "check", help="check a live namespace against the specification", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(action=_check)
    parser.add_argument(
        "--broker", action="append", required=True, metavar="HOST:PORT", help="broker to watch; repeatable"
    )
    parser.add_argument("--role", required=True, choices=["edge", "host", "broker"], help="whose conduct is judged")
    parser.add_argument("--group", default="", help="only this Sparkplug group (default: all)")
    parser.add_argument(
        "--node", default="", help="only this edge node (default: all); with --role host, the simulated one's name"
    )
    parser.add_argument("--host-id", default="", help="the host to judge; with --role edge, the nodes' primary host")
    parser.add_argument(
        "--listen", action="append", default=[], metavar="[HOST:]PORT",
        help="be a proxy before the broker, which sees CONNECT and SUBSCRIBE; one for each --broker",
    )  # fmt: skip
    parser.add_argument("--listen-beyond-loopback", action="store_true", help="allow --listen on other addresses")
    parser.add_argument("--stimulate", action="store_true", help="publish what provokes the answers to be judged")
    parser.add_argument("--ask", action="store_true", help="ask you about what MQTT does not show")
    parser.add_argument("--reorder-timeout", type=seconds, default=2.0, metavar="TIME", help="the host's (default 2s)")
    parser.add_argument(
        "--for", dest="for_s", type=seconds, default=60.0, metavar="TIME", help="how long (default 60s)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="wait so many times as long",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there ('-': to the output)")
    parser.add_argument("--details", action="store_true", help="list every statement")
    access = parser.add_argument_group("access to the broker")
    access.add_argument("--ca", default="", metavar="FILE", help="its CA: TLS is used")
    access.add_argument("--cert", default="", metavar="FILE", help="PEM of a client certificate, with --key")
    access.add_argument("--key", default="", metavar="FILE", help="PEM of its private key")
    access.add_argument("--username", default="", help="for the checker's own clients")
    access.add_argument("--password-file", default="", metavar="FILE", help="file with the password of --username")


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.scada.conformance.service import check  # noqa: PLC0415

    try:
        plan = _plan(arguments)
    except ValueError as error:
        print(f"tidegate-hub sparkplug check: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        result = check(plan, _progress)
    except NotReady as error:
        print(f"tidegate-hub sparkplug check: {printable(error.reason)}", file=sys.stderr)
        return EXIT_NOTHING
    _report(arguments, result)
    if result.violated:
        return EXIT_VIOLATED
    return 0 if result.seen else EXIT_NOTHING


def _plan(arguments: argparse.Namespace) -> Plan:
    """The plan that the arguments say. Raises ValueError about their combination, ConfigError about one."""
    from cloud_hub.scada.conformance.core.checker import Scope  # noqa: PLC0415
    from cloud_hub.scada.conformance.core.deadlines import DEFAULT  # noqa: PLC0415
    from cloud_hub.scada.conformance.core.rules import Role  # noqa: PLC0415
    from cloud_hub.scada.conformance.operators import Person  # noqa: PLC0415
    from cloud_hub.scada.conformance.service import Plan  # noqa: PLC0415
    from cloud_hub.scada.conformance.stimulus import Nobody  # noqa: PLC0415

    brokers = _brokers(arguments)
    listen = [_listen(text, anywhere=arguments.listen_beyond_loopback) for text in arguments.listen]
    if listen and len(listen) != len(brokers):
        raise ValueError(f"{len(listen)} --listen for {len(brokers)} --broker: give one for each")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise ValueError(f"--json {arguments.json}: there is no such folder")
    if not 1 <= arguments.patience <= 100:
        raise ValueError(f"--patience {arguments.patience:g}: give a factor within 1..100")
    if arguments.ask and not arguments.stimulate:
        raise ValueError("--ask needs --stimulate: it is about what was provoked")
    if arguments.role == "broker" and not arguments.stimulate:
        raise ValueError("--role broker needs --stimulate: a broker is judged by what it does with our own messages")
    scope = Scope(
        role=Role(arguments.role), group=arguments.group, node=arguments.node, host_id=arguments.host_id,
        servers=len(brokers), reorder_timeout_ms=int(arguments.reorder_timeout * 1000),
        deadlines=DEFAULT.times(arguments.patience),
    )  # fmt: skip
    return Plan(
        scope=scope, brokers=brokers, listen=listen, for_s=arguments.for_s, stimulate=arguments.stimulate,
        operator=Person() if arguments.ask else Nobody(),
    )  # fmt: skip


def _brokers(arguments: argparse.Namespace) -> list[Broker]:
    from cloud_hub.scada.conformance.brokers import parse_broker  # noqa: PLC0415

    files = {
        "ca": arguments.ca, "certificate": arguments.cert, "key": arguments.key, "username": arguments.username,
        "password_file": arguments.password_file,
    }  # fmt: skip
    return [parse_broker(text, **files) for text in arguments.broker]


def _listen(text: str, *, anywhere: bool) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or LOOPBACK
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--listen {text}: '{port}' is no port")
    if not anywhere and not _is_loopback(host):
        cure = "clients speak plain MQTT to the proxy; add --listen-beyond-loopback if the network is yours"
        raise ValueError(f"--listen {text}: {host} is not loopback; {cure}")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _progress(text: str) -> None:
    print(f"... {printable(text)}", file=sys.stderr, flush=True)


def _report(arguments: argparse.Namespace, result: Result) -> None:
    from cloud_hub.scada.conformance.core.report import as_document, as_text  # noqa: PLC0415

    if arguments.json is not None:
        document = {"role": arguments.role, "problems": result.problems, **as_document(result.verdicts)}
        text = printable_json(document, indent=2)
        if str(arguments.json) == "-":
            print(text)
            return
        arguments.json.write_text(text + "\n", "utf-8")
    for line in as_text(result.verdicts, details=arguments.details):
        print(printable(line))
    for problem in result.problems:
        print(f"problem: {printable(problem)}", file=sys.stderr)
    if not result.seen:
        print(printable(nothing_seen(arguments, result.others)), file=sys.stderr)


def nothing_seen(arguments: argparse.Namespace, others: list[str]) -> str:
    """Why there may be nothing to judge."""
    wanted = {"group": arguments.group, "node": arguments.node, "host-id": arguments.host_id}
    scope = "".join(f" --{name} {value}" for name, value in wanted.items() if value)
    if others:
        return f"nothing seen of --role {arguments.role}{scope}; these edge nodes publish: {', '.join(others)}"
    return "nothing seen: is the address right, does anything publish below spBv1.0/, and may this user read it?"
