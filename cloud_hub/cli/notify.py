"""notify test, list: tests a channel of the local configuration, and lists notifications over REST."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from shared.errors import ConfigError, NotReady

EXAMPLES = """examples:
  tidegate-hub notify test ops --config hub.toml     send a test over [notify.ops], now, no hub needed
  tidegate-hub notify test ops --resolved            and what its end looks like
  tidegate-hub notify list --state given-up          notifications that could not be sent

exit codes: 0 accepted by the server; 1 unreachable or overloaded; 2 usage; 78 refused, or not configured
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "notify", help="test a notification channel; list notifications", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    test = subcommands.add_parser("test", help="send a test message")
    test.set_defaults(action=_test)
    test.add_argument("name", help="channel, as in [notify.NAME]")
    test.add_argument("--config", type=Path, help="TOML file (default: TIDEGATE_NOTIFY)")
    test.add_argument("--resolved", action="store_true", help="send it as a resolved incident")
    listed = subcommands.add_parser("list", help="list notifications, the newest first", parents=[options()])
    listed.set_defaults(action=_list)
    listed.add_argument("--channel", help="only this channel")
    listed.add_argument("--state", choices=["waiting", "notified", "closed", "given-up"])
    listed.add_argument("--limit", type=int, default=20, help="maximum number (default 20)")
    listed.add_argument("--json", action="store_true", help="print JSON")


def _test(arguments: argparse.Namespace) -> int:
    from cloud_hub import settings  # noqa: PLC0415
    from cloud_hub.clock import new_id, now_us  # noqa: PLC0415
    from cloud_hub.notifications import Page, PageAlarm, PageIncident  # noqa: PLC0415
    from cloud_hub.notifications.core import templates  # noqa: PLC0415
    from cloud_hub.notifications.senders import open_sender  # noqa: PLC0415

    known = settings.read(arguments.config)
    channel = known.notify.get(arguments.name)
    if channel is None:
        names = ", ".join(sorted(known.notify)) or "none"
        raise ConfigError(f"notify.{arguments.name}", f"is not configured (configured: {names})", "Name one of them")
    now = now_us()
    ended = now if arguments.resolved else None
    alarm = PageAlarm(
        device="tidegate-test", metric="tidegate.test", kind="high", priority="low", value=1.0, limit=0.0,
        raised_us=now, cleared_us=ended,
    )  # fmt: skip
    incident = PageIncident(
        device="tidegate-test", subject="tidegate", path="", opened_us=now, resolved_us=ended, alarms=(alarm,),
        diagnosis=templates.translate(channel.language, "test"),
    )  # fmt: skip
    page = Page(id=new_id(), incidents=(incident,))
    try:
        open_sender(arguments.name, channel, known.name).send([page], now)
    except NotReady as error:
        print(f"tidegate-hub: notify.{arguments.name}: {clean(error.reason)}", file=sys.stderr)
        return 1
    print(f"notify.{arguments.name}: taken")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/notifications", channel=arguments.channel, state=arguments.state, limit=arguments.limit)
    for row in rows:
        print(json.dumps(row) if arguments.json else _line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    text = (
        f"{row['channel']:12} {row['state']:9} {row['due_status']:9} {row['device']} {row['page']} tries={row['tries']}"
    )
    return clean(f"{text} {row['error']}".rstrip())
