"""twin get, set, query, history, diff: documents of the fleet, over the REST of a running hub."""

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
from shared.terminal import printable_json

LOOK_S = 0.2

EXAMPLES = """examples:
  tidegate-hub twin get press-3
  tidegate-hub twin get press-3 --name thresholds
  tidegate-hub twin set press-3 settings.period_s=2 settings.log_level=debug --wait 10
  tidegate-hub twin set press-3 settings.log_level=null
  tidegate-hub twin query "SELECT id, reported.agent.version AS version FROM devices WHERE tags.site = 'a'"
  tidegate-hub twin history press-3
  tidegate-hub twin diff press-3 --old 4 --new 9

exit codes: 0 well; 1 the device refused it, or has another value in force; 2 wrong use; 3 the token may not;
4 not known; 5 no answer in time; 6 the document has changed meanwhile
"""


def add(commands: Commands) -> None:
    """Add the parsers of this group."""
    group = commands.add_parser(
        "twin", help="read, change, search and look back at device twins", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    whats = group.add_subparsers(dest="what", required=True, metavar="WHAT")
    of_one = argparse.ArgumentParser(add_help=False, parents=[options()])
    of_one.add_argument("device")
    of_one.add_argument("--name", default="", help="a named document, such as thresholds (default: the classic one)")
    get = whats.add_parser("get", help="print a document as JSON", parents=[of_one])
    get.set_defaults(action=_get)
    put = whats.add_parser("set", help="change desired state", parents=[of_one])
    put.set_defaults(action=_set)
    put.add_argument("change", nargs="+", type=_change, metavar="PATH=JSON", help="null deletes; a bare word is a text")
    put.add_argument("--if-version", type=int, metavar="N", help="only if the document is still at this version")
    put.add_argument("--wait", type=float, default=0.0, metavar="S", help="wait for the device's word on each path")
    query = whats.add_parser("query", help="search all devices, one JSON object a line", parents=[options()])
    query.set_defaults(action=_query)
    query.add_argument("query", help="SELECT ... FROM devices WHERE ...")
    history = whats.add_parser("history", help="who changed it, when and how, newest first", parents=[of_one])
    history.set_defaults(action=_history)
    history.add_argument("--limit", type=int, default=20, help="how many versions (default 20)")
    diff = whats.add_parser("diff", help="what differs between two versions", parents=[of_one])
    diff.set_defaults(action=_diff)
    diff.add_argument("--old", type=int, help="default: the version before the newer one")
    diff.add_argument("--new", type=int, help="default: the newest")


def _change(text: str) -> tuple[list[str], Any]:
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise argparse.ArgumentTypeError(f"'{text}' is no PATH=JSON, such as settings.period_s=2")
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
                raise RemoteError(f"'{'.'.join(keys)}' lies inside a value that is set too", EXIT_USAGE)
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
    """Until nothing of what was set differs from what the device reports and the device has spoken of what was removed,
    or it says that it will stay otherwise. A device that cannot be reached has nothing in force that anybody knows of.
    """
    deadline = time.monotonic() + arguments.wait
    removed = {".".join(keys) for keys, value in arguments.change if value is None}
    while True:
        delta = hub.get(_document(arguments))["state"].get("delta", {})
        heard = hub.get(f"{_path(arguments)}/progress", removed=True)
        words = [word for word in heard if word["shadow"] == arguments.name and word["version"] >= version]
        waiting = [".".join(keys) for keys, value in arguments.change if value is not None and _stands(delta, keys)]
        waiting += sorted(path for path in removed if not _spoken_of(path, words))
        reachable = hub.get(f"/devices/{quote(arguments.device, '')}")["reachable"]
        if not waiting and reachable:
            print("in force")
            return 0
        final = [
            word
            for word in words
            if word["state"] == "refused" or (word["state"] == "applied" and word["path"] not in removed and waiting)
        ]
        for word in final:
            print(clean(f"{word['path']}: {word['state']} {word['reason']}").rstrip())
        if final:
            return EXIT_FAILED
        if time.monotonic() >= deadline:
            paths = ", ".join(waiting or (".".join(keys) for keys, _ in arguments.change))
            away = "" if reachable else "the device cannot be reached; "
            print(f"{away}no word from the device on: {paths}", file=sys.stderr)
            return EXIT_NO_ANSWER
        time.sleep(LOOK_S)


def _spoken_of(path: str, words: list[dict[str, Any]]) -> bool:
    """Whether the device has spoken of this path, or of one inside of it."""
    return any(word["path"] == path or word["path"].startswith(f"{path}.") for word in words)


def _stands(tree: Any, keys: list[str]) -> bool:
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
