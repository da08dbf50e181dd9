"""playbook check, draw, list, dry-run, run, status, approve, refuse, cancel, resume: files here, the rest over REST."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import connect, options
from cloud_hub.cli.times import shown

if TYPE_CHECKING:
    from cloud_hub.playbooks.core.plan import Plan
    from cloud_hub.playbooks.core.spec import Playbook

EXAMPLES = """examples:
  tidegate-hub playbook check playbooks/*.yaml
  tidegate-hub playbook draw playbooks/restart-model.yaml > restart-model.svg
  tidegate-hub playbook dry-run restart-model -p device=press-3 -p model=line-camera
  tidegate-hub playbook run restart-model -p device=press-3 -p model=line-camera --incident 01a1fc6b-...
  tidegate-hub playbook approve 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891
  tidegate-hub playbook status 01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891

exit codes: 0 success; 1 an invalid file; 2 usage or invalid parameters; 3 not permitted; 4 not found; 5 no answer;
6 forbidden by the policy, or nothing to do
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "playbook", help="check, draw, run and watch playbooks", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    hub = options()
    hub.add_argument("--json", action="store_true", help="print JSON")

    def remote(name: str, text: str, action: Any) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=text, parents=[hub])
        parser.set_defaults(action=action)
        return parser

    check = subcommands.add_parser("check", help="check files, without a hub")
    check.add_argument("files", type=Path, nargs="+")
    check.set_defaults(action=_check)
    draw = remote("draw", "draw a file, a playbook of the hub, or a run with its state", _draw)
    draw.add_argument("what_to_draw", metavar="FILE|NAME|RUN")
    draw.add_argument("--format", choices=["svg", "mermaid"], default="svg")
    remote("list", "list the playbooks of the hub", _list)
    for name, text, action in (
        ("dry-run", "show what a run would do and what the policy says", _dry_run),
        ("run", "propose a run; it begins when the policy or people allow it", _run),
    ):
        parser = remote(name, text, action)
        parser.add_argument("name")
        parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", type=_parameter)
        parser.add_argument("--incident", default="", help="the incident that it is for")
    status = remote("status", "show a run with its steps, or the newest runs", _status)
    status.add_argument("run", nargs="?", default="")
    for name, text in (
        ("approve", "approve a run with all its steps"), ("refuse", "refuse a proposed run"),
        ("cancel", "cancel a run"), ("resume", "go on with a run that failed or was cancelled"),
    ):  # fmt: skip
        remote(name, text, _decide).add_argument("run")


def _parameter(text: str) -> tuple[str, Any]:
    """`name=value`; a value that is JSON (3, true) has its type, everything else is text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}': write NAME=VALUE")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return name, parsed if isinstance(parsed, (str, int, float, bool)) else value


# -- files -----------------------------------------------------------------------------------------


def _read(file: Path) -> Playbook:
    from cloud_hub.playbooks.catalogue import read_text  # noqa: PLC0415
    from cloud_hub.playbooks.core import spec  # noqa: PLC0415

    return spec.read(read_text(file, file.stem), file.stem)


def _check(arguments: argparse.Namespace) -> int:
    from cloud_hub.playbooks.catalogue import placeholder_plan  # noqa: PLC0415
    from cloud_hub.playbooks.core.problems import PlaybookError  # noqa: PLC0415

    failed = 0
    for file in arguments.files:
        try:
            plan = placeholder_plan(_read(file), _beside(file))
            _installed(file, plan)
        except PlaybookError as error:
            failed += 1
            for problem in error.problems:
                print(clean(f"{file}: {problem}"), file=sys.stderr)
        else:
            print(clean(f"{file}: {len(plan.steps)} steps, well"))
    return 1 if failed else 0


def _installed(file: Path, plan: Plan) -> None:
    """Raise PlaybookError if a step's action is no installed type."""
    from importlib.metadata import entry_points  # noqa: PLC0415

    from cloud_hub.playbooks.core.problems import PlaybookError, Problem  # noqa: PLC0415
    from shared import plugins  # noqa: PLC0415

    known = {point.name for point in entry_points(group=plugins.ACTIONS)}
    cure = f"Use one of {', '.join(sorted(known))}"
    missing = [Problem(0, f"steps.{step.id}.action", f"'{step.action}' is no installed type", cure)
               for step in plan.steps if step.action and step.action not in known]  # fmt: skip
    if missing:
        raise PlaybookError(file.stem, missing)


def _beside(file: Path) -> Any:
    """Sub-playbooks are those in the folder of the file, or those that come with the hub."""
    from cloud_hub.errors import HubError  # noqa: PLC0415
    from cloud_hub.playbooks.catalogue import PlaybookCatalogue  # noqa: PLC0415
    from cloud_hub.playbooks.core.problems import PlaybookError, Problem  # noqa: PLC0415

    catalogue = PlaybookCatalogue(str(file.parent))

    def load(name: str) -> Playbook:
        try:
            return catalogue.load(name)
        except HubError as error:
            raise PlaybookError(name, [Problem(0, "file", error.detail, "Put it into the same folder")]) from error

    return load


def _draw(arguments: argparse.Namespace) -> int:
    wanted = arguments.what_to_draw
    if Path(wanted).is_file():
        from cloud_hub.playbooks.catalogue import placeholder_plan  # noqa: PLC0415
        from cloud_hub.playbooks.core import drawing  # noqa: PLC0415

        plan = placeholder_plan(_read(Path(wanted)), _beside(Path(wanted)))
        sys.stdout.write(drawing.svg(plan) if arguments.format == "svg" else drawing.mermaid(plan))
        return 0
    kind = "playbook-runs" if len(wanted) == len("01a1fc6b-9efb-7fe8-bebf-9ef1d6d45891") else "playbooks"
    with connect(arguments) as hub:
        sys.stdout.write(hub.request("GET", f"/{kind}/{quote(wanted, '')}/drawing", form=arguments.format).text)
    return 0


# -- the hub ---------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        rows = hub.get("/playbooks")
    for row in rows:
        parameters = " ".join(each["name"] for each in row["parameters"])
        text = f"invalid: {row['problems'][0]}" if row["problems"] else row["description"]
        print(json.dumps(row) if arguments.json else clean(f"{row['name']:24}  {parameters:20}  {text}"))
    return 0


def _dry_run(arguments: argparse.Namespace) -> int:
    body = {"parameters": dict(arguments.parameter), "incident": arguments.incident}
    with connect(arguments) as hub:
        plan = hub.call("POST", f"/playbooks/{quote(arguments.name, '')}/dry-run", body)
    if arguments.json:
        print(json.dumps(plan))
        return 0
    for number, layer in enumerate(plan["layers"], 1):
        for step in (step for step in plan["steps"] if step["id"] in layer):
            print(clean(f"{number}. {_step(step)}"))
    forbidden = ", ".join(plan["forbidden"])
    print(f"forbidden: {forbidden}" if forbidden else f"approvals needed: {plan['approvals']}")
    return 0


def _step(step: dict[str, Any]) -> str:
    what = f"{step['action']} {json.dumps(step['parameters'])} on {step['device']}" if step["action"] else step["kind"]
    verdict = step["verdict"]
    judged = f"  [{verdict['decision']}: {verdict['reason']}, rule {verdict['rule']}]" if verdict else ""
    return f"{step['id']}: {what}" + (f" when {step['when']}" if step["when"] else "") + judged


def _run(arguments: argparse.Namespace) -> int:
    body = {"playbook": arguments.name, "parameters": dict(arguments.parameter), "incident": arguments.incident}
    with connect(arguments) as hub:
        view = hub.call("POST", "/playbook-runs", body)
    return _show(view, arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    with connect(arguments) as hub:
        if arguments.run:
            return _show(hub.get(f"/playbook-runs/{quote(arguments.run, '')}"), arguments.json)
        rows = hub.get("/playbook-runs", limit=20)
    for row in rows:
        print(json.dumps(row) if arguments.json else _line(row))
    return 0


def _line(run: dict[str, Any]) -> str:
    return clean(f"{run['id']}  {shown(run['created_us'])}  {run['state']:10}  {run['playbook']}  {run['reason']}")


def _show(view: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps(view))
        return 0
    print(_line(view["run"]))
    if view["run"]["state"] == "proposed":
        print(f"  {len(view['run']['approvals'])} of {view['approvals_needed']} approvals")
    for step in view["steps"]:
        print(clean(f"  {step['state']:10}  {_step(step)}" + (f"  ({step['outcome']})" if step["outcome"] else "")))
    return 0


def _decide(arguments: argparse.Namespace) -> int:
    number, what = quote(arguments.run, ""), arguments.what
    with connect(arguments) as hub:
        if what in {"approve", "refuse"}:
            view = hub.call("POST", f"/playbook-runs/{number}/decision", {"approve": what == "approve"})
        else:
            view = hub.call("POST", f"/playbook-runs/{number}/{what}")
    return _show(view, arguments.json)
