"""glm check: asks each address of the inference pools what it can do."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_hub.cli import Commands, clean

if TYPE_CHECKING:
    from cloud_hub.inference.engines import Engine

CHECK = """
Asks each address of each pool for a few tokens: plain text, a stream, an answer by a JSON Schema, a tool call, an
image, a priority. yes: it did; no: it cannot, or does not keep to it; ?: it could not be found out.

examples:
  tidegate-hub glm check --config hub.toml
  tidegate-hub glm check --config hub.toml --pool large --json
  tidegate-hub glm check --url http://127.0.0.1:8000/v1 --model zai-org/GLM-4.5-Air
  tidegate-hub glm check --url https://api.z.ai/api/paas/v4 --model glm-4.6 --key-file zai.key

exit codes: 0 every address answers; 1 one does not, or lacks the model; 2 usage; 78 configuration
"""
HEAD = ("POOL", "ADDRESS", "MODEL", "CONTEXT", "STREAM", "SCHEMA", "TOOLS", "VISION", "PRIORITY")
WORDS = {True: "yes", False: "no", None: "?"}


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    text = "large models: what each address can do"
    groups = commands.add_parser("glm", help=text, description=text).add_subparsers(required=True, metavar="ACTION")
    parser = groups.add_parser(
        "check", help="try each address of the inference pools", description=CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", type=Path, help="TOML file with [[inference.pools]]")
    parser.add_argument("--pool", default="", metavar="NAME", help="only this pool")
    parser.add_argument("--url", default="", help="an address in place of the configuration's")
    parser.add_argument("--model", default="", help="with --url: the model")
    parser.add_argument("--key-file", default="", help="with --url: file with the key")
    parser.add_argument("--json", action="store_true", help="print JSON, one address a line")
    parser.set_defaults(action=_check)


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.inference.engines.pools import open_engines  # noqa: PLC0415 - httpx

    engines = [(pool.name, engine) for pool in _pools(arguments) for engine in open_engines(pool)]
    rows = asyncio.run(_rows(engines))
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    else:
        _print(rows)
    return 0 if all(row["ok"] for row in rows) else 1


def _pools(arguments: argparse.Namespace) -> list[Any]:
    from cloud_hub import settings  # noqa: PLC0415
    from cloud_hub.settings.inference import Pool  # noqa: PLC0415
    from shared.errors import ConfigError  # noqa: PLC0415

    if arguments.url:
        return [Pool(name="url", addresses=[arguments.url], model=arguments.model, key_file=arguments.key_file)]
    pools = settings.read(arguments.config).inference.pools
    found = [pool for pool in pools if arguments.pool in ("", pool.name)]
    if not found:
        reason = f"there is no pool '{arguments.pool}'" if arguments.pool else "there are no pools"
        raise ConfigError("inference.pools", reason, "Give --config FILE, or one address by --url")
    return found


async def _rows(engines: Sequence[tuple[str, Engine]]) -> list[dict[str, Any]]:
    """Addresses side by side, the trials of one address one after the other."""
    return await asyncio.gather(*(_row(pool, engine) for pool, engine in engines))


async def _row(pool: str, engine: Engine) -> dict[str, Any]:
    from shared.errors import TidegateError  # noqa: PLC0415

    row: dict[str, Any] = {"pool": pool, "address": engine.address, "name": engine.name}
    try:
        found = await engine.capabilities()
    except TidegateError as error:
        return row | {"ok": False, "error": str(error)}
    finally:
        await engine.aclose()
    lacking = any("does not list" in note for note in found.notes)
    return row | asdict(found) | {"ok": not lacking, "error": ""}


def _print(rows: list[dict[str, Any]]) -> None:
    lines = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(HEAD))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip())
    for row in rows:
        for note in [row["error"]] if row["error"] else row["notes"]:
            print(clean(f"{row['pool']} {row['address']}: {note}"))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    head = (row["pool"], clean(row["address"]))
    if row["error"]:
        return (*head, "no answer")
    words = (WORDS[row[key]] for key in ("streaming", "json_schema", "tools", "vision", "priority"))
    return (*head, clean(", ".join(row["models"]) or "?"), str(row["context"] or "?"), *words)
