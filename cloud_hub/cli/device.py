"""device remove, removed, restore: take a device out of the fleet, and put it back, over the REST of a running hub."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import shown

EXAMPLES = """examples:
  tidegate-hub device remove press-3 --reason "scrapped"
  tidegate-hub device removed
  tidegate-hub device restore press-3

exit codes: 0 well; 2 wrong use; 3 the token may not; 4 not known, or not removed; 5 no answer
"""


def add(commands: Commands) -> None:
    """Add the parsers of this group."""
    group = commands.add_parser(
        "device", help="remove a device for good, and put one back", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    whats = group.add_subparsers(dest="what", required=True, metavar="WHAT")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print the hub's answer as JSON")

    def what(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = whats.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        return parser

    remove = what("remove", "end all that it began, and refuse what it still sends", _remove)
    remove.add_argument("id")
    remove.add_argument("--reason", default="", help="stands in the audit trail")
    what("removed", "those that were removed", _removed)
    what("restore", "put a removed device back, with its asset path and tags", _restore).add_argument("id")


def _remove(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        hub.request("DELETE", f"/devices/{quote(arguments.id, '')}", reason=arguments.reason)
    return 0


def _removed(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/removed-devices")
    for row in rows:
        print(json.dumps(row) if arguments.json else _line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    heard = f"  last heard {shown(row['heard_us'])}" if row["heard_us"] else ""
    reason = f": {row['reason']}" if row["reason"] else ""
    return clean(f"{row['device']}  removed {shown(row['removed_us'])} by {row['removed_by']}{reason}{heard}")


def _restore(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", f"/removed-devices/{quote(arguments.id, '')}/restore")
    if arguments.json:
        print(json.dumps(row))
    return 0
