"""learning put, show, list, series, refit, release, remove, backtest, missed-fault, forecast, over REST."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options

EXAMPLES = """examples:
  tidegate-hub learning put servers --target "tags.kind = 'server'" --metrics cpu.load,disk.*
  tidegate-hub learning put servers --target "*" --metrics cpu.load --set canary=0.1 --set watch_s=7200
  tidegate-hub learning put servers --target "*" --metrics cpu.* --set peers=tags.service --set 'peers_high=["cpu.*"]'
  tidegate-hub learning backtest servers --days 30       what it would have alarmed on; pushes nothing
  tidegate-hub learning show servers                     state of its limits and quality of their alarms
  tidegate-hub learning release servers press-3 cpu.load let it replace a limit that was set by hand
  tidegate-hub learning missed-fault press-3 cpu.load --since 2026-11-20T08:00:00Z --until 2026-11-20T09:00:00Z

exit codes: 0 success; 1 failed; 2 usage; 3 not permitted; 4 not found; 5 no answer; 6 conflict
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "learning", help="learn limits from history, push them, roll them back automatically", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    shown = options()
    shown.add_argument("--json", action="store_true", help="print JSON")

    def command(name: str, text: str, action: Any, *, named: bool = True) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, description=text, parents=[shown])
        parser.set_defaults(action=action)
        if named:
            parser.add_argument("name")
        return parser

    put = command("put", "create or change a learning", _put)
    put.add_argument("--target", required=True, help="which devices: a condition of the query language, * for all")
    put.add_argument("--metrics", required=True, help="names or patterns, separated by commas")
    put.add_argument("--set", action="append", default=[], type=_policy_field, metavar="FIELD=VALUE", help="repeatable")
    command("list", "list all learning jobs by name", _list, named=False)
    command("show", "show a learning job with hits, false alarms, misses and its newest rollout", _show)
    series = command("series", "list the series of a learning", _series)
    series.add_argument("--device", default="")
    command("refit", "start a refit now", _refit)
    release = command("release", "let a learning job replace limits that were set by hand", _release)
    release.add_argument("device")
    release.add_argument("metrics", nargs="*", help="metrics (default: all that it learns on the device)")
    command("remove", "delete a learning job; limits that it pushed stay in force", _remove)
    backtest = command("backtest", "replay history with current and with learned limits", _backtest)
    backtest.add_argument("--days", type=float, default=7.0)
    backtest.add_argument("--devices", type=int, default=10, help="number of devices (default 10)")
    fault = command("missed-fault", "report a fault on which no alarm was raised", _missed_fault, named=False)
    fault.add_argument("device")
    fault.add_argument("metric")
    fault.add_argument("--since", type=_instant, required=True, metavar="TIME", help="2026-11-20T08:00:00Z")
    fault.add_argument("--until", type=_instant, required=True, metavar="TIME")
    fault.add_argument("--note", default="")
    forecast = command("forecast", "the probability of crossing a limit within 15 minutes", _forecast, named=False)
    forecast.add_argument("device")
    forecast.add_argument("metric")
    forecast.add_argument(
        "--limit", type=float, help="probability of exceeding this value, instead of the limit in force"
    )


