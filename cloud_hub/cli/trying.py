"""broker, demo: for trying out, on one machine."""

from __future__ import annotations

import argparse
import signal
import tempfile
import threading
from pathlib import Path

from cloud_hub.cli import Commands
from shared.errors import ConfigError


def add(commands: Commands) -> None:
    """Add the parsers of this group."""
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
