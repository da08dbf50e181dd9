"""autoscale simulate, targets, explain, decisions, pause, resume, override, check: files here, the rest over REST."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.autoscale_simulate import add_simulate
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import seconds, shown

EXAMPLES = """examples:
  tidegate-hub autoscale simulate load.csv --policy p.yaml     violations and cost of policies on a trace
  tidegate-hub autoscale check targets.yaml                    check a file, without a hub
  tidegate-hub autoscale check targets.yaml --against          ... and ask the hub what it would decide now
  tidegate-hub autoscale targets
  tidegate-hub autoscale explain gateway                       why does it have so many instances?
  tidegate-hub autoscale decisions gateway --changes
  tidegate-hub autoscale pause gateway --for 2h --reason "cluster upgrade"
  tidegate-hub autoscale override gateway 8 --for 1h --reason "launch"
  tidegate-hub autoscale resume gateway

exit codes: 0 success; 1 a platform cannot be used; 2 usage; 3 not permitted; 4 not found; 5 no answer; 6 nothing to
resume; 78 an invalid file
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "autoscale", help="check, watch, explain, pause and override targets; simulate policies", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def remote(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        return parser

    check = remote("check", "check a targets file; with --against, show what each target would decide now", _check)
    check.add_argument("file", type=Path)
    check.add_argument("--against", action="store_true", help="ask the hub (an administrator's token is needed)")
    remote("targets", "list the targets", _targets)
    remote("explain", "why a target has its count", _explain).add_argument("target")
    decisions = remote("decisions", "list decisions on a target", _decisions)
    decisions.add_argument("target")
    decisions.add_argument("--changes", action="store_true", help="only those that asked for a change")
    decisions.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    pause = remote("pause", "decide nothing on a target for a time", _pause)
    override = remote("override", "want a count for a time, within the policy's limits", _override)
    for parser in (pause, override):
        parser.add_argument("target")
        parser.add_argument("--reason", default="")
    override.add_argument("count", type=int)
    pause.add_argument("--for", dest="for_s", type=seconds, help="such as 30m or 2h (default: until it is resumed)")
    override.add_argument("--for", dest="for_s", type=seconds, default=3600.0, help="such as 30m (default 1h)")
    add_simulate(subcommands)
    remote("resume", "end a pause or an override", _resume).add_argument("target")


# -- a file ----------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.autoscale.targets_file import open_target, read_file  # noqa: PLC0415

    entries = read_file(str(arguments.file))
    if arguments.against:
        text = arguments.file.read_text("utf-8")
        with connect(arguments) as hub:
            wishes = hub.call("POST", "/autoscale/check", {"text": text}, timeout_s=300.0)
        return _show_wishes(wishes, arguments.json)
    for entry in entries:
        open_target(str(arguments.file), entry)
        counts = f"{entry.minimum}..{entry.maximum}"
        signals = ", ".join(signal.name for signal in entry.signals)
        dry = ", dry run" if entry.dry_run else ""
        print(clean(f"{entry.name}: {entry.platform.kind}, {counts} instances by {signals}{dry}"))
    print(f"{len(entries)} target{'' if len(entries) == 1 else 's'}, valid")
    return 0


def _show_wishes(wishes: list[dict[str, Any]], as_json: bool) -> int:
    for wish in wishes:
        if as_json:
            print(json.dumps(wish))
            continue
        have = "?" if wish["before"] is None else wish["before"]
        new = "" if wish["known"] else " (new)"
        print(clean(f"{wish['target']}{new}: {have} -> {wish['to']}  {wish['reason']}"))
        for part, reason in sorted(wish["errors"].items()):
            print(clean(f"  {part} is unknown: {reason}"))
    return 1 if any("platform" in wish["errors"] for wish in wishes) else 0


# -- the hub ---------------------------------------------------------------------------------------


def _path(arguments: argparse.Namespace, rest: str = "") -> str:
    return f"/autoscale/targets/{quote(arguments.target, '')}{rest}"


def _targets(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        view = hub.get("/autoscale/targets")
    if arguments.json:
        print(json.dumps(view))
        return 0
    if view["error"]:
        print(clean(f"the file in force is older: {view['error']}"))
    if view["targets"] and not view["active"]:
        print(clean(f"another hub decides: {view['holder']}"))
    for row in view["targets"]:
        print(_line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    have = "?" if row["desired"] is None else row["desired"]
    until = f" until {shown(row['until_us'])}" if row["until_us"] else ""
    marks = [row["mode"] + until if row["mode"] != "auto" else "", "dry run" if row["dry_run"] else "",
             "" if row["in_force"] else "not in the file", row["drift"]]  # fmt: skip
    marked = "".join(f"  [{mark}]" for mark in marks if mark)
    return clean(f"{row['name']:20} {have} -> {row['wanted']}  {row['reason']}{marked}")


def _explain(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        found = hub.get(_path(arguments, "/explain"))
    if arguments.json:
        print(json.dumps(found))
        return 0
    lines = list(found["summary"])
    for one in found["inputs"]:
        value = one["error"] or f"{one['value']:g} {one['unit']}, {one['age_s']:g} s old"
        lines.append(f"  input  {one['signal']:16} {value}")
    for kind, rows in (("asks", found["candidates"]), ("limit", found["limits"])):
        lines += [f"  {kind:6} {one['rule']:16} {one['count']}: {one['reason']}" for one in rows]
    for line in lines:
        print(clean(line))
    return 0


def _decisions(arguments: argparse.Namespace) -> int:
    asked = {"changes": arguments.changes, "limit": arguments.limit}
    with connect(arguments) as hub:
        rows = hub.get(_path(arguments, "/decisions"), **asked)
    for row in rows:
        have = "?" if row["before"] is None else row["before"]
        text = f"{shown(row['t_us'])}  {row['action']:5} {have} -> {row['to']}  {row['outcome']:8} {row['reason']}"
        more = f"  ({row['outcome_text']})" if row["outcome_text"] else ""
        print(json.dumps(row) if arguments.json else clean(text + more))
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    return _control(arguments, "/pause", {"reason": arguments.reason, "for_s": arguments.for_s})


def _override(arguments: argparse.Namespace) -> int:
    body = {"count": arguments.count, "reason": arguments.reason, "for_s": arguments.for_s}
    return _control(arguments, "/override", body)


def _resume(arguments: argparse.Namespace) -> int:
    return _control(arguments, "/resume", None)


def _control(arguments: argparse.Namespace, rest: str, body: dict[str, Any] | None) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", _path(arguments, rest), body)
    print(json.dumps(row) if arguments.json else _line(row))
    return 0
