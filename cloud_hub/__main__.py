"""The `tidegate-hub` command. Exit codes: 0 success, 1 failure, 2 usage, 78 configuration; see also cli/remote.py."""

from __future__ import annotations

import argparse
import sys

from cloud_hub.cli import (
    action,
    alarm,
    ask,
    audit,
    autoscale,
    backtest,
    backup,
    broker,
    ca,
    command,
    demo,
    desk,
    device,
    glm,
    incident,
    learning,
    limits,
    local,
    model,
    notify,
    playbook,
    policy,
    remote,
    sparkplug,
    telemetry,
    twin,
    workers,
)
from shared import VERSION
from shared.errors import EXIT_CONFIG, ConfigError, TidegateError
from shared.process.terminal import handle_broken_pipe, printable_lines

EXAMPLES = """examples:
  tidegate-hub demo                                     a hub, a broker and three devices on this machine
  tidegate-hub broker                                   a broker for trials (loopback only)
  tidegate-hub check --config hub.toml                  check the configuration and its environment
  tidegate-hub serve --config hub.toml                  run the hub until it is stopped
  tidegate-hub backup --out hub-1.tar                   back up the running hub into one file
  tidegate-hub token create --name anna --role operator --scope acme/site-a --life 30d
  tidegate-hub ca claim press-3                         a one-time claim to enrol a device
  tidegate-hub twin set press-3 settings.period_s=2     change desired state
  tidegate-hub alarm list --life unacknowledged         alarms that need acknowledgement
  tidegate-hub ask "what is wrong?"                      a question about the fleet, answered with citations
  tidegate-hub desk try rules.yaml                      try a site's own rules of the incident desk
  tidegate-hub command send press-3 diagnose processes  send a command to a device
  tidegate-hub action list --state proposed             actions that wait for an approval
  tidegate-hub policy check policy.yaml                 check a policy of actions
  tidegate-hub learning put all --target "*" --metrics cpu.load    learn limits, push them, roll back bad ones
  tidegate-hub model build --onnx m.onnx --task classification --calibration pictures --labels l.txt --out bundle
  tidegate-hub glm check --config hub.toml              what each address of the inference pools can do
  tidegate-hub autoscale explain gateway                why a target has so many instances
  tidegate-hub backtest --prometheus http://10.0.0.5:9090   backtest learned limits, without a hub
  tidegate-hub autoscale simulate load.csv --policy p.yaml  violations and cost of autoscaling policies on a trace
"""
EXTRAS = {"demo": "demo", "broker": "demo", "model": "hub,build"}
"""What a command needs installed, when that is not `hub`."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate-hub", description="The Tidegate hub.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"tidegate {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (
        local, ca, broker, backup, twin, command, device, telemetry, alarm, incident, desk, action, policy, ask,
        learning, limits, audit, workers, backtest, autoscale, model, glm, notify, playbook, sparkplug, demo,
    ):  # fmt: skip
        group.add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return handle_broken_pipe(lambda: _main(argv))


def _main(argv: list[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.action(arguments))
    except ConfigError as error:
        code, text = EXIT_CONFIG, str(error)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(arguments.command, "hub")
        code, text = EXIT_CONFIG, f"{error}. Install what it needs: pip install 'tidegate[{extra}]'"
    except remote.RemoteError as error:
        code, text = error.exit_code, str(error)
    except TidegateError as error:
        code, text = 1, str(error)
    except KeyboardInterrupt:
        return 130
    print(f"tidegate-hub: {printable_lines(text)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
