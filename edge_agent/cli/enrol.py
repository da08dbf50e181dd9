"""enrol: gets a certificate from the hub with a one-time claim."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_agent.cli import Commands, add_command
from shared.errors import ConfigError


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    parser = add_command(commands, "enrol", "get a certificate from the hub with a one-time claim", _enrol)
    parser.add_argument("--url", required=True, help="the hub's REST, such as https://hub.plant.example:8443")
    parser.add_argument("--claim-file", required=True, type=Path, help="file with the claim (tidegate-hub ca claim)")
    parser.add_argument("--ca", required=True, type=Path, help="the hub's CA (tidegate-hub ca show)")


def _enrol(arguments: argparse.Namespace) -> int:
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.link import trust  # noqa: PLC0415
    from edge_agent.store.statestore import state_dir  # noqa: PLC0415

    device = read(arguments.config)[0].device
    try:
        claim = arguments.claim_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(arguments.claim_file), f"cannot be read ({error})", "Give the claim in a file") from error
    folder = str(state_dir(device.state_dir))
    until = trust.enrol(device.id, folder, arguments.url, claim, str(arguments.ca))
    print(
        f"{device.id} is enrolled until {until}; the agent renews by itself. Delete {arguments.claim_file}: it is used"
    )
    return 0
