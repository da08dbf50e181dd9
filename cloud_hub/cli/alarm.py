"""alarm list, show, ack, verdict, resolve, shelve, unshelve, suppress, unsuppress, report: over a hub's REST."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import instant, seconds, shown

EXAMPLES = """examples:
  tidegate-hub alarm list --life unacknowledged
  tidegate-hub alarm ack 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891 --comment "fan replaced"
  tidegate-hub alarm verdict 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891 false-alarm
  tidegate-hub alarm shelve 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891 --for 8h --reason "sensor ordered"
  tidegate-hub alarm suppress --path acme/site-a/hall-2 --for 4h --reason "line cleaning"
  tidegate-hub alarm suppressions
  tidegate-hub alarm report --days 30

exit codes: 0 success; 2 usage; 3 not permitted; 4 not found; 5 no answer; 6 not shelved, or the device still exists
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "alarm", help="list, acknowledge, shelve, suppress and judge alarms; performance report", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def subcommand(name: str, text: str, action: Any, *, of_one: bool = False) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        if of_one:
            parser.add_argument("id")
        return parser

    listed = subcommand("list", "list alarms, the newest first", _list)
    listed.add_argument("--device", default="")
    listed.add_argument("--metric", default="")
    listed.add_argument("--life", help="unacknowledged, acknowledged, returned-unacknowledged, shelved, ...")
    listed.add_argument("--priority", help="low, medium, high or critical")
    listed.add_argument("--verdict", default="", help="real or false-alarm")
    listed.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    subcommand("show", "show one alarm", _show, of_one=True)
    subcommand("ack", "acknowledge an alarm", _ack, of_one=True).add_argument("--comment", default="")
    verdict = subcommand("verdict", "record whether an alarm was real; learning uses it", _verdict, of_one=True)
    verdict.add_argument("verdict", choices=["real", "false-alarm"])
    verdict.add_argument("--comment", default="")
    resolve = subcommand("resolve", "clear an alarm whose device is no longer known", _resolve, of_one=True)
    resolve.add_argument("--reason", required=True)
    shelve = subcommand("shelve", "shelve an alarm for a while", _shelve, of_one=True)
    shelve.add_argument("--for", dest="for_s", type=seconds, required=True, metavar="TIME", help="90m, 8h, at most 7d")
    shelve.add_argument("--reason", required=True)
    subcommand("unshelve", "end the shelving of an alarm", _unshelve, of_one=True)
    _add_suppressions(subcommand)
    report = subcommand("report", "performance of the alarm system (ISA-18.2)", _report)
    report.add_argument("--days", type=float, default=7.0, help="length of the period (default 7)")
    report.add_argument("--device", default="")


def _add_suppressions(subcommand: Any) -> None:
    subcommand("suppressions", "list active suppressions", _suppressions)
    suppress = subcommand("suppress", "suppress alarms, such as for maintenance", _suppress)
    where = suppress.add_mutually_exclusive_group(required=True)
    where.add_argument("--device", default="")
    where.add_argument("--path", default="", help="all devices below an asset path")
    suppress.add_argument("--metric", default="", help="only this one (default: all)")
    suppress.add_argument("--from", dest="from_us", type=instant, default=0, metavar="TIME", help="default: now")
    suppress.add_argument("--for", dest="for_s", type=seconds, metavar="TIME", help="90m, 4h, at most 90d")
    suppress.add_argument("--out-of-service", action="store_true", help="take out of service; needs no --for")
    suppress.add_argument("--reason", required=True)
    subcommand("unsuppress", "end a suppression early", _unsuppress, of_one=True)


def _one(arguments: argparse.Namespace, verb: str, body: dict[str, Any] | None) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST" if verb else "GET", f"/alarms/{quote(arguments.id, '')}{verb}", body)
    return _print([row], arguments.json)