def _policy_field(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if key == "peers":
        return key, value
    try:
        return key, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not FIELD=NUMBER, monitor=true or peers=tags.service") from error


def _instant(text: str) -> int:
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time: write 2026-11-20T08:00:00Z") from error
    return int((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp() * 1e6)


def _path(name: str, rest: str = "") -> str:
    return f"/learning-jobs/{quote(name, '')}{rest}"


def _put(arguments: argparse.Namespace) -> int:
    policy = {"metrics": [one.strip() for one in arguments.metrics.split(",") if one.strip()]} | dict(arguments.set)
    with connect(arguments) as hub:
        row = hub.call("PUT", _path(arguments.name), {"target": arguments.target, "policy": policy})
    print(json.dumps(row) if arguments.json else f"{arguments.name}: a refit starts; see: learning show {row['id']}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/learning-jobs")
    for row in rows:
        line = f"{row['id']}  {', '.join(row['policy']['metrics'])}  where {row['target']}  {row['reason']}"
        print(json.dumps(row) if arguments.json else clean(line))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        view = hub.get(_path(arguments.name))
    if arguments.json:
        print(json.dumps(view))
        return 0
    standing, counts, backtest, rollout = view["standing"], view["counts"], view["backtest"], view["rollout"]
    print(clean(f"{arguments.name}: {view['learning']['reason'] or 'not fitted yet'}"))
    print("  series: {series}, fitted {fitted}, pushed {pushed}, in force {in_force}, stale {stale}".format(**standing))
    print("  alarms: {alarms}, judged real {hits}, judged false {false}; faults reported {faults}, missed {missed}"
          .format(**counts))  # fmt: skip
    print("  anomalies of live monitoring: {anomalies}, judged false {false_anomalies}".format(**counts))
    if view["raised"]:
        print(
            f"  more alarms came than the budget allows: the threshold is raised by up to {view['raised']:.1f} decades"
        )
    for one in view["peers"]:
        print(
            clean(
                "  {metric} compared with peers: {servers} servers of {services} services, {left_out} left out".format(
                    **one
                )
            )
        )
        for device, reason in one["reasons"].items():
            print(clean(f"    {device} {reason}"))
    print(f"  backtest: {_weekly(backtest)}")
    if rollout is not None:
        print(clean(f"  newest rollout: {rollout['state']} {rollout['reason']}"))
    return 0


def _weekly(total: dict[str, Any]) -> str:
    in_sample = f"; {total['in_sample']} series tested on their training data" if total["in_sample"] else ""
    return (f"{total['per_device_week']:.2f} alarms per device and week, with current limits "
            f"{total['present_per_device_week']:.2f}; faults hit {total['hit']}, missed {total['missed']}{in_sample}"
            )  # fmt: skip


def _series(arguments: argparse.Namespace) -> int:
    after = ""
    with connect(arguments) as hub:
        while True:
            rows = hub.get(_path(arguments.name, "/series"), device=arguments.device, after=after or None, limit=500)
            for row in rows:
                state = row["reason"] or ("pushed" if row["pushed"] else "fitted")
                line = f"{row['device']}  {row['metric']}  factor {row['factor']:.2f}  {state}"
                print(json.dumps(row) if arguments.json else clean(line))
            if len(rows) < 500:
                return 0
            after = f"{rows[-1]['device']}/{rows[-1]['metric']}"


def _refit(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", _path(arguments.name, "/refit"))
    print(
        json.dumps(row) if arguments.json else f"{row['id']}: a refit starts, unless a rollout of its limits is running"
    )
    return 0


def _release(arguments: argparse.Namespace) -> int:
    body = {"device": arguments.device, "metrics": arguments.metrics}
    with connect(arguments) as hub:
        metrics = hub.call("POST", _path(arguments.name, "/release"), body)
    print(json.dumps(metrics) if arguments.json else f"released: {', '.join(metrics)}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        hub.request("DELETE", _path(arguments.name))
    print(json.dumps({"removed": arguments.name}) if arguments.json else f"{arguments.name} is removed")
    return 0


def _backtest(arguments: argparse.Namespace) -> int:
    to_us = int(datetime.now(timezone.utc).timestamp() * 1e6)
    body = {"learning": arguments.name, "devices": arguments.devices, "to_us": to_us,
            "from_us": to_us - int(arguments.days * 86_400e6)}  # fmt: skip
    with connect(arguments) as hub:
        found = hub.call("POST", "/thresholds/backtest", body, timeout_s=300.0)
    if arguments.json:
        print(json.dumps(found))
        return 0
    for row in found["series"]:
        sides = [f"{side} {row[side]['alarms']}" if row[side] else f"{side} none" for side in ("present", "proposed")]
        print(clean(f"{row['device']}  {row['metric']}  {row['points']} points; alarms: {', '.join(sides)}  "
                    f"{row['reason']}".rstrip()))  # fmt: skip
    print(_weekly(found["total"]))
    return 0


def _missed_fault(arguments: argparse.Namespace) -> int:
    body = {"device": arguments.device, "metric": arguments.metric, "start_us": arguments.since,
            "end_us": arguments.until, "note": arguments.note}  # fmt: skip
    with connect(arguments) as hub:
        row = hub.call("POST", "/missed-faults", body)
    print(json.dumps(row) if arguments.json else f"{row['id']} is recorded; the next fit of {row['metric']} is tighter")
    return 0


def _forecast(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        found = hub.get("/thresholds/forecast", device=arguments.device, metric=arguments.metric, limit=arguments.limit)
    print(json.dumps(found) if arguments.json else clean(_forecast_text(found)))
    return 0


def _forecast_text(found: dict[str, Any]) -> str:
    series = f"{found['device']}  {found['metric']}"
    if found["probability"] is None:
        return f"{series}: not judged: {found['reason']}"
    beyond = "above" if found["side"] == "high" else "below"
    return (f"{series}: {found['probability']:.2f} to be {beyond} {found['limit']:g} within {found['within_s'] // 60} "
            f"minutes; by {found['model']}, average precision {found['average_precision']:.3f} on validation data, "
            f"base rate {found['base_rate']:.3f}")  # fmt: skip
