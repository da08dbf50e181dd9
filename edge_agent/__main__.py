"""Command line of the agent, `tidegate-edge`: run, check, status, enrol, twin.

Exit codes: 0 success, 1 failure, 75 the agent has not processed a request yet, 78 the configuration is wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from shared import VERSION, logs
from shared.errors import EXIT_CONFIG, ConfigError, TidegateError
from shared.process_lock import process_lock
from shared.terminal import handle_broken_pipe, printable, printable_json, printable_lines

DEFAULT_CONFIG = Path("/etc/tidegate/edge.toml")
LOCK = "agent.lock"
"""Lock file in the state directory; only one agent can use the directory at a time."""
EXAMPLES = """examples:
  tidegate-edge check --config edge.toml      validate configuration and installation
  tidegate-edge run --config edge.toml        run until stopped (as systemd does)
  tidegate-edge status --config edge.toml     show the contents of the outbox
  tidegate-edge enrol --url https://hub:8443 --ca ca.pem --claim-file claim --config edge.toml
  tidegate-edge twin get --config edge.toml   show desired and reported state on this device
  tidegate-edge twin set settings.period_s=0.5 --config edge.toml
"""


def _run(path: Path) -> int:
    from edge_agent.agent import Agent  # noqa: PLC0415 - `check` must work where an extra is missing
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.store.statestore import state_dir  # noqa: PLC0415

    config, profile = read(path)
    logs.setup(config.device.id, config.settings.log_level, sys.stderr)
    with process_lock(state_dir(config.device.state_dir) / LOCK, "Stop it, or give this agent a state_dir of its own"):
        agent = Agent(config, profile)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.loop.stop())
        agent.run()
    return 0


def _check(path: Path) -> int:
    from edge_agent.checks import run_checks  # noqa: PLC0415

    found = run_checks(path)
    for line in found.lines():
        print(line, file=sys.stderr)
    if not found.problems:
        print(f"{path}: well. Start it with: tidegate-edge run --config {path}")
    return EXIT_CONFIG if found.problems else 0


def _status(path: Path, as_json: bool) -> int:
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.store.outbox import status  # noqa: PLC0415

    config, _ = read(path)
    file = Path(config.device.state_dir) / "outbox.sqlite"
    if not file.exists():
        print(f"{config.device.id}: has not run yet ({file} is not there)", file=sys.stderr)
        return 1
    found = status(file)
    if as_json:
        print(json.dumps({"device": config.device.id} | found))
        return 0
    print(f"{config.device.id}: epoch {found['epoch']}")
    for stream, row in found["streams"].items():
        waiting = row["accepted"] - row["at_hub"]
        print(f"  {stream:<11} accepted {row['accepted']:>9}  at the hub {row['at_hub']:>9}  waiting {waiting:>7}")
    for stream, first, last, reason in found["lost"]:
        print(f"  {stream:<11} {reason}: {first}..{last}")
    return 0


def _enrol(arguments: argparse.Namespace) -> int:
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.link import trust  # noqa: PLC0415
    from edge_agent.store.statestore import state_dir  # noqa: PLC0415

    device = read(arguments.config)[0].device
    try:
        claim = arguments.claim_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(arguments.claim_file), f"cannot be read ({error})", "Give the claim in a file") from error
    folder = str(state_dir(device.state_dir))
    until = trust.enrol(device.id, folder, arguments.url, claim, str(arguments.ca))
    print(
        f"{device.id} is enrolled until {until}; the agent renews by itself. Delete {arguments.claim_file}: it is used"
    )
    return 0


def _enrol_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", required=True, help="the hub's REST, such as https://hub.plant.example:8443")
    command.add_argument("--claim-file", required=True, type=Path, help="file with the claim (tidegate-hub ca claim)")
    command.add_argument("--ca", required=True, type=Path, help="the hub's CA (tidegate-hub ca show)")


def _twin(arguments: argparse.Namespace) -> int:
    from edge_agent.config import read  # noqa: PLC0415
    from edge_agent.twin import local_cli  # noqa: PLC0415

    config, _ = read(arguments.config)
    file = Path(config.device.state_dir) / "kept.sqlite"
    if arguments.act == "get":
        found = local_cli.twins(file)
        if arguments.name is not None and arguments.name not in found:
            print(f"no document '{arguments.name}' here; there are {', '.join(map(repr, found))}", file=sys.stderr)
            return 1
        print(printable_json(found if arguments.name is None else found[arguments.name], indent=2))
        return 0
    try:
        wanted = local_cli.parse_assignments(arguments.wanted)
    except ValueError as error:
        print(f"tidegate-edge: {error}", file=sys.stderr)
        return 2
    progress = local_cli.wait_for_answer(file, local_cli.submit_request(file, arguments.name, wanted), arguments.wait)
    if progress is None:
        print(
            "request stored but not processed yet: is the agent running? It processes requests when it starts",
            file=sys.stderr,
        )
        return local_cli.EXIT_WAITS
    for row in progress:
        print(printable(": ".join(part for part in (row["path"], row["state"], row["reason"]) if part)))
    return 1 if any(row["state"] == "refused" for row in progress) else 0


def _twin_arguments(command: argparse.ArgumentParser) -> None:
    acts = command.add_subparsers(dest="act", required=True, metavar="ACT")
    get = acts.add_parser("get", help="print documents as JSON", description="Print documents as JSON.")
    get.add_argument("name", nargs="?", metavar="NAME", help='one document; "" is the classic one (default: all)')
    put = acts.add_parser(
        "set", help="change desired state", description="Change desired state on this device, with or without a hub."
    )
    put.add_argument("wanted", nargs="+", metavar="PATH=JSON", help="such as settings.period_s=0.5; null removes it")
    put.add_argument("--name", default="", help="document (default: the classic one)")
    put.add_argument("--wait", type=float, default=5.0, metavar="S", help="seconds to wait for the agent (default 5)")
    for act in (get, put):
        _config_argument(act)


def _config_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"TOML file (default {DEFAULT_CONFIG})")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return handle_broken_pipe(lambda: _main(argv))


def _main(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="tidegate-edge",
        description="The Tidegate edge agent.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tidegate {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    texts = {"run": "run until stopped", "check": "validate configuration and installation",
             "status": "show the contents of the outbox",
             "enrol": "get a certificate from the hub with a one-time claim",
             "twin": "show or change twin documents on this device"}  # fmt: skip
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == "twin":
            _twin_arguments(command)
            continue
        _config_argument(command)
        if name == "enrol":
            _enrol_arguments(command)
        if name == "status":
            command.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "twin":
            return _twin(arguments)
        if arguments.command == "enrol":
            return _enrol(arguments)
        if arguments.command == "status":
            return _status(arguments.config, arguments.json)
        return {"run": _run, "check": _check}[arguments.command](arguments.config)
    except ConfigError as error:
        print(f"tidegate-edge: {printable_lines(str(error))}", file=sys.stderr)
        return EXIT_CONFIG
    except TidegateError as error:
        print(f"tidegate-edge: {printable_lines(str(error))}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
