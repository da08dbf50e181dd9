"""tidegate-hub: serve, check, migrate, token, broker, demo. Exit codes: 0 well, 1 failed, 78 configuration."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from shared import VERSION, logs
from shared.errors import EXIT_CONFIG, ConfigError, TidegateError

if TYPE_CHECKING:
    from cloud_hub.settings import Settings

EXAMPLES = """examples:
  tidegate-hub demo                                     a hub, a broker and three devices on this machine
  tidegate-hub broker                                   a broker for trying out (loopback only)
  tidegate-hub check --config hub.toml                  what is wrong, and what to do about it
  tidegate-hub serve --config hub.toml                  work until stopped
  tidegate-hub token create --name anna --role operator
"""


def _settings(path: Path | None) -> Settings:
    from cloud_hub import settings  # noqa: PLC0415 - `--help` must work where the extra is missing

    return settings.read(path)


def _serve(arguments: argparse.Namespace) -> int:
    import uvicorn  # noqa: PLC0415 - a second of imports that `check` and `--help` do without

    from cloud_hub.app import HubApp  # noqa: PLC0415

    settings = _settings(arguments.config)
    logs.setup(settings.name, settings.log_level, sys.stderr)
    app = HubApp(settings)
    config = uvicorn.Config(
        app.rest(), host=settings.rest.host, port=settings.rest.port, log_config=None, access_log=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    _port_free(settings.rest.host, settings.rest.port)
    uvicorn.Server(config).run()
    return 0


def _port_free(host: str, port: int) -> None:
    import socket  # noqa: PLC0415

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            cure = "Stop what listens there, or set rest.port to another"
            raise ConfigError("rest", f"cannot listen on {host}:{port} ({error.strerror})", cure) from error


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.check import problems  # noqa: PLC0415

    found = problems(arguments.config)
    for line in found:
        print(f"problem: {line}", file=sys.stderr)
    if not found:
        print("well. Start it with: tidegate-hub serve" + (f" --config {arguments.config}" if arguments.config else ""))
    return EXIT_CONFIG if found else 0


def _migrate(arguments: argparse.Namespace) -> int:
    from cloud_hub.db import Database  # noqa: PLC0415
    from cloud_hub.engine import shown  # noqa: PLC0415

    settings = _settings(arguments.config)
    Database(settings.database_url).close()
    print(f"{shown(settings.database_url)}: schema is up to date")
    return 0


def _token(arguments: argparse.Namespace) -> int:
    from cloud_hub import tokens  # noqa: PLC0415
    from cloud_hub.clock import now_us  # noqa: PLC0415
    from cloud_hub.db import Database  # noqa: PLC0415

    db = Database(_settings(arguments.config).database_url)
    with db.write() as session:
        if arguments.what == "create":
            print(tokens.create(session, arguments.name, arguments.role, now_us(), "command line"))
        else:
            ended = tokens.revoke(session, arguments.name, now_us(), "command line")
            print(f"{ended} tokens of '{arguments.name}' ended")
    db.close()
    return 0


def _broker(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker import WARNING, open_broker  # noqa: PLC0415

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with tempfile.TemporaryDirectory(prefix="tidegate-broker-") as folder:
        try:
            broker = open_broker(Path(folder), arguments.mqtt3, arguments.mqtt5).start()
        except OSError as error:
            raise ConfigError("broker", str(error), "Give free ports with --mqtt3 and --mqtt5") from error
        print(
            f"{WARNING}\nMQTT 3.1.1 on 127.0.0.1:{arguments.mqtt3}, MQTT 5 on 127.0.0.1:{arguments.mqtt5}", flush=True
        )
        while broker.is_running and not stopped.wait(0.5):
            pass
        ended_by_itself = not broker.is_running
        broker.stop()
    return 1 if ended_by_itself else 0


def _demo(arguments: argparse.Namespace) -> int:
    from cloud_hub.demo.play import play  # noqa: PLC0415

    return play(devices=arguments.devices, seed=arguments.seed, keep=arguments.keep, json_file=arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate-hub", description="The Tidegate hub.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"tidegate {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    with_config = argparse.ArgumentParser(add_help=False)
    with_config.add_argument("--config", type=Path, help="TOML file; without it defaults and TIDEGATE_... count")
    for name, action, text in (
        ("serve", _serve, "work until stopped"),
        ("check", _check, "validate configuration and installation"),
        ("migrate", _migrate, "bring the database's schema up to date"),
    ):
        commands.add_parser(name, help=text, description=text, parents=[with_config]).set_defaults(action=action)
    token = commands.add_parser("token", help="make or end a REST token", parents=[with_config])
    token.set_defaults(action=_token)
    token.add_argument("what", choices=["create", "revoke"])
    token.add_argument("--name", required=True, help="who it is for; stands in the audit trail")
    token.add_argument("--role", choices=["viewer", "operator", "auditor", "admin"], default="viewer")
    broker = commands.add_parser("broker", help="a broker for trying out: loopback only, protects nothing")
    broker.set_defaults(action=_broker)
    broker.add_argument("--mqtt3", type=int, default=1884, help="port for MQTT 3.1.1 (default 1884)")
    broker.add_argument("--mqtt5", type=int, default=1883, help="port for MQTT 5, which Tidegate speaks (default 1883)")
    demo = commands.add_parser("demo", help="play every act on this machine, in under two minutes")
    demo.set_defaults(action=_demo)
    demo.add_argument("--devices", type=int, default=3, help="how many devices (default 3)")
    demo.add_argument("--seed", type=int, default=7, help="order of the frames (default 7)")
    demo.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    demo.add_argument("--json", type=Path, help="write {rest, mqtt3, mqtt5, token, devices, pids} there")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.action(arguments))
    except ConfigError as error:
        print(f"tidegate-hub: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except ModuleNotFoundError as error:
        extra = "demo" if arguments.command in {"demo", "broker"} else "hub"
        print(f"tidegate-hub: {error}. Install what it needs: pip install 'tidegate[{extra}]'", file=sys.stderr)
        return EXIT_CONFIG
    except TidegateError as error:
        print(f"tidegate-hub: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
