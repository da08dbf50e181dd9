"""telemetry last, range, top, export: what devices measured, over REST."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import instant
from shared.errors import ConfigError

EXAMPLES = """examples:
  tidegate-hub telemetry last press-3
  tidegate-hub telemetry last --metric cpu.load --where "tags.site = 'a'"
  tidegate-hub telemetry range press-3 cpu.load --from 7d
  tidegate-hub telemetry range press-3 cpu.load --from 2026-11-01 --to 2026-11-02 --resolution 5m --json
  tidegate-hub telemetry top cpu.load --quantile 0.99 --from 7d -k 20
  tidegate-hub telemetry export --from 7d --resolution 1h --out week.parquet

exit codes: 0 success; 1 failed; 2 usage; 3 not permitted; 4 not found; 5 no answer
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "telemetry", help="last values, series, top devices, Parquet export", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    shown = options()
    shown.add_argument("--json", action="store_true", help="print JSON, one object per line")
    span = argparse.ArgumentParser(add_help=False)
    span.add_argument("--from", dest="start", type=instant, metavar="TIME", help="2026-11-01, or 7d ago (default: 1d)")
    span.add_argument("--to", dest="end", type=instant, metavar="TIME", help="before this time (default: now)")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--where", metavar="CONDITION", help="only devices such as: tags.site = 'a'")
    last = subcommands.add_parser("last", help="the newest sample of each metric", parents=[shown, where])
    last.set_defaults(action=_last)
    last.add_argument("device", nargs="?", help="one device (default: all)")
    last.add_argument("--metric")
    ranged = subcommands.add_parser("range", help="one metric over a time span", parents=[shown, span])
    ranged.set_defaults(action=_range)
    ranged.add_argument("device")
    ranged.add_argument("metric")
    ranged.add_argument(
        "--points", type=int, default=1000, help="maximum number of points (default 1000, at most 10000)"
    )
    ranged.add_argument("--resolution", help="raw, 1m, 5m, 15m, 1h, 6h or 1d (default: the finest that fits)")
    top = subcommands.add_parser("top", help="the devices with the highest quantile", parents=[shown, span, where])
    top.set_defaults(action=_top)
    top.add_argument("metric")
    top.add_argument("--quantile", type=float, default=0.95, help="0 to 1 (default 0.95)")
    top.add_argument("-k", type=int, default=10, help="how many devices (default 10)")
    export = subcommands.add_parser(
        "export", help="samples or rollups as a Parquet file", parents=[options(), span, where]
    )
    export.set_defaults(action=_export)
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    export.add_argument("--device", action="append", help="may be repeated (default: all)")
    export.add_argument("--metric")
    export.add_argument("--resolution", default="raw", help="raw (default), 1m, 5m, 15m, 1h, 6h or 1d")


def _last(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        if arguments.device is not None:
            rows = hub.get(f"/devices/{quote(arguments.device, '')}/telemetry")
            _last_rows([row for row in rows if arguments.metric in {None, row["metric"]}], arguments.json)
            return 0
        after = ""
        while True:
            page = hub.get("/telemetry/last", metric=arguments.metric, where=arguments.where, after=after)
            _last_rows(page["rows"], arguments.json)
            after = page["next"]
            if not after:
                return 0


def _last_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    for row in rows:
        quality = "" if row["quality"] == "good" else f"  {row['quality']}"
        line = f"{row['device']:24}  {row['metric']:24}  {_when(row['t_us'])}  {_value(row['value'])}{quality}"
        print(json.dumps(row) if as_json else clean(line))


def _range(arguments: argparse.Namespace) -> int:
    path = f"/devices/{quote(arguments.device, '')}/range/{quote(arguments.metric)}"
    with connect(arguments) as hub:
        result = hub.get(
            path, start_us=arguments.start, end_us=arguments.end, points=arguments.points,
            resolution=arguments.resolution,
        )  # fmt: skip
    note = f"resolution {result['resolution']}"
    if result["waiting"]:
        note += f"; {result['waiting']} hours came late and are still being rolled up"
    print(note, file=sys.stderr)
    for row in result["samples"] + result["buckets"]:
        if arguments.json:
            print(json.dumps(row))
        elif "count" in row:
            print(f"{_when(row['t_us'])}  {row['mean']:12g}  {row['low']:12g} to {row['high']:12g}  of {row['count']}")
        else:
            print(clean(f"{_when(row['t_us'])}  {_value(row['value'])}"))
    return 0


def _top(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        result = hub.get(
            "/telemetry/top", metric=arguments.metric, quantile=arguments.quantile, k=arguments.k,
            start_us=arguments.start, end_us=arguments.end, where=arguments.where,
        )  # fmt: skip
    how = "of the samples" if result["exact"] else "by sketches"
    print(f"{_when(result['start_us'])} to {_when(result['end_us'])}, {how}", file=sys.stderr)
    for row in result["rows"]:
        print(json.dumps(row) if arguments.json else f"{row['device']:24}  {row['value']:12g}  of {row['count']}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    """Write to a temporary file, and rename it when it is complete."""
    if arguments.out.exists():
        raise ConfigError("--out", f"{arguments.out} is there already", "Give a new file")
    part = arguments.out.with_name(f"{arguments.out.name}.part")
    try:
        with connect(arguments) as hub, part.open("wb") as file:
            hub.download(
                "/telemetry/export", file.write, start_us=arguments.start, end_us=arguments.end,
                device=arguments.device, metric=arguments.metric, resolution=arguments.resolution,
                where=arguments.where,
            )  # fmt: skip
        part.rename(arguments.out)
    except OSError as error:
        raise ConfigError("--out", f"cannot be written ({error})", "Check path, owner and room") from error
    finally:
        part.unlink(missing_ok=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes", file=sys.stderr)
    return 0


def _when(t_us: int) -> str:
    return datetime.fromtimestamp(t_us / 1e6, timezone.utc).isoformat(sep=" ", timespec="milliseconds")[:-6]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
