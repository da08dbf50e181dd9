"""action list, show, propose, approve, refuse, cancel, undo, over REST."""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import shown
from shared.errors import ConfigError

EXAMPLES = """examples:
  tidegate-hub action list --state proposed
  tidegate-hub action show 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub action approve 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub action propose twin --device press-3 --parameters '{"patch": {"settings": {"period_s": 5}}}'
  tidegate-hub action undo 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891 --reason "did not help"

exit codes: 0 success; 2 usage; 3 not permitted; 4 not found; 5 no answer; 6 the action's state does not allow it
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "action", help="list, propose, approve, refuse, cancel and undo actions", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def subcommand(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        return parser

    listed = subcommand("list", "list actions, the newest first", _list)
    listed.add_argument("--device", default="")
    listed.add_argument("--state", default="", help="proposed, approved, executing, verified, failed, ...")
    listed.add_argument("--incident", default="")
    listed.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    subcommand("show", "show one action", _show).add_argument("id")
    proposed = subcommand("propose", "propose an action", _propose)
    add_request(proposed)
    proposed.add_argument("--reason", default="")
    proposed.add_argument("--key", default="", help="idempotency key: the same key proposes it once")
    subcommand("approve", "approve a proposed action", _approve).add_argument("id")
    for name, text in (("refuse", "refuse a proposed action"), ("cancel", "cancel an action that has not ended"),
                       ("undo", "propose the action that undoes it")):  # fmt: skip
        parser = subcommand(name, text, _change)
        parser.add_argument("id")
        parser.add_argument("--reason", default="")


def add_request(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe an action."""
    parser.add_argument("type", help="command, twin, limits, model_rollback, scale, job, webhook, email or script")
    parser.add_argument("--device", default="")
    parser.add_argument("--parameters", default="{}", metavar="JSON", help="the type's parameters")


def request(arguments: argparse.Namespace) -> dict[str, Any]:
    """The action that the options describe, as REST takes it; raises ConfigError."""
    try:
        parameters = json.loads(arguments.parameters)
    except ValueError as error:
        cure = """Write for example --parameters '{"verb": "restart", "target": "line-camera"}'"""
        raise ConfigError("--parameters", f"is no JSON ({error})", cure) from error
    return {"type": arguments.type, "device": arguments.device, "parameters": parameters}


def _print(row: dict[str, Any], as_json: bool) -> int:
    print(json.dumps(row) if as_json else _line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    wants = f" ({len(row['approvals'])} of {row['approvals_needed']} approvals)" if row["state"] == "proposed" else ""
    text = f"{row['id']}  {shown(row['created_us'])}  {row['state'] + wants:10}  {row['device'] or '-'}  {row['type']} "
    return clean(f"{text}{row['detail']}  {row['outcome'] or row['policy']}".rstrip())


def _list(arguments: argparse.Namespace) -> int:
    wanted = {name: getattr(arguments, name) for name in ("device", "state", "incident", "limit")}
    with connect(arguments) as hub:
        rows = hub.get("/actions", **wanted)
    for row in rows:
        _print(row, arguments.json)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.get(f"/actions/{quote(arguments.id, '')}")
    if arguments.json:
        return _print(row, True)
    for name, value in row.items():
        if value not in ("", None, [], {}):
            print(clean(f"{name:18}{value if isinstance(value, str) else json.dumps(value)}"))
    return 0


def _propose(arguments: argparse.Namespace) -> int:
    body = request(arguments) | {"reason": arguments.reason, "key": arguments.key}
    with connect(arguments) as hub:
        row = hub.call("POST", "/actions", body)
    return _print(row, arguments.json)


def _approve(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        row = hub.call("POST", f"/actions/{quote(arguments.id, '')}/decision", {"approve": True})
    return _print(row, arguments.json)


def _change(arguments: argparse.Namespace) -> int:
    path, body = f"/actions/{quote(arguments.id, '')}", {"reason": arguments.reason}
    with connect(arguments) as hub:
        if arguments.what == "refuse":
            row = hub.call("POST", f"{path}/decision", body | {"approve": False})
        else:
            row = hub.call("POST", f"{path}/{arguments.what}", body)
    return _print(row, arguments.json)
