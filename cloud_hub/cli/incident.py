"""incident list, ack, resolve, over REST."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import shown

EXAMPLES = """examples:
  tidegate-hub incident list --device press-3
  tidegate-hub incident ack 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub incident resolve 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891 --reason "sensor was taken off"

exit codes: 0 success; 2 usage; 3 not permitted; 4 not found; 5 no answer; 6 already resolved
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "incident", help="list, acknowledge and resolve incidents", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def subcommand(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        return parser

    listed = subcommand("list", "list incidents, the newest first", _list)
    listed.add_argument("--device", default="")
    listed.add_argument("--page", default="", help="only this page (the id of its first incident)")
    listed.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    subcommand("ack", "acknowledge an incident, or a whole page by its first incident", _ack).add_argument("id")
    resolve = subcommand("resolve", "resolve an incident that no device will clear", _resolve)
    resolve.add_argument("id")
    resolve.add_argument("--reason", required=True)


def _print(rows: list[dict[str, Any]], as_json: bool) -> int:
    for row in rows:
        print(json.dumps(row) if as_json else _line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    end = f"  by {row['resolved_by']}: {row['resolution']}" if row["resolution"] else ""
    return clean(f"{row['id']}  {shown(row['opened_us'])}  {row['state']:12}  {row['device']}  {row['subject']}{end}")


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/incidents", device=arguments.device, page=arguments.page, limit=arguments.limit)
    return _print(rows, arguments.json)


def _ack(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", f"/incidents/{quote(arguments.id, '')}/acknowledge")
    return _print([row], arguments.json)


def _resolve(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", f"/incidents/{quote(arguments.id, '')}/resolve", {"reason": arguments.reason})
    return _print([row], arguments.json)
