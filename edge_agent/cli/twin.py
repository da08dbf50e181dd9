"""twin get, set: twin documents on this device, with or without a hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_agent.cli import Commands, add_config_option
from shared.terminal import printable, printable_json

TEXT = "show or change twin documents on this device"


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    subcommands = commands.add_parser("twin", help=TEXT, description=TEXT).add_subparsers(
        dest="subcommand", required=True, metavar="SUBCOMMAND"
    )
    get = subcommands.add_parser("get", help="print documents as JSON", description="Print documents as JSON.")
    get.add_argument("name", nargs="?", metavar="NAME", help='one document; "" is the classic one (default: all)')
    get.set_defaults(action=_get)
    put = subcommands.add_parser(
        "set", help="change desired state", description="Change desired state on this device, with or without a hub."
    )
    put.add_argument("wanted", nargs="+", metavar="PATH=JSON", help="such as settings.period_s=0.5; null removes it")
    put.add_argument("--name", default="", help="document (default: the classic one)")
    put.add_argument("--wait", type=float, default=5.0, metavar="S", help="seconds to wait for the agent (default 5)")
    put.set_defaults(action=_set)
    for parser in (get, put):
        add_config_option(parser)


def _state_file(config_path: Path) -> Path:
    from edge_agent.config import read  # noqa: PLC0415

    return Path(read(config_path)[0].device.state_dir) / "kept.sqlite"


def _get(arguments: argparse.Namespace) -> int:
    from edge_agent.twin import local_cli  # noqa: PLC0415

    documents = local_cli.twins(_state_file(arguments.config))
    if arguments.name is not None and arguments.name not in documents:
        print(f"no document '{arguments.name}' here; there are {', '.join(map(repr, documents))}", file=sys.stderr)
        return 1
    print(printable_json(documents if arguments.name is None else documents[arguments.name], indent=2))
    return 0


def _set(arguments: argparse.Namespace) -> int:
    from edge_agent.twin import local_cli  # noqa: PLC0415

    file = _state_file(arguments.config)
    try:
        patch = local_cli.parse_assignments(arguments.wanted)
    except ValueError as error:
        print(f"tidegate-edge: {error}", file=sys.stderr)
        return 2
    progress = local_cli.wait_for_answer(file, local_cli.submit_request(file, arguments.name, patch), arguments.wait)
    if progress is None:
        print(
            "request stored but not processed yet: is the agent running? It processes requests when it starts",
            file=sys.stderr,
        )
        return local_cli.EXIT_WAITS
    for row in progress:
        print(printable(": ".join(part for part in (row["path"], row["state"], row["reason"]) if part)))
    return 1 if any(row["state"] == "refused" for row in progress) else 0
