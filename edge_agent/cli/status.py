"""status: the contents of the outbox, read from the state directory."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edge_agent.cli import Commands, add_command


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
    return 0
