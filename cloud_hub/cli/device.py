"""device remove, removed, restore, note, notes: removes and restores devices, and leaves notes on them, over REST."""

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
  tidegate-hub device note press-3 "the fan was replaced on Monday"
  tidegate-hub device notes press-3

exit codes: 0 success; 2 usage; 3 not permitted; 4 not found, or not removed; 5 no answer
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "device", help="remove and restore devices, leave notes on them", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def subcommand(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        return parser

    remove = subcommand("remove", "remove a device, and refuse what it sends", _remove)
    remove.add_argument("id")
    remove.add_argument("--reason", default="", help="recorded in the audit trail")
    subcommand("removed", "list removed devices", _removed)
    note = subcommand("note", "leave a note for whoever works on the device's next incident", _note)
    note.add_argument("id")
    note.add_argument("text")
    listed = subcommand("notes", "list the notes of a device, the newest first", _notes)
    listed.add_argument("id")
    listed.add_argument("--delete", metavar="NOTE", help="delete this note")
    subcommand("restore", "restore a removed device, with its asset path and tags", _restore).add_argument("id")


def _remove(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        hub.request("DELETE", f"/devices/{quote(arguments.id, '')}", reason=arguments.reason)
    return 0


def _note(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", f"/devices/{quote(arguments.id, '')}/notes", {"text": arguments.text})
    print(json.dumps(row) if arguments.json else row["id"])
    return 0


def _notes(arguments: argparse.Namespace) -> int:
    path = f"/devices/{quote(arguments.id, '')}/notes"
    with connect(arguments) as hub:
        if arguments.delete:
            hub.request("DELETE", f"{path}/{quote(arguments.delete, '')}")
            return 0
        rows = hub.get(path)
    for row in rows:
        line = f"{row['id']}  {shown(row['t_us'])}  {row['actor']}  {row['text']}"
        print(json.dumps(row) if arguments.json else clean(line))
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
