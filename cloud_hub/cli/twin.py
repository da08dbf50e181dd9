"""twin get, set, query, history, diff: documents of the fleet, over REST."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import EXIT_FAILED, EXIT_NO_ANSWER, EXIT_USAGE, Remote, RemoteError, connect, options
from shared.process.terminal import printable_json

POLL_S = 0.2

EXAMPLES = """examples:
  tidegate-hub twin get press-3
  tidegate-hub twin get press-3 --name thresholds
  tidegate-hub twin set press-3 settings.period_s=2 settings.log_level=debug --wait 10
  tidegate-hub twin set press-3 settings.log_level=null
  tidegate-hub twin query "SELECT id, reported.agent.version AS version FROM devices WHERE tags.site = 'a'"
  tidegate-hub twin history press-3
  tidegate-hub twin diff press-3 --old 4 --new 9

exit codes: 0 success; 1 refused, or another value is in force; 2 usage; 3 not permitted;
4 not found; 5 no answer in time; 6 the document has changed
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "twin", help="read, change and search device twins, and show their history", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    of_one = argparse.ArgumentParser(add_help=False, parents=[options()])
    of_one.add_argument("device")
    of_one.add_argument("--name", default="", help="a named document, such as thresholds (default: the classic one)")
    get = subcommands.add_parser("get", help="print a document as JSON", parents=[of_one])
    get.set_defaults(action=_get)
    put = subcommands.add_parser("set", help="change desired state", parents=[of_one])
    put.set_defaults(action=_set)
    put.add_argument(
        "change", nargs="+", type=_change, metavar="PATH=JSON", help="null deletes; a bare word is a string"
    )
    put.add_argument("--if-version", type=int, metavar="N", help="only if the document is still at this version")
    put.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="wait until the device has applied or refused the change"
    )
    query = subcommands.add_parser(
        "query", help="search all devices; prints one JSON object per line", parents=[options()]
    )
    query.set_defaults(action=_query)
    query.add_argument("query", help="SELECT ... FROM devices WHERE ...")
    history = subcommands.add_parser(
        "history", help="list changes with time and actor, the newest first", parents=[of_one]
    )
    history.set_defaults(action=_history)
    history.add_argument("--limit", type=int, default=20, help="how many versions (default 20)")
    diff = subcommands.add_parser("diff", help="show the difference between two versions", parents=[of_one])
    diff.set_defaults(action=_diff)
    diff.add_argument("--old", type=int, help="default: the version before the newer one")
    diff.add_argument("--new", type=int, help="default: the newest")


def _change(text: str) -> tuple[list[str], Any]:
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise argparse.ArgumentTypeError(f"'{text}' is not PATH=JSON, such as settings.period_s=2")
    try:
        return keys, json.loads(value)
    except ValueError:
        return keys, value


def _nested(changes: list[tuple[list[str], Any]]) -> dict[str, Any]:
    """Dotted paths as one merge patch; raises RemoteError where one path ends inside another."""
    patch: dict[str, Any] = {}
    for keys, value in changes:
        place = patch
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise RemoteError(f"'{'.'.join(keys)}' is inside a value that is set too", EXIT_USAGE)
        place[keys[-1]] = value
    return patch


def _path(arguments: argparse.Namespace) -> str:
    return f"/devices/{quote(arguments.device, '')}/twin"


def _document(arguments: argparse.Namespace) -> str:
    return _path(arguments) + (f"/name/{quote(arguments.name, '')}" if arguments.name else "")


def _get(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        _print(hub.get(_document(arguments)))
    return 0


def _set(arguments: argparse.Namespace) -> int:
    headers = {"If-Match": f'"{arguments.if_version}"'} if arguments.if_version is not None else None
    patch = _nested(arguments.change)
    with connect(arguments) as hub:
        document = hub.call("PATCH", _document(arguments), {"desired": patch}, headers=headers)
        print(f"version {document['version']}")
        if not arguments.wait:
            return 0
        return _await(hub, arguments, document["version"])


def _await(hub: Remote, arguments: argparse.Namespace, version: int) -> int:
    """Wait until the device has applied the change, or has refused it.

    A change is applied when nothing that was set is in the delta, the device has reported progress of what was removed,
    and the device is reachable.
    """
    deadline = time.monotonic() + arguments.wait
    removed = {".".join(keys) for keys, value in arguments.change if value is None}
    while True:
        delta = hub.get(_document(arguments))["state"].get("delta", {})
        progress = hub.get(f"{_path(arguments)}/progress", removed=True)
        reports = [one for one in progress if one["shadow"] == arguments.name and one["version"] >= version]
        waiting = [".".join(keys) for keys, value in arguments.change if value is not None and _contains(delta, keys)]
        waiting += sorted(path for path in removed if not _has_report(path, reports))
        reachable = hub.get(f"/devices/{quote(arguments.device, '')}")["reachable"]
        if not waiting and reachable:
            print("in force")
            return 0
        final = [
            report
            for report in reports
            if report["state"] == "refused"
            or (report["state"] == "applied" and report["path"] not in removed and waiting)
        ]
        for report in final:
            print(clean(f"{report['path']}: {report['state']} {report['reason']}").rstrip())
        if final:
            return EXIT_FAILED
        if time.monotonic() >= deadline:
            paths = ", ".join(waiting or (".".join(keys) for keys, _ in arguments.change))
            away = "" if reachable else "the device cannot be reached; "
            print(f"{away}no report from the device on: {paths}", file=sys.stderr)
            return EXIT_NO_ANSWER
        time.sleep(POLL_S)


def _has_report(path: str, reports: list[dict[str, Any]]) -> bool:
    """Whether the device has reported progress of this path, or of one below it."""
    return any(report["path"] == path or report["path"].startswith(f"{path}.") for report in reports)


def _contains(tree: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def _query(arguments: argparse.Namespace) -> int:
    after = ""
    with connect(arguments) as hub:
        while True:
            page = hub.call("POST", "/query", {"query": arguments.query, "limit": 1000, "after": after})
            for row in page["rows"]:
                print(printable_json(row))
            after = page["next"]
            if not after:
                return 0


def _history(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get(f"{_path(arguments)}/history", name=arguments.name, limit=arguments.limit)
    for row in rows:
        when = datetime.fromtimestamp(row["t_us"] / 1e6, timezone.utc).isoformat(timespec="milliseconds")
        change = "deleted" if row["verb"] == "delete" else json.dumps(row["patch"], ensure_ascii=False)
        print(f"{row['version']:6}  {when}  {clean(row['actor']):24}  {clean(change)}")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get(f"{_path(arguments)}/diff", name=arguments.name, old=arguments.old, new=arguments.new)
    for row in rows:
        before, after = (json.dumps(row[side], ensure_ascii=False) for side in ("before", "after"))
        print(clean(f"{row['path']}: {before} -> {after}"))
    return 0


def _print(document: Any) -> None:
    print(printable_json(document, indent=1))
