"""sparkplug status, nodes, metrics, rebirth, write, writes: the Sparkplug host application, over a hub's REST."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean, sparkplug_check
from cloud_hub.cli.remote import EXIT_FAILED, EXIT_NO_ANSWER, Remote, connect, options
from cloud_hub.cli.times import shown

POLL_S = 0.2
UNDER_WAY = ("pending", "sent")
FURTHER: tuple[Callable[[Commands], None], ...] = ()
"""Modules of further subcommands, by their `add`."""

EXAMPLES = """examples:
  tidegate-hub sparkplug status
  tidegate-hub sparkplug nodes --state offline
  tidegate-hub sparkplug metrics line-1-press-3 --values
  tidegate-hub sparkplug rebirth line-1-press-3
  tidegate-hub sparkplug write line-1-press-3 setpoint/speed 1200 --dry-run
  tidegate-hub sparkplug write line-1-press-3 setpoint/speed 1200 --reason "order 4711"
  tidegate-hub sparkplug writes --device line-1-press-3

A write is not a safety function: the plant's own logic and interlocks remain responsible.

exit codes: 0 success, or verified; 1 refused or failed; 2 usage; 3 not permitted; 4 not found; 5 no answer, or expired
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "sparkplug", help="Sparkplug nodes of a plant: list, ask for births, write", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def subcommand(
        name: str, text: str, action: Callable[[argparse.Namespace], int], *, of_one: bool = False
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        if of_one:
            parser.add_argument("device", help="the id that the node or device has here")
        return parser

    subcommand("status", "connections and counters of the host application", _status)
    nodes = subcommand("nodes", "list nodes and devices", _nodes)
    nodes.add_argument("--state", choices=["online", "offline"])
    nodes.add_argument("--group", help="only this Sparkplug group")
    metrics = subcommand("metrics", "list the metrics of a node or device", _metrics, of_one=True)
    metrics.add_argument("--values", action="store_true", help="with the last value of each")
    subcommand("rebirth", "ask a node for its birth certificates", _rebirth, of_one=True)
    write = subcommand("write", "write a declared metric, and wait until it is verified", _write, of_one=True)
    write.add_argument("metric", help="the name that it has here, such as setpoint/speed")
    write.add_argument("value", type=_value, help="a number, true, false, or a text")
    write.add_argument("--reason", default="", help="recorded in the audit trail")
    write.add_argument("--dry-run", action="store_true", help="judge it, and send nothing")
    write.add_argument("--no-wait", action="store_true", help="do not wait for the end")
    listed = subcommand("writes", "list writes, the newest first", _writes)
    listed.add_argument("--device", default="")
    listed.add_argument("--state", default="", help="refused, dry-run, pending, sent, verified, failed or expired")
    listed.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    sparkplug_check.add(subcommands)
    for further in FURTHER:
        further(subcommands)


def _value(text: str) -> bool | float | str:
    if text in {"true", "false"}:
        return text == "true"
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text) else text


def _status(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        found = hub.get("/sparkplug")
    if arguments.json:
        print(json.dumps(found))
        return 0
    if not found["host_id"]:
        print("off: set sparkplug.host_id and sparkplug.servers in the hub's settings")
        return 0
    print(f"host {clean(found['host_id'])}: {found['nodes'].get('online', 0)} nodes and devices online, "
          f"{found['nodes'].get('offline', 0)} offline, {found['queued']} messages queued")  # fmt: skip
    for server in found["servers"]:
        state = "connected" if server["connected"] else f"not connected: {server['reason']}"
        print(clean(f"  {server['address']}  {state}  since {shown(server['since_us'])}"))
    for name, count in sorted(found["counts"].items()):
        print(f"  {clean(name)}: {count}")
    return 0


def _nodes(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/sparkplug/nodes", state=arguments.state, group=arguments.group, limit=10_000)
    for row in rows:
        print(json.dumps(row) if arguments.json else _node(row))
    return 0


def _node(row: dict[str, Any]) -> str:
    place = "/".join(part for part in (row["group"], row["node"], row["sparkplug_device"]) if part)
    since = shown(row["born_us"] if row["state"] == "online" else row["died_us"])
    refusal = f"  refused {row['refused']}, last: {row['refusal']}" if row["refused"] else ""
    own = "  an agent of this hub" if row["own"] else f"  {row['metrics']} metrics"
    return clean(f"{row['device']:32} {row['state']:8} since {since}  {place}{own}{refusal}")


def _metrics(arguments: argparse.Namespace) -> int:
    path = f"/sparkplug/nodes/{quote(arguments.device, '')}/metrics"
    with connect(arguments) as hub:
        rows = hub.get(path, values=arguments.values, limit=10_000)
    for row in rows:
        print(json.dumps(row) if arguments.json else _metric(row))
    return 0


def _metric(row: dict[str, Any]) -> str:
    value = "" if row["t_us"] is None else f"  {row['value']} ({row['quality']}, {shown(row['t_us'])})"
    marks = [name for name in ("stale", "writable") if row[name]] + (
        [] if row["present"] else ["not in the last birth"]
    )
    more = f"  [{', '.join(marks)}]" if marks else ""
    return clean(f"{row['metric']:40} {row['datatype']:8} {row['unit']:8}{value}{more}  {row['name']}")


def _rebirth(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        answer = hub.call("POST", f"/sparkplug/nodes/{quote(arguments.device, '')}/rebirth")
    if arguments.json:
        print(json.dumps(answer))
    else:
        print("requested" if answer["requested"] else clean(f"not requested: {answer['reason']}"))
    return 0 if answer["requested"] else EXIT_FAILED


def _write(arguments: argparse.Namespace) -> int:
    body = {
        "device": arguments.device, "metric": arguments.metric, "value": arguments.value, "reason": arguments.reason,
        "dry_run": arguments.dry_run,
    }  # fmt: skip
    with connect(arguments) as hub:
        row = hub.call("POST", "/sparkplug/writes", body)
        if not arguments.no_wait:
            row = _ended(hub, row)
    print(json.dumps(row) if arguments.json else _line(row))
    good = {"verified", "dry-run"} | (set(UNDER_WAY) if arguments.no_wait else set())
    return 0 if row["state"] in good else EXIT_NO_ANSWER if row["state"] == "expired" else EXIT_FAILED


def _ended(hub: Remote, row: dict[str, Any]) -> dict[str, Any]:
    """Poll until the write has ended; the hub ends every write."""
    while row["state"] in UNDER_WAY:
        time.sleep(POLL_S)
        row = hub.get(f"/sparkplug/writes/{row['id']}")
    return row


def _line(row: dict[str, Any]) -> str:
    reason = f": {row['reason']}" if row["reason"] else ""
    verdict = " (it would be allowed)" if row["state"] == "dry-run" else ""
    what = f"{row['device']} {row['metric']} = {row['value']}"
    return clean(
        f"{row['id']}  {shown(row['requested_us'])}  {what}  {row['state']}{verdict}{reason}  by {row['actor']}"
    )


def _writes(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/sparkplug/writes", device=arguments.device, state=arguments.state, limit=arguments.limit)
    for row in rows:
        print(json.dumps(row) if arguments.json else _line(row))
    if not rows:
        print("no writes", file=sys.stderr)
    return 0
