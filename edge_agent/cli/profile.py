"""profile: which device profile fits this machine, and what a profile says."""

from __future__ import annotations

import argparse
import sys

from edge_agent.cli import Commands


def add(commands: Commands) -> None:
    """Add the parser of this command."""
    text = "show device profiles, or find the one for this machine"
    acts = commands.add_parser("profile", help=text, description=text).add_subparsers(
        dest="act", required=True, metavar="ACT"
    )
    acts.add_parser("list", help="names of all profiles").set_defaults(action=_list)
    acts.add_parser("detect", help="the profile that fits this machine").set_defaults(action=_detect)
    show = acts.add_parser("show", help="what a profile says, and where from")
    show.add_argument("name", nargs="?", metavar="NAME", help="default: the one that fits this machine")
    show.add_argument("--json", action="store_true", help="print it as JSON")
    show.set_defaults(action=_show)


def _list(_arguments: argparse.Namespace) -> int:
    from shared import device_profile  # noqa: PLC0415

    for name in device_profile.names():
        print(f"{name:<18} {device_profile.load(name).title}")
    return 0


def _detect(_arguments: argparse.Namespace) -> int:
    from edge_agent.runtime import machine  # noqa: PLC0415

    found, reason = machine.detect()
    if found is None:
        print(f"{reason}. Use the nearest one: tidegate-edge profile list", file=sys.stderr)
        return 1
    print(f"{found.name}  ({reason})")
    for name, gives in machine.missing(found).items():
        print(f"  missing      {name}: {gives}")
    for name, gives in machine.unsupported(found).items():
        print(f"  unsupported  {name}: {gives}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415

    from edge_agent.runtime import machine  # noqa: PLC0415
    from shared import device_profile  # noqa: PLC0415

    chosen = device_profile.load(arguments.name) if arguments.name else machine.detect()[0]
    if chosen is None:
        return _detect(arguments)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(chosen), indent=2).decode())
    else:
        print("\n".join(device_profile.describe(chosen)))
    return 0
