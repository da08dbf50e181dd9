"""demo: runs the demo on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from cloud_hub.cli import Commands


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    demo = commands.add_parser("demo", help="run the demo on this machine, in under two minutes")
    demo.set_defaults(action=_demo)
    demo.add_argument("--devices", type=int, default=3, help="how many devices (default 3)")
    demo.add_argument("--seed", type=int, default=7, help="order of the frames (default 7)")
    demo.add_argument("--keep", action="store_true", help="keep everything running at the end, until Ctrl-C")
    demo.add_argument("--json", type=Path, help="write {rest, mqtt3, mqtt5, token, config, devices, pids} to this file")


def _demo(arguments: argparse.Namespace) -> int:
    from cloud_hub.demo.play import play  # noqa: PLC0415

    return play(devices=arguments.devices, seed=arguments.seed, keep=arguments.keep, json_file=arguments.json)
