"""run: the agent itself, until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys

from edge_agent.cli import Commands, add_command
from shared import logs
from shared.process_lock import process_lock

LOCK = "agent.lock"
"""Lock file in the state directory; only one agent can use the directory at a time."""


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    add_command(commands, "run", "run until stopped", _run)


def _run(arguments: argparse.Namespace) -> int:
    from edge_agent.agent import Agent  # noqa: PLC0415 - `check` must work where an extra is missing
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.store.statestore import state_dir  # noqa: PLC0415

    config, profile = read(arguments.config)
    logs.setup(config.device.id, config.settings.log_level, sys.stderr)
    with process_lock(state_dir(config.device.state_dir) / LOCK, "Stop it, or give this agent a state_dir of its own"):
        agent = Agent(config, profile)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.loop.stop())
        agent.run()
    return 0
