"""Command line of the agent, `tidegate-edge`: run, check, status, enrol, twin, profile, ask, write, tags.

Exit codes: 0 success, 1 failure, 75 the agent has not processed a request yet, 78 the configuration is wrong.
"""

from __future__ import annotations

import argparse
import sys

from edge_agent.cli import ask, check, enrol, profile, run, status, tags, twin, write
from shared import VERSION
from shared.errors import EXIT_CONFIG, ConfigError, TidegateError
from shared.process.terminal import handle_broken_pipe, printable_lines

EXAMPLES = """examples:
  tidegate-edge check --config edge.toml      validate configuration and installation
  tidegate-edge run --config edge.toml        run until stopped (as systemd does)
  tidegate-edge status --config edge.toml     show the contents of the outbox
  tidegate-edge enrol --url https://hub:8443 --ca ca.pem --claim-file claim --config edge.toml
  tidegate-edge twin get --config edge.toml   show desired and reported state on this device
  tidegate-edge twin set settings.period_s=0.5 --config edge.toml
  tidegate-edge ask "Is 7 mm/s normal?" --config edge.toml
  tidegate-edge write enable line.speed --for 8h --config edge.toml
  tidegate-edge profile detect                find the device profile of this machine
  tidegate-edge tags read --config edge.toml  read all tags of modbus, opcua and mqtt_tap once
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return handle_broken_pipe(lambda: _main(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate-edge", description="The Tidegate edge agent.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"tidegate {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (run, check, status, enrol, twin, profile, ask, write, tags):
        command.add(commands)
    return parser


def _main(argv: list[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.action(arguments))
    except ConfigError as error:
        print(f"tidegate-edge: {printable_lines(str(error))}", file=sys.stderr)
        return EXIT_CONFIG
    except TidegateError as error:
        print(f"tidegate-edge: {printable_lines(str(error))}", file=sys.stderr)
        return 1
