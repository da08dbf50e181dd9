"""backup, restore: saves the state of the hub to one file, and restores it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cloud_hub.cli import Commands


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    with_config = argparse.ArgumentParser(add_help=False)
    with_config.add_argument(
        "--config", type=Path, help="TOML file (default: built-in defaults and TIDEGATE_... variables)"
    )
    text = "back up the state of the hub into one file; the hub may run"
    save = commands.add_parser("backup", help=text, description=text, parents=[with_config])
    save.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file; mode 0600, it holds keys")
    save.set_defaults(action=_backup)
    text = "restore a backup; the hub must not run"
    load = commands.add_parser("restore", help=text, description=text, parents=[with_config])
    load.add_argument("file", type=Path, metavar="FILE")
    load.add_argument("--force", action="store_true", help="move existing state aside and restore")
    load.set_defaults(action=_restore)


def _report(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _backup(arguments: argparse.Namespace) -> int:
    from cloud_hub import settings  # noqa: PLC0415
    from cloud_hub.backup import create as backup  # noqa: PLC0415
    from cloud_hub.clock import now_us  # noqa: PLC0415

    chosen = settings.read(arguments.config)
    manifest = backup.create_backup(chosen, arguments.out, now_us(), _report)
    size = arguments.out.stat().st_size
    print(
        f"{arguments.out}: {len(manifest.files)} files, {size / 1e6:.1f} MB, verified. Store it as securely as the hub"
    )
    key = chosen.aws_key_path
    if key.exists() and key.resolve().parent != Path(chosen.state_dir).resolve():
        print(f"{key} is outside state_dir and not in the backup: back it up separately", file=sys.stderr)
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from cloud_hub import settings  # noqa: PLC0415
    from cloud_hub.backup import restore  # noqa: PLC0415
    from cloud_hub.clock import now_us  # noqa: PLC0415

    chosen = settings.read(arguments.config)
    manifest, epoch = restore.restore(chosen, arguments.file, now_us(), _report, force=arguments.force)
    print(f"restored {len(manifest.files)} files; the hub starts a new epoch: {epoch}, before {manifest.hub_epoch}")
    return 0
