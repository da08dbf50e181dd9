"""audit head, verify, search, export: reads the audit trail from the hub's database."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.times import instant, shown
from shared.errors import ConfigError
from shared.process.terminal import printable, printable_json

if TYPE_CHECKING:
    from sqlmodel import Session

    from cloud_hub.audit.trail import AuditFilter

COLUMNS = ("seq", "t_us", "actor", "kind", "subject", "device", "trace_id", "detail", "hash")

EXAMPLES = """examples:
  tidegate-hub audit head                               store this line elsewhere every day
  tidegate-hub audit verify --head 812:5e0c...          verify the chain; it must contain that line
  tidegate-hub audit search --actor anna --since 7d
  tidegate-hub audit export --since 2026-10-01 --until 2026-11-01 --format csv --out october.csv

exit codes: 0 success; 1 the chain is broken; 2 usage; 78 the configuration is wrong
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "audit", help="verify, search and export the audit trail (on the hub's machine: reads its database)",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, help="TOML file (default: built-in defaults and TIDEGATE_... variables)")
    wanted = argparse.ArgumentParser(add_help=False)
    wanted.add_argument(
        "--since",
        type=instant,
        metavar="TIME",
        help="from this time: 2026-11-01, 2026-11-01T08:00:00Z, or an age such as 7d or 12h",
    )
    wanted.add_argument("--until", type=instant, metavar="TIME", help="before this time (default: now)")
    wanted.add_argument("--actor", default="", help="name of a token, oidc:... for a person, a device, or hub")
    wanted.add_argument("--device", default="", help="device id")
    wanted.add_argument("--kind", default="", help="kind of event such as command.sent, or a prefix such as token.")
    wanted.add_argument("--trace", default="", help="trace id")
    subcommands.add_parser("head", help="print number and hash of the newest row", parents=[shared]).set_defaults(
        action=_head
    )
    verify = subcommands.add_parser("verify", help="verify the hash chain", parents=[shared])
    verify.set_defaults(action=_verify)
    verify.add_argument(
        "--head", type=_head_line, metavar="SEQ:HASH", help="a line of `audit head` that the chain must contain"
    )
    search = subcommands.add_parser(
        "search", help="print matching rows, the newest first", parents=[shared, wanted],
        description="Print matching rows, the newest first. Reads the hub's database itself, not its REST API: "
        "run it on the hub's machine, with the hub's --config.",
    )  # fmt: skip
    search.set_defaults(action=_search)
    search.add_argument("--limit", type=int, default=50, help="maximum number (default 50)")
    search.add_argument("--json", action="store_true", help="print JSON")
    export = subcommands.add_parser(
        "export", help="write all matching rows, the oldest first", parents=[shared, wanted]
    )
    export.set_defaults(action=_export)
    export.add_argument("--format", choices=["jsonl", "csv"], default="jsonl")
    export.add_argument("--out", type=Path, metavar="FILE", help="a new file, mode 0600 (default: standard output)")


def _head_line(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
    if not match:
        raise argparse.ArgumentTypeError("is not a line of `audit head`: SEQ:HASH")
    return int(match[1]), match[2]


@contextmanager
def _trail(arguments: argparse.Namespace) -> Iterator[Session]:
    from cloud_hub import settings  # noqa: PLC0415
    from cloud_hub.database.sessions import open_existing  # noqa: PLC0415

    db = open_existing(settings.read(arguments.config).database_url)
    try:
        with db.read() as session:
            yield session
    finally:
        db.close()


def _filter(arguments: argparse.Namespace) -> AuditFilter:
    from cloud_hub.audit.trail import AuditFilter  # noqa: PLC0415

    return AuditFilter(
        since_us=arguments.since,
        until_us=arguments.until,
        actor=arguments.actor,
        device=arguments.device,
        kind=arguments.kind,
        trace=arguments.trace,
    )


def _head(arguments: argparse.Namespace) -> int:
    from cloud_hub.audit import trail  # noqa: PLC0415

    with _trail(arguments) as session:
        number, digest = trail.head(session)
    print(f"{number}:{digest}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from cloud_hub.audit import trail  # noqa: PLC0415

    with _trail(arguments) as session:
        if arguments.head and arguments.head[0] == 0:  # recorded before the first row
            arguments.head = None
        broken = trail.verify(session, arguments.head)
        number, digest = trail.head(session)
    if broken is not None:
        print(f"broken at row {broken}: it was changed, or something before it was removed or slipped in")
        return 1
    print(f"holds up to {number}:{digest}")
    return 0


def _search(arguments: argparse.Namespace) -> int:
    from cloud_hub.audit import trail  # noqa: PLC0415

    with _trail(arguments) as session:
        rows = [
            row.model_dump() for row in trail.rows(session, limit=max(arguments.limit, 1), **asdict(_filter(arguments)))
        ]
    for row in rows:
        print(printable_json(row) if arguments.json else _line(row))
    return 0


def _line(row: dict[str, Any]) -> str:
    text = f"{row['seq']}  {shown(row['t_us'])}  {row['actor']}  {row['kind']}  {row['subject']}  {row['device']}"
    return clean(f"{text}  {json.dumps(row['detail'], ensure_ascii=False)}")


def _export(arguments: argparse.Namespace) -> int:
    from cloud_hub.audit import trail  # noqa: PLC0415

    write: Callable[[TextIO, Iterable[dict[str, Any]]], None] = {"jsonl": _jsonl, "csv": _csv}[arguments.format]
    with _trail(arguments) as session:
        rows = trail.export(session, _filter(arguments))
        if arguments.out is None:
            write(sys.stdout, rows)
            return 0
        with _new(arguments.out) as out:
            write(out, rows)
    return 0


@contextmanager
def _new(path: Path) -> Iterator[TextIO]:
    """Create a new file that only the owner can read."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be made ({error.strerror})", "Give the name of a new file") from error
    with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
        yield file


def _jsonl(out: TextIO, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        out.write(printable_json(row) + "\n")


def _csv(out: TextIO, rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        row["detail"] = printable_json(row["detail"])
        cells = [_cell(row[name]) for name in COLUMNS]
        writer.writerow([printable(str(cell)) for cell in cells] if out.isatty() else cells)


def _cell(value: Any) -> Any:
    """Escape text that a spreadsheet would run as a formula; some texts come from devices."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value
