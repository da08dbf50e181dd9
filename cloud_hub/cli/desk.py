"""desk try: what a file of rules concludes of its tests, of given evidence, and of stored incidents."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.remote import EXIT_FAILED, connect, options
from shared.errors import ConfigError

if TYPE_CHECKING:
    from cloud_hub.incidents.core.evidence import Diagnosis, Evidence
    from cloud_hub.incidents.desk import Desk

EXAMPLES = """examples:
  tidegate-hub desk try rules.yaml                            run the tests in the file, without a hub
  tidegate-hub desk try rules.yaml --evidence incident.json   what it concludes of this evidence
  tidegate-hub desk try rules.yaml --last 50                  what it would have concluded of stored incidents
  tidegate-hub desk try rules.yaml --language zh

The rules of the file come before the built-in ones, as in a hub whose setting desk.rules_file names it. A GLM is never
asked.

exit codes: 0 all tests as expected; 1 some are not; 3 not permitted; 4 no such incident; 5 no answer; 78 bad file
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "desk", help="try rules of the incident desk", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")
    tried = subcommands.add_parser("try", help="try a file of rules", parents=[options()])
    tried.set_defaults(action=_try)
    tried.add_argument("file", type=Path, help="YAML with `rules` and, if there are any, `tests`")
    tried.add_argument(
        "--evidence", type=Path, action="append", default=[], metavar="JSON", help="evidence to judge; repeatable"
    )
    tried.add_argument("--incident", action="append", default=[], metavar="ID", help="a stored incident; repeatable")
    tried.add_argument("--last", type=int, default=0, metavar="N", help="the newest N stored incidents")
    tried.add_argument("--language", choices=("en", "zh"), default="en", help="language of the texts")
    tried.add_argument("--json", action="store_true", help="print JSON")


def _try(arguments: argparse.Namespace) -> int:
    from cloud_hub.incidents import trial  # noqa: PLC0415
    from cloud_hub.incidents.desk import open_desk, read_rules  # noqa: PLC0415
    from cloud_hub.settings import Desk as Settings  # noqa: PLC0415

    desk = open_desk(Settings(rules_file=str(arguments.file), language=arguments.language))
    outcomes = list(
        trial.run_tests(read_rules(arguments.file), desk, lambda number: _stored(arguments, number)[0])
    )  # fmt: skip
    for outcome in outcomes:
        state = "try.failed" if outcome.problems else "try.passed"
        _print(arguments, desk, outcome.name, outcome.diagnosis, state, list(outcome.problems))
    passed = sum(not outcome.problems for outcome in outcomes)
    if outcomes and not arguments.json:
        print(desk.catalogue.text("try.summary", passed=passed, count=len(outcomes)))
    for file in arguments.evidence:
        _print(arguments, desk, str(file), _diagnosed(_given(file), desk))
    for number in [*arguments.incident, *_newest(arguments)]:
        evidence, before = _stored(arguments, number)
        now = _diagnosed(evidence, desk)
        was = [desk.catalogue.text("try.was", cause=desk.catalogue.cause(before))] if before else []
        _print(arguments, desk, number, now, "try.same" if before in {"", now.cause} else "try.changed", was)
    return 0 if passed == len(outcomes) else EXIT_FAILED


def _diagnosed(evidence: Evidence, desk: Desk) -> Diagnosis:
    from cloud_hub.incidents.core import rules  # noqa: PLC0415

    return rules.diagnose(evidence, desk.book, desk.catalogue)


def _print(
    arguments: argparse.Namespace, desk: Desk, name: str, diagnosis: Diagnosis, state: str = "",
    remarks: list[str] | None = None,
) -> None:  # fmt: skip
    """Print a diagnosis and what there is to remark."""
    from cloud_hub.incidents.trial import describe  # noqa: PLC0415

    proposals = [describe(proposal) for proposal in diagnosis.proposals]
    if arguments.json:
        row = {"name": name, "cause": diagnosis.cause, "confidence": diagnosis.confidence, "state": state[4:]}
        row |= {"explanation": diagnosis.explanation, "proposals": proposals, "remarks": remarks or []}
        print(json.dumps(row))
        return
    notes = [desk.catalogue.text(state), *(remarks or [])] if state else []
    print(clean(f"{name}  {diagnosis.cause} ({diagnosis.confidence:.0%})  {'; '.join(notes)}"))
    print(clean(f"    {diagnosis.explanation}"))
    for proposal in proposals:
        print(clean(f"    -> {proposal}"))


def _given(file: Path) -> Evidence:
    import msgspec  # noqa: PLC0415

    cure = "Write `device`, `alarms` and `items` as in docs/incidents/diagnosis.md, or what the hub's REST returned"
    try:
        return _evidence(msgspec.json.decode(file.read_bytes()))
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(str(file), f"is no evidence ({error})", cure) from error


def _evidence(value: Any) -> Evidence:
    """Evidence as the hub returns it, or as a test gives it."""
    import msgspec  # noqa: PLC0415

    from cloud_hub.incidents.core.evidence import Evidence  # noqa: PLC0415
    from cloud_hub.incidents.core.rule_table import GivenEvidence  # noqa: PLC0415

    if isinstance(value, dict) and "incident" in value:
        return msgspec.convert(value, Evidence)
    return msgspec.convert(value, GivenEvidence).evidence()


def _stored(arguments: argparse.Namespace, number: str) -> tuple[Evidence, str]:
    """The stored evidence of an incident, and the cause that it was diagnosed with."""
    with connect(arguments) as hub:
        view = hub.get(f"/incidents/{quote(number, '')}")
        evidence = _evidence(hub.get(f"/incidents/{quote(number, '')}/evidence"))
    return evidence, str((view["incident"]["diagnosis"] or {}).get("cause", ""))


def _newest(arguments: argparse.Namespace) -> list[str]:
    if not arguments.last:
        return []
    with connect(arguments) as hub:
        return [row["id"] for row in hub.get("/incidents", limit=arguments.last, members=True)]
