"""workers list, items, retry, over REST."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import shown

EXAMPLES = """examples:
  tidegate-hub workers list
  tidegate-hub workers items --parked
  tidegate-hub workers retry 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub workers retry --all

exit codes: 0 success; 2 usage; 3 not permitted; 4 not found; 5 no answer
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "workers", help="list background workers and failed items; retry items", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")
    listed = subcommands.add_parser("list", help="list workers: idle, running, failing or stopped", parents=[hub])
    listed.set_defaults(action=_list)
    items = subcommands.add_parser("items", help="list failed items", parents=[hub])
    items.add_argument("--worker", default="", help="only this worker (default: all)")
    items.add_argument("--parked", action="store_true", help="only parked items")
    items.add_argument("--limit", type=int, default=100, help="maximum number (default 100)")
    items.set_defaults(action=_items)
    retry = subcommands.add_parser("retry", help="retry an item now", parents=[hub])
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", help="id from `workers items`")
    which.add_argument("--all", action="store_true", help="all parked items, at most 1000")
    retry.set_defaults(action=_retry)


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/workers")
    for row in rows:
        print(json.dumps(row) if arguments.json else _worker(row))
    return 0


def _worker(row: dict[str, Any]) -> str:
    since = f"  since {shown(row['failing_since_us'])}: {row['error']}" if row["failing_since_us"] else ""
    return clean(f"{row['name']:16} {row['state']:8} parked {row['parked']}, retrying {row['retrying']}{since}")


def _items(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        parked = "true" if arguments.parked else None
        rows = hub.get("/workers/items", worker=arguments.worker, parked=parked, limit=arguments.limit)
    return _print(rows, arguments)


def _print(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    for row in rows:
        print(json.dumps(row) if arguments.json else _item(row))
    return 0


def _item(row: dict[str, Any]) -> str:
    state = f"parked {shown(row['parked_us'])}" if row["parked_us"] else f"next try {shown(row['next_us'])}"
    what = f"{row['worker']} {row['kind']} {row['item']}"
    return clean(f"{row['id']}  {what}  {state}  {row['failures']} failures: {row['error']}")


def _retry(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        parked = hub.get("/workers/items", parked="true", limit=1000) if arguments.all else [{"id": arguments.id}]
        rows = [hub.call("POST", f"/workers/items/{quote(row['id'], '')}/retry") for row in parked]
    return _print(rows, arguments)