def _print(rows: list[dict[str, Any]], as_json: bool) -> int:
    for row in rows:
        print(json.dumps(row) if as_json else _line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    about = f" {row['about']}" if row["about"] else ""
    what = f"{row['metric']}{about} {row['kind']} {row['value']:g} (limit {row['limit']:g})"
    actor = f" by {row['acked_by']}" if row["acked_by"] else ""
    more = "".join(f"  {text}" for text in (row["verdict"], row["comment"]) if text)
    when = f"{row['id']}  {shown(row['raised_us'])}  {row['priority']:8}"
    return clean(f"{when}  {row['device']}  {what}  {row['life']}{actor}{more}")


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get(
            "/alarms", device=arguments.device, metric=arguments.metric, life=arguments.life,
            priority=arguments.priority, verdict=arguments.verdict, limit=arguments.limit,
        )  # fmt: skip
    return _print(rows, arguments.json)


def _show(arguments: argparse.Namespace) -> int:
    return _one(arguments, "", None)


def _ack(arguments: argparse.Namespace) -> int:
    return _one(arguments, "/acknowledge", {"comment": arguments.comment})


def _verdict(arguments: argparse.Namespace) -> int:
    return _one(arguments, "/verdict", {"verdict": arguments.verdict, "comment": arguments.comment})


def _resolve(arguments: argparse.Namespace) -> int:
    return _one(arguments, "/resolve", {"reason": arguments.reason})


def _shelve(arguments: argparse.Namespace) -> int:
    return _one(arguments, "/shelve", {"for_s": arguments.for_s, "reason": arguments.reason})


def _unshelve(arguments: argparse.Namespace) -> int:
    return _one(arguments, "/unshelve", None)


# -- suppression and report ------------------------------------------------------------------------


def _suppressions(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/alarms/suppressions")
    for row in rows:
        print(json.dumps(row) if arguments.json else _suppression(row))
    return 0


def _suppression(row: dict[str, Any]) -> str:
    until = "further notice" if row["until_us"] is None else shown(row["until_us"])
    where = f"{row['device'] or row['path']} {row['metric'] or 'all'}"
    since, by = shown(row["from_us"]), f"{row['actor']}: {row['reason']}"
    text = f"{row['id']}  {row['method']}  {where}  {since} until {until}  by {by}"
    return clean(text)


def _suppress(arguments: argparse.Namespace) -> int:
    start_us = arguments.from_us or time.time_ns() // 1000
    body = {
        "method": "out-of-service" if arguments.out_of_service else "suppressed",
        "device": arguments.device,
        "path": arguments.path,
        "metric": arguments.metric,
        "reason": arguments.reason,
        "from_us": arguments.from_us,
        "until_us": None if arguments.for_s is None else start_us + int(arguments.for_s * 1e6),
    }
    with connect(arguments) as hub:
        row = hub.call("POST", "/alarms/suppressions", body)
    print(json.dumps(row) if arguments.json else _suppression(row))
    return 0


def _unsuppress(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        hub.request("DELETE", f"/alarms/suppressions/{quote(arguments.id, '')}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        report = hub.get("/alarms/report", days=arguments.days, device=arguments.device)
    print(json.dumps(report) if arguments.json else _report_text(report))
    return 0


def _report_text(report: dict[str, Any]) -> str:
    ack = (
        "nothing acknowledged"
        if report["ack_median_s"] is None
        else f"half of them within {report['ack_median_s']:.0f} s"
    )
    lines = [
        f"{shown(report['since_us'])} to {shown(report['until_us'])}",
        f"alarms: {report['alarms']}, {report['per_day']:.1f} a day (ISA-18.2: about 150 can be handled); {ack}",
        f"pages: {report['pages']}; suppressed in addition: {report['suppressed']}",
        f"most in ten minutes: {report['peak']}; in flood (more than 10): {report['in_flood']:.1%} of the time",
        f"standing: {report['standing']}, unacknowledged {report['unacknowledged']}, "
        f"stale (over a day) {report['stale']}",
        f"chattering: {report['chattering']}; fleeting: {report['fleeting']}",
        f"verdicts: {report['real']} real, {report['false_alarms']} false",
        f"most often ({report['top_share']:.0%} of all):",
        *(
            f"  {row['alarms']:6}  {row['share']:4.0%}  {row['device']}  {row['metric']}"
            + ("  chattering" if row["chattering"] else "")
            for row in report["top"]
        ),
    ]
    return "\n".join(clean(line) for line in lines)
