"""limits export, limits import: writes the limits of many devices to a file, and reads them, over REST."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib

from cloud_hub.cli import Commands
from cloud_hub.cli.remote import EXIT_USAGE, RemoteError, connect, options

DEVICES_PER_REQUEST = 200
"""The maximum number of devices in one request."""
PAGE_BYTES = 1 << 20
"""The maximum size of one request in bytes, unless a single device needs more."""

EXAMPLES = """examples:
  tidegate-hub limits export limits.toml --target "tags.site = 'a'" --source learned
  tidegate-hub limits export -                              JSON on the standard output
  tidegate-hub limits import limits.toml --dry-run          check everything, change nothing
  tidegate-hub limits import limits.json --replace          remove limits of other metrics of these devices

The file has `form = "tidegate-limits/1"` and holds the limits of each device; JSON or TOML by its name.
exit codes: 0 success; 1 failed; 2 usage, or an invalid file; 3 not permitted; 4 not found; 5 no answer
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "limits", help="export and import limits of many devices", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    out = subcommands.add_parser("export", help="write limits to a file", parents=[options()])
    out.set_defaults(action=_export)
    out.add_argument("file", help="name.toml, name.json, or - for JSON on the standard output")
    out.add_argument("--target", default="*", help="which devices: a condition of the query language (default all)")
    out.add_argument("--source", choices=["learned", "fixed"], default="", help="only these limits")
    into = subcommands.add_parser("import", help="read limits from a file", parents=[options()])
    into.set_defaults(action=_import)
    into.add_argument("file", help="name.toml or name.json")
    into.add_argument("--replace", action="store_true", help="remove limits of other metrics of these devices")
    into.add_argument("--dry-run", action="store_true", help="check everything, change nothing")


def _export(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        page = hub.get("/limits", target=arguments.target, source=arguments.source, limit=DEVICES_PER_REQUEST)
        while page["next"]:
            more = hub.get("/limits", target=arguments.target, source=arguments.source, limit=DEVICES_PER_REQUEST,
                           after=page["next"])  # fmt: skip
            page["devices"] |= more["devices"]
            page["next"] = more["next"]
    del page["next"]
    text = toml(page) if arguments.file.endswith(".toml") else json.dumps(page, indent=1) + "\n"
    if arguments.file == "-":
        sys.stdout.write(text)
        return 0
    Path(arguments.file).write_text(text, "utf-8")
    print(f"{len(page['devices'])} devices, {sum(map(len, page['devices'].values()))} limits: {arguments.file}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    document = _read(Path(arguments.file))
    devices = sorted(document["devices"].items())
    pages = list(_pages(devices))
    done = 0
    with connect(arguments) as hub:
        # All pages are checked before the first is imported: an invalid file changes nothing.
        for dry_run in (True,) if arguments.dry_run else (True, False):
            for page in pages:
                answer = hub.call("POST", "/limits", document | {"devices": page}, dry_run=dry_run,
                                  replace=arguments.replace)  # fmt: skip
                done += 0 if dry_run and not arguments.dry_run else answer["limits"]
    print(f"{done} limits of {len(devices)} devices {'would be' if arguments.dry_run else 'are'} desired")
    return 0


def _pages(devices: list[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """The devices in parts that one request can carry."""
    page: dict[str, Any] = {}
    size = 0
    for device, limits in devices:
        more = len(json.dumps(limits))
        if page and (len(page) == DEVICES_PER_REQUEST or size + more > PAGE_BYTES):
            yield page
            page, size = {}, 0
        page[device] = limits
        size += more
    if page:
        yield page


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text("utf-8")
        document = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise RemoteError(f"{file} cannot be read: {error}", EXIT_USAGE) from error
    if not isinstance(document, dict) or not isinstance(document.get("devices"), dict):
        raise RemoteError(f"{file} holds no limits: it needs form and devices, as `limits export` writes", EXIT_USAGE)
    return document


def toml(document: dict[str, Any]) -> str:
    """An export as TOML: a `[[devices."press-3"]]` table for each limit."""
    lines = [f"form = {json.dumps(document['form'])}", f"exported_us = {document['exported_us']}"]
    for device, limits in document["devices"].items():
        for limit in limits:
            lines += ["", f"[[devices.{json.dumps(device)}]]"]
            lines += [f"{key} = {_value(value)}" for key, value in limit.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """TOML's form of a JSON value; strings, integers and lists are the same in both."""
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
