"""policy check (without a hub), show and try (over REST)."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.action import add_request, request
from cloud_hub.cli.remote import connect, options
from shared import plugins
from shared.errors import ConfigError

EXAMPLES = """examples:
  tidegate-hub policy check policy.yaml
  tidegate-hub policy try command --device press-3 --parameters '{"verb": "restart", "target": "line-camera"}'
  tidegate-hub policy try job --file policy.yaml --parameters '{"kind": "tags", "query": "*", "content": {"a": 1}}'

exit codes: 0 success; 2 usage; 3 not permitted; 4 not found; 5 no answer; 78 the file has a fault
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "policy", help="check a policy file, and explain its verdict on an action", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")
    check = subcommands.add_parser("check", help="check a policy file, without a hub")
    check.add_argument("file", type=Path)
    check.set_defaults(action=_check)
    shown = subcommands.add_parser("show", help="print the policy in force as JSON", parents=[hub])
    shown.set_defaults(action=_show)
    tried = subcommands.add_parser("try", help="explain the verdict on an action, rule by rule", parents=[hub])
    add_request(tried)
    tried.add_argument("--file", type=Path, help="judge by this policy file, not by the policy in force")
    tried.add_argument("--origin", choices=["diagnosis", "person", "playbook"], default="person")
    tried.set_defaults(action=_try)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(str(file), f"cannot be read ({error})", "Name a policy file") from error


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.actions.policy_file import read_policy, warnings  # noqa: PLC0415 - starts other commands sooner

    types = [point.name for point in entry_points(group=plugins.ACTIONS)]
    policy = read_policy(_text(arguments.file), str(arguments.file), types)
    for warning in warnings(policy):
        print(clean(f"warning: {warning}"))
    print(f"rules: {len(policy.rules)}, sensitive sequences: {len(policy.sequences)}; the file is in order")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        print(json.dumps(hub.get("/policy"), indent=2))
    return 0


def _try(arguments: argparse.Namespace) -> int:
    body: dict[str, Any] = request(arguments) | {"origin": arguments.origin}
    if arguments.file is not None:
        body["policy"] = _text(arguments.file)
    with connect(arguments) as hub:
        verdict = hub.call("POST", "/policy/try", body)
    if arguments.json:
        print(json.dumps(verdict))
        return 0
    needs = f" by {verdict['approvals']} ({' or '.join(verdict['roles'])})" if verdict["approvals"] else ""
    print(clean(f"{verdict['decision']}{needs}: {verdict['reason']}"))
    for row in verdict["rules"]:
        print(clean(f"  {'->' if row['matched'] else '  '} {row['rule']}: {row['reason']}"))
    return 0
