"""command send, show, list, cancel: commands for a device, over REST."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import EXIT_CONFLICT, EXIT_FAILED, EXIT_NO_ANSWER, Remote, RemoteError, connect, options
from cloud_hub.cli.times import seconds

POLL_S = 0.3

EXAMPLES = """examples:
  tidegate-hub command send press-3 diagnose processes
  tidegate-hub command send press-3 diagnose processes --arg seconds=5
  tidegate-hub command send press-3 restart line-camera --queued --life 2h --no-wait
  tidegate-hub command list press-3 --state queued
  tidegate-hub command cancel 01a1fc6b-a98f-7b80-b3e0-d90b220720c5

exit codes: 0 succeeded (or sent, with --no-wait); 1 failed, refused or cancelled; 2 usage;
3 not permitted; 4 not found, or the device is offline; 5 no answer in time; 6 already ended
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "command", help="send a command to a device, watch it, cancel it", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    shown = options()
    shown.add_argument("--json", action="store_true", help="print JSON")
    send = subcommands.add_parser("send", help="send a command and wait for its end", parents=[shown])
    send.set_defaults(action=_send)
    send.add_argument("device")
    send.add_argument("verb", help="restart, diagnose or capture; the device's twin reports which it supports")
    send.add_argument("target", help="a model's name, or processes")
    send.add_argument("--arg", action="append", default=[], type=_pair, metavar="KEY=VALUE", help="repeatable")
    send.add_argument("--queued", action="store_true", help="queue the command if the device is offline")
    send.add_argument("--life", type=seconds, metavar="TIME", help="time until it expires, such as 90s, 2h, 3d")
    send.add_argument("--no-wait", action="store_true", help="do not wait for the end")
    show = subcommands.add_parser("show", help="show a command", parents=[shown])
    show.set_defaults(action=_show)
    show.add_argument("id")
    listed = subcommands.add_parser("list", help="list the commands of a device, the newest first", parents=[shown])
    listed.set_defaults(action=_list)
    listed.add_argument("device")
    listed.add_argument("--state", help="only this state, such as queued or running")
    listed.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    cancel = subcommands.add_parser("cancel", help="cancel a command", parents=[shown])
    cancel.set_defaults(action=_cancel)
    cancel.add_argument("id")


def _pair(text: str) -> tuple[str, str | float]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    return key, float(value) if re.fullmatch(r"-?\d+(\.\d+)?", value) else value


def _send(arguments: argparse.Namespace) -> int:
    body: dict[str, Any] = {
        "verb": arguments.verb, "target": arguments.target, "args": dict(arguments.arg),
        "mode": "queued" if arguments.queued else "direct", "life_s": arguments.life,
    }  # fmt: skip
    with connect(arguments) as hub:
        row = hub.call("POST", f"/devices/{quote(arguments.device, '')}/commands", body)
        if not arguments.no_wait:
            if row["state"] == "queued":
                print(f"{row['id']} is queued; Ctrl-C ends the waiting, not the command", file=sys.stderr)
            row = _watch(hub, row)
    _print(row, arguments.json)
    return 0 if arguments.no_wait else _code(row)


def _watch(hub: Remote, row: dict[str, Any]) -> dict[str, Any]:
    """Poll until the command has ended; the hub expires every command. Shows progress on a terminal."""
    line = ""
    while row["done_us"] is None:
        if sys.stderr.isatty() and (now := _line(row)) != line:
            line = now
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        time.sleep(POLL_S)
        row = hub.get(f"/commands/{row['id']}")
    if line:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return row


def _line(row: dict[str, Any]) -> str:
    running = row["done_us"] is None and row["progress"] is not None
    part = f" {row['progress']:4.0%} {'#' * round(row['progress'] * 20):20}" if running else ""
    return clean(f"{row['state']:9}{part} {row['text']}")[:110]


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row))
        return
    print(f"{row['id']}  {clean(row['device'])}  {clean(row['verb'])} {clean(row['target'])}  {_line(row).rstrip()}")
    for key, value in row["output"].items():
        print(f"  {clean(key)}: {clean(str(value))}")


def _code(row: dict[str, Any]) -> int:
    return {"succeeded": 0, "expired": EXIT_NO_ANSWER}.get(row["state"], EXIT_FAILED)


def _show(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        _print(hub.get(f"/commands/{quote(arguments.id, '')}"), arguments.json)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        path = f"/devices/{quote(arguments.device, '')}/commands"
        rows = hub.get(path, state=arguments.state, limit=arguments.limit)
    for row in rows:
        _print(row if arguments.json else row | {"output": {}}, arguments.json)
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    """Cancel a command; it is a conflict if it ends in another state first."""
    with connect(arguments) as hub:
        row = _watch(hub, hub.call("POST", f"/commands/{quote(arguments.id, '')}/cancel"))
    if row["state"] == "cancelled":
        _print(row, arguments.json)
        return 0
    raise RemoteError(f"it has ended before: {_line(row).rstrip()}", EXIT_CONFLICT)
