"""tidegate-edge: run, check, status. Exit codes: 0 well, 1 something failed, 78 the configuration is wrong."""

from __future__ import annotations

import argparse
import signal
import sqlite3
import sys
from pathlib import Path

from shared import VERSION, logs
from shared.errors import EXIT_CONFIG, ConfigError, TidegateError

DEFAULT_CONFIG = Path("/etc/tidegate/edge.toml")
EXAMPLES = """examples:
  tidegate-edge check --config edge.toml      what is wrong, and what to do about it
  tidegate-edge run --config edge.toml        work until stopped (what systemd runs)
  tidegate-edge status --config edge.toml     what waits in the outbox
"""


def _run(path: Path) -> int:
    from edge_agent.agent import Agent  # noqa: PLC0415 - `check` must work where an extra is missing
    from edge_agent.config import read  # noqa: PLC0415

    config, profile = read(path)
    logs.setup(config.device.id, config.settings.log_level, sys.stderr)
    agent = Agent(config, profile)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.loop.stop())
    agent.run()
    return 0


def _check(path: Path) -> int:
    from edge_agent.check import problems  # noqa: PLC0415

    found = problems(path)
    for line in found:
        print(f"problem: {line}", file=sys.stderr)
    if not found:
        print(f"{path}: well. Start it with: tidegate-edge run --config {path}")
    return EXIT_CONFIG if found else 0


def _status(path: Path) -> int:
    from edge_agent.config import read  # noqa: PLC0415

    config, _ = read(path)
    file = Path(config.device.state_dir) / "outbox.sqlite"
    if not file.exists():
        print(f"{config.device.id}: has not run yet ({file} is not there)")
        return 1
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
        (epoch,) = db.execute("SELECT epoch FROM meta").fetchone()
        print(f"{config.device.id}: epoch {epoch}")
        for stream, following, acked in db.execute("SELECT stream, next, acked FROM streams ORDER BY stream"):
            print(
                f"  {stream:<11} accepted {following - 1:>9}  at the hub {acked:>9}  waiting {following - 1 - acked:>7}"
            )
        for stream, first, last, reason in db.execute("SELECT stream, first, last, reason FROM lost"):
            print(f"  {stream:<11} {reason}: {first}..{last}")
    db.close()
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tidegate-edge",
        description="The Tidegate edge agent.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tidegate {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    actions = {"run": (_run, "work until stopped"), "check": (_check, "validate configuration and installation"),
               "status": (_status, "what the outbox holds")}  # fmt: skip
    for name, (_, text) in actions.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--config", type=Path, default=DEFAULT_CONFIG, help=f"TOML file (default {DEFAULT_CONFIG})"
        )
    arguments = parser.parse_args(argv)
    try:
        return actions[arguments.command][0](arguments.config)
    except ConfigError as error:
        print(f"tidegate-edge: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except TidegateError as error:
        print(f"tidegate-edge: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
