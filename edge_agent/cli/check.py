"""check: validates the configuration and the installation without starting the agent."""

from __future__ import annotations

import argparse
import sys

from edge_agent.cli import Commands, add_command
from shared.errors import EXIT_CONFIG


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    add_command(commands, "check", "validate configuration and installation", _check)


def _check(arguments: argparse.Namespace) -> int:
    from edge_agent.checks import run_checks  # noqa: PLC0415

    path = arguments.config
    findings = run_checks(path)
    for line in findings.lines():
        print(line, file=sys.stderr)
    if not findings.problems:
        print(f"{path}: well. Start it with: tidegate-edge run --config {path}")
    return EXIT_CONFIG if findings.problems else 0
