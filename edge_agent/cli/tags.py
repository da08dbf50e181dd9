"""tags read: one read of all tags of the plant collectors, as a table."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from edge_agent.cli import Commands, add_config_option
from shared.errors import EXIT_CONFIG, ConfigError
from shared.process.terminal import printable, printable_json

if TYPE_CHECKING:
    from edge_agent.collectors.plant.reading import TagReading

TEXT = "check the tag lists of plant collectors (modbus, opcua, mqtt_tap)"
EXAMPLES = """examples:
  tidegate-edge tags read --config edge.toml
  tidegate-edge tags read --config edge.toml --collector press --wait 5

exit codes: 0 each tag has a value; 1 some have none; 78 configuration
"""
HEADERS = ("NAME", "VALUE", "UNIT", "QUALITY", "ERROR")
WIDEST = 60


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    raw = argparse.RawDescriptionHelpFormatter
    group = commands.add_parser("tags", help=TEXT, description=TEXT, epilog=EXAMPLES, formatter_class=raw)
    acts = group.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    text = "read all tags once, without the agent, and print a table"
    read = acts.add_parser("read", help=text, description=text, epilog=EXAMPLES, formatter_class=raw)
    add_config_option(read)
    read.add_argument("--collector", metavar="NAME", help="only this collector (default: all plant collectors)")
    read.add_argument("--wait", type=float, default=15.0, metavar="S", help="longest time for a collector (default 15)")
    read.add_argument("--json", action="store_true", help="print JSON")
    read.set_defaults(action=_read)


def _read(arguments: argparse.Namespace) -> int:
    from edge_agent.collectors.plant.collector import PlantCollector  # noqa: PLC0415
    from edge_agent.collectors.plant.reading import read_all  # noqa: PLC0415
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.pipeline.sampler import open_collector  # noqa: PLC0415

    tables = read(arguments.config)[0].collectors
    wanted = [table for table in tables if arguments.collector in {None, table.name}]
    if not wanted:
        names = ", ".join(table.name for table in tables) or "none"
        raise ConfigError("--collector", f"no collector is named '{arguments.collector}'", f"There are: {names}")
    found: list[TagReading] = []
    plants = 0
    for table in wanted:
        collector: Any = open_collector(table)
        try:
            if isinstance(collector, PlantCollector):
                plants += 1
                found += read_all(collector, arguments.wait)
        finally:
            collector.close()
    if not plants:
        print("there is no collector with tags: modbus, opcua or mqtt_tap", file=sys.stderr)
        return EXIT_CONFIG
    _print(found, as_json=arguments.json)
    return 1 if any(one.error for one in found) else 0


def _print(found: list[TagReading], *, as_json: bool) -> None:
    rows = [(one.name, _shown(one.value), one.unit, one.quality, one.error) for one in found]
    if as_json:
        keys = [header.lower() for header in HEADERS]
        values = [(one.name, one.value, one.unit, one.quality, one.error) for one in found]
        print(printable_json([dict(zip(keys, row, strict=True)) for row in values]))
        return
    widths = [min(WIDEST, max(map(len, column))) for column in zip(HEADERS, *rows, strict=True)]
    for row in (HEADERS, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print(printable("  ".join(cells).rstrip()))
    bad = sum(bool(one.error) for one in found)
    print(f"{len(found)} tags, {bad} without a value")


def _shown(value: float | str | None) -> str:
    return "-" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
