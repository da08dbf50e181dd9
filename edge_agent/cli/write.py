"""write enable, disable, list, try: writes from SCADA to this device, which are off unless enabled here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_agent.cli import Commands, add_config_option
from edge_agent.config import Config
from shared.process.terminal import printable

TEXT = "enable, disable and try writes from SCADA on this device"
EXAMPLES = """examples:
  tidegate-edge write list                                     writable metrics and their rules
  tidegate-edge write try press/setpoint 70                    what the agent would say to this value
  tidegate-edge write enable press/setpoint --for 8h --reason "shift 2"
  tidegate-edge write disable press/setpoint                   end it early
  tidegate-edge write disable                                  end all of them now

exit codes: 0 done, or allowed; 1 refused, or was not enabled; 2 usage; 75 the agent has not answered; 78 configuration
"""


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    group = commands.add_parser(
        "write", help=TEXT, description=TEXT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    acts = group.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    enable = acts.add_parser("enable", help="enable writes to metrics for a time")
    enable.add_argument("metrics", nargs="+", metavar="METRIC", help="a metric of [[sparkplug.writable]]")
    enable.add_argument("--for", dest="for_", required=True, metavar="TIME", help="such as 30m, 8h or 2d; at most 31d")
    enable.add_argument("--reason", default="", metavar="TEXT", help="why; the hub's audit shows it")
    enable.set_defaults(action=_enable)
    disable = acts.add_parser("disable", help="disable writes now (default: to all metrics)")
    disable.add_argument("metrics", nargs="*", metavar="METRIC", help="a metric that is enabled (default: all)")
    disable.set_defaults(action=_disable)
    show = acts.add_parser("list", help="writable metrics, their rules, and which are enabled")
    show.set_defaults(action=_list)
    attempt = acts.add_parser("try", help="ask the running agent what it would do with a write; writes nothing")
    attempt.add_argument("metric", metavar="METRIC", help="a metric of [[sparkplug.writable]]")
    attempt.add_argument("value", metavar="VALUE", help="a number, true, false or a text")
    attempt.add_argument(
        "--wait", type=float, default=5.0, metavar="S", help="seconds to wait for the agent (default 5)"
    )
    attempt.set_defaults(action=_try)
    for parser in (enable, disable, show, attempt):
        add_config_option(parser)


def _config(arguments: argparse.Namespace) -> Config:
    from edge_agent.config import read  # noqa: PLC0415

    return read(arguments.config)[0]


def _enable(arguments: argparse.Namespace) -> int:
    from edge_agent.sparkplug import local_cli  # noqa: PLC0415
    from edge_agent.sparkplug.switches import SwitchFile  # noqa: PLC0415

    config = _config(arguments)
    local_cli.check_declared(config, arguments.metrics)
    try:
        for_s = local_cli.duration_s(arguments.for_)
        SwitchFile(Path(config.device.state_dir)).enable(arguments.metrics, for_s, arguments.reason)
    except ValueError as error:
        print(f"tidegate-edge: {error}", file=sys.stderr)
        return 2
    for row in local_cli.listing(config):
        if row.metric in arguments.metrics:
            print(printable(f"{row.metric}: enabled until {row.until} ({row.rule})"))
    print("Interlocks of the controller and of its hardware must hold whatever is written: this is no safety function.")
    return 0


def _disable(arguments: argparse.Namespace) -> int:
    from edge_agent.sparkplug import local_cli  # noqa: PLC0415
    from edge_agent.sparkplug.switches import SwitchFile  # noqa: PLC0415

    config = _config(arguments)
    local_cli.rules(config)
    switches = SwitchFile(Path(config.device.state_dir))
    gone = switches.disable(arguments.metrics or None)
    if gone or not arguments.metrics:
        print(printable(f"disabled: {', '.join(sorted(gone))}" if gone else "nothing was enabled"))
    missed = sorted(set(arguments.metrics) - set(gone))
    if not missed:
        return 0
    # a misspelled name must not look like success
    on = ", ".join(row.metric for row in local_cli.listing(config) if row.until) or "none"
    print(printable(f"was not enabled: {', '.join(missed)}. Still enabled: {on}"), file=sys.stderr)
    return 1


def _list(arguments: argparse.Namespace) -> int:
    from edge_agent.sparkplug import local_cli  # noqa: PLC0415

    rows = local_cli.listing(_config(arguments))
    if not rows:
        print("no metric is declared writable ([[sparkplug.writable]])")
    for row in rows:
        state = f"enabled until {row.until} by {row.by}" if row.until else "off"
        print(printable(f"{row.metric}: {state}; {row.rule}"))
        if row.last:
            print(printable(f"  last: {row.last}"))
    return 0


def _try(arguments: argparse.Namespace) -> int:
    from edge_agent.sparkplug import local_cli  # noqa: PLC0415
    from edge_agent.twin.local_cli import EXIT_WAITS  # noqa: PLC0415

    config = _config(arguments)
    local_cli.check_declared(config, [arguments.metric])
    answer = local_cli.trial(config, arguments.metric, arguments.value, arguments.wait)
    if answer is None:
        print("the agent has not answered: is it running?", file=sys.stderr)
        return EXIT_WAITS
    if not answer["allowed"]:
        print(printable(f"would be refused: {answer['reason']}. {answer['cure']}"))
        return 1
    off = "" if answer["enabled"] else ", once writes to it are enabled (tidegate-edge write enable)"
    print(printable(f"would be written: {answer['value']}{off}"))
    return 0
