"""The subcommands of `tidegate-edge`, one module for each; `add(commands)` of a module adds its parser.

Imports that need an extra are inside the functions: `--help` and `check` must work without them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

DEFAULT_CONFIG = Path("/etc/tidegate/edge.toml")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The type that `add_subparsers` returns."""
Action: TypeAlias = Callable[[argparse.Namespace], int]
"""Runs a subcommand and returns the exit code."""


def add_command(commands: Commands, name: str, text: str, action: Action) -> argparse.ArgumentParser:
    """Add the subcommand `name` with the option --config; `action` runs it."""
    parser = commands.add_parser(name, help=text, description=text)
    add_config_option(parser)
    parser.set_defaults(action=action)
    return parser


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add --config, the TOML file of the agent."""
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"TOML file (default {DEFAULT_CONFIG})")
