"""status: the contents of the outbox, read from the state directory."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from edge_agent.cli import Commands, add_command
from shared.errors import TidegateError
from shared.process.terminal import printable
from shared.sparkplug.edge_session import EdgeState


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    parser = add_command(commands, "status", "show the contents of the outbox", _status)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _status(arguments: argparse.Namespace) -> int:
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.sparkplug.service import file_status  # noqa: PLC0415
    from edge_agent.store import outbox  # noqa: PLC0415

    config, _ = read(arguments.config)
    file = Path(config.device.state_dir) / "outbox.sqlite"
    if not file.exists():
        print(f"{config.device.id}: has not run yet ({file} is not there)", file=sys.stderr)
        return 1
    status = outbox.status(file)
    scada = file_status(file.parent) if config.sparkplug else None
    if arguments.json:
        print(json.dumps({"device": config.device.id} | status | ({"sparkplug": scada} if scada else {})))
        return 0
    print(f"{config.device.id}: epoch {status['epoch']}")
    for stream, row in status["streams"].items():
        waiting = row["accepted"] - row["at_hub"]
        print(f"  {stream:<11} accepted {row['accepted']:>9}  at the hub {row['at_hub']:>9}  waiting {waiting:>7}")
    for stream, first, last, reason in status["lost"]:
        print(f"  {stream:<11} {reason}: {first}..{last}")
    if scada:
        print(f"  {'sparkplug':<11} waiting {scada['waiting']:>9}  lost {scada['lost']:>9}")
        print(printable(f"  {'sparkplug':<11} {_scada_state(file.parent)}"))
    return 0


def _scada_state(folder: Path) -> str:
    """The state of the Sparkplug session as the agent has last reported it to the twin."""
    from edge_agent.twin.local_cli import twins  # noqa: PLC0415

    try:
        found: dict[str, Any] = twins(folder / "kept.sqlite")[""]["reported"]["sparkplug"]
        host = f" '{found['primary_host']}'" if found["state"] == EdgeState.WAITING else ""
        reason = f" ({found['reason']})" if found["reason"] else ""
        return f"last reported: {found['state']}{host}, server {found['server']}{reason}, births {found['births']}"
    except (TidegateError, KeyError, TypeError, ValueError, sqlite3.Error):
        return "no state reported yet"
