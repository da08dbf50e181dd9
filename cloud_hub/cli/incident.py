"""incident list, show, ack, resolve, merge, split, cases and report over REST; replay is in `incident_replay`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean, incident_replay
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import instant, seconds, shown

EXAMPLES = """examples:
  tidegate-hub incident list --device press-3
  tidegate-hub incident show 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub incident ack 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub incident resolve 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891 --reason "sensor was taken off"
  tidegate-hub incident merge 01a1fc6b-... 01a1fc70-... --reason "same pump"
  tidegate-hub incident split 01a1fc70-... --reason "another pump"
  tidegate-hub incident cases --cause overheating
  tidegate-hub incident replay --config hub.toml --rules new-rules.yaml --since 30d
  tidegate-hub incident report --shift 8h --svg shift.svg

exit codes: 0 success; 2 usage; 3 not permitted; 4 not found; 5 no answer; 6 not possible in its state
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "incident", help="list, acknowledge, resolve, merge and split incidents; cases, replay, shift report",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def subcommand(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        return parser

    listed = subcommand("list", "list groups of incidents, the newest first", _list)
    listed.add_argument("--device", default="", help="all incidents of this device")
    listed.add_argument("--page", default="", help="the incidents of this group (the id of its first one)")
    listed.add_argument("--members", action="store_true", help="all incidents, not only the one that leads each group")
    listed.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    subcommand("show", "show an incident: its group, evidence, diagnosis and actions", _show).add_argument("id")
    subcommand("ack", "acknowledge an incident, or a whole group by the one that leads it", _ack).add_argument("id")
    resolve = subcommand("resolve", "resolve an incident that no device will clear", _resolve)
    resolve.add_argument("id")
    resolve.add_argument("--reason", required=True)
    for name, text in (
        ("merge", "merge the groups of other incidents into that of the first"),
        ("split", "take incidents out of their group, into one of their own"),
    ):
        parser = subcommand(name, text, _regroup)
        parser.add_argument("ids", nargs="+", metavar="ID")
        parser.add_argument("--reason", required=True)
    cases = subcommand("cases", "list what became of past incidents, the newest first", _cases)
    cases.add_argument("--cause", default="")
    cases.add_argument("--device", default="")
    cases.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    report = subcommand("report", "what happened in a shift, what was done, what stands", _report)
    report.add_argument("--shift", type=seconds, default=28_800.0, metavar="TIME", help="its length (default 8h)")
    report.add_argument("--until", type=instant, metavar="TIME", help="its end (default now)")
    report.add_argument("--svg", type=Path, metavar="FILE", help="also write the plot to this file")
    incident_replay.add(subcommands)


def _print(rows: list[dict[str, Any]], as_json: bool) -> int:
    for row in rows:
        print(json.dumps(row) if as_json else _line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    end = f"  by {row['resolved_by']}: {row['resolution']}" if row["resolution"] else ""
    group = row.get("group") or {}
    size = f"  leads {group['members']} ({group['unresolved']} unresolved)" if group.get("members", 1) > 1 else ""
    return clean(
        f"{row['id']}  {shown(row['opened_us'])}  {row['state']:12}  {row['device']}  {row['subject']}{size}{end}"
    )


def _list(arguments: argparse.Namespace) -> int:
    asked = {"device": arguments.device, "page": arguments.page, "limit": arguments.limit}
    with connect(arguments) as hub:
        rows = hub.get("/incidents", **asked, **({"members": True} if arguments.members else {}))
    return _print(rows, arguments.json)


def _show(arguments: argparse.Namespace) -> int:
    path = f"/incidents/{quote(arguments.id, '')}"
    with connect(arguments) as hub:
        view = hub.get(path) | {"evidence": hub.get(f"{path}/evidence")}
    print(json.dumps(view) if arguments.json else "\n".join(map(clean, _shown(view))))
    return 0


def _shown(view: dict[str, Any]) -> list[str]:
    diagnosis = view["incident"]["diagnosis"] or {}
    lines = [_line(view["incident"]), f"  diagnosis: {diagnosis.get('explanation') or 'none yet'}"]
    for action in view["actions"]:
        name = action.get("detail") or f"{action.get('verb', '')} {action.get('target', '')}"
        lines.append(f"  action: {name.strip()}, {action['state']} ({action['policy']})")
    if view["group"]["members"] > 1:
        lines.append(f"  group of {view['group']['members']}:")
        for row in view["members"]:
            reason = "leads" if row["leads"] else row["joined_because"] or "was first"
            lines.append(f"    {row['id']}  {row['state']:12}  {row['device']}  {row['subject']}: {reason}")
    return lines + [f"  {item['id']:4} {item['kind']:9} {item['summary']}" for item in view["evidence"]["items"]]


def _ack(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", f"/incidents/{quote(arguments.id, '')}/acknowledge")
    return _print([row], arguments.json)


def _resolve(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", f"/incidents/{quote(arguments.id, '')}/resolve", {"reason": arguments.reason})
    return _print([row], arguments.json)


def _regroup(arguments: argparse.Namespace) -> int:
    first, others = arguments.ids[0], arguments.ids[1:] if arguments.what == "merge" else arguments.ids
    body = {"incidents": others, "reason": arguments.reason}
    with connect(arguments) as hub:
        row = hub.call("POST", f"/incidents/{quote(first, '')}/{arguments.what}", body)
    return _print([row], arguments.json)


def _cases(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/cases", cause=arguments.cause, device=arguments.device, limit=arguments.limit)
    for row in rows:
        done = ", ".join(_done(action) for action in row["actions"]) or "no action"
        what = f"{row['device']}  {row['cause'] or '-'}  {row['outcome']}: {done}"
        line = f"{row['id']}  {shown(row['resolved_us'])}  {what}"
        print(json.dumps(row) if arguments.json else clean(line))
    return 0


def _done(action: dict[str, Any]) -> str:
    name = " ".join(str(value) for value in (action.get("parameters") or {}).values())
    return f"{name} ({'helped' if action['helped'] else action['state']})"


def _report(arguments: argparse.Namespace) -> int:
    until_us = {"to_us": arguments.until} if arguments.until else {}
    with connect(arguments) as hub:
        end_us = until_us.get("to_us") or hub.get("/shift-report")["to_us"]
        asked = {"from_us": end_us - int(arguments.shift * 1e6), "to_us": end_us}
        text = hub.request("GET", "/shift-report", format="json" if arguments.json else "text", **asked).text
        if arguments.svg:
            arguments.svg.write_text(hub.request("GET", "/shift-report", format="svg", **asked).text, "utf-8")
    print("\n".join(map(clean, text.rstrip().split("\n"))))
    return 0
