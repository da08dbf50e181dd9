"""serve, check, migrate, token: runs and administers the hub on this machine."""

from __future__ import annotations

import argparse
import gc
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_hub.cli import Commands
from cloud_hub.security.core.roles import MAY
from shared.durations import DAY_US
from shared.errors import EXIT_CONFIG
from shared.process import logs

if TYPE_CHECKING:
    from cloud_hub.app import HubApp
    from cloud_hub.settings import Settings


GC_OBJECTS = 50_000


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    with_config = argparse.ArgumentParser(add_help=False)
    with_config.add_argument(
        "--config", type=Path, help="TOML file (default: built-in defaults and TIDEGATE_... variables)"
    )
    for name, action, text in (
        ("serve", _serve, "run the hub until it is stopped"),
        ("check", _check, "validate configuration and installation"),
        ("migrate", _migrate, "bring the database's schema up to date"),
    ):
        commands.add_parser(name, help=text, description=text, parents=[with_config]).set_defaults(action=action)
    token = commands.add_parser("token", help="create or revoke a REST token", parents=[with_config])
    token.set_defaults(action=_token)
    token.add_argument("what", choices=["create", "revoke"])
    token.add_argument("--name", required=True, help="name of the token; recorded in the audit trail")
    token.add_argument(
        "--role", action="append", choices=list(MAY),
        help="create: role (default viewer); repeatable",
    )  # fmt: skip
    token.add_argument(
        "--scope",
        action="append",
        metavar="PATH",
        help="create: limit it to devices below this asset path; repeatable",
    )
    token.add_argument(
        "--life", type=_days, default=90.0, metavar="TIME", help="create: validity, such as 12h, 90d (default), never"
    )
    token.add_argument(
        "--out", type=Path, metavar="FILE", help="create: write to this new file (mode 0600) instead of printing"
    )
    token.add_argument("--aws", action="store_true", help="create: also print a key pair for AWS clients")


def _days(text: str) -> float | None:
    match = re.fullmatch(r"(\d{1,5}(?:\.\d+)?)([hd])", text)
    if text == "never":
        return None
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a validity: write 12h, 90d or never")
    return float(match[1]) / {"h": 24, "d": 1}[match[2]]


def _settings(path: Path | None) -> Settings:
    from cloud_hub import settings  # noqa: PLC0415

    return settings.read(path)


def _serve(arguments: argparse.Namespace) -> int:
    from cloud_hub.app import HubApp  # noqa: PLC0415
    from cloud_hub.runtime.state_lock import hold_state_lock  # noqa: PLC0415

    settings = _settings(arguments.config)
    logs.setup(settings.name, settings.log_level, sys.stderr)
    with hold_state_lock(Path(settings.state_dir)):
        return _served(HubApp(settings), settings)


def _served(app: HubApp, settings: Settings) -> int:
    import uvicorn  # noqa: PLC0415

    from cloud_hub.api import http_server  # noqa: PLC0415
    from cloud_hub.cli.checks import port_free  # noqa: PLC0415

    port_free(settings.rest.host, settings.rest.port)
    config = http_server.config(app.rest(), settings.rest)
    # Ingest creates a million short-lived objects a second: collecting cycles every 700 objects costs 20 % of the time.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 10, 10)
    uvicorn.Server(config).run()
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.cli.checks import examine  # noqa: PLC0415

    findings = examine(arguments.config)
    for line in findings.lines():
        print(line, file=sys.stderr)
    if not findings.problems:
        print("well. Start it with: tidegate-hub serve" + (f" --config {arguments.config}" if arguments.config else ""))
    return EXIT_CONFIG if findings.problems else 0


def _migrate(arguments: argparse.Namespace) -> int:
    from cloud_hub.database.engine import redacted_url  # noqa: PLC0415
    from cloud_hub.database.sessions import Database  # noqa: PLC0415

    settings = _settings(arguments.config)
    Database(settings.database_url).close()
    print(f"{redacted_url(settings.database_url)}: schema is up to date")
    return 0


def _token(arguments: argparse.Namespace) -> int:
    from cloud_hub.access import tokens  # noqa: PLC0415
    from cloud_hub.clock import now_us  # noqa: PLC0415
    from cloud_hub.database.sessions import Database  # noqa: PLC0415
    from cloud_hub.security import aws_key, secret_files  # noqa: PLC0415

    settings = _settings(arguments.config)
    key = aws_key.create(settings.aws_key_path) if arguments.what == "create" and arguments.aws else None
    db = Database(settings.database_url)
    with db.write() as session:
        if arguments.what == "create":
            now, life, scope = now_us(), arguments.life, arguments.scope
            text = tokens.create(
                session, arguments.name, " ".join(arguments.role or ["viewer"]), now, "command line",
                scope=tuple(scope) if scope else None,
                expires_us=None if life is None else now + int(life * DAY_US),
            )  # fmt: skip
            if arguments.out is None:
                print(text)
            else:
                secret_files.write(arguments.out, text)
            if key is not None:
                key_id = tokens.find(session, text, now).id
                print(f"aws_access_key_id = {key_id}\naws_secret_access_key = {aws_key.secret(key, key_id)}")
        else:
            ended = tokens.revoke_by_name(session, arguments.name, now_us(), "command line")
            print(f"{ended} tokens of '{arguments.name}' revoked")
    db.close()
    return 0
